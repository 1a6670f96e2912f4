"""Two layers taken as one kind: where each stored role of the target comes from, and why it cannot be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import msgspec
from msgspec.structs import replace

from converter.core.axes import REPEATED, Sizes, groups, solve
from converter.core.kinds import AXIS_WORDS, KINDS, ROLE_NOTES, SIZE_NOTES, UNKNOWN, Role
from converter.core.layers import Layer, Leaf, Reading, Stored, shown, words_in
from converter.matching.common_kinds import as_one_kind, without_ones


class Supply(msgspec.Struct, frozen=True, gc=False):
    """One role of a source tensor: its position among those stacked in it."""

    stored: Stored
    position: int


class Move(msgspec.Struct, frozen=True, gc=False):
    """One role of a target tensor, its position in it, and what it is made of.

    supplies: added up when there are several; none when it is filled with ``fill``. checked: what is left out if each
    of its values is this one.
    """

    target: Stored
    position: int
    supplies: tuple[Supply, ...]
    fill: int = 0
    checked: tuple[tuple[Supply, int], ...] = ()


class Agreement(msgspec.Struct, frozen=True, gc=False):
    """The kind that two layers have in common, and the moves that make the target's tensors."""

    kind: str
    moves: tuple[Move, ...]

    @property
    def is_exact(self) -> bool:
        """Nothing is filled in, and nothing is left out."""
        return all(move.supplies and not move.checked for move in self.moves)


class Assignment(msgspec.Struct, frozen=True, gc=False):
    """For each role of the target what supplies it; and the roles that one side alone has."""

    supplies: Mapping[Role, tuple[Supply, ...]]
    fills: Mapping[Role, int]
    checked: tuple[tuple[Supply, int], ...]
    missing: tuple[str, ...]
    surplus: tuple[str, ...]


def agreements(source: Layer, target: Layer, same_framework: bool) -> tuple[Agreement, ...]:
    """Every kind that both layers can be, with roles and shapes that agree.

    Within a framework a layer stays in its form wherever it fits: what its file leaves open is the same on both sides.
    """
    every = list(possibilities(source, target, same_framework))
    kept = {ours.kind for ours, theirs, _ in every if same_framework and _in_form(ours, theirs)}
    return _exact([agreement for ours, theirs, agreement in every if ours.kind not in kept or _in_form(ours, theirs)])


def possibilities(source: Layer, target: Layer, same_framework: bool) -> Iterator[tuple[Reading, Reading, Agreement]]:
    """Every reading of both in which they agree, whatever the form; else as what they have in common."""
    pairs = list(itertools.product(source.readings, target.readings))
    agreed = False
    for ours, theirs in pairs:
        alike = ours.kind == theirs.kind and (same_framework or ours.kind != UNKNOWN)
        moves = _moves(ours, theirs) if alike else None
        if moves is not None:
            agreed = True
            yield ours, theirs, Agreement(ours.kind, moves)
    for ours, theirs in () if agreed else itertools.chain.from_iterable(itertools.starmap(as_one_kind, pairs)):
        moves = _moves(ours, theirs)
        if moves is not None:
            yield ours, theirs, Agreement(ours.kind, moves)
            break


def _in_form(ours: Reading, theirs: Reading) -> bool:
    return (ours.form, ours.lacks) == (theirs.form, theirs.lacks)


def _exact(agreeing: Sequence[Agreement]) -> tuple[Agreement, ...]:
    """Where both sides can have the same roles they have them, rather than that some are filled in and others lost."""
    exact = [item for item in agreeing if item.is_exact]
    kinds = {item.kind for item in exact}
    return tuple(item for item in agreeing if item in exact or item.kind not in kinds)


