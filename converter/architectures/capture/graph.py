"""From the graph of a live net to steps: what is joined becomes a residual or a concat of what leads to it.

That is possible where branches that part come together again, each inside of another. A net of other shape is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from converter.architectures.capture.settings import LowestPad, merged
from converter.architectures.document import layer_paths, walk
from converter.architectures.vocabulary import AnyStep, Concat, Residual
from converter.errors import ConversionError


class OutsideError(ConversionError):
    """Something that the vocabulary of architectures does not have."""


def outside(what: str, reason: str) -> OutsideError:
    """``'attn' is torch.nn.MultiheadAttention, which …``"""
    return OutsideError(f"{what}, {reason}: the vocabulary of architectures has nothing for it")


class Claim(msgspec.Struct, frozen=True):
    """What a framework was told of a step, and the vocabulary does not say, for it is always so there.

    axes: of a softmax, a concat, or a mean over space, the batch counted. features: how many a flatten is to give.
    """

    axes: tuple[int, ...] = ()
    features: int | None = None


class TracedTensor(msgspec.Struct, frozen=True):
    """What passes at one place of a net. steps: what was done last; sources: what that took; joined: add or concat."""

    number: int
    steps: tuple[AnyStep, ...] = ()
    sources: tuple[TracedTensor, ...] = ()
    joined: str = ""
    claim: Claim | None = None


class Graph(msgspec.Struct):
    """The places of a net, in the order in which they were made; the first is its input.

    claims: by the identity of the step.
    """

    places: list[TracedTensor] = msgspec.field(default_factory=list)
    claims: dict[int, Claim] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.places.append(TracedTensor(0))

    @property
    def input(self) -> TracedTensor:
        return self.places[0]

    def then(self, source: TracedTensor, *steps: Any, claim: Claim | None = None) -> TracedTensor:
        """Behind steps without a join. claim: of the first of them."""
        if not steps:
            return source
        if claim is not None:
            self.claims[id(steps[0])] = claim
        return self._add(TracedTensor(len(self.places), steps, (source,)))

    def join(self, joined: str, sources: Sequence[TracedTensor], claim: Claim | None = None) -> TracedTensor:
        """The concat, or the sum, of several."""
        if joined == "add" and len(sources) > 2:
            sources = (self.join(joined, sources[:-1]), sources[-1])
        return self._add(TracedTensor(len(self.places), (), tuple(sources), joined, claim))

    def _add(self, place: TracedTensor) -> TracedTensor:
        self.places.append(place)
        return place

    def steps(self, output: TracedTensor) -> tuple[AnyStep, ...]:
        """All that is done between the input and this place. Raises ConversionError."""
        found = tuple(self._row(output, self.input, self._dominators()))
        if any(isinstance(step, LowestPad) for step in walk(found)):
            raise outside("the net pads with minus infinity", "which is known before a maximum over windows alone")
        paths = [path for step in walk(found) for path in layer_paths(step)]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice is not None:
            raise OutsideError(
                f"'{twice}' is called twice, or gives its output to branches that do not lie one inside of the other: "
                "the vocabulary of architectures has each layer once, and branches that come together again"
            )
        return found

    def _row(self, end: TracedTensor, start: TracedTensor, dominators: Sequence[int]) -> list[Any]:
        """The steps from one place to a later one."""
        rows: list[list[Any]] = []
        while end.number != start.number:
            if end.joined:
                before = self.places[dominators[end.number]]
                branches = tuple(tuple(self._row(source, before, dominators)) for source in end.sources)
                rows.append([self._joined(end, branches)])
                end = before
            else:
                rows.append(list(end.steps))
                end = end.sources[0]
        return merged(step for row in reversed(rows) for step in row)

    def _joined(self, place: TracedTensor, branches: tuple[tuple[Any, ...], ...]) -> Residual | Concat:
        if place.joined == "concat":
            step = Concat(branches=branches)
            if place.claim is not None:
                self.claims[id(step)] = place.claim
            return step
        body, shortcut = sorted(branches, key=lambda branch: -len(list(walk(branch))))
        return Residual(body=body, shortcut=shortcut)

    def _dominators(self) -> list[int]:
        """Of each place, the last one before it through which all of its ways from the input lead."""
        found = [0]
        for place in self.places[1:]:
            common = place.sources[0].number
            for source in place.sources[1:]:
                other = source.number
                while common != other:
                    common, other = (found[common], other) if common > other else (common, found[other])
            found.append(common)
        return found
