"""From agreements to steps, layer by layer. Layers that differ in nothing but their names are settled once.

A checkpoint has thousands of layers, and few that differ.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import msgspec

from converter.core.layers import Reading
from converter.core.ops import Op, Require
from converter.core.tensors import TensorSpec
from converter.errors import ConversionError
from converter.matching.compatibility import Agreement
from converter.matching.matcher import Pair
from converter.planning.steps import Settled, Step, assemble


def settled(pair: Pair, agreement: Agreement) -> list[Settled]:
    return [Settled(pair.source.path, agreement.kind, pair.reason, move) for move in agreement.moves]


class Settling:
    """Pairs of layers in the order of the target, and the steps that they come to."""

    def __init__(self) -> None:
        self._done: list[Sequence[Step] | list[Settled]] = []
        self._patterns: dict[Hashable, _Patterns] = {}

    def repeats(self, pair: Pair) -> bool:
        """Whether the pair is like one before it, and so is settled."""
        pattern = self._patterns.get(_nameless(pair))
        if pattern is not None:
            self._done.append(pattern.steps(pair))
        return pattern is not None

    def add(self, pair: Pair, agreement: Agreement) -> None:
        """The pair is to be taken as it was agreed."""
        moves = settled(pair, agreement)
        try:
            steps = assemble(moves)
        except ConversionError:  # a tensor has a part in other layers, too, or the pair cannot be assembled at all
            self._done.append(moves)
            return
        self._done.append(steps)
        if (found := _patterns(pair, steps)) is not None:
            self._patterns[_nameless(pair)] = found

    def steps(self) -> tuple[Step, ...]:
        """All of them. Raises ConversionError as `assemble` does."""
        apart = [item for items in self._done for item in items if isinstance(item, Settled)]
        found = {step.target.name: step for step in assemble(apart)}
        steps: list[Step] = []
        for items in self._done:
            for item in items:
                step = found.pop(item.move.target.spec.name, None) if isinstance(item, Settled) else item
                steps += [step] if step is not None else []
        return tuple(steps)


class _Pattern(msgspec.Struct, frozen=True):
    """A step without names. sources: the places of its tensors in the source reading; target: in the target's."""

    sources: tuple[int, ...]
    ops: tuple[Op, ...]
    target: int
    spec: TensorSpec


class _Patterns(msgspec.Struct, frozen=True):
    """The steps of a pair, and which readings of its layers they are of."""

    kind: str
    source: int
    target: int
    each: tuple[_Pattern, ...]

    def steps(self, pair: Pair) -> list[Step]:
        sources = _specs(pair.source.readings[self.source])
        targets = pair.target.readings[self.target].stored
        path, kind, reason = pair.source.path, self.kind, pair.reason
        return [
            Step(
                path,
                kind,
                tuple([sources[place] for place in one.sources]),
                one.ops,
                TensorSpec(targets[one.target].spec.name, one.spec.shape, one.spec.dtype),
                reason,
            )
            for one in self.each
        ]


def _patterns(pair: Pair, steps: Sequence[Step]) -> _Patterns | None:
    """None for steps that do not tell those of another pair: they hold a name, or are of several readings."""
    if not steps or any(isinstance(op, Require) for step in steps for op in step.ops):  # its message names a tensor
        return None
    for ours, source in enumerate(pair.source.readings):
        for theirs, target in enumerate(pair.target.readings):
            have, want = _specs(source), [item.spec.name for item in target.stored]
            needed = {spec for step in steps for spec in step.sources}
            if needed <= set(have) and sorted(step.target.name for step in steps) == sorted(want):
                each = (
                    _Pattern(tuple(map(have.index, step.sources)), step.ops, want.index(step.target.name), step.target)
                    for step in steps
                )
                return _Patterns(steps[0].kind, ours, theirs, tuple(each))
    return None


def _specs(reading: Reading) -> list[TensorSpec]:
    return [spec for item in reading.stored for spec in item.specs]


def _nameless(pair: Pair) -> Hashable:
    ours, theirs = pair.source.readings, pair.target.readings
    return tuple([reading.nameless for reading in ours]), tuple([reading.nameless for reading in theirs])
