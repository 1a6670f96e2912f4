"""Which parameter a numbered slot is of. Proved, likely by the one order that fits, or asked about; never guessed.

Optimizers number their parameters. A wrong number is a moment of another weight, and nothing would notice where both
have one shape: the loader of PyTorch does not even compare the shapes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from converter.core.tensors import TensorSpec
from converter.errors import ConversionError, Problem, Remedy, listed, near_misses

Shape: TypeAlias = tuple[int, ...]
#: Of each group of an optimizer the shapes of its slots, in the order of its numbers; None where a parameter has none.
Shapes: TypeAlias = Sequence[Sequence["Shape | None"]]
#: More ways than these are not counted to the end.
_MOST_STATES = 20_000
#: A file with the names of a net's parameters is no larger.
_MOST_BYTES = 16 << 20


#: How an order is known that the user gives.
STATED = "the names in the file of the order"


class Order(msgspec.Struct, frozen=True):
    """Of each group the names of its parameters. reason: how that is known; likely: whether it is no proof."""

    groups: tuple[tuple[str, ...], ...]
    reason: str
    likely: bool = False


def by_names(names: Sequence[Sequence[str]], parameters: Sequence[TensorSpec], shapes: Shapes, reason: str) -> Order:
    """The order that someone states. Raises ConversionError where it does not fit the parameters."""
    known = {spec.name: spec for spec in parameters}
    for name in (name for group in names for name in group):
        if name not in known:
            near = near_misses(name, known)
            hint = f" Did you mean '{near[0]}'?" if near else f" It has {listed(known)}."
            raise ConversionError(f"{reason} name the parameter '{name}', which the net does not have.{hint}")
    twice = [name for name, count in Counter(name for group in names for name in group).items() if count > 1]
    if twice:
        raise ConversionError(f"{reason} name '{twice[0]}' twice.")
    counts = [len(group) for group in names], [len(group) for group in shapes]
    if counts[0] != counts[1]:
        ours, theirs = (", ".join(map(str, each)) for each in counts)
        each = " (group by group)" if len(shapes) > 1 else ""
        raise ConversionError(f"{reason} name {ours} parameters, and the state has {theirs}{each}.")
    for group, sizes in zip(names, shapes, strict=True):
        for name, shape in zip(group, sizes, strict=True):
            if shape is not None and shape != known[name].shape:
                what = f"give '{name}' {known[name].shape} a state of shape {shape}"
                raise ConversionError(f"{reason} {what}: they are of another net, or in another order.")
    return Order(tuple(map(tuple, names)), reason)


def by_shapes(
    parameters: Sequence[TensorSpec], shapes: Shapes, what: str, strict: bool, asks: Remedy, defined: bool = True
) -> Order:
    """The order that the shapes leave. parameters: in the order in which the net defines them, where that is
    ``defined``.

    what: whose state it is, for an error. Raises ConversionError where several orders fit, or none.
    """
    flat = [shape for group in shapes for shape in group]
    names: dict[Shape, list[str]] = {}
    for spec in parameters:
        names.setdefault(spec.shape, []).append(spec.name)
    lacking = [shape for shape in flat if shape is not None and shape not in names]
    if lacking:
        raise ConversionError(f"{what} has a slot of shape {lacking[0]}, and no parameter of the net is of that shape.")
    if None not in flat and all(len(names[shape]) == 1 for shape in flat if shape is not None):
        found = iter([names[shape][0] for shape in flat if shape is not None])
        groups = tuple(tuple(next(found) for _ in group) for group in shapes)
        if len(set(flat)) == len(flat):
            return Order(groups, "each parameter has a shape of its own")
    ways = _in_definition_order(parameters, shapes) if defined and not strict else []
    if len(ways) == 1:
        reason = (
            "the order of the net's definition, as net.parameters() gives it, and no other such order has the shapes"
        )
        return Order(ways[0], reason, likely=True)
    raise _asked(parameters, flat, what, bool(ways) or strict, defined, asks)


def _asked(
    parameters: Sequence[TensorSpec], flat: Sequence[Shape | None], what: str, fits: bool, defined: bool, asks: Remedy
) -> Exception:
    alike = Counter(spec.shape for spec in parameters)
    shape = next((shape for shape in flat if shape is not None and alike[shape] > 1), None)
    same = [spec.name for spec in parameters if spec.shape == shape]
    if shape is not None:
        why = f"{listed(same)} all have the shape {shape}"
    else:
        why = f"it numbers {len(flat)} parameters, and the net has {len(parameters)}"
    if defined and not fits:
        why += ", and the order in which the net defines its parameters does not fit the shapes"
    text = f"{what} numbers its parameters, and nothing says which number is which: {why}."
    return ConversionError(Problem(text, "order of the state", what, candidates=tuple(same), remedies=(asks,)))


def _in_definition_order(parameters: Sequence[TensorSpec], shapes: Shapes) -> list[tuple[tuple[str, ...], ...]]:
    """The ways, two at most, to deal the parameters to the groups such that each has its own in order of definition.

    A parameter may be in no group only where there are fewer numbers than parameters.
    """
    spare = len(parameters) - sum(map(len, shapes))
    if spare < 0:
        return []
    ways: dict[tuple[int, ...], list[_Choice]] = {tuple(0 for _ in shapes): [None]}  # next number of each group
    for place, spec in enumerate(parameters):
        after: dict[tuple[int, ...], list[_Choice]] = {}
        for at, choices in ways.items():
            for group, sizes in enumerate(shapes):
                if at[group] < len(sizes) and sizes[at[group]] in (None, spec.shape):
                    then = (*at[:group], at[group] + 1, *at[group + 1 :])
                    after[then] = [*after.get(then, []), *((group, choice) for choice in choices)][:2]
            if place - sum(at) < spare:
                after[at] = [*after.get(at, []), *((-1, choice) for choice in choices)][:2]
        if len(after) > _MOST_STATES:
            return []
        ways = after
    return [_dealt(parameters, choice, len(shapes)) for choice in ways.get(tuple(map(len, shapes)), [])]


#: The group of the last parameter (-1: none), and the choice for those before it.
_Choice: TypeAlias = "tuple[int, Any] | None"


def _dealt(parameters: Sequence[TensorSpec], choice: _Choice, count: int) -> tuple[tuple[str, ...], ...]:
    groups: list[list[str]] = [[] for _ in range(count)]
    for spec in reversed(parameters):
        assert choice is not None
        group, choice = choice
        if group >= 0:
            groups[group].append(spec.name)
    return tuple(tuple(reversed(group)) for group in groups)


def names_in(path: str) -> list[str]:
    """The names in a file that the user wrote, one a line. Raises ConversionError."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read: {error.strerror or error}.") from None
    try:
        lines = data.decode().splitlines() if len(data) <= _MOST_BYTES else []
    except UnicodeDecodeError:
        lines = []
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ConversionError(f"{path}: holds no names of parameters, one a line.")
    return names


def regrouped(names: Sequence[str], shapes: Shapes) -> list[list[str]]:
    """A plain list of names as that of each group."""
    rest = iter(names)
    groups = [[name for _, name in zip(sizes, rest, strict=False)] for sizes in shapes]
    groups[-1] += list(rest)
    return groups


def order_of(
    parameters: Sequence[TensorSpec],
    shapes: Shapes,
    what: str,
    strict: bool,
    asks: Remedy,
    stated: Sequence[str] = (),
    named: Sequence[Sequence[str]] | None = None,
    defined: bool = True,
) -> Order:
    """The order of a state: as the user says, as the file says, or as the shapes leave it. Raises ConversionError.

    asks: the option that tells it. stated: names that the user gave. named: names in the file.
    """
    if stated:
        return by_names(regrouped(stated, shapes), parameters, shapes, STATED)
    if named is not None:
        return by_names(named, parameters, shapes, "the names in the state itself")
    return by_shapes(parameters, shapes, what, strict, asks, defined)
