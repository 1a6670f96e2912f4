"""MXFP4 of gpt-oss: floats of 4 bits (e2m1) in blocks of 32, each with an exponent.

``NAME_blocks`` uint8 [..., rows, blocks, 16]: two elements a byte, the lower four bits first; ``NAME_scales`` uint8
[..., rows, blocks]: 127 more than the exponent of two. The tensor ``NAME`` is bfloat16 [..., blocks * 32, rows].

Upstream: transformers, ``integrations/mxfp4.py`` (convert_moe_packed_tensors).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np

from converter.core.tensors import DTYPES, Array
from converter.quantized.base import Packed, Unpacked, looked_up, need, pairs, row_blocks

_BLOCKS, _SCALES = "_blocks", "_scales"
_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
#: What each code stands for.
E2M1 = np.array([*_POSITIVE, *(-value for value in _POSITIVE)], np.float32)
#: The same of the two codes of each byte, the lower first.
_PAIRS = pairs(E2M1[np.arange(256) & 15], E2M1[np.arange(256) >> 4])
_BYTES, _BIAS = 16, 127
#: A byte of the scales -> its power of two; the last is beyond float32.
_POWERS = np.append(np.ldexp(np.float32(1), np.arange(255) - _BIAS), np.float32(np.inf))


def unpack(packed: Packed) -> tuple[Unpacked, ...]:
    """`base.Unpack` of MXFP4: of all the tensors of a layer."""
    names = [leaf.removesuffix(_BLOCKS) for leaf in packed.parts if leaf.endswith(_BLOCKS)]
    return tuple(_unpacked(packed, name) for name in names)


def _unpacked(packed: Packed, name: str) -> Unpacked:
    ndim = len(packed.parts[name + _BLOCKS].shape)
    need(ndim >= 3, f"its '{name}{_BLOCKS}' has {ndim} axes, and no rows of blocks")
    blocks = packed.spec(name + _BLOCKS, ndim, "uint8").shape
    scales = packed.spec(name + _SCALES, ndim - 1, "uint8").shape
    fits = blocks[:-1] == scales and blocks[-1] == _BYTES
    need(fits, f"its '{name}{_BLOCKS}' {blocks} do not fit its '{name}{_SCALES}' {scales}")
    shape = (*blocks[:-3], blocks[-2] * 2 * _BYTES, blocks[-3])
    used = (name + _BLOCKS, name + _SCALES)
    return Unpacked(name, shape, DTYPES["bfloat16"], used, partial(_tensor, used=used, shape=shape))


def _tensor(parts: Mapping[str, Array], used: tuple[str, str], shape: tuple[int, ...]) -> Array:
    blocks, scales = (parts[leaf] for leaf in used)
    columns, rows = shape[-2:]
    count = math.prod(shape[:-2])
    blocks, scales = blocks.reshape(count, rows, -1, _BYTES), scales.reshape(count, rows, -1)
    result = np.empty((count, columns, rows), DTYPES["bfloat16"])
    for item in range(count):
        for part in row_blocks((rows, columns)):
            values = looked_up(_PAIRS, blocks[item, part]).reshape(-1, scales.shape[2], 2 * _BYTES)
            with np.errstate(invalid="ignore"):  # zero times the last
                values *= _POWERS[scales[item, part]][..., None]
            result[item, :, part] = values.reshape(-1, columns).astype(result.dtype).T
    return result.reshape(shape)
