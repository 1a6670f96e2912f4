"""Blocks that repeat: what evidence finds in one pair of modules holds in the next that is alike in all it looks at.

A language model is a few blocks, a hundred times. Two pairs of modules are alike where their layers have the same names
from there on and the same shapes, and stand in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

from converter.core.layers import Net
from converter.frameworks import framework
from converter.matching.looks import SIDES, Groups, Side
from converter.matching.modules import Member, Region, shared


class Repeats:
    """The regions of two nets, by what evidence sees of them. groups: of the layers of both nets."""

    def __init__(self, nets: tuple[Net, Net], regions: Sequence[Region], groups: Groups) -> None:
        self._nets, self._groups = nets, groups
        # what a forward showed is of these layers alone
        kinds = {} if any(net.observed for net in nets) else {id(region): self._seen(region) for region in regions}
        often = Counter(kinds.values())
        numbers = {kind: number for number, kind in enumerate(often)}
        self._kinds = {region: numbers[kind] for region, kind in kinds.items() if often[kind] > 1}

    def of(
        self, region: Region, ours: Sequence[Member], theirs: Sequence[Member], paired: Mapping[str, str]
    ) -> Hashable:
        """What these layers of a region are: equal for others that evidence says the same of; None if there are none.

        paired: source path -> target path of all pairs so far.
        """
        kind = self._kinds.get(id(region))
        if kind is None:
            return None
        start = region.theirs[0].position
        places = {other.layer.path: other.position - start for other in region.theirs}
        pairs = tuple(places.get(paired.get(one.layer.path, "")) for one in region.ours)
        first = region.ours[0].position
        return kind, pairs, tuple(one.position - first for one in ours), tuple(one.position - start for one in theirs)

    def _seen(self, region: Region) -> Hashable:
        sides = zip(self._nets, SIDES, (region.ours, region.theirs), region.starts, strict=True)
        return tuple(self._side(net, side, members, start) for net, side, members, start in sides)

    def _side(self, net: Net, side: Side, members: Sequence[Member], start: int) -> Hashable:
        first = members[0]
        before = ["#" if token.isdecimal() else token for token in first.spelling.tokens[max(start - 1, 0) : start]]
        layers = tuple(
            (
                one.position - first.position,
                one.tokens(start),
                *(sum(2 ** (at - start + 1) for at in marks if at >= start - 1) for marks in _marks(one)),
                self._groups.look(one.layer, side),
            )
            for one in members
        )
        return tuple(before), layers, _stored(net, members)


def _marks(member: Member) -> tuple[frozenset[int], frozenset[int]]:
    """Positions of tokens, which are few: a sum of powers of two is a set of them, and quicker."""
    return member.spelling.counted, member.spelling.heads


def _stored(net: Net, members: Sequence[Member]) -> Hashable:
    """Where a Keras file has them, which tells whether it sorted them (see `placing.is_listed`)."""
    if not framework(net.framework).counts_classes:
        return ()
    places = [tuple(one.layer.tensors[0].name.split("/")) for one in members]
    alike = shared(places)
    return tuple(place[max(alike - 1, 0) :] for place in places)
