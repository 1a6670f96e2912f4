"""optax: the state of its transformations in a flax file, found by form, and written as ``from_bytes`` takes it.

A file keeps the fields of the states and not their classes: ``opt_state/0/mu/Dense_0/kernel``. Below a field stands
a tree of the form of the parameters, or a part of it: so slots are found through any chain, mask or wrapper, and
have no numbers. What optax does not store at all are the hyper-parameters (but for ``inject_hyperparams``), and
which of its functions it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from converter.core.contents import LeftOut
from converter.core.tensors import TensorSpec
from converter.errors import ConversionError, Problem, Remedy
from converter.formats.base import StateTensor
from converter.training.found import Place, refusal
from converter.training.optimizers import AMSGRAD, ROWS, WHY_NOT
from converter.training.state import Group, HyperParameters, Slot, TrainingState

Keys: TypeAlias = tuple[str, ...]
#: Fields of states that hold a tree of the form of the parameters.
FIELDS = frozenset("mu nu nu_max trace sum_of_squares e_g e_x v_row v_col v ema acc_grads".split())
_STATE = "opt_state"
#: Those that are no slot of an optimizer.
_ASIDE = {"ema": "an average of updates (optax.ema)", "acc_grads": "gradients that are accumulated (MultiSteps)"}
#: Fields together -> the optimizers that they may be of; the first is the usual one. "count": the number of steps.
_TELL: Mapping[frozenset[str], tuple[str, ...]] = {
    frozenset(fields.split()): tuple(names.split())
    for fields, names in {
        "count mu nu": "adam adamw radam adamax",
        "count mu": "lion",
        "nu": "rmsprop",
        "nu mu": "rmsprop",
        "nu trace": "rmsprop",
        "nu mu trace": "rmsprop",
        "trace": "sgd",
        "sum_of_squares": "adagrad",
        "e_g e_x": "adadelta",
    }.items()
}
#: Neutral hyper-parameter -> what `inject_hyperparams` calls it.
INJECTED = {
    "learning_rate": "learning_rate",
    "momentum": "momentum",
    "beta1": "b1",
    "beta2": "b2",
    "rho": "decay",
    "epsilon": "eps",
    "weight_decay": "weight_decay",
}


class FieldTree(msgspec.Struct, frozen=True):
    """A field of a state. owner: the keys that lead to the state; leaves: keys below the field -> parameter."""

    owner: Keys
    field: str
    leaves: Mapping[Keys, str]

    @property
    def keys(self) -> Keys:
        return (*self.owner, self.field)


class Form:
    """The parameters of a tree by their keys, to tell what has their form."""

    def __init__(self, place: Place) -> None:
        keys = place.contents.keys
        self._specs: dict[Keys, TensorSpec] = {
            tuple(keys.get(spec.name, spec.name.split("/"))): spec for spec in place.parameters
        }
        self._by_last: dict[str, list[Keys]] = {}
        for path in self._specs:
            self._by_last.setdefault(path[-1], []).append(path)

    def of(self, leaves: Mapping[Keys, StateTensor]) -> Mapping[Keys, str] | None:
        """The parameter of each leaf; None for what has another form."""
        first = next(iter(leaves), None)
        if not first:
            return None
        for path in self._by_last.get(first[-1], ()):
            root = path[: len(path) - len(first)]
            found = {keys: self._specs.get((*root, *keys)) for keys in leaves}
            if all(spec is not None and spec.shape == leaves[keys].spec.shape for keys, spec in found.items()):
                return {keys: spec.name for keys, spec in found.items() if spec is not None}
        return None


def leaves_of(tree: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """The keys of everything but filled dicts."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from leaves_of(value, (*keys, key))
    else:
        yield keys, tree


def fields_in(place: Place) -> list[FieldTree]:
    """The fields with the form of the parameters, wherever they are."""
    form = Form(place)
    found: list[FieldTree] = []

    def walk(tree: Any, keys: Keys) -> None:
        if not isinstance(tree, dict):
            return
        for key, value in tree.items():
            if key in FIELDS and isinstance(value, dict):
                tensors = {at: leaf for at, leaf in leaves_of(value) if isinstance(leaf, StateTensor)}
                leaves = form.of(tensors)
                if leaves is not None:
                    found.append(FieldTree(keys, key, leaves))
                    continue
            walk(value, (*keys, key))

    walk(dict(place.values), ())
    return found


