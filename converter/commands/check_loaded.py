"""A live net that is filled from another one, with an example input: both give the same, or the net is as it was.

A forward shows much of how a net lays out its features, but not what happens between two layers; so what was loaded is
tried. Where it is not right, or where evidence does not tell which layers belong together, lockstep tells. A number of
heads that nothing tells is tried, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import msgspec
from msgspec.structs import replace

from converter.commands.plan import Plan
from converter.commands.verify_nets import ForwardComparison, Tolerance, compared_nets
from converter.core.inputs import Inputs
from converter.endpoints.endpoint import Endpoint
from converter.errors import ConversionError, MatchError
from converter.lockstep.heads import asked_of, with_heads
from converter.lockstep.lockstep import found
from converter.matching.hints import Hints


class _DifferError(ConversionError):
    """The nets do not give the same."""


class Proved(msgspec.Struct, frozen=True):
    """net: the clone, filled. hints: with what lockstep found. comparison: of both nets, layer by layer; None where the
    clone is set otherwise, so that it gives something else.
    """

    net: Any
    hints: Hints
    comparison: ForwardComparison | None


def fill_proved(
    source: Endpoint, clone: Endpoint, hints: Hints, inputs: tuple[Inputs, Inputs], stacklevel: int
) -> Proved:
    """The clone, filled so that it gives what the source gives. inputs: as the source and the clone take them.

    Raises MatchError where neither evidence nor a run tells which layers belong together, and ConversionError where the
    nets give something else; then the net is as it was.
    """
    by_schema = hints.schema is not None  # which says it all
    try:
        return _filled(source, clone, hints, inputs, stacklevel + 1, is_only_way=by_schema)
    except MatchError as error:
        ways = list(with_heads(hints, asked_of(error), (source.net, clone.net)))
        if ways:
            return _filled_one_way(source, clone, ways, inputs, error, stacklevel + 1)
        if by_schema:
            raise
    except _DifferError:
        if by_schema:
            raise
    return _by_lockstep(source, clone, hints, inputs, stacklevel + 1, is_only_way=True)


def _filled(
    source: Endpoint,
    clone: Endpoint,
    hints: Hints,
    inputs: tuple[Inputs, Inputs],
    stacklevel: int,
    *,
    is_only_way: bool,
) -> Proved:
    """The clone as evidence has it. is_only_way: see `_fill_checked`."""
    plan = Plan(source, clone.framework, clone, hints, None)
    return _fill_checked(plan, inputs, stacklevel + 1, is_only_way=is_only_way)


def _by_lockstep(
    source: Endpoint,
    clone: Endpoint,
    hints: Hints,
    inputs: tuple[Inputs, Inputs],
    stacklevel: int,
    *,
    is_only_way: bool,
) -> Proved:
    known = replace(hints, found=found(source, clone, hints, inputs))
    return _filled(source, clone, known, inputs, stacklevel + 1, is_only_way=is_only_way)


def _filled_one_way(
    source: Endpoint,
    clone: Endpoint,
    ways: Sequence[Hints],
    inputs: tuple[Inputs, Inputs],
    error: MatchError,
    stacklevel: int,
) -> Proved:
    """The clone, filled in the one of these ways with which both give the same. Raises the error where none does, or
    several, or where the nets are set otherwise, so that no run tells.
    """
    assert clone.live is not None
    former = clone.live.values()
    filled: list[Proved] = []
    for fill, hints in product((_filled, _by_lockstep), ways):
        if fill is _by_lockstep and filled:
            break
        try:
            filled.append(fill(source, clone, hints, inputs, stacklevel + 1, is_only_way=False))
        except ConversionError:
            continue  # which leaves the clone as the last way that fits has it
    if len(filled) != 1 or filled[0].comparison is None:
        clone.live.fill(former)  # of linen that is a tree nobody has
        raise error
    return filled[0]


def proved(source: Endpoint, clone: Endpoint, hints: Hints, inputs: tuple[Inputs, Inputs]) -> Proved:
    """As `fill_proved`; the clone keeps its values."""
    assert clone.live is not None
    live = clone.live
    former = live.values()
    try:
        return fill_proved(source, clone, hints, inputs, stacklevel=4)
    finally:
        live.fill(former)


def _fill_checked(plan: Plan, inputs: tuple[Inputs, Inputs], stacklevel: int, *, is_only_way: bool) -> Proved:
    """is_only_way: no other layers could belong together. Then nets whose layers all give the same are right, though
    their outputs differ: that is not of the weights (a softmax). Else two branches may be taken for each other.
    """
    assert plan.clone is not None and plan.clone.live is not None and plan.source.live is not None
    live, source = plan.clone.live, plan.source.live
    if any("(for training)" not in warning.property for warning in plan.set_otherwise()):
        # they give something else, and the user is warned of it
        return Proved(plan.fill(live.net, stacklevel + 1), plan.hints, None)
    former = live.values()
    filled = plan.fill(live.net, stacklevel + 1)
    try:
        from converter.live import open_net

        compared = compared_nets(source, open_net(filled), plan.pairs, inputs, Tolerance())
        if not compared.ok and (compared.first or compared.unseen or not is_only_way):
            worst = max(output.relative for output in compared.outputs)
            raise _DifferError(f"the net does not give what the source gives for this input (max rel {worst:.2g}).")
    except BaseException:
        live.fill(former)  # of linen that is a tree nobody has
        raise
    return Proved(filled, plan.hints, compared)
