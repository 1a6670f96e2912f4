"""Lockstep: two live nets are run on one input, and what their layers take and give tells which is which."""

from __future__ import annotations

from collections.abc import Mapping

from converter.core.differences import compared_outputs
from converter.core.inputs import Inputs
from converter.core.tensors import Array
from converter.endpoints.endpoint import Endpoint
from converter.errors import ConversionError, MatchError, Problem, Remedy
from converter.lockstep.calls import Calls
from converter.lockstep.pairing import Pairing
from converter.lockstep.search import Search
from converter.lockstep.trial import Trial, observed
from converter.matching.hints import Found, Hints
from converter.matching.matcher import evident
from converter.planning.plan import comparable
from converter.planning.prepare import goal_of, with_hints

_WHY = (
    "Something between the layers orders their features otherwise, or the nets compute something else. The net has its "
    "former values again; without an example input they are loaded unchecked."
)


def found(source: Endpoint, clone: Endpoint, hints: Hints, inputs: tuple[Inputs, Inputs]) -> Mapping[str, Found]:
    """Source path -> what was found, so that the clone gives what the source gives; it keeps its values.

    inputs: as either net takes them. Raises MatchError for what no run can settle, or where several pairings give the
    same; ConversionError where none does, with the first layer at which the nets part.
    """
    ours, live = source.live, clone.live
    assert ours is not None and live is not None
    net, target, hints = with_hints(source.net, goal_of(clone, None, by_schema=False).net, hints)
    (source_net, _), (target_net, _) = comparable(net, target, hints)
    matcher = evident(source_net, target_net, hints)
    seen_all = observed(ours, {name for name, _ in ours.modules()}, inputs[0])
    seen = Calls(ours, matcher.source.layers, seen_all, every=True)
    other_axes = ours.channels_last != live.channels_last
    former = live.values()
    trial = Trial((net, target), (source, clone), hints, matcher.target.layers, inputs[1])
    pairing = Pairing(matcher, seen.in_order(), trial.last.in_order())

    def gives_same(outputs: Mapping[str, Array]) -> bool:
        return all(output.ok for output in compared_outputs(seen.outputs, outputs, other_axes, None))

    try:
        search = Search(pairing, seen, trial, gives_same)
        chosen = _only(search)
    finally:
        live.fill(former)  # of linen that is a tree nobody has
    return {item.source: item for item in chosen}


def _only(search: Search) -> list[Found]:
    solutions = search.solutions()
    first = next(solutions, None)
    if first is None and len(search.unequal) == 1:
        return search.unequal[0]  # nothing else is possible: what differs comes behind all layers (a softmax)
    if first is None:
        raise ConversionError(f"the net does not give what the source gives for this input: {search.parting}. {_WHY}")
    second = next(solutions, None)
    if second is not None:
        raise MatchError([_undecided(one, other) for one, other in zip(first, second, strict=True) if one != other])
    return first


def _undecided(one: Found, other: Found) -> Problem:
    maps = tuple(Remedy("map", (item.source, item.target)) for item in (one, other))
    text = f"'{one.target}' of the clone could be '{one.source}' or '{other.source}': for this input the outputs are"
    return Problem(f"{text} the same.", "ambiguous", one.target, candidates=(one.source, other.source), remedies=maps)
