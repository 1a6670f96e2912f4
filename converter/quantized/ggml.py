"""The blocks of ggml, of 32 or 256 elements each: whole numbers with scales, as float32.

A block is a row of bytes, ``[blocks, bytes of one] -> [blocks, elements of one]``. All is computed in float32, in the
order of the reference, so that the bits are the same.

Upstream: llama.cpp, ``gguf-py/gguf/quants.py`` (dequantize_blocks of each class), which follows
``ggml/src/ggml-quants.c`` (dequantize_row_*); Q8_K is in the latter alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from converter.core.tensors import Array
from converter.quantized.base import BLOCK

_IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
#: Twice the floats of 4 bits; the code of minus zero is zero here.
_E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
_POWERS = np.array([1, 3, 9, 27, 81], np.uint8)


class BlockType(msgspec.Struct, frozen=True):
    """elements, nbytes: of one block. values: of blocks."""

    elements: int
    nbytes: int
    values: Callable[[Array], Array]


def dequantized(blocks: Array, kind: BlockType) -> Array:
    """Flat, of float32. blocks: uint8 [count, nbytes]."""
    result = np.empty((len(blocks), kind.elements), np.float32)
    step = max(1, BLOCK // kind.elements)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(blocks), step):
            part = slice(start, start + step)
            result[part] = kind.values(blocks[part])
    return result.reshape(-1)


def _split(blocks: Array, *sizes: int) -> list[Array]:
    """Runs of so many bytes, each contiguous; the last run is the rest."""
    ends = np.cumsum(sizes)
    return [np.ascontiguousarray(part) for part in np.split(blocks, ends, 1)]


def _half(data: Array) -> Array:
    return data.view(np.float16).astype(np.float32)


def _fields(data: Array, bits: int, run: int) -> Array:
    """[n, bytes] -> [n, fields]: of each run of bytes the lowest fields, then the next."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    fields = data.reshape(len(data), -1, 1, run) >> shifts & np.uint8((1 << bits) - 1)
    return np.asarray(fields).reshape(len(data), -1)


def _grouped(numbers: Array, scales: Array, offsets: Array | None = None) -> Array:
    """numbers * scales - offsets, one of each for a group of numbers. scales: [n, groups]."""
    values = numbers.astype(np.float32).reshape(*scales.shape, -1)
    values *= scales[..., None]
    if offsets is not None:
        values -= offsets[..., None]
    return values.reshape(len(numbers), -1)


def _q4_0(blocks: Array) -> Array:
    d, qs = _split(blocks, 2)
    return _grouped(_fields(qs, 4, 16).view(np.int8) - np.int8(8), _half(d))


def _q4_1(blocks: Array) -> Array:
    d, m, qs = _split(blocks, 2, 2)
    return _grouped(_fields(qs, 4, 16), _half(d), -_half(m))


def _five(qh: Array, qs: Array) -> Array:
    """Numbers of 5 bits, of which the fifth of all stand together."""
    fifth: Array = np.unpackbits(qh, axis=1, bitorder="little") << np.uint8(4)
    return fifth | _fields(qs, 4, 16)


def _q5_0(blocks: Array) -> Array:
    d, qh, qs = _split(blocks, 2, 4)
    return _grouped(_five(qh, qs).view(np.int8) - np.int8(16), _half(d))


def _q5_1(blocks: Array) -> Array:
    d, m, qh, qs = _split(blocks, 2, 2, 4)
    return _grouped(_five(qh, qs), _half(d), -_half(m))


def _q8_0(blocks: Array) -> Array:
    d, qs = _split(blocks, 2)
    return _grouped(qs.view(np.int8), _half(d))


def _q2_k(blocks: Array) -> Array:
    scales, qs, d, dmin = _split(blocks, 16, 64, 2)
    return _grouped(_fields(qs, 2, 32), _half(d) * (scales & 15), _half(dmin) * (scales >> 4))


def _q3_k(blocks: Array) -> Array:
    high, qs, scales, d = _split(blocks, 32, 64, 12)
    low, upper = _split(scales, 8)
    six = _fields(low, 4, 8) | _fields(upper, 2, 4) << np.uint8(4)
    absent = _fields(high, 1, 32) ^ np.uint8(1)
    numbers = _fields(qs, 2, 32).view(np.int8) - (absent << np.uint8(2)).view(np.int8)
    return _grouped(numbers, _half(d) * (six.view(np.int8) - np.int8(32)))


