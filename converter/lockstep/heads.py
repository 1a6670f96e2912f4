"""The number of heads that a layer holds its parts by, where nobody says it: tried, until the nets give the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from converter.core.layers import Layer, Net, sizes_of
from converter.errors import MatchError
from converter.frameworks.linear import HEADS
from converter.matching.hints import Hints

#: Kind of the problems that ask for it (see `fused.unknown_heads`).
_ASKED = "heads"
#: The number with which the parts are held one after the other, and not by heads.
_IN_TURN = 1


def asked_of(error: MatchError) -> tuple[str, ...]:
    """The layers whose number of heads is all that is asked; none where something else is, too."""
    asked = {problem.kind for problem in error.problems} == {_ASKED}
    return tuple(problem.subject for problem in error.problems) if asked else ()


def with_heads(hints: Hints, paths: Sequence[str], nets: Sequence[Net]) -> Iterator[Hints]:
    """The hints with each number of heads that the layers of these paths may have, the same one in all of them.

    Those are the numbers that the shapes of other layers of the nets show, and one; where they show none, all that
    divide the outputs. None where there are no such layers.
    """
    layers = [layer for net in nets for layer in net.layers]
    outputs = math.gcd(*(sizes_of(layer).outputs for layer in layers if layer.path in paths))
    shown = {number for layer in layers for number in _shown(layer)}
    possible = {_IN_TURN, *shown} if shown else range(1, outputs + 1)
    for number in sorted(possible):
        if outputs and outputs % number == 0:
            heads = {**hints.options.heads, **dict.fromkeys(paths, number)}
            yield replace(hints, options=replace(hints.options, heads=heads))


def _shown(layer: Layer) -> Iterator[int]:
    """The number of heads in the shapes of a projection of an attention."""
    stored = (item for reading in layer.readings if reading.form in HEADS for item in reading.stored)
    for item in stored:
        axes = item.leaf.axes.split()
        if "heads" in axes and len(axes) == len(item.spec.shape):
            yield item.spec.shape[axes.index("heads")]
