"""Whether two lists of operations do the same to a tensor, though they are not the same list.

A kernel of one input channel is transposed alike as a convolution and as a depthwise one: what moves is an axis of
size one. So the result is described by its strides, in elements of the source, and by nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from converter.core.ops import Flip, Op, Reshape, Transpose

#: A run of the result: its step in elements of the source (backwards if negative), and its length.
Run = tuple[int, int]


def effect(ops: Sequence[Op], shape: Sequence[int]) -> tuple[tuple[Run, ...] | None, tuple[Op, ...]]:
    """Where the elements of a tensor of that shape go, and the operations from the first that does more than that.

    None, with all operations, where a reshape cuts runs so that strides do not tell it.
    """
    axes: list[list[Run]] = [[(step, size)] for step, size in zip(_steps(shape), shape, strict=True)]
    for place, op in enumerate(ops):
        match op:
            case Transpose():
                axes = [axes[axis] for axis in op.axes]
            case Flip():
                axes = [
                    [(-step, size) for step, size in runs] if axis in op.axes else runs
                    for axis, runs in enumerate(axes)
                ]
            case Reshape():
                reshaped = _reshaped([run for runs in axes for run in runs], op.shape)
                if reshaped is None:
                    return None, tuple(ops)
                axes = reshaped
            case _:
                return _joined(axes), tuple(ops[place:])
    return _joined(axes), ()


def _steps(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _reshaped(runs: Sequence[Run], shape: Sequence[int]) -> list[list[Run]] | None:
    waiting = [run for run in reversed(runs) if run[1] != 1]
    axes = []
    for size in shape:
        axis: list[Run] = []
        left = size
        while left > 1:
            if not waiting:
                return None
            step, length = waiting.pop()
            if left % length == 0:
                axis.append((step, length))
                left //= length
            elif length % left == 0:
                rest = length // left
                axis.append((step * rest, left))
                waiting.append((step, rest))
                left = 1
            else:
                return None
        axes.append(axis)
    return axes


def _joined(axes: Sequence[Sequence[Run]]) -> tuple[Run, ...]:
    joined: list[Run] = []
    for step, size in (run for runs in axes for run in runs if run[1] != 1):
        if joined and joined[-1][0] == step * size:
            joined[-1] = (step, joined[-1][1] * size)
        else:
            joined.append((step, size))
    return tuple(joined)