def _scales_of_k(packed: Array) -> tuple[Array, Array]:
    """The eight scales and eight offsets of 6 bits in 12 bytes."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, third & 15 | first >> 2 & 48], 1)
    offsets = np.concatenate([second & 63, third >> 4 | second >> 2 & 48], 1)
    return scales, offsets


def _q4_k(blocks: Array) -> Array:
    d, dmin, packed, qs = _split(blocks, 2, 2, 12)
    scales, offsets = _scales_of_k(packed)
    return _grouped(_fields(qs, 4, 32), _half(d) * scales, _half(dmin) * offsets)


def _q5_k(blocks: Array) -> Array:
    d, dmin, packed, high, qs = _split(blocks, 2, 2, 12, 32)
    scales, offsets = _scales_of_k(packed)
    numbers = _fields(qs, 4, 32) | _fields(high, 1, 32) << np.uint8(4)
    return _grouped(numbers, _half(d) * scales, _half(dmin) * offsets)


def _q6_k(blocks: Array) -> Array:
    low, high, scales, d = _split(blocks, 128, 64, 16)
    numbers = (_fields(low, 4, 64) | _fields(high, 2, 32) << np.uint8(4)).view(np.int8) - np.int8(32)
    return _grouped(numbers, _half(d) * scales.view(np.int8))


def _q8_k(blocks: Array) -> Array:
    d, qs, _ = _split(blocks, 4, 256)
    return _grouped(qs.view(np.int8), d.view(np.float32))


def _tq1_0(blocks: Array) -> Array:
    first, second, high, d = _split(blocks, 32, 16, 4)
    parts = ((first, _POWERS), (second, _POWERS), (high, _POWERS[:4]))
    trits = [(data[:, None] * powers[:, None]).reshape(len(data), -1) for data, powers in parts]
    numbers = np.concatenate(trits, 1).astype(np.uint16) * np.uint16(3) >> 8
    return _grouped(numbers.astype(np.int8) - np.int8(1), _half(d))


def _tq2_0(blocks: Array) -> Array:
    qs, d = _split(blocks, 64)
    return _grouped(_fields(qs, 2, 32).view(np.int8) - np.int8(1), _half(d))


def _iq4_nl(blocks: Array) -> Array:
    d, qs = _split(blocks, 2)
    return _grouped(np.take(_IQ4, _fields(qs, 4, 16), mode="clip"), _half(d))


def _iq4_xs(blocks: Array) -> Array:
    d, high, low, qs = _split(blocks, 2, 2, 4)
    upper = high.view(np.uint16) >> np.arange(0, 16, 2, dtype=np.uint16) & np.uint16(3)
    six = _fields(low, 4, 1) | upper.astype(np.uint8) << np.uint8(4)
    return _grouped(np.take(_IQ4, _fields(qs, 4, 16), mode="clip"), _half(d) * (six.view(np.int8) - np.int8(32)))


def _mxfp4(blocks: Array) -> Array:
    exponents, qs = _split(blocks, 1)
    half = np.ldexp(np.float32(1), exponents.astype(np.int32) - 128)
    return _grouped(np.take(_E2M1, _fields(qs, 4, 16), mode="clip"), half)


#: By the name of the type.
BLOCK_TYPES: Mapping[str, BlockType] = {
    "Q4_0": BlockType(32, 18, _q4_0),
    "Q4_1": BlockType(32, 20, _q4_1),
    "Q5_0": BlockType(32, 22, _q5_0),
    "Q5_1": BlockType(32, 24, _q5_1),
    "Q8_0": BlockType(32, 34, _q8_0),
    "Q2_K": BlockType(256, 84, _q2_k),
    "Q3_K": BlockType(256, 110, _q3_k),
    "Q4_K": BlockType(256, 144, _q4_k),
    "Q5_K": BlockType(256, 176, _q5_k),
    "Q6_K": BlockType(256, 210, _q6_k),
    "Q8_K": BlockType(256, 292, _q8_k),
    "IQ4_NL": BlockType(32, 18, _iq4_nl),
    "IQ4_XS": BlockType(256, 136, _iq4_xs),
    "TQ1_0": BlockType(256, 54, _tq1_0),
    "TQ2_0": BlockType(256, 66, _tq2_0),
    "MXFP4": BlockType(32, 17, _mxfp4),
}
