"""Which layers of an old net go into which layers of a new one, and why: never a guess.

As in `converter.matching.matcher` every pair has a reason, and what is not settled is refused with the ``--map`` that
would settle it. But here the rest of both nets stays aside, so that less speaks for a pair: position counts only
where the names themselves tell the order on both sides, and a shape only where nothing else has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import msgspec
from msgspec.structs import replace

from converter.core.arithmetic import Inflate
from converter.core.axes import groups
from converter.core.layers import Layer, Net, Reading, Stored
from converter.errors import MatchError
from converter.frameworks.linear import HEADS
from converter.matching.applied_options import Rules, covers
from converter.matching.compatibility import agreements, disagreement, shapes
from converter.matching.matcher import (
    CERTAIN,
    MAP,
    ONLY_ONE,
    POSITION,
    SAME_NAME,
    listed,
    plain_names,
    unused_rules,
)
from converter.matching.order import Naming, numbered_alike, true_order

WHOLE, SLICED, INFLATED = "whole", "sliced", "inflated"
BY_CALLS = "the order in which they were called"
BY_NUMBERS = "the order in which they are called, as their numbers tell"
BY_DEFINITION = "their order in the old net, which need not be that in which they are called"
BY_ALPHABET = "the order of their names, for the old net keeps no other"


class Wanted(msgspec.Struct, frozen=True):
    """What to take: the first so many layers that hold parameters, or those of the patterns, or those of the map.

    skip_mismatch: leave out layers that do not fit. slice: take the part that overlaps. inflate: make 3-d kernels
    of 2-d ones. strict: pair by --map or the same name only.
    """

    first: int | None = None
    patterns: tuple[str, ...] = ()
    skip_mismatch: bool = False
    slice: bool = False
    inflate: bool = False
    strict: bool = False


class Taking(msgspec.Struct, frozen=True):
    """An old layer that goes into a new one. how: WHOLE, SLICED or INFLATED.

    An inflated source holds tensors that are yet to be inflated; a sliced target has open sizes (-1).
    """

    source: Layer
    target: Layer
    reason: str
    how: str


class Skipped(msgspec.Struct, frozen=True):
    """An old layer that was asked for and does not fit; ``into`` is "" when nothing was found for it."""

    layer: str
    into: str
    reason: str


class Selection(msgspec.Struct, frozen=True):
    """order: what "first" means for this net; "" when no number was given."""

    order: str
    takings: tuple[Taking, ...]
    skipped: tuple[Skipped, ...]


def select(old: Net, new: Net, wanted: Wanted, rules: Rules) -> Selection:
    """Pair the layers that are wanted. Raises MatchError with all problems."""
    layers, order = _chosen(old, wanted, rules)
    work = _Pairing(old, new, layers)
    work.by_map(rules)
    work.by_name(lambda path: path, lambda path: path)
    work.by_name(plain_names(old), plain_names(new))
    work.by_position()
    work.by_own_number()
    work.by_elimination()
    return work.judged(wanted, order)


def _chosen(old: Net, wanted: Wanted, rules: Rules) -> tuple[list[Layer], str]:
    problems = unused_rules(old, rules)
    order = ""
    if wanted.first is not None:
        ordered, order = in_order(old)
        if not 1 <= wanted.first <= len(ordered):
            problems.append(f"--first {wanted.first}: the old net has {len(ordered)} layers with parameters")
        layers = ordered[: wanted.first]
    elif wanted.patterns:
        layers = [layer for layer in old.layers if any(covers(pattern, layer.path) for pattern in wanted.patterns)]
        problems += [
            f"--layers {pattern}: no layer of the old net is called so. It has {listed(old.by_path)}."
            for pattern in wanted.patterns
            if not any(covers(pattern, path) for path in old.by_path)
        ]
    else:
        layers = [layer for layer in old.layers if rules.mapped(layer.path) is not None]
        if not rules.mapping:
            problems.append("nothing says which layers to take. Say --first N, --layers PATTERN or --map OLD=NEW.")
    taken = [layer.path for layer in layers]
    problems += [
        f"--map {name}={into}: '{name}' is not among the layers to take, which are {listed(taken)}"
        for name, into in rules.mapping.items()
        if any(_leads(name, path) for path in old.by_path) and not any(_leads(name, path) for path in taken)
    ]
    if problems:
        raise MatchError(problems)
    return layers, order


def _leads(module: str, path: str) -> bool:
    return path == module or path.startswith(f"{module}.")


def in_order(net: Net) -> tuple[list[Layer], str]:
    """The layers in the order in which they are called, or the best that is known of it; and which that is."""
    called = true_order(net, net.layers)
    if called is not None:
        seen = net.observed is not None and all(layer.path in net.observed.calls for layer in net.layers)
        return called, BY_CALLS if seen else BY_NUMBERS
    return list(net.layers), BY_DEFINITION if net.ordered else BY_ALPHABET


class _Pairing:
    """The pairs found so far, by the path of the old layer."""

    def __init__(self, old: Net, new: Net, layers: Iterable[Layer]) -> None:
        self.old, self.new = old, new
        self.same_framework = old.framework == new.framework
        self.layers = list(layers)
        self.found: dict[str, tuple[Layer, str]] = {}
        self.unfit: dict[str, Layer] = {}  # where position leads, when that does not fit
        self.problems: list[str] = []

    def by_map(self, rules: Rules) -> None:
        for layer in self.layers:
            into = rules.mapped(layer.path)
            if into is None:
                continue
            if self._is_free(into):
                self.found[layer.path] = (self.new.by_path[into], MAP)
            else:
                why = "is taken already" if into in self.new.by_path else "is not in the new net"
                free = [path for path in self.new.by_path if self._is_free(path)]
                self.problems.append(f"--map {layer.path}={into}: '{into}' {why}. Free there: {listed(free)}.")

    def by_name(self, ours: Naming, theirs: Naming) -> None:
        """Names that stand once on either side. A number is part of a name only where both sides count alike."""
        old, new = _once(self.old, ours), _once(self.new, theirs)
        alike = numbered_alike(self.old, ours, self.new, theirs, in_part=True)
        for layer in self._open():
            name = ours(layer.path)
            target = new.get(name) if name in old else None
            if target is not None and self._is_free(target.path) and alike(layer, target):
                self.found[layer.path] = (target, SAME_NAME)

    def by_position(self) -> None:
        """The same place in the order of calls: among layers whose names differ in numbers alone, or in the nets."""
        settled = {path: target.path for path, (target, _) in self.found.items()}
        for layer in self._open():
            name = _letters(layer.path)
            groups = [
                [[one for one in net.layers if _letters(one.path) == name] for net in (self.old, self.new)],
                [list(net.layers) for net in (self.old, self.new)],
            ]
            target = next((found for ours, theirs in groups if (found := self._at(layer, ours, theirs, settled))), None)
            if target is None or not self._is_free(target.path):
                continue
            if self._fits(layer, target):
                self.found[layer.path] = (target, POSITION)
            else:
                self.unfit[layer.path] = target

    def _at(self, layer: Layer, ours: list[Layer], theirs: list[Layer], settled: Mapping[str, str]) -> Layer | None:
        """The new layer at the place of the old; None if an order is unknown, or a settled pair speaks against it."""
        before, after = true_order(self.old, ours), true_order(self.new, theirs)
        if not before or not after:
            return None
        places = {one.path: i for i, one in enumerate(after)}
        moved = any(places.get(settled.get(one.path, ""), i) != i for i, one in enumerate(before))
        place = before.index(layer)
        return after[place] if place < len(after) and not moved else None

    def by_own_number(self) -> None:
        """Within one framework a path of the user's own numbering (``block3``) is a name as any other."""
        if self.same_framework:
            for layer in self._open():
                if self._is_free(layer.path) and layer.path in self.new.by_path and layer.path not in self.unfit:
                    self.found[layer.path] = (self.new.by_path[layer.path], SAME_NAME)

    def by_elimination(self) -> None:
        """Layers that fit each other, and nothing else in either net."""
        for layer in self._open():
            targets = self._candidates(layer)
            if len(targets) != 1 or layer.path in self.unfit:
                continue
            rivals = [one for one in self.old.layers if one.path not in self.found and self._fits(one, targets[0])]
            if len(rivals) == 1:
                self.found[layer.path] = (targets[0], ONLY_ONE)

    def judged(self, wanted: Wanted, order: str) -> Selection:
        """What fits, as it fits. Raises MatchError for the rest."""
        takings: list[Taking] = []
        skipped: list[Skipped] = []
        for layer in self.layers:
            target, reason = self.found.get(layer.path, (None, ""))
            if target is None and layer.path in self.unfit:
                target, reason = self.unfit[layer.path], POSITION
            taking = self._taking(layer, target, reason, wanted) if target else None
            if taking is not None:
                takings.append(taking)
                continue
            candidates = [] if target else self._candidates(layer)
            problem = self._mismatch(layer, target) if target else self._unsettled(layer, candidates)
            if wanted.skip_mismatch and not candidates:
                skipped.append(Skipped(layer.path, target.path if target else "", problem))
            elif not any(text.startswith(f"--map {layer.path}=") for text in self.problems):
                self.problems.append(problem + ("" if candidates else _remedy(layer, target, reason)))
        if wanted.strict:
            self.problems += [
                f"--strict: '{one.source.path}' -> '{one.target.path}' rests on: {one.reason}. "
                f"If it is right, say --map {one.source.path}={one.target.path}."
                for one in takings
                if one.reason not in CERTAIN
            ]
        if self.problems:
            raise MatchError(self.problems)
        return Selection(order, tuple(takings), tuple(skipped))

    def _taking(self, layer: Layer, target: Layer, reason: str, wanted: Wanted) -> Taking | None:
        if self._fits(layer, target):
            return Taking(layer, target, reason, WHOLE)
        deeper = inflated(layer, target) if wanted.inflate else None
        if deeper is not None:
            return Taking(deeper, target, reason, INFLATED)
        wider = opened(layer, target) if wanted.slice and reason in CERTAIN else None
        return Taking(layer, wider, reason, SLICED) if wider is not None else None

    def _mismatch(self, layer: Layer, target: Layer) -> str:
        text = disagreement(layer, target, self.same_framework)
        if layer.path not in self.unfit:
            return text
        others = [one for one in self._candidates(layer) if one.path != target.path]
        lines = " or ".join(f"--map {layer.path}={one.path}" for one in others)
        hint = f" What would fit: {listed(one.path for one in others)}; say {lines}." if others else ""
        return f"'{layer.path}' has the place of '{target.path}', and does not fit there: {text}{hint}"

    def _unsettled(self, layer: Layer, candidates: list[Layer]) -> str:
        if not candidates:
            return f"nothing in the new net fits '{layer.path}' ({shapes(layer)})."
        lines = " or ".join(f"--map {layer.path}={one.path}" for one in candidates)
        return f"'{layer.path}' could go into {listed(one.path for one in candidates)}. Settle it with {lines}."

    def _candidates(self, layer: Layer) -> list[Layer]:
        return [one for one in self.new.layers if self._is_free(one.path) and self._fits(layer, one)]

    def _fits(self, layer: Layer, target: Layer) -> bool:
        return bool(agreements(layer, target, self.same_framework))

    def _is_free(self, path: str) -> bool:
        return path in self.new.by_path and all(target.path != path for target, _ in self.found.values())

    def _open(self) -> list[Layer]:
        return [layer for layer in self.layers if layer.path not in self.found]


