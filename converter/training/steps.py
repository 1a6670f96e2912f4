"""The slots of an optimizer follow the weights: the same sources, the same ops, another slot.

An optimizer that looks at each element alone commutes with whatever only moves elements. What computes (two biases
added up, a norm folded in, a mean over groups) has no counterpart for the moments, and is refused with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from converter.core.arithmetic import Cast, Sum
from converter.core.ops import Fill, Flip, Full, Op, Reorder, Require, Reshape, Split, Stack, Take, Transpose, Turn
from converter.core.tensors import TensorSpec
from converter.errors import ConversionError, Problem
from converter.formats.base import StateTensor
from converter.planning.steps import Step
from converter.training.state import Slot, TrainingState

#: They move elements, each to one place.
_MOVES = (Transpose, Reshape, Flip, Split, Stack, Reorder, Turn, Take)
TWO_BIASES = (
    "two biases of a recurrent layer are added up into one, which moves twice as fast as either: no moments of one "
    "bias train as those of two do"
)


class Target(msgspec.Struct, frozen=True):
    """A slot of a parameter in the file to be written. fresh: what a new optimizer starts it with. keys: of its
    name, in nested dicts.
    """

    slot: Slot
    parameter: str
    spec: TensorSpec
    fresh: float = 0
    keys: tuple[str, ...] = ()


class Followed(msgspec.Struct, frozen=True):
    """steps: one for each target. sources: what they read, by the names that the steps have for it.

    fresh: target parameters that the source has no state of; their slots start as those of a new optimizer.
    dropped: parameters of the source whose state has no place in the target.
    """

    steps: tuple[Step, ...]
    sources: Mapping[str, StateTensor]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]


def follow(
    state: TrainingState, weights: Iterable[Step], targets: Sequence[Target], ops: Callable[[Target], tuple[Op, ...]]
) -> Followed:
    """The steps of the slots. ops: what changes the values of a slot from one framework's form to the other's.

    Raises ConversionError, with all problems, where the slots cannot follow the weights.
    """
    by_target = {step.target.name: step for step in weights}
    problems = [*_refused(state, by_target, targets), *_untied(state, by_target, targets)]
    if problems:
        error = ConversionError(problems[0])
        error.problems = tuple(problems)
        raise error
    steps: list[Step] = []
    sources: dict[str, StateTensor] = {}
    fresh: dict[str, bool] = {}
    for target in targets:
        step = by_target[target.parameter]
        own = {_name(target.slot, spec.name): state.slot(target.slot, spec.name) for spec in step.sources}
        if not any(own.values()):
            fresh[target.parameter] = True
            steps.append(_fresh(step, target))
            continue
        found = {name: tensor for name, tensor in own.items() if tensor is not None}
        sources |= {name: tensor for name, tensor in found.items() if tensor is not None}
        steps.append(_step(step, target, found, ops(target)))
    used = {spec.name for target in targets for spec in by_target[target.parameter].sources}
    having = {name for named in state.slots.values() for name in named}
    same = {state.tied.get(name, name) for name in used}
    return Followed(tuple(steps), sources, tuple(fresh), tuple(sorted(having - same)))


def _name(slot: Slot, parameter: str) -> str:
    return f"{slot} of {parameter}"


def _fresh(step: Step, target: Target) -> Step:
    full = Full(target.spec.shape, target.spec.dtype, target.fresh)
    return Step(step.layer, step.kind, (), (full,), target.spec, "as a new optimizer starts it")


def _step(step: Step, target: Target, sources: Mapping[str, StateTensor], ops: tuple[Op, ...]) -> Step:
    specs = tuple(replace(tensor.spec, name=name) for name, tensor in sources.items())
    moved = [_of_slot(op) for op in step.ops if not isinstance(op, Cast)]
    done: list[Op] = [*moved, *ops]
    if specs[0].dtype != target.spec.dtype:
        done.append(Cast(target.spec.dtype, specs[0].dtype))
    return Step(step.layer, step.kind, specs, tuple(done), target.spec, step.reason, likely=step.likely)


def _of_slot(op: Op) -> Op:
    """A parameter that is filled in starts without moments; one that is left out must have none."""
    if isinstance(op, Fill):
        return replace(op, value=0)
    if isinstance(op, Require):
        return replace(op, value=0, why=f"the state of what is left out would be lost ({op.why or 'it has no place'})")
    return op


def _refused(state: TrainingState, weights: Mapping[str, Step], targets: Iterable[Target]) -> Iterator[Problem]:
    """What is no move, each parameter once."""
    seen: set[str] = set()
    for target in targets:
        step = weights.get(target.parameter)
        if target.parameter in seen:
            continue
        seen.add(target.parameter)
        if step is None:
            yield Problem(f"the optimizer of the clone has a state of '{target.parameter}', which is not written.")
            continue
        having = [state.slot(slot, spec.name) is not None for slot in state.slots for spec in step.sources]
        computed = [op for op in step.ops if not isinstance(op, (*_MOVES, Cast, Fill, Full, Require))]
        if any(having) and (computed or step.own):
            why = TWO_BIASES if any(isinstance(op, Sum) for op in computed) else _why(step, computed)
            text = f"the state of '{step.sources[0].name}' cannot follow it: {why}."
            yield Problem(text, "training state", step.sources[0].name)
        elif any(having) and not all(having):
            lacking = [spec.name for spec in step.sources if state.slot(target.slot, spec.name) is None]
            what = (
                f"'{target.parameter}' is made of several, and '{(lacking or [step.sources[0].name])[0]}' has no state"
            )
            yield Problem(f"{what}: it was frozen, or never used, and the others were trained.", "training state")


def _why(step: Step, computed: Sequence[Op]) -> str:
    if step.own:
        return "values of the clone are kept in a part of it"
    return f"its values are computed anew ({computed[0]}), and moments cannot be"


def _untied(state: TrainingState, weights: Mapping[str, Step], targets: Iterable[Target]) -> Iterator[Problem]:
    """Two parameters of the target that are one in the source: each would move half as fast, or be two."""
    first: dict[object, str] = {}
    for name in dict.fromkeys(target.parameter for target in targets):
        step = weights.get(name)
        if step is None or not step.sources:
            continue
        source = tuple(state.tied.get(spec.name, spec.name) for spec in step.sources)
        if not any(state.slot(slot, one) for slot in state.slots for one in source):
            continue
        known = first.setdefault((source, tuple(op for op in step.ops if not isinstance(op, Cast))), name)
        if known != name:
            text = f"'{known}' and '{name}' are one tensor in the source and two in the target"
            yield Problem(f"{text}: the gradients of both together trained it, and each alone would go on.", "tied")
