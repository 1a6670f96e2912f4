"""What all quantized tensors have in common: the parts of one, what its checkpoint says of it, and what it stands for.

The rooms above read the parts; here is no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from converter.core.tensors import DTYPES, Array, DType, TensorSpec, is_float
from converter.errors import ConversionError

#: Elements that are computed at a time: what is made on the way stays in the cache of the processor.
BLOCK = 1 << 18
#: No element takes more bytes than this times those that stand for it: float32 for 1.69 bits (TQ1_0).
GROWTH = 20


class QuantizedError(ConversionError):
    """Parts that do not fit each other, or lack what their values depend on."""


class Packed(msgspec.Struct, frozen=True):
    """A quantized tensor as its file has it.

    parts: last name of each tensor that belongs to it -> spec. read: one of them by that name. settings: the
    quantization that the checkpoint states of all its tensors; None where no file states any. where: the files in which
    it would stand, for messages.
    """

    parts: Mapping[str, TensorSpec]
    read: Callable[[str], Array]
    settings: Mapping[str, Any] | None = None
    where: str = "config.json"

    def setting(self, name: str, why: str) -> Any:
        """Raises QuantizedError, with what depends on it, where the checkpoint states no quantization."""
        if self.settings is None:
            raise QuantizedError(f"{why}, and no {self.where} beside it says so. Put that of the checkpoint there")
        return self.settings.get(name)

    def spec(self, leaf: str, ndim: int, *kinds: str) -> TensorSpec:
        """That of a part, with so many axes and one of these dtypes ("float": any). Raises QuantizedError."""
        spec = self.parts.get(leaf)
        if spec is None:
            raise QuantizedError(f"its '{leaf}' is missing")
        fits = spec.dtype.name in kinds or ("float" in kinds and is_float(spec.dtype))
        if len(spec.shape) != ndim or not fits:
            met = f"{spec.dtype.name} {spec.shape}"
            raise QuantizedError(f"its '{leaf}' is {met}, where {' or '.join(kinds)} of {ndim} axes was expected")
        return spec


class Unpacked(msgspec.Struct, frozen=True):
    """The tensor that the parts stand for.

    leaf: its last name. used: the parts that `compute` is given, by their last names; the others do nothing for its
    values. compute: raises QuantizedError for values that mean nothing. title: of the packing, where its names alone do
    not tell.
    """

    leaf: str
    shape: tuple[int, ...]
    dtype: DType
    used: tuple[str, ...]
    compute: Callable[[Mapping[str, Array]], Array]
    title: str = ""


#: Of a family: the tensors that the parts stand for, from their specs and the smallest of them. Raises QuantizedError.
Unpack = Callable[[Packed], tuple[Unpacked, ...]]


def need(fits: bool, text: str) -> None:
    """Raises QuantizedError with this text unless it fits."""
    if not fits:
        raise QuantizedError(text)


def row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """The rows of a matrix in runs of about `BLOCK` elements."""
    step = max(1, BLOCK // max(1, shape[-1]))
    return (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def words(array: Array) -> Array:
    """Integers as they are packed, without a sign, so that a shift brings no ones."""
    return array.view(np.dtype(f"uint{8 * array.dtype.itemsize}"))


def bit_fields(packed: Array, bits: int, count: int) -> Array:
    """[n, words of 32 bits] -> [n, count] of uint8: fields of so many bits, the lowest first, also across two words."""
    source = words(packed)
    result = np.empty((len(source), source.shape[1] * 32 // bits), np.uint8)
    each = 32 // np.gcd(32, bits)  # fields until one starts with a word again
    stride = each * bits // 32
    mask = source.dtype.type((1 << bits) - 1)
    for field in range(each):
        word, shift = divmod(field * bits, 32)
        value = source[:, word::stride] >> source.dtype.type(shift)
        if shift + bits > 32:
            value = value | source[:, word + 1 :: stride] << source.dtype.type(32 - shift)
        result[:, field::each] = value & mask
    return result[:, :count]


def pairs(first: Array, second: Array) -> Array:
    """Table for `looked_up`: for each of 256 bytes the two float32 that its halves stand for, side by side."""
    return np.stack([first, second], 1).astype(np.float32).view(np.uint64).reshape(-1)


def looked_up(table: Array, data: Array) -> Array:
    """Bytes -> twice as many float32, flat. Both of a byte are taken at once, as one number of 64 bits."""
    return np.asarray(np.take(table, data.reshape(-1), mode="clip")).view(np.float32)


def wide(dtype: DType) -> DType:
    """In what is computed for results of this type: a product of a whole number of 9 bits and one of these is exact in
    float32, so that rounding it once gives what their own arithmetic gives.
    """
    return dtype if dtype == np.float64 else DTYPES["float32"]
