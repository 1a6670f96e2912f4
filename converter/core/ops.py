"""What can be done to tensors on their way: small frozen values that say it, do it and undo it.

Exact: these move values, and never recompute them; those that do are in `converter.core.arithmetic`. An op works on a
tuple of arrays, because a tensor may be made of several (the gates of an LSTM), or several of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar, TypeVar

import msgspec
import numpy as np
from msgspec.structs import replace

from converter.core.tensors import Array, DType, TensorSpec
from converter.errors import ConversionError
from converter.option_values import ChannelGroups

Shape = tuple[int, ...]
_Item = TypeVar("_Item", Array, TensorSpec)


class Op(msgspec.Struct, frozen=True):
    """One operation on a group of tensors. ``infer`` tells shapes and dtypes without any data."""

    #: What was done, in the words of the report; ``{0}`` is the op.
    done: ClassVar[str] = ""

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(specs)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        raise NotImplementedError

    def inverse(self) -> Op:
        raise ConversionError(f"what was {self} cannot be taken back")

    def __str__(self) -> str:
        return self.done.format(self)


class Each(Op, frozen=True):
    """An op that makes one tensor of each."""

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, shape=self.shaped(spec.shape)) for spec in specs)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(map(self.made, arrays))

    def shaped(self, shape: Shape) -> Shape:
        return shape

    def made(self, array: Array) -> Array:
        raise NotImplementedError


class Transpose(Each, frozen=True):
    """Axis i of the result is axis ``axes[i]`` of the source. A view: no data is moved yet."""

    done = "transposed"
    axes: tuple[int, ...]

    def shaped(self, shape: Shape) -> Shape:
        return tuple(shape[axis] for axis in self.axes)

    def made(self, array: Array) -> Array:
        return array.transpose(self.axes)

    def inverse(self) -> Transpose:
        return Transpose(tuple(self.axes.index(i) for i in range(len(self.axes))))


class Reshape(Each, frozen=True):
    """The same values in the same order under another shape; ``source`` is the shape before."""

    done = "reshaped"
    shape: tuple[int, ...]
    source: tuple[int, ...]

    def shaped(self, shape: Shape) -> Shape:
        return self.shape

    def made(self, array: Array) -> Array:
        return array.reshape(self.shape)

    def inverse(self) -> Reshape:
        return Reshape(self.source, self.shape)


class Flip(Each, frozen=True):
    """These axes run backwards. A view."""

    done = "flipped"
    axes: tuple[int, ...]

    def made(self, array: Array) -> Array:
        return np.flip(array, self.axes)

    def inverse(self) -> Flip:
        return self


class OfCudnn(Each, frozen=True):
    """Kernels of CuDNN for so many gates, side by side, become those of Keras: the memory of each is that of the
    transposed one (`_convert_rnn_weights` of tf_keras/src/saving/legacy/hdf5_format.py).
    """

    done = "taken from the order of CuDNN"
    gates: int

    def made(self, array: Array) -> Array:
        rows, columns = array.shape
        size = columns // self.gates
        each = array.reshape(rows, self.gates, size).swapaxes(0, 1).reshape(self.gates, size, rows)
        return each.transpose(2, 0, 1).reshape(rows, columns)


class Repeat(Each, frozen=True):
    """Every value stands ``times`` times along a new last axis. A view."""

    done = "each repeated {0.times} times"
    times: int

    def shaped(self, shape: Shape) -> Shape:
        return (*shape, self.times)

    def made(self, array: Array) -> Array:
        return np.broadcast_to(array[..., None], self.shaped(array.shape))

    def inverse(self) -> Once:
        return Once(self.times)


class Once(Each, frozen=True):
    """The first along the last axis, along which all values are equal. Raises ConversionError when they are not."""

    done = "one of {0.times} equal ones taken"
    times: int

    def shaped(self, shape: Shape) -> Shape:
        return shape[:-1]

    def made(self, array: Array) -> Array:
        wrong = np.count_nonzero((array != array[..., :1]).any(-1))
        if wrong:
            raise ConversionError(
                f"the clone has one value for each {self.times} channels, and {wrong} of "
                f"{array[..., 0].size} such groups hold values that differ, so it cannot express them"
            )
        return array[..., 0]

    def inverse(self) -> Repeat:
        return Repeat(self.times)


class Split(Op, frozen=True):
    """Each array with a count is taken apart along its first axis; one with count 0 stays whole."""

    done = "split"
    counts: tuple[int, ...]

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(
            part
            for spec, count in zip(specs, self.counts, strict=True)
            for part in ([replace(spec, shape=spec.shape[1:])] * count if count else [spec])
        )

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(
            part for array, count in zip(arrays, self.counts, strict=True) for part in (array if count else [array])
        )

    def inverse(self) -> Stack:
        return Stack(self.counts)


class Stack(Op, frozen=True):
    """Runs of arrays of equal shape become one array with a new first axis; a count of 0 leaves one array whole."""

    done = "joined"
    counts: tuple[int, ...]

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        runs = self._runs(specs)
        return tuple(
            replace(run[0], shape=(count, *run[0].shape)) if count else run[0]
            for run, count in zip(runs, self.counts, strict=True)
        )

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        runs = self._runs(arrays)
        return tuple(np.stack(run) if count else run[0] for run, count in zip(runs, self.counts, strict=True))

    def _runs(self, items: Sequence[_Item]) -> list[Sequence[_Item]]:
        runs, start = [], 0
        for count in self.counts:
            runs.append(items[start : start + max(count, 1)])
            start += max(count, 1)
        return runs

    def inverse(self) -> Split:
        return Split(self.counts)


class Reorder(Op, frozen=True):
    """Array i of the result is array ``order[i]``; arrays not named are left out (`inverse` needs all)."""

    order: tuple[int, ...]

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(specs[i] for i in self.order)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(arrays[i] for i in self.order)

    def inverse(self) -> Reorder:
        return Reorder(tuple(self.order.index(i) for i in range(len(self.order))))

    def __str__(self) -> str:
        return "reordered" if len(self.order) > 1 else "one part taken"


class Fill(Op, frozen=True):
    """Arrays of one value, of the shape and dtype of the first array, are put at these positions of the result."""

    done = "filled with {0.value}"
    positions: tuple[int, ...]
    value: float

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return self._filled(specs, specs[0])

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return self._filled(arrays, np.full_like(arrays[0], self.value))

    def _filled(self, items: Sequence[_Item], filler: _Item) -> tuple[_Item, ...]:
        result = list(items)
        for position in self.positions:
            result.insert(position, filler)
        return tuple(result)

    def inverse(self) -> Require:
        return Require(self.positions, self.value, "")


class Full(Op, frozen=True):
    """An array of one value, made of nothing: what the source does not store, because it always has that value."""

    done = "filled with {0.value}"
    shape: tuple[int, ...]
    dtype: DType
    value: float

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return (*specs, TensorSpec("", self.shape, self.dtype))

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return (*arrays, np.full(self.shape, self.value, self.dtype))

    def inverse(self) -> Require:
        return Require((0,), self.value, "")


class Require(Op, frozen=True):
    """The arrays at these positions hold this value throughout, and are left out. ``why``: what cannot be expressed."""

    done = "checked that what is left out is {0.value}"
    positions: tuple[int, ...]
    value: float
    why: str

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(spec for i, spec in enumerate(specs) if i not in self.positions)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        wrong = sum(np.count_nonzero(arrays[position] != self.value) for position in self.positions)
        if wrong:
            raise ConversionError(f"{self.why}, and {wrong} of its values are not {self.value}")
        return tuple(array for i, array in enumerate(arrays) if i not in self.positions)

    def inverse(self) -> Fill:
        return Fill(self.positions, self.value)


class Turn(Each, frozen=True):
    """Along one axis the (outer, inner) axes that each part is made of change places."""

    done = "each part reordered"
    axis: int
    parts: ChannelGroups

    def made(self, array: Array) -> Array:
        ends = list(accumulate(map(math.prod, self.parts)))
        pieces = np.split(array, ends[:-1], self.axis)
        front, back = array.shape[: self.axis], array.shape[self.axis + 1 :]
        turned = [
            piece.reshape(*front, *sizes, *back).swapaxes(self.axis, self.axis + 1).reshape(piece.shape)
            for piece, sizes in zip(pieces, self.parts, strict=True)
        ]
        result: Array = np.concatenate(turned, self.axis)
        return result

    def inverse(self) -> Turn:
        return Turn(self.axis, tuple((inner, outer) for outer, inner in self.parts))


class Take(Each, frozen=True):
    """Along one axis what was at these places, one after the other; each place once."""

    done = "reordered"
    axis: int
    order: tuple[int, ...]

    def made(self, array: Array) -> Array:
        return np.take(array, self.order, self.axis)

    def inverse(self) -> Take:
        return Take(self.axis, tuple(np.argsort(self.order).tolist()))


class Overlay(Op, frozen=True):
    """All arrays but the last become one (``old``), and its values replace those of the last (``new``) as far as
    both reach on every axis, counted from the start; beyond that the last one keeps its own.

    old, new: the operations that bring either to the neutral axes, on which they are laid over each other.
    overlap: the neutral shape of what is replaced.
    """

    done = "the part {0.overlap} that overlaps"
    old: tuple[Op, ...]
    new: tuple[Op, ...]
    overlap: tuple[int, ...]

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return (specs[-1],)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        (over,) = _through(self.old, arrays[:-1])
        (under,) = _through(self.new, arrays[-1:])
        result = under.copy()
        part = tuple(slice(size) for size in self.overlap)
        result[part] = over[part]
        return _through(tuple(op.inverse() for op in reversed(self.new)), (result,))


def _through(ops: Sequence[Op], arrays: Sequence[Array]) -> tuple[Array, ...]:
    result = tuple(arrays)
    for op in ops:
        result = op.apply(result)
    return result


def simplified(ops: Sequence[Op]) -> tuple[Op, ...]:
    """The same work with fewer steps: what does nothing or undoes the step before it is gone."""
    left: list[Op] = []
    for op in ops:
        joined = _joined(left[-1], op) if left else None
        if joined is not None:
            left[-1] = joined
        else:
            left.append(op)
        if _is_identity(left[-1]):
            left.pop()
    return tuple(left) if len(left) == len(ops) else simplified(left)


def _joined(first: Op, second: Op) -> Op | None:
    match first, second:
        case Transpose(), Transpose():
            return Transpose(tuple(first.axes[axis] for axis in second.axes))
        case Reshape(), Reshape():
            return Reshape(second.shape, first.source)
        case (Flip(), Flip()) | (Split(), Stack()) if first == second.inverse():
            return Transpose(())
        case Reorder(), Reorder():
            return Reorder(tuple(first.order[i] for i in second.order))
    return None


def _is_identity(op: Op) -> bool:
    match op:
        case Transpose():
            return op.axes == tuple(range(len(op.axes)))
        case Reshape():
            return op.shape == op.source
        case Flip():
            return not op.axes
    return False
