"""What is paired already around layers whose order is in doubt: whether it speaks for that order, or against it.

Numbers that an author gave (``fc1``, ``fc2``) and the order of definition need not be the order of the calls: two equal
branches may be listed either way. What stands between them, or what counts in step with them, tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from converter.core.layers import sizes_of
from converter.matching.modules import Member, Region
from converter.matching.placing import Placing

Orders = tuple[Placing, Placing]
_Anchors = Sequence[tuple[Member, Member]]
#: For each anchor, how many of the elements of either side come before it.
_Before = list[tuple[int, int]]


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
    counted = _by_numbers(region, ours, theirs, orders, anchors, same_names=True)
    if any(here != there for here, there in counted):
        return False
    if all(_is_sure(order, orders) for order in orders):
        return True
    if counted and all(map(_may_follow_itself, ours)):
        return True
    if _separates(_by_numbers(region, ours, theirs, orders, anchors, same_names=False), len(ours)):
        return True
    return _separates(_by_either(region, ours, theirs, orders, anchors), len(ours))


def _by_either(
    region: Region, ours: Sequence[Member], theirs: Sequence[Member], orders: Orders, anchors: _Anchors
) -> _Before:
    """By the position in the file, or by the number in the name, whichever each side has its order from."""
    if not all(order.by_position or order.pattern for order in orders):
        return []
    found: _Before = []
    for pair in anchors:
        counts = [
            _lower([one.position for one in members], anchor.position)
            if order.by_position
            else _lower_numbered(anchor, members, order.pattern, start, same_names=False)
            for anchor, members, order, start in zip(pair, (ours, theirs), orders, region.starts, strict=True)
        ]
        if counts[0] is not None and counts[1] is not None:
            found.append((counts[0], counts[1]))
    return found


def _is_sure(order: Placing, orders: Orders) -> bool:
    return order.is_called or order.is_meant or (bool(order.pattern) and any(one.is_meant for one in orders))


def _anchors(region: Region, paired: Mapping[str, str]) -> _Anchors:
    others = {one.layer.path: one for one in region.theirs}
    return [(one, others[paired[one.layer.path]]) for one in region.ours if paired.get(one.layer.path) in others]


def _by_numbers(
    region: Region,
    ours: Sequence[Member],
    theirs: Sequence[Member],
    orders: Orders,
    anchors: _Anchors,
    same_names: bool,
) -> _Before:
    """same_names: of anchors that are called like the elements but for the number; else of all with as many numbers."""
    if not all(order.pattern for order in orders):
        return []
    found: _Before = []
    for pair in anchors:
        counts = [
            _lower_numbered(anchor, members, order.pattern, start, same_names)
            for anchor, members, order, start in zip(pair, (ours, theirs), orders, region.starts, strict=True)
        ]
        if counts[0] is not None and counts[1] is not None:
            found.append((counts[0], counts[1]))
    return found


def _lower_numbered(
    anchor: Member, members: Sequence[Member], pattern: tuple[str, ...], start: int, same_names: bool
) -> int | None:
    """How many of them have a lower number; None where the anchor has no such numbers."""
    own = anchor.spelling.pattern(start)
    depth = pattern.count("#")
    if own[: len(pattern)] != pattern if same_names else own.count("#") < depth:
        return None
    return _lower([one.spelling.numbers(start)[:depth] for one in members], anchor.spelling.numbers(start)[:depth])


def _lower(values: Iterable[object], limit: object) -> int:
    return sum(value < limit for value in values)  # type: ignore[operator]


def _separates(before: _Before, count: int) -> bool:
    """Whether the anchors stand between each two of so many elements, in the same place on both sides."""
    return all(here == there for here, there in before) and {here for here, _ in before} >= set(range(1, count))


def _may_follow_itself(member: Member) -> bool:
    """Whether what comes out of the layer could go into one like it: else two of them do not stand in one line."""
    sizes = sizes_of(member.layer)
    return sizes.inputs == sizes.outputs
