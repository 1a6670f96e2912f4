"""A large tensor of many layers, written a layer at a time: none is read before its turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from converter.core.arithmetic import Cast
from converter.core.ops import Each, Op, Reshape, Stack, Transpose
from converter.core.tensors import Array, TensorSpec
from converter.core.transposing import Joined
from converter.planning.steps import Step


def joined(step: Step, made: Callable[[Step], Array]) -> Joined | None:
    """The target tensor of a step that stacks its sources along the first axis; None for any other step.

    made: computes a step.
    """
    count = len(step.sources)
    if count < 2 or step.own or Stack((count,)) not in step.ops:
        return None
    place = step.ops.index(Stack((count,)))
    before, after = step.ops[:place], [_of_one(op) for op in step.ops[place + 1 :]]
    if not all(isinstance(op, Each) for op in (*before, *after)) or step.target.shape[0] != count:
        return None
    shape = _shape(before, step.sources[0])
    ops = (*before, Reshape((1, *shape), shape), *(op for op in after if op is not None))
    steps = [replace(step, sources=(spec,), ops=ops) for spec in step.sources]
    return Joined(step.target.shape, step.target.dtype, [partial(made, one) for one in steps])


def _of_one(op: Op) -> Op | None:
    """The op for one of what is stacked; None where it moves the axis of the layers."""
    match op:
        case Transpose() if op.axes[0] == 0:
            return op
        case Reshape() if op.shape[0] == op.source[0]:
            return Reshape((1, *op.shape[1:]), (1, *op.source[1:]))
        case Cast():
            return op
    return None


def _shape(ops: tuple[Op, ...], spec: TensorSpec) -> tuple[int, ...]:
    specs: tuple[TensorSpec, ...] = (spec,)
    for op in ops:
        specs = op.infer(specs)
    return specs[0].shape