def assign(source: Reading, target: Reading) -> Assignment:
    """Which roles of the source each role of the target needs."""
    have, free = source.roles, set(source.roles)
    supplies: dict[Role, tuple[Supply, ...]] = {}
    fills: dict[Role, int] = {}
    missing = []
    absent: Mapping[str, int] = KINDS[source.kind].absent if source.kind in KINDS else {}
    shared: set[Role] = set()
    for wanted in target.roles:
        merged = next((role for role in have if wanted < role), None)
        single = [frozenset((role,)) for role in sorted(wanted) if frozenset((role,)) in have]
        if wanted in have:
            supplies[wanted] = (Supply(*have[wanted]),)
            free.discard(wanted)
        elif merged is not None:  # the source keeps only the sum: it goes into the first, zeros into the rest
            supplies[wanted] = () if merged in shared else (Supply(*have[merged]),)
            fills[wanted] = 0
            shared.add(merged)
            free.discard(merged)
        elif single and all(frozenset((r,)) in single or absent.get(r) == 0 for r in wanted):
            supplies[wanted] = tuple(Supply(*have[role]) for role in single)
            free.difference_update(single)
        elif all(role in absent for role in wanted):
            supplies[wanted], fills[wanted] = (), absent[min(wanted)]
        else:
            missing.append(shown(wanted))
    unused = KINDS[source.kind].unused if source.kind in KINDS else frozenset()
    surplus = [role for role in have if role in free and not role <= unused]
    checkable = [role for role in surplus if all(word in absent for word in role)]
    checked = tuple((Supply(*have[role]), absent[min(role)]) for role in checkable)
    return Assignment(
        supplies, fills, checked, tuple(missing), tuple(shown(role) for role in surplus if role not in checkable)
    )


def _moves(source: Reading, target: Reading) -> tuple[Move, ...] | None:
    source, target = without_ones(source, target), without_ones(target, source)
    source, target = _repeating(source, target), _repeating(target, source)
    assignment = assign(source, target)
    sizes = dict(source.sizes)
    if assignment.missing or assignment.surplus or any(sizes.get(axis, size) != size for axis, size in target.sizes):
        return None
    shapes = _target_shapes(source, target, assignment)
    if shapes is None:
        return None
    moves = [
        Move(shapes[stored.spec.name], position, assignment.supplies[role], assignment.fills.get(role, 0))
        for role, (stored, position) in target.roles.items()
    ]
    for check in assignment.checked:  # together with a role of the same tensor, or with any
        beside = [i for i, move in enumerate(moves) if any(s.stored == check[0].stored for s in move.supplies)]
        anywhere = [i for i, move in enumerate(moves) if move.supplies]
        if not anywhere:
            return None
        position = (beside or anywhere)[0]
        moves[position] = replace(moves[position], checked=(*moves[position].checked, check))
    return tuple(moves)


def _repeating(reading: Reading, other: Reading) -> Reading:
    """Where a value is for several channels here, the other side tells for how many ("each")."""
    if not any("each" in item.leaf.neutral for item in reading.stored):
        return reading
    return reading.with_tensors(lambda item: _repeated(item, other))


