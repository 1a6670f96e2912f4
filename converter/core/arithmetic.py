"""Ops that compute new values: sums, casts, and what normalisations and inflated kernels stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
from msgspec.structs import replace

from converter.core.ops import Each, Fill, Op, Shape
from converter.core.tensors import Array, DType, TensorSpec, is_float, nearest
from converter.errors import ConversionError


class Sum(Op, frozen=True):
    """Runs of arrays are added up, so many in each run: two biases that the other framework keeps as one.

    The sum is exact in function; its `inverse` gives the sum to the first of each run, and zeros to the rest.
    """

    done = "biases added up"
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


class SumOfHalves(Each, frozen=True):
    """The two halves of a vector are added up: the biases of a CuDNN cell, for the inputs and for the state."""

    done = "biases added up"

    def shaped(self, shape: Shape) -> Shape:
        return (shape[0] // 2,)

    def made(self, array: Array) -> Array:
        first, second = np.split(array, 2)
        result: Array = first + second
        return result


class Added(Each, frozen=True):
    """A number is added to every value: one, to scales that some code bases store less one. Computed in float64, and
    rounded once to the dtype of the tensor.
    """

    done = "{0.value:+.9g} added to each"
    value: float

    def made(self, array: Array) -> Array:
        return nearest(array.astype(np.float64) + self.value, array.dtype)

    def inverse(self) -> Added:
        return Added(-self.value)


class FoldWeightNorm(Op, frozen=True):
    """Magnitude and direction become the kernel that they stand for: g * v / |v|, the norm over all axes that g
    does not have, with ``epsilon`` in the root (torch.nn.utils.weight_norm; flax.linen.WeightNorm, whose g has the
    last axes). Computed, in float64 where that is wider.
    """

    done = "weight normalisation folded in"
    epsilon: float = 0.0

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return (specs[1],)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        g, v = (array.astype(np.float64) for array in arrays)
        sizes = (1,) * (v.ndim - g.ndim) + g.shape
        over = tuple(axis for axis, size in enumerate(sizes) if size == 1)
        norm = np.sqrt(np.square(v).sum(over, keepdims=True) + self.epsilon)
        return ((g * v / norm).astype(arrays[1].dtype),)


class FoldSpectralNorm(Op, frozen=True):
    """Kernel, left and right vector become the kernel over its spectral norm u W v, as torch computes it when it
    does not train. ``axis`` is that of the outputs (torch.nn.utils.spectral_norm).
    """

    done = "spectral normalisation folded in"
    axis: int

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return (specs[0],)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        kernel, u, v = (array.astype(np.float64) for array in arrays)
        matrix = np.moveaxis(kernel, self.axis, 0).reshape(kernel.shape[self.axis], -1)
        return ((kernel / (u @ matrix @ v)).astype(arrays[0].dtype),)


class JoinedGates(Op, frozen=True):
    """Tensors of the gates of a cell, side by side along the last axis, become one with its gates in this ``order``.

    rows: of a kernel that inputs and state have together, those of either. added: what is added to gates of the
    result; computed, in the precision of the tensor.
    """

    order: tuple[int, ...]
    rows: tuple[int, int] | None = None
    added: tuple[tuple[int, float], ...] = ()

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        rows, width = specs[0].shape[:-1], sum(spec.shape[-1] for spec in specs)
        kept = rows if self.rows is None else (self.rows[1] - self.rows[0],)
        return (replace(specs[0], shape=(*kept, width)),)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        joined = np.concatenate(arrays, -1)
        gates = np.split(joined if self.rows is None else joined[slice(*self.rows)], len(self.order), -1)
        ordered = [gates[gate] for gate in self.order]
        for gate, value in self.added:
            ordered[gate] = ordered[gate] + ordered[gate].dtype.type(value)
        return (np.concatenate(ordered, -1),)

    def __str__(self) -> str:
        rows = [f"rows {self.rows[0]} to {self.rows[1]} taken"] if self.rows else []
        order = ["gates reordered"] if list(self.order) != sorted(self.order) else []
        added = [f"forget_bias={value:g} added" for _, value in self.added]
        return ", ".join([*rows, *order, *added]) or "moved"


class Lost(msgspec.Struct, frozen=True):
    """Target tensor -> how many of its values a cast that was asked for made infinite, or zero where they were not."""

    infinite: Counter[str] = msgspec.field(default_factory=Counter)
    zero: Counter[str] = msgspec.field(default_factory=Counter)

    def add(self, other: Lost) -> None:
        self.infinite.update(other.infinite)
        self.zero.update(other.zero)


class Cast(Each, frozen=True):
    """To another dtype; nearest value, ties to even. Raises when a value overflows, unless it may go ``to_inf``.

    Integers become other integers only where every value stays what it is.
    """

    done = "cast {0.source.name} to {0.dtype.name}"
    dtype: DType
    source: DType
    to_inf: bool = False

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, dtype=self.dtype) for spec in specs)

    def made(self, array: Array) -> Array:
        if array.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            lost = int(np.count_nonzero((array < limits.min) | (array > limits.max)))
            result = array if lost else array.astype(self.dtype)
        else:
            result, lost, _ = self.counted(array)
        if lost and not self.to_inf:
            raise ConversionError(f"{lost} of {array.size} values are too large for {self.dtype.name}")
        return result

    def counted(self, array: Array) -> tuple[Array, int, int]:
        """Floats in the other dtype; how many were too large for it, and how many became zero and were not.

        A block is counted while it is in the cache. Types without an infinity (float8_e4m3fn) overflow to NaN.
        """
        if not (is_float(array.dtype) and _narrows(array.dtype, self.dtype)):
            return nearest(array, self.dtype), 0, 0
        order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        flat = array.transpose(order).reshape(-1)  # as it lies in the memory
        result = np.empty(flat.shape, self.dtype)
        infinite = zero = 0
        for start in range(0, flat.size, _BLOCK):
            before = flat[start : start + _BLOCK]
            after = result[start : start + _BLOCK]
            after[...] = nearest(before, self.dtype)
            if _count_infinite(after):
                with np.errstate(invalid="ignore"):
                    infinite += int(np.count_nonzero(np.isfinite(before) & ~np.isfinite(after)))
            zero += int(np.count_nonzero(before)) - _count_nonzero(after)
        back = np.argsort(order) if order else ()
        return result.reshape([array.shape[axis] for axis in order]).transpose(back), infinite, zero

    def inverse(self) -> Cast:
        return Cast(self.source, self.dtype, self.to_inf)


#: Elements that are cast and counted at a time.
_BLOCK = 1 << 17


def _narrows(source: DType, dtype: DType) -> bool:
    """Whether a value of the one may be too large or too small for the other."""
    about: Any = ml_dtypes.finfo
    ours, theirs = about(source), about(dtype)
    return bool(float(ours.max) > float(theirs.max)) or bool(
        float(ours.smallest_subnormal) < float(theirs.smallest_subnormal)
    )


def _count_infinite(array: Array) -> int:
    """How many are infinite or NaN; of 16 bits by these, as NumPy has no fast loop for them."""
    if array.dtype.itemsize != 2:
        return int(np.count_nonzero(~np.isfinite(array)))
    limit = _bits(np.array(np.inf, array.dtype))
    return int(np.count_nonzero(_bits(array) >= limit))


def _count_nonzero(array: Array) -> int:
    return int(np.count_nonzero(_bits(array) if array.dtype.itemsize == 2 else array))


def _bits(array: Array) -> Array:
    """float16 and bfloat16 without their sign, as integers of the same order."""
    bits: Array = array.view(np.uint16) & np.uint16(0x7FFF)
    return bits


class Scaled(Each, frozen=True):
    """Every value times a number, computed in float64 and rounded once. why: what the number is, in the report."""

    done = "multiplied by {0.why} = {0.factor:.9g}"
    factor: float
    why: str

    def made(self, array: Array) -> Array:
        return nearest(array.astype(np.float64) * self.factor, array.dtype)


class Computed(Op, frozen=True):
    """Reading the array has computed it of what the file holds (`Contents.quantized`, `Contents.adapted`): nothing is
    left to be done, and the plan says how it was.
    """

    done = "{0.how}"
    how: str

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(arrays)


class Inflate(Each, frozen=True):
    """A 2-d kernel becomes a 3-d one: repeated so many times along a new axis, and divided by that number.

    On frames that do not change it answers as the 2-d kernel does (I3D; Carreira and Zisserman, 2017). Computed,
    in the precision of the kernel.
    """

    done = "inflated {0.times} times"
    axis: int
    times: int

    def shaped(self, shape: Shape) -> Shape:
        return (*shape[: self.axis], self.times, *shape[self.axis :])

    def made(self, array: Array) -> Array:
        share = (array / array.dtype.type(self.times))[(slice(None),) * self.axis + (None,)]
        result: Array = share.repeat(self.times, self.axis)
        return result
