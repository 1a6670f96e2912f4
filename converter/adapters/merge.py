"""The weight that a base and the factors of an adapter stand for together: W + scale * B A, block by block.

LoRA: Hu et al., 2021. DoRA: Liu et al., 2024, as PEFT merges it: each output is scaled to its magnitude, the norm of
which is over all inputs. Accumulated in float32, or in float64 for a base of that; rounded once, to the base's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
import numpy as np

from converter.core.tensors import DTYPES, Array, DType, TensorSpec, nearest
from converter.errors import ConversionError

#: Elements of the result that are computed at a time.
_BLOCK = 1 << 20


class Low(msgspec.Struct, frozen=True):
    """The factors of one weight, of which the shapes are known to fit.

    turned: the weight is stored as [in, out] (GPT-2's Conv1D, an embedding). magnitude: of DoRA.
    """

    a: TensorSpec
    b: TensorSpec
    scale: float
    turned: bool = False
    magnitude: TensorSpec | None = None

    @property
    def rank(self) -> int:
        return self.b.shape[1]

    @property
    def title(self) -> str:
        return f"{'DoRA' if self.magnitude else 'LoRA'}, r={self.rank}, scale {self.scale:g}"


def fitted(weight: TensorSpec, a: TensorSpec, b: TensorSpec, magnitude: TensorSpec | None, turned: bool) -> bool | None:
    """Whether the weight is stored as [in, out]; None where the factors fit it in neither order.

    a: [r, in], of a convolution [r, in, k, k]; b: [out, r] with as many ones behind. turned: what holds for a square.
    """
    if len(a.shape) < 2 or len(b.shape) < 2 or math.prod(b.shape[2:]) != 1 or len(weight.shape) != len(a.shape):
        return None
    rank, inputs, outputs = a.shape[0], a.shape[1:], b.shape[0]
    if rank != b.shape[1] or (magnitude is not None and magnitude.size != outputs):
        return None
    straight = weight.shape == (outputs, *inputs)
    across = len(inputs) == 1 and weight.shape == (*inputs, outputs)
    return turned if straight and across else across if straight or across else None


def merged(weight: Array, low: Low, a: Array, b: Array, magnitude: Array | None) -> Array:
    """The weight with its adapter, of its own dtype and shape. a, b, magnitude: as the adapter stores them."""
    wide = DTYPES["float64" if weight.dtype == np.float64 else "float32"]
    left = b.reshape(b.shape[0], -1).astype(wide)
    right = a.reshape(a.shape[0], -1).astype(wide)
    if low.turned:
        left, right = right.T, left.T
    rows = weight.reshape(left.shape[0], right.shape[1])
    factor = None
    if magnitude is not None:
        factor = magnitude.reshape(-1).astype(wide) / _norms(rows, left, right, low, wide)
    result = np.empty(rows.shape, weight.dtype)
    for part, sums in _sums(rows, left, right, low.scale, wide):
        if factor is not None:
            np.multiply(sums, factor if low.turned else factor[part, None], out=sums)
        result[part] = nearest(sums, weight.dtype)
    return result.reshape(weight.shape)


def merged_bias(bias: Array, added: Array, scale: float) -> Array:
    """The bias of a layer whose adapter has one, too (``lora_bias``)."""
    wide = DTYPES["float64" if bias.dtype == np.float64 else "float32"]
    return nearest(bias.astype(wide) + added.astype(wide) * wide.type(scale), bias.dtype)


def _sums(rows: Array, left: Array, right: Array, scale: float, wide: DType) -> Iterator[tuple[slice, Array]]:
    """W + scale * B A, so many rows at a time."""
    step = max(1, _BLOCK // max(1, rows.shape[1]))
    for start in range(0, rows.shape[0], step):
        part = slice(start, start + step)
        sums = left[part] @ right
        sums *= wide.type(scale)
        sums += rows[part].astype(wide)
        yield part, sums


def _norms(rows: Array, left: Array, right: Array, low: Low, wide: DType) -> Array:
    """Of each output, over its inputs. Raises ConversionError for an output of nothing but zeros."""
    squares = np.zeros(rows.shape[1 if low.turned else 0])
    for part, sums in _sums(rows, left, right, low.scale, wide):
        square = np.square(sums, dtype=np.float64)
        if low.turned:
            squares += square.sum(0)
        else:
            squares[part] = square.sum(1)
    if not squares.all():
        raise ConversionError("an output has nothing but zeros, whose direction DoRA cannot scale")
    norms: Array = np.sqrt(squares).astype(wide)
    return norms
