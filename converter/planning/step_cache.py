"""The steps of each pair of layers, worked out once for all pairs that differ in their names alone.

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
from converter.matching.pairs import Pair
from converter.planning.steps import LayerMove, Step, assemble


def layer_moves(pair: Pair, agreement: Agreement) -> list[LayerMove]:
    return [LayerMove(pair.source.path, agreement.kind, pair.reason, move, pair.likely) for move in agreement.moves]


class StepCache:
    """Pairs of layers in the order of the target, and their steps."""

    def __init__(self) -> None:
        self._done: list[Sequence[Step] | list[LayerMove]] = []
        self._known: dict[Hashable, _NamelessSteps] = {}

    def repeats(self, pair: Pair) -> bool:
        """Whether the pair differs from one before it in names alone; then its steps are added."""
        known = self._known.get(_nameless(pair))
        if known is not None:
            self._done.append(known.steps(pair))
        return known is not None

    def add(self, pair: Pair, agreement: Agreement) -> None:
        """Add the steps of a pair that agrees so."""
        moves = layer_moves(pair, agreement)
        try:
            steps = assemble(moves)
        except ConversionError:  # a tensor that other layers share, or a pair that cannot be assembled at all
            self._done.append(moves)
            return
        self._done.append(steps)
        if (nameless := _nameless_steps(pair, steps)) is not None:
            self._known[_nameless(pair)] = nameless

    def steps(self) -> tuple[Step, ...]:
        """All of them. Raises ConversionError as `assemble` does."""
        apart = [item for items in self._done for item in items if isinstance(item, LayerMove)]
        assembled = {step.target.name: step for step in assemble(apart)}
        steps = (
            assembled.pop(item.move.target.spec.name, None) if isinstance(item, LayerMove) else item
            for items in self._done
            for item in items
        )
        return tuple(step for step in steps if step is not None)


class _NamelessStep(msgspec.Struct, frozen=True):
    """A step without names. sources: the positions of its tensors in the source reading; target: in the target's."""

    sources: tuple[int, ...]
    ops: tuple[Op, ...]
    target: int
    spec: TensorSpec


class _NamelessSteps(msgspec.Struct, frozen=True):
    """The steps of a pair, and which readings of its layers they are of."""

    kind: str
    source: int
    target: int
    each: tuple[_NamelessStep, ...]

    def steps(self, pair: Pair) -> list[Step]:
        specs = _specs(pair.source.readings[self.source])
        targets = pair.target.readings[self.target].stored
        steps = []
        for one in self.each:
            sources = tuple([specs[position] for position in one.sources])
            target = TensorSpec(targets[one.target].spec.name, one.spec.shape, one.spec.dtype)
            steps.append(Step(pair.source.path, self.kind, sources, one.ops, target, pair.reason, likely=pair.likely))
        return steps


def _nameless_steps(pair: Pair, steps: Sequence[Step]) -> _NamelessSteps | None:
    """None for steps that are not those of another pair: they hold a name, or are of several readings."""
    names_tensor = (step.own or any(isinstance(op, Require) for op in step.ops) for step in steps)  # in its message
    if not steps or any(names_tensor):
        return None
    for ours, source in enumerate(pair.source.readings):
        for theirs, target in enumerate(pair.target.readings):
            have, want = _specs(source), [item.spec.name for item in target.stored]
            needed = {spec for step in steps for spec in step.sources}
            if needed <= set(have) and sorted(step.target.name for step in steps) == sorted(want):
                positions = ((tuple(map(have.index, step.sources)), want.index(step.target.name)) for step in steps)
                each = (
                    _NamelessStep(sources, step.ops, at, step.target)
                    for step, (sources, at) in zip(steps, positions, strict=True)
                )
                return _NamelessSteps(steps[0].kind, ours, theirs, tuple(each))
    return None


def _specs(reading: Reading) -> list[TensorSpec]:
    return [spec for item in reading.stored for spec in item.specs]


def _nameless(pair: Pair) -> Hashable:
    ours, theirs = pair.source.readings, pair.target.readings
    return tuple([reading.nameless for reading in ours]), tuple([reading.nameless for reading in theirs])