def _letters(path: str) -> str:
    """The same for ``dense``, ``dense_1`` and ``Dense_0``: the first of a class may have no number."""
    return re.sub(r"[\W_\d]+", "", path).casefold()


def _once(net: Net, name: Callable[[str], str]) -> Mapping[str, Layer]:
    names = [name(path) for path in net.by_path]
    return {name(path): layer for path, layer in net.by_path.items() if names.count(name(path)) == 1}


def _remedy(layer: Layer, target: Layer | None, reason: str) -> str:
    ways = ["--skip-mismatch leaves it as it is in the new net"]
    if target is not None and reason in CERTAIN and opened(layer, target):
        ways.append("--slice takes the part that overlaps")
    if target is not None and inflated(layer, target):
        ways.append("--inflate makes 3-d kernels of the 2-d ones")
    return f" {'; '.join(ways)}."


# -- layers that do not fit as they are -----------------------------------------------------------------------------


def opened(source: Layer, target: Layer) -> Layer | None:
    """The target with every size open, if the source fits then and both count each axis alike; else None.

    A fused axis (heads times their size, groups times channels) has no overlap that means anything.
    """
    readings = tuple(
        replace(reading, stored=tuple(_opened(item) for item in reading.stored))
        for reading in target.readings
        if not any(_is_fused(other) for other in (reading, *source.readings) if other.kind == reading.kind)
    )
    layer = replace(target, readings=readings)
    return layer if agreements(source, layer, same_framework=False) else None