def at(tree: Any, keys: Keys) -> Any:
    """What these keys lead to; None where nothing is."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def number_of(value: Any) -> float | None:
    """A number, or a tensor of one."""
    if isinstance(value, StateTensor) and value.spec.size == 1:
        return value.number()
    return value if isinstance(value, int | float) else None


def read(place: Place) -> TrainingState | None:
    """The state that a tree holds; None where it has none. Raises ConversionError."""
    every = fields_in(place)
    fields = [item for item in every if item.field not in _ASIDE]
    if not fields:
        return _without_slots(place)
    optimizer = _told(place, fields)
    row = ROWS["optax"][optimizer]
    names = {item.name: item.slot for item in row.slots}
    slots: dict[Slot, dict[str, StateTensor]] = {}
    for item in fields:
        own = slots.setdefault(names[item.field], {})
        for keys, parameter in item.leaves.items():
            if parameter in own:
                raise refusal(f"{place.title}: '{parameter}' has two states of {item.field}, of two optimizers.")
            own[parameter] = at(place.values, (*item.keys, *keys))
    parameters = tuple(dict.fromkeys(name for own in slots.values() for name in own))
    owners = [item.owner for item in fields]
    hyper = msgspec.structs.replace(
        HyperParameters(epsilon_place=row.epsilon, decay=row.decay), **_injected(place, owners), **_seen(fields)
    )
    _refuse_accumulating(place)
    step = _count(place, owners)
    left_out = tuple(LeftOut("/".join(item.keys), _ASIDE[item.field]) for item in every if item.field in _ASIDE)
    return TrainingState(
        "optax",
        optimizer,
        slots,
        step,
        (Group(hyper, parameters),),
        "each slot has the name of its parameter",
        place=owners[0][0] if owners[0] else "",
        left_out=left_out,
    )


def _without_slots(place: Place) -> TrainingState | None:
    """That of plain SGD, which keeps nothing; None where there is no optimizer. Raises ConversionError."""
    if _STATE not in place.values or place.options.optimizer not in (None, "sgd"):
        return None
    if place.is_source and place.options.optimizer is None:
        text = f"{place.title}: its optimizer keeps no slots, as SGD without momentum."
        raise ConversionError(Problem(text, "optimizer", remedies=(Remedy("optimizer", "sgd"),)))
    names = tuple(spec.name for spec in place.parameters)
    hyper = msgspec.structs.replace(HyperParameters(momentum=0.0), **_injected(place, [(_STATE,)]))
    step = number_of(place.values.get("step"))
    group = Group(hyper, names)
    return TrainingState("optax", "sgd", {}, None if step is None else int(step), (group,), "", place=_STATE)


def _seen(fields: Sequence[FieldTree]) -> dict[str, Any]:
    """What the fields tell of the settings."""
    names = {item.field for item in fields}
    return {"centered": True} if "nu" in names and "mu" in names and not _counted(fields) else {}


def _counted(fields: Sequence[FieldTree]) -> bool:
    return any(item.field == "count" for item in fields)


def _told(place: Place, fields: Sequence[FieldTree]) -> str:
    names = {item.field for item in fields}
    if "nu_max" in names:
        raise refusal(f"{place.title}: {AMSGRAD}.")
    if "v_row" in names:
        raise refusal(f"{place.title}: the state of adafactor is not carried: {WHY_NOT['adafactor']}.")
    if any("count" in (at(place.values, item.owner) or {}) for item in fields if item.field in ("mu", "nu")):
        names.add("count")
    possible = _TELL.get(frozenset(names))
    if possible is None:
        shown = ", ".join(sorted(names))
        raise refusal(f"{place.title}: its optimizer keeps {shown}, which is none of those that are carried.")
    stated = place.options.optimizer
    if stated is not None and (place.is_source or stated in possible):
        if stated not in possible:
            raise ConversionError(
                Problem(
                    f"the state of {place.title} may be that of {', '.join(possible)}.",
                    "option",
                    about=Remedy("optimizer", stated),
                )
            )
        return stated
    if len(possible) > 1 and place.is_source:
        ways = tuple(Remedy("optimizer", name) for name in possible)
        text = f"{place.title}: optax stores no name, and the state may be that of {', '.join(possible)}."
        raise ConversionError(Problem(text, "optimizer", candidates=possible, remedies=ways))
    return possible[0]


def _injected(place: Place, owners: Sequence[Keys]) -> dict[str, Any]:
    """What `inject_hyperparams` keeps around one of these states."""
    for owner in owners:
        for length in range(len(owner), 0, -1):
            around = at(place.values, owner[:length])
            if isinstance(around, dict) and isinstance(around.get("hyperparams"), dict):
                told = {name: number_of(around["hyperparams"].get(key)) for name, key in INJECTED.items()}
                return {name: value for name, value in told.items() if value is not None}
    return {}


def _refuse_accumulating(place: Place) -> None:
    """Gradients that are half accumulated have no place elsewhere."""
    for keys, value in leaves_of(dict(place.values)):
        if keys and keys[-1] == "mini_step" and number_of(value):
            raise refusal(
                f"{place.title}: it stands between two updates (mini_step {number_of(value):g}); save at one."
            )


def _count(place: Place, owners: Sequence[Keys]) -> int | None:
    """Of the states; where they keep none, that of the TrainState. Raises ConversionError where they differ."""
    counts = {at(place.values, (*owner, "count")) for owner in owners} - {None}
    numbers = {number_of(count) for count in counts} - {None}
    if len(numbers) > 1:
        raise refusal(f"{place.title}: its states counted different numbers of steps, {sorted(map(str, numbers))}.")
    found = next(iter(numbers), number_of(place.values.get("step")))
    return int(found) if found is not None else None
