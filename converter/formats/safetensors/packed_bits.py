"""Elements of less than a byte, as safetensors packs them: one after the other, the lowest bits first.

The README of huggingface/safetensors says no more than little-endian. For four bits that is torch's
``float4_e2m1fn_x2``; for six it is how CUDA (``16U6_ALIGN16B``), AMD's matrix instructions and AMD Quark's
``Pack_mxfp6`` lay them out: four elements in three bytes.
"""

from __future__ import annotations

import math

import numpy as np

from converter.core.tensors import Array


def pack(codes: Array, bits: int) -> Array:
    """A flat array of uint8, one code a byte, as a flat one of ``len(codes) * bits / 8`` bytes."""
    count, width = _group(bits)
    words = np.zeros(len(codes) // count, _word(width))
    for index in range(count):
        # the masked bits mean nothing in ml_dtypes
        words |= (codes[index::count] & (1 << bits) - 1).astype(words.dtype) << index * bits
    packed = np.empty((len(words), width), np.uint8)
    for index in range(width):
        packed[:, index] = words >> 8 * index & 0xFF
    return packed.reshape(-1)


def unpack(packed: Array, bits: int) -> Array:
    """The inverse of `pack`."""
    count, width = _group(bits)
    words = np.zeros(len(packed) // width, _word(width))
    for index in range(width):
        words |= packed[index::width].astype(words.dtype) << 8 * index
    codes = np.empty((len(words), count), np.uint8)
    for index in range(count):
        codes[:, index] = words >> index * bits & (1 << bits) - 1
    return codes.reshape(-1)


def _group(bits: int) -> tuple[int, int]:
    """The fewest elements that fill whole bytes, and how many bytes."""
    together = math.lcm(8, bits)
    return together // bits, together // 8


def _word(width: int) -> np.dtype[np.generic]:
    return np.dtype(np.uint8 if width == 1 else np.uint32)