def _opened(stored: Stored) -> Stored:
    return replace(stored, spec=replace(stored.spec, shape=(-1,) * len(stored.spec.shape)))


def _is_fused(reading: Reading) -> bool:
    return reading.form in HEADS or any("(" in item.leaf.neutral for item in reading.stored)


def inflated(source: Layer, target: Layer) -> Layer | None:
    """The source with its 2-d kernels as they will be in a 3-d convolution of the target, if that fits; else None."""
    depths = {_depth(item) for reading in target.readings if reading.kind == "conv" for item in reading.stored} - {0}
    readings = tuple(
        replace(reading, stored=tuple(_inflated(item, depth) for item in reading.stored))
        for reading in source.readings
        if reading.kind == "conv"
        for depth in depths
    )
    layer = replace(source, readings=readings)
    fits = len(depths) == 1 and any(item.fold for reading in readings for item in reading.stored)
    return layer if fits and agreements(layer, target, same_framework=False) else None


def _depth(stored: Stored) -> int:
    """The size of the first of three spatial axes, which is that of time; 0 where there are not three."""
    found = groups(stored.leaf.axes, len(stored.spec.shape)) or ()
    return stored.spec.shape[found.index(("+0",))] if ("+2",) in found else 0


def _inflated(stored: Stored, depth: int) -> Stored:
    found = groups(stored.leaf.axes, len(stored.spec.shape)) or ()
    if ("+1",) not in found or ("+2",) in found or stored.fold is not None:
        return stored
    op = Inflate(found.index(("+0",)), depth)
    return replace(stored, spec=op.infer((stored.spec,))[0], sources=(stored.spec,), fold=op)
