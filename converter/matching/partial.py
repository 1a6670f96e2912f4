"""Partial reuse: which layers of an old net are taken, where they go in a new one, and how those fit that are of
another size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import msgspec
from msgspec.structs import replace

from converter.core.arithmetic import Inflate
from converter.core.axes import groups
from converter.core.layers import Layer, Net, Reading, Stored
from converter.errors import MatchError, Placeholder, Problem, Remedy, listed, unknown_name
from converter.frameworks.linear import HEADS
from converter.matching.compatibility import agreements, shapes
from converter.matching.covering import covers
from converter.matching.evidence import POSITION
from converter.matching.hints import Hints
from converter.matching.matcher import Matcher
from converter.matching.names import plain_names
from converter.matching.order import true_order
from converter.matching.pairs import Pair, check_strict, is_certain
from converter.matching.problems import misfit, unknown_sources
from converter.options import ReuseOptions

WHOLE, SLICED, INFLATED = "whole", "sliced", "inflated"
BY_CALLS = "the order in which they were called"
BY_NUMBERS = "the order in which they are called, as their numbers tell"
BY_DEFINITION = "their order in the old net, which need not be that in which they are called"
BY_ALPHABET = "the order of their names, for the old net keeps no other"


class Taking(msgspec.Struct, frozen=True):
    """An old layer that goes into a new one. how: WHOLE, SLICED or INFLATED.

    An inflated source holds tensors that are yet to be inflated; a sliced target has open sizes (-1).
    """

    source: Layer
    target: Layer
    reason: str
    how: str


class Skipped(msgspec.Struct, frozen=True):
    """An old layer that was asked for and does not fit; ``into`` is "" when no new layer is for it."""

    layer: str
    into: str
    reason: str


class Selection(msgspec.Struct, frozen=True):
    """order: what "first" means for this net; "" when ``first`` is not used."""

    order: str
    takings: tuple[Taking, ...]
    skipped: tuple[Skipped, ...]


def select(old: Net, new: Net, options: ReuseOptions, hints: Hints) -> Selection:
    """Pair the layers that are wanted. Raises MatchError with all problems."""
    layers, order = _wanted(old, options, hints)
    matcher = Matcher(old, new, layers)
    matcher.by_what_is_said(hints, plain_names(old), plain_names(new))
    matcher.by_number()
    matcher.by_own_number()
    matcher.by_elimination()
    return _judged(matcher, layers, options, hints, order)


def _wanted(old: Net, options: ReuseOptions, hints: Hints) -> tuple[list[Layer], str]:
    problems = unknown_sources(old, hints)
    order = ""
    if options.first is not None:
        ordered, order = in_order(old)
        layers = ordered[: options.first]
        if options.first > len(ordered):
            text = f"the old net has {len(ordered)} layers with parameters."
            problems.append(Problem(text, "option", "first", about=Remedy("first", options.first)))
    elif options.layers:
        layers = [layer for layer in old.layers if any(covers(pattern, layer.path) for pattern in options.layers)]
        unused = (name for name in options.layers if not any(covers(name, path) for path in old.by_path))
        where = "the old net has no layer"
        problems += [unknown_name(Remedy("layers", name), name, where, old.by_path) for name in unused]
    else:
        layers = [layer for layer in old.layers if hints.mapped(layer.path) is not None]
        if not hints.mapping:
            pair = Placeholder("OLD"), Placeholder("NEW")
            ways = (Remedy("first", Placeholder("N")), Remedy("layers", Placeholder("PATTERN")), Remedy("map", pair))
            problems.append(Problem("nothing says which layers to take.", "option", remedies=ways))
    taken = [layer.path for layer in layers]
    for name, into in hints.mapping.items():
        if any(_leads(name, path) for path in old.by_path) and not any(_leads(name, path) for path in taken):
            text = f"'{name}' is not among the layers to take, which are {listed(taken)}."
            problems.append(Problem(text, "option", name, about=Remedy("map", (name, into))))
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


def _judged(matcher: Matcher, layers: Sequence[Layer], options: ReuseOptions, hints: Hints, order: str) -> Selection:
    """What fits, as it fits. Raises MatchError for the rest."""
    pairs = {pair.source.path: pair for pair in (*matcher.pairs, *matcher.misfits)}
    mapped = {problem.subject for problem in matcher.problems if problem.about and problem.about.option == "map"}
    takings: list[Taking] = []
    skipped: list[Skipped] = []
    problems = list(matcher.problems)
    for layer in layers:
        pair = pairs.get(layer.path)
        taking = _taking(matcher, pair, options) if pair else None
        if taking is not None:
            takings.append(taking)
            continue
        candidates = [] if pair else matcher.candidates(layer)
        problem = _mismatch(matcher, pair) if pair else _unpaired(layer, candidates)
        if options.skip_mismatch and not candidates:
            skipped.append(Skipped(layer.path, pair.target.path if pair else "", problem.text))
        elif layer.path not in mapped:
            problems.append(problem if candidates else replace(problem, remedies=(*problem.remedies, *_ways(pair))))
    if problems:
        raise MatchError(problems)
    if hints.options.strict:
        check_strict(Pair(one.source, one.target, one.reason) for one in takings)
    return Selection(order, tuple(takings), tuple(skipped))


def _taking(matcher: Matcher, pair: Pair, options: ReuseOptions) -> Taking | None:
    source, target, reason = pair.source, pair.target, pair.reason
    if matcher.fits(source, target):
        return Taking(source, target, reason, WHOLE)
    deeper = inflated(source, target) if options.inflate else None
    if deeper is not None:
        return Taking(deeper, target, reason, INFLATED)
    wider = opened(source, target) if options.slice and is_certain(reason) else None
    return Taking(source, wider, reason, SLICED) if wider is not None else None


def _mismatch(matcher: Matcher, pair: Pair) -> Problem:
    problem = misfit(pair, matcher.same_framework)
    if pair.reason != POSITION:
        return problem
    source, target = pair.source.path, pair.target.path
    others = [other.path for other in matcher.candidates(pair.source) if other.path != target]
    fitting = f" What would fit: {listed(others)}." if others else ""
    return replace(
        problem,
        text=f"'{source}' has the position of '{target}', and does not fit there: {problem.text}{fitting}",
        candidates=tuple(others),
        remedies=tuple(Remedy("map", (source, other)) for other in others),
    )


def _unpaired(layer: Layer, candidates: Sequence[Layer]) -> Problem:
    paths = tuple(candidate.path for candidate in candidates)
    if not paths:
        text = f"nothing in the new net fits '{layer.path}' ({shapes(layer)})."
        return Problem(text, "no target", layer.path, met=shapes(layer))
    text = f"'{layer.path}' could go into {listed(paths)}."
    remedies = tuple(Remedy("map", (layer.path, path)) for path in paths)
    return Problem(text, "ambiguous", layer.path, candidates=paths, remedies=remedies)


def _ways(pair: Pair | None) -> Iterable[Remedy]:
    """What can be done with a layer that does not fit."""
    yield Remedy("skip_mismatch", effect="leaves it as it is in the new net")
    if pair is not None and is_certain(pair.reason) and opened(pair.source, pair.target):
        yield Remedy("slice", effect="takes the part that overlaps")
    if pair is not None and inflated(pair.source, pair.target):
        yield Remedy("inflate", effect="makes 3-d kernels of the 2-d ones")


def opened(source: Layer, target: Layer) -> Layer | None:
    """The target with every size open, if the source fits then and both count each axis alike; else None.

    A fused axis (heads times their size, groups times channels) has no overlap that means anything.
    """
    counted_alike = tuple(
        reading
        for reading in target.readings
        if not any(_is_fused(other) for other in (reading, *source.readings) if other.kind == reading.kind)
    )
    layer = replace(target, readings=counted_alike).with_tensors(
        lambda item: replace(item, spec=replace(item.spec, shape=(-1,) * len(item.spec.shape)))
    )
    return layer if agreements(source, layer, same_framework=False) else None


def _is_fused(reading: Reading) -> bool:
    return reading.form in HEADS or any("(" in item.leaf.neutral for item in reading.stored)


def inflated(source: Layer, target: Layer) -> Layer | None:
    """The source with its 2-d kernels as they will be in a 3-d convolution of the target, if that fits; else None."""
    depths = {_depth(item) for reading in target.readings if reading.kind == "conv" for item in reading.stored} - {0}
    readings = tuple(
        reading.with_tensors(partial(_inflated, depth))
        for reading in source.readings
        if reading.kind == "conv"
        for depth in depths
    )
    layer = replace(source, readings=readings)
    fits = len(depths) == 1 and any(item.fold for reading in readings for item in reading.stored)
    return layer if fits and agreements(layer, target, same_framework=False) else None


def _depth(stored: Stored) -> int:
    """The size of the first of three spatial axes, which is that of time; 0 where there are not three."""
    axes = groups(stored.leaf.axes, len(stored.spec.shape)) or ()
    return stored.spec.shape[axes.index(("+0",))] if ("+2",) in axes else 0


def _inflated(depth: int, stored: Stored) -> Stored:
    axes = groups(stored.leaf.axes, len(stored.spec.shape)) or ()
    if ("+1",) not in axes or ("+2",) in axes or stored.fold is not None:
        return stored
    op = Inflate(axes.index(("+0",)), depth)
    return replace(stored, spec=op.infer((stored.spec,))[0], sources=(stored.spec,), fold=op)
