"""What is paired already around layers whose order is in doubt: whether it speaks for that order, or against it.

Numbers that an author gave (``fc1``, ``fc2``) and the order of definition need not be the order of the calls: two equal
branches may be listed either way. What stands between them, or what counts in step with them, tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from converter.core.layers import sizes_of
from converter.matching.modules import Member, Region
from converter.matching.placing import Placing

Orders = tuple[Placing, Placing]
_Anchors = Sequence[tuple[Member, Member]]
#: For each anchor, how many of the elements of either side come before it.
_Before = list[tuple[int, int]]
#: Of an anchor, and the elements and the order of its side: how many of them come before it; None where nothing tells.
_Lower = Callable[[Member, Sequence[Member], Placing, int], "int | None"]


def tells(
    region: Region,
    ours: Sequence[Member],
    theirs: Sequence[Member],
    orders: Orders,
    paired: Mapping[str, str],
) -> bool:
    """Whether the order counts: nothing that is paired speaks against it; and it is that of the calls, or of what names
    mean, or something that is paired confirms it.
    """
    anchors = _anchors(region, paired)
    before = partial(_before, region, ours, theirs, orders, anchors)
    counted = before(_lower_alike)
    if any(here != there for here, there in counted):
        return False
    if all(_is_sure(order, orders) for order in orders):
        return True
    if counted and all(map(_may_follow_itself, ours)):
        return True
    return any(_separates(before(lower), len(ours)) for lower in (_lower_numbered, _lower_placed))


def _is_sure(order: Placing, orders: Orders) -> bool:
    return order.is_called or order.is_meant or (bool(order.pattern) and any(one.is_meant for one in orders))


def _anchors(region: Region, paired: Mapping[str, str]) -> _Anchors:
    others = {one.layer.path: one for one in region.theirs}
    return [(one, others[paired[one.layer.path]]) for one in region.ours if paired.get(one.layer.path) in others]


def _before(
    region: Region, ours: Sequence[Member], theirs: Sequence[Member], orders: Orders, anchors: _Anchors, lower: _Lower
) -> _Before:
    """Without the anchors of which ``lower`` tells nothing on either side."""
    found: _Before = []
    for pair in anchors:
        here, there = map(lower, pair, (ours, theirs), orders, region.starts)
        if here is not None and there is not None:
            found.append((here, there))
    return found


def _lower_alike(anchor: Member, members: Sequence[Member], order: Placing, start: int) -> int | None:
    """How many have a lower number than an anchor that is called like them but for the number."""
    is_alike = anchor.spelling.pattern(start)[: len(order.pattern)] == order.pattern
    return _lower_numbered(anchor, members, order, start) if is_alike else None


def _lower_numbered(anchor: Member, members: Sequence[Member], order: Placing, start: int) -> int | None:
    """How many have a lower number than an anchor that has as many numbers."""
    depth = order.pattern.count("#")
    if not order.pattern or anchor.spelling.pattern(start).count("#") < depth:
        return None
    return _lower([one.spelling.numbers(start)[:depth] for one in members], anchor.spelling.numbers(start)[:depth])


def _lower_placed(anchor: Member, members: Sequence[Member], order: Placing, start: int) -> int | None:
    """How many come before the anchor in the file, where that is the order; else by the numbers."""
    if order.by_position:
        return _lower([one.position for one in members], anchor.position)
    return _lower_numbered(anchor, members, order, start)


def _lower(values: Iterable[object], limit: object) -> int:
    return sum(value < limit for value in values)  # type: ignore[operator]


def _separates(before: _Before, count: int) -> bool:
    """Whether the anchors stand between each two of so many elements, in the same place on both sides."""
    return all(here == there for here, there in before) and {here for here, _ in before} >= set(range(1, count))


def _may_follow_itself(member: Member) -> bool:
    """Whether what comes out of the layer could go into one like it: else two of them do not stand in one line."""
    sizes = sizes_of(member.layer)
    return sizes.inputs == sizes.outputs
