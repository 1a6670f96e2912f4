"""What can be done to tensors on their way: small frozen values that say it, do it and undo it.

Exact: values are moved, never recomputed, unless the op says so (`Sum`, `Cast`, the folds). An op works on
a tuple of arrays, because a tensor may be made of several (the gates of an LSTM), or several of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
import numpy as np
from msgspec.structs import replace

from converter.core.tensors import Array, DType, TensorSpec, nearest
from converter.errors import ConversionError

_Item = TypeVar("_Item", Array, TensorSpec)


class Op(msgspec.Struct, frozen=True):
    """One operation on a group of tensors. ``infer`` tells shapes and dtypes without any data. A subclass has all."""

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        raise NotImplementedError

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        raise NotImplementedError

    def inverse(self) -> Op:
        raise NotImplementedError

    def __str__(self) -> str:
        """What was done, as the report says it."""
        raise NotImplementedError


class Transpose(Op, frozen=True):
    """Axis i of the result is axis ``axes[i]`` of the source. A view: no data is moved yet."""

    axes: tuple[int, ...]

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, shape=tuple(spec.shape[axis] for axis in self.axes)) for spec in specs)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(array.transpose(self.axes) for array in arrays)

    def inverse(self) -> Transpose:
        return Transpose(tuple(self.axes.index(i) for i in range(len(self.axes))))

    def __str__(self) -> str:
        return "transposed"


class Reshape(Op, frozen=True):
    """The same numbers in the same order under another shape; ``source`` is the shape before."""

    shape: tuple[int, ...]
    source: tuple[int, ...]

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, shape=self.shape) for spec in specs)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(array.reshape(self.shape) for array in arrays)

    def inverse(self) -> Reshape:
        return Reshape(self.source, self.shape)

    def __str__(self) -> str:
        return "reshaped"


class Flip(Op, frozen=True):
    """These axes run backwards. A view."""

    axes: tuple[int, ...]

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(specs)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(np.flip(array, self.axes) for array in arrays)

    def inverse(self) -> Flip:
        return self

    def __str__(self) -> str:
        return "flipped"


class Repeat(Op, frozen=True):
    """Every value stands ``times`` times along a new last axis. A view."""

    times: int

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, shape=(*spec.shape, self.times)) for spec in specs)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(np.broadcast_to(array[..., None], (*array.shape, self.times)) for array in arrays)

    def inverse(self) -> Once:
        return Once(self.times)

    def __str__(self) -> str:
        return f"each repeated {self.times} times"


class Once(Op, frozen=True):
    """The first along the last axis, along which all values are equal. Raises ConversionError when they are not."""

    times: int

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, shape=spec.shape[:-1]) for spec in specs)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        for array in arrays:
            wrong = np.count_nonzero((array != array[..., :1]).any(-1))
            if wrong:
                raise ConversionError(
                    f"the clone has one value for each {self.times} channels, and {wrong} of "
                    f"{array[..., 0].size} such groups hold values that differ, so it cannot express them"
                )
        return tuple(array[..., 0] for array in arrays)

    def inverse(self) -> Repeat:
        return Repeat(self.times)

    def __str__(self) -> str:
        return f"one of {self.times} equal ones taken"


class Split(Op, frozen=True):
    """Each array with a count is taken apart along its first axis; one with count 0 stays whole."""

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

    def __str__(self) -> str:
        return "split"


class Stack(Op, frozen=True):
    """Runs of arrays of equal shape become one array with a new first axis; a count of 0 leaves one array whole."""

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

    def __str__(self) -> str:
        return "joined"


class Reorder(Op, frozen=True):
    """Array i of the result is array ``order[i]``; arrays not named are left behind (`inverse` needs all)."""

    order: tuple[int, ...]

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(specs[i] for i in self.order)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(arrays[i] for i in self.order)

    def inverse(self) -> Reorder:
        return Reorder(tuple(self.order.index(i) for i in range(len(self.order))))

    def __str__(self) -> str:
        return "reordered" if len(self.order) > 1 else "one part taken"


class Sum(Op, frozen=True):
    """Runs of arrays are added up, so many in each run: two biases that the other framework keeps as one.

    The sum is exact in function; its `inverse` gives the sum to the first of each run, and zeros to the rest.
    """

    counts: tuple[int, ...]

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(specs[start] for start in self._starts())

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(
            sum(arrays[start + 1 : start + count], arrays[start])
            for start, count in zip(self._starts(), self.counts, strict=True)
        )

    def _starts(self) -> list[int]:
        return [sum(self.counts[:i]) for i in range(len(self.counts))]

    def inverse(self) -> Fill:
        starts = self._starts()
        return Fill(tuple(i for i in range(sum(self.counts)) if i not in starts), 0)

    def __str__(self) -> str:
        return "biases added up"


class Fill(Op, frozen=True):
    """At these places of the result stand arrays of one number, of the shape and dtype of the first array."""

    places: tuple[int, ...]
    value: int

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return self._filled(specs, specs[0])

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return self._filled(arrays, np.full_like(arrays[0], self.value))

    def _filled(self, items: Sequence[_Item], filler: _Item) -> tuple[_Item, ...]:
        result = list(items)
        for place in self.places:
            result.insert(place, filler)
        return tuple(result)

    def inverse(self) -> Require:
        return Require(self.places, self.value, "")

    def __str__(self) -> str:
        return f"filled with {self.value}"


class Full(Op, frozen=True):
    """An array of one number, made of nothing: what the source does not store, because it is always that number."""

    shape: tuple[int, ...]
    dtype: DType
    value: int

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return (*specs, TensorSpec("", self.shape, self.dtype))

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return (*arrays, np.full(self.shape, self.value, self.dtype))

    def inverse(self) -> Require:
        return Require((0,), self.value, "")

    def __str__(self) -> str:
        return f"filled with {self.value}"


class Require(Op, frozen=True):
    """The arrays at these places hold this number throughout, and are left behind. ``why``: what cannot be said."""

    places: tuple[int, ...]
    value: int
    why: str

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(spec for i, spec in enumerate(specs) if i not in self.places)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        wrong = sum(np.count_nonzero(arrays[place] != self.value) for place in self.places)
        if wrong:
            raise ConversionError(f"{self.why}, and {wrong} of its values are not {self.value}")
        return tuple(array for i, array in enumerate(arrays) if i not in self.places)

    def inverse(self) -> Fill:
        return Fill(self.places, self.value)

    def __str__(self) -> str:
        return f"checked that what is left behind is {self.value}"


class FoldWeightNorm(Op, frozen=True):
    """Magnitude and direction become the kernel that they stand for: g * v / |v|, the norm over all axes that g
    does not have, with ``epsilon`` in the root (torch.nn.utils.weight_norm; flax.linen.WeightNorm, whose g has the
    last axes). Computed, in float64 where that is wider.
    """

    epsilon: float = 0.0

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return (specs[1],)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        g, v = (array.astype(np.float64) for array in arrays)
        sizes = (1,) * (v.ndim - g.ndim) + g.shape
        over = tuple(axis for axis, size in enumerate(sizes) if size == 1)
        norm = np.sqrt(np.square(v).sum(over, keepdims=True) + self.epsilon)
        return ((g * v / norm).astype(arrays[1].dtype),)

    def inverse(self) -> Op:
        raise ConversionError("a folded kernel does not tell its magnitude and direction")

    def __str__(self) -> str:
        return "weight normalisation folded in"


class FoldSpectralNorm(Op, frozen=True):
    """Kernel, left and right vector become the kernel over its spectral norm u W v, as torch computes it when it
    does not train. ``axis`` is that of the outputs (torch.nn.utils.spectral_norm).
    """

    axis: int

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return (specs[0],)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        kernel, u, v = (array.astype(np.float64) for array in arrays)
        matrix = np.moveaxis(kernel, self.axis, 0).reshape(kernel.shape[self.axis], -1)
        return ((kernel / (u @ matrix @ v)).astype(arrays[0].dtype),)

    def inverse(self) -> Op:
        raise ConversionError("a folded kernel does not tell its spectral norm")

    def __str__(self) -> str:
        return "spectral normalisation folded in"


class Cast(Op, frozen=True):
    """To another dtype; nearest value, ties to even. Raises when a value overflows, unless it may go ``to_inf``.

    Integers become other integers only where every value stays what it is.
    """

    dtype: DType
    source: DType
    to_inf: bool = False

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, dtype=self.dtype) for spec in specs)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(self._cast(array) for array in arrays)

    def _cast(self, array: Array) -> Array:
        if array.dtype.kind in "iu":
            return self._counted(array)
        result = nearest(array, self.dtype)
        lost = 0 if self.to_inf else self.overflowed(array, result)
        if lost:
            raise ConversionError(f"{lost} of {array.size} values are too large for {self.dtype.name}")
        return result

    def _counted(self, array: Array) -> Array:
        limits = np.iinfo(self.dtype)
        lost = int(np.count_nonzero((array < limits.min) | (array > limits.max)))
        if lost:
            raise ConversionError(f"{lost} of {array.size} values are too large for {self.dtype.name}")
        return array.astype(self.dtype)

    @staticmethod
    def overflowed(before: Array, after: Array) -> int:
        """How many values were too large. Types without an infinity (float8_e4m3fn) overflow to NaN."""
        return int(np.count_nonzero(np.isfinite(before) & ~np.isfinite(after)))

    def inverse(self) -> Cast:
        return Cast(self.source, self.dtype, self.to_inf)

    def __str__(self) -> str:
        return f"cast {self.source.name} to {self.dtype.name}"


def simplified(ops: Sequence[Op]) -> tuple[Op, ...]:
    """The same work with fewer steps: what does nothing or undoes the step before it is gone."""
    found: list[Op] = []
    for op in ops:
        joined = _joined(found[-1], op) if found else None
        if joined is not None:
            found[-1] = joined
        else:
            found.append(op)
        if _is_identity(found[-1]):
            found.pop()
    return tuple(found) if len(found) == len(ops) else simplified(found)


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
