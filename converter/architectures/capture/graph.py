"""From the graph of a live net to steps: where tensors are added or concatenated, a residual or a concat.

That is possible where branches are properly nested: all that split come together again. Other nets are refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from converter.architectures.capture.settings import LowestPad, with_pads_merged
from converter.architectures.document import layer_paths, walk
from converter.architectures.vocabulary import AnyStep, Concat, Residual
from converter.errors import ConversionError

#: A tensor is on more ways to the output than one where branches are not nested. Those of a few operations without
#: weights are repeated; in a net that is denser the number of ways doubles with each layer.
_MOST_WAYS = 8


class OutsideError(ConversionError):
    """An operation outside the vocabulary of architectures."""


def outside(what: str, reason: str) -> OutsideError:
    """``'attn' is torch.nn.MultiheadAttention, which …``"""
    return OutsideError(f"{what}, {reason}: the vocabulary of architectures does not have that")


def _not_nested(path: str) -> OutsideError:
    return OutsideError(
        f"'{path}' is called twice, or its output goes to branches that are not nested: "
        "in the vocabulary of architectures each layer occurs once, and branches come together again"
    )


class Claim(msgspec.Struct, frozen=True):
    """A setting of a step that the vocabulary implies, to be checked once shapes are known.

    axes: of a softmax, a concat, or a mean over spatial axes, counted with the batch. features: of a flatten.
    """

    axes: tuple[int, ...] = ()
    features: int | None = None


class TracedTensor(msgspec.Struct, frozen=True, eq=False):
    """A tensor in the graph of a net: ``steps`` of one source, or several sources ``joined`` by add or concat.

    Known by its identity: it holds all tensors before it, on every way to them, which no comparison may go through.
    """

    number: int
    steps: tuple[AnyStep, ...] = ()
    sources: tuple[TracedTensor, ...] = ()
    joined: str = ""
    claim: Claim | None = None

    def __repr__(self) -> str:
        return f"<tensor {self.number}>"


class Graph(msgspec.Struct):
    """The tensors of a net in the order of computation; the first is its input. claims: by identity of the step."""

    tensors: list[TracedTensor] = msgspec.field(default_factory=list)
    claims: dict[int, Claim] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tensors.append(TracedTensor(0))

    @property
    def input(self) -> TracedTensor:
        return self.tensors[0]

    def then(self, source: TracedTensor, *steps: Any, claim: Claim | None = None) -> TracedTensor:
        """The result of steps on one tensor. claim: of the first step."""
        if not steps:
            return source
        if claim is not None:
            self.claims[id(steps[0])] = claim
        return self._add(TracedTensor(len(self.tensors), steps, (source,)))

    def join(self, joined: str, sources: Sequence[TracedTensor], claim: Claim | None = None) -> TracedTensor:
        """The concatenation, or the sum, of several tensors."""
        if joined == "add" and len(sources) > 2:
            sources = (self.join(joined, sources[:-1]), sources[-1])
        return self._add(TracedTensor(len(self.tensors), (), tuple(sources), joined, claim))

    def _add(self, tensor: TracedTensor) -> TracedTensor:
        self.tensors.append(tensor)
        return tensor

    def steps(self, output: TracedTensor) -> tuple[AnyStep, ...]:
        """The steps from the input to this tensor. Raises ConversionError."""
        steps = tuple(self._row(output, self.input, self._dominators(), Counter()))
        if any(isinstance(step, LowestPad) for step in walk(steps)):
            raise outside("the net pads with minus infinity", "which is allowed only before a max pool")
        paths = Counter(path for step in walk(steps) for path in layer_paths(step))
        twice = next((path for path, count in paths.items() if count > 1), None)
        if twice is not None:
            raise _not_nested(twice)
        return steps

    def _row(
        self, end: TracedTensor, start: TracedTensor, dominators: Sequence[int], passed: Counter[int]
    ) -> list[Any]:
        """The steps from one tensor to a later one. passed: how often each tensor was come by."""
        rows: list[list[Any]] = []
        while end.number != start.number:
            passed[end.number] += 1
            if passed[end.number] > _MOST_WAYS:
                layers = (path for step in end.steps for path in layer_paths(step))
                raise _not_nested(next(layers, f"{end.joined or 'an operation'}"))
            if end.joined:
                before = self.tensors[dominators[end.number]]
                branches = tuple(tuple(self._row(source, before, dominators, passed)) for source in end.sources)
                rows.append([self._joined(end, branches)])
                end = before
            else:
                rows.append(list(end.steps))
                end = end.sources[0]
        return with_pads_merged(step for row in reversed(rows) for step in row)

    def _joined(self, tensor: TracedTensor, branches: tuple[tuple[Any, ...], ...]) -> Residual | Concat:
        if tensor.joined == "concat":
            step = Concat(branches=branches)
            if tensor.claim is not None:
                self.claims[id(step)] = tensor.claim
            return step
        body, shortcut = sorted(branches, key=lambda branch: -len(list(walk(branch))))
        return Residual(body=body, shortcut=shortcut)

    def _dominators(self) -> list[int]:
        """For each tensor its immediate dominator: the last tensor before it on every path from the input."""
        dominators = [0]
        for tensor in self.tensors[1:]:
            common = tensor.sources[0].number
            for source in tensor.sources[1:]:
                other = source.number
                while common != other:
                    common, other = (dominators[common], other) if common > other else (common, dominators[other])
            dominators.append(common)
        return dominators