def _repeated(item: Stored, other: Reading) -> Stored:
    theirs = next((stored for roles, (stored, _) in other.roles.items() if roles & words_in(item.leaf.roles)), None)
    if theirs is None:
        return item
    ours, channels = item.spec.shape[0], theirs.spec.shape[-1]
    if "each" in theirs.leaf.neutral:
        return replace(item, sizes=(*item.sizes, ("each", 1)))
    fits = ours > 0 and channels > 0 and channels % ours == 0
    return replace(item, sizes=(*item.sizes, ("each", channels // ours))) if fits else item


def _target_shapes(source: Reading, target: Reading, assignment: Assignment) -> Mapping[str, Stored] | None:
    """The target's tensors with the shapes that they get from the source; None when those do not fit."""
    result: dict[str, Stored] = {}
    for role, (stored, _) in target.roles.items():
        shapes = {supply.stored.neutral_shape() for supply in assignment.supplies[role]}
        if not shapes:
            continue
        if len(shapes) > 1 or None in shapes:
            return None
        shape = shapes.pop()
        assert shape is not None
        known = _known(source, target, stored)
        fitted = fitted_shape(stored.leaf, shape, stored.spec.shape, known)
        if fitted is None or (stored.spec.name in result and result[stored.spec.name].spec.shape != fitted[0]):
            return None
        result[stored.spec.name] = replace(stored, spec=replace(stored.spec, shape=fitted[0]), sizes=known)
    for stored, _ in target.roles.values():  # filled with a number: as large as the tensors beside it
        if stored.spec.name not in result:
            beside = next(iter(result.values()), None)
            shape = stored.spec.shape if -1 not in stored.spec.shape else _like(stored, result)
            if beside is None or shape is None:
                return None
            result[stored.spec.name] = replace(stored, spec=replace(stored.spec, shape=shape))
    return result


def _like(stored: Stored, result: Mapping[str, Stored]) -> tuple[int, ...] | None:
    """The shape of a tensor that is filled: its axes are as long as those of the others."""
    sizes: dict[str, int] = {}
    for other in result.values():
        sizes |= _axis_sizes(other)
    sizes["g"] = stored.parts
    order = groups(stored.leaf.axes, len(stored.spec.shape)) or ()
    if any(axis not in sizes for group in order for axis in group):
        return None
    return tuple(math.prod(sizes[axis] for axis in group) for group in order)


def _known(source: Reading, target: Reading, stored: Stored) -> Sizes:
    """The sizes that are known beside the shapes; those of the target count first."""
    return tuple(sorted({**dict(source.sizes), **dict(target.sizes), **dict(stored.sizes)}.items()))


@lru_cache(maxsize=4096)
def fitted_shape(
    leaf: Leaf, neutral: tuple[int, ...], known_shape: tuple[int, ...], sizes: Sizes
) -> tuple[tuple[int, ...]] | None:
    """The shape of a tensor whose roles have this neutral shape, if it fits what is known of it (-1: open).

    In a tuple of its own, because an empty shape is one, too. None when it does not fit.
    """
    parts = len(leaf.roles) if len(leaf.roles) > 1 else 0
    whole = (parts, *neutral) if parts else neutral
    want, have = groups(leaf.neutral, len(whole)), groups(leaf.axes, len(known_shape))
    if want is None or have is None:
        return None
    if {a for group in want for a in group} - REPEATED != {a for group in have for a in group}:
        return None
    known = {**dict(sizes), "g": parts} if parts else dict(sizes)
    named = {axis for group in (*want, *have) for axis in group}
    known = {axis: size for axis, size in known.items() if axis in named}
    size_of = solve([*zip(want, whole, strict=True), *zip(have, known_shape, strict=True)], known)
    if size_of is None:
        return None
    direct = dict(zip(want, whole, strict=True))
    shape = tuple(
        math.prod(size_of[axis] for axis in group) if size_of.keys() >= set(group) else direct.get(group, size)
        for group, size in zip(have, known_shape, strict=True)
    )
    return None if -1 in shape else (shape,)


def disagreement(source: Layer, target: Layer, same_framework: bool) -> str:
    """Why two layers that belong together cannot be each other."""
    if not same_framework and UNKNOWN in (source.kind, target.kind):
        return unknown_kind(source if source.kind == UNKNOWN else target)
    for ours, theirs in itertools.product(source.readings, target.readings):
        if ours.kind == theirs.kind:
            return _difference(source, target, ours, theirs)
    return (
        f"'{source.path}' is {source.kind} ({shapes(source)}), "
        f"'{target.path}' of the clone is {target.kind} ({shapes(target)}){noted(source, target)}"
    )


def unplaced(source: Layer, target: Layer) -> str:
    """What is to know of roles of the source that few frameworks have."""
    pairs = (
        (ours, theirs)
        for ours, theirs in itertools.product(source.readings, target.readings)
        if ours.kind == theirs.kind
    )
    surplus = dict.fromkeys(role for ours, theirs in pairs for role in assign(ours, theirs).surplus)
    return "".join(f". Note: {ROLE_NOTES[role]}." for role in surplus if role in ROLE_NOTES)


def fewer(layer: Layer) -> str:
    """What is to know of a kind of which not all frameworks keep as many values."""
    notes = dict.fromkeys(SIZE_NOTES[reading.kind] for reading in layer.readings if reading.kind in SIZE_NOTES)
    return "".join(f". Note: {note}" for note in notes)


def noted(*layers: Layer) -> str:
    """What is to know of kinds that only few have."""
    kinds = {reading.kind for layer in layers for reading in layer.readings if reading.kind in KINDS}
    return "".join(f". Note: {KINDS[kind].note}." for kind in sorted(kinds) if KINDS[kind].alike or KINDS[kind].own)


def lookalikes(source: Layer, target: Layer) -> bool:
    """Whether one side may be either of two functions that look alike, and the other is one of them."""
    ours, theirs = ({reading.kind for reading in layer.readings} for layer in (source, target))
    return any(
        any(KINDS[kind].alike in kinds for kind in kinds & KINDS.keys()) and not kinds <= others
        for kinds, others in ((ours, theirs), (theirs, ours))
    )


def _difference(source: Layer, target: Layer, ours: Reading, theirs: Reading) -> str:
    roles = assign(ours, theirs)
    if roles.missing:
        return f"'{target.path}' of the clone has a {roles.missing[0]}, and '{source.path}' of the source has none"
    if roles.surplus:
        why = unplaced(source, target)
        return f"'{source.path}' of the source has a {roles.surplus[0]}, and '{target.path}' of the clone has none{why}"
    sizes = dict(ours.sizes)
    misfits = [
        f"'{source.path}' says {AXIS_WORDS[axis]} {sizes[axis]}, and '{target.path}' of the clone {size}"
        for axis, size in theirs.sizes
        if sizes.get(axis, size) != size
    ]
    for role, (stored, _) in theirs.roles.items():
        for supply in roles.supplies[role]:
            text = _misfit(supply.stored, stored, _known(ours, theirs, stored))
            if text and text not in misfits:
                misfits.append(text)
    if misfits:
        text, note = "; ".join(misfits), fewer(source)
        return f"{text.removesuffix('.')}{note}" if note else text
    return f"'{source.path}' and '{target.path}' of the clone do not fit ({shapes(source)})"


def _misfit(source: Stored, target: Stored, sizes: Sizes) -> str:
    shape = source.neutral_shape()
    if shape is None:
        return f"'{source.spec.name}' {source.spec.shape} cannot be laid out as its axes ({source.leaf.axes}) need"
    if fitted_shape(target.leaf, shape, target.spec.shape, sizes) is not None:
        return ""
    wanted = _wanted_shape(source, target)
    theirs, ours = _axis_sizes(target), _axis_sizes(source)
    wrong = [axis for axis, size in theirs.items() if axis in ours and size not in (-1, ours[axis])]
    word = AXIS_WORDS.get(wrong[0]) if wrong else None
    question = f" Is the {word} of the clone {theirs[wrong[0]]}?" if word else ""
    needs = "" if wanted in (None, target.spec.shape) else f", which needs {wanted}"
    return (
        f"'{source.spec.name}' has shape {source.spec.shape}; the clone's '{target.spec.name}' is "
        f"{target.spec.shape}{needs}.{question}"
    )


def _wanted_shape(source: Stored, target: Stored) -> tuple[int, ...] | None:
    """The shape that the source would need to have, in its own axis order (-1: any size); None if none would do."""
    have = groups(source.leaf.axes, len(source.spec.shape))
    theirs = groups(target.leaf.axes, len(target.spec.shape))
    if have is None or theirs is None or source.parts != target.parts:
        return None
    sizes = dict(zip(theirs, target.spec.shape, strict=True))
    return tuple(sizes[group] for group in have) if all(group in sizes for group in have) else None


def _axis_sizes(stored: Stored) -> Mapping[str, int]:
    order = groups(stored.leaf.axes, len(stored.spec.shape)) or ()
    known = {**dict(stored.sizes), "g": stored.parts}
    single = {g[0]: size for g, size in zip(order, stored.spec.shape, strict=False) if len(g) == 1}
    return {**single, **(solve(zip(order, stored.spec.shape, strict=False), known) or {})}


def unknown_kind(layer: Layer) -> str:
    """The refusal of a layer that no table describes."""
    layer_shapes = f"'{layer.path}' ({shapes(layer)})"
    return f"{layer_shapes} is a layer of an unknown kind, so it is unknown how another framework stores it."


def shapes(layer: Layer) -> str:
    return ", ".join(f"{spec.name} {spec.shape}" for spec in layer.tensors)
