"""compressed-tensors, ``pack-quantized``: whole numbers of 4 or 8 bits in words, with scales.

``weight_packed`` int32 [out, words]: the inputs packed, the lowest bits first, each more by half the range;
``weight_shape`` [2]; ``weight_scale`` [1], [out, 1] or [out, groups]; ``weight_zero_point``, packed so along the
outputs, or plain; ``weight_g_idx`` [in], the group of each input. Weight = (q - zero) * scale in the dtype of the
scales.

Upstream: compressed-tensors, ``compressors/pack_quantized`` (unpack_from_int32), ``quantization/lifecycle/forward.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from converter.core.tensors import Array, DType
from converter.quantized.base import Packed, Unpacked, bit_fields, need, row_blocks, wide
from converter.quantized.scales import blocks_of, rescaled

_ZEROS, _GROUPS, _SHAPE = "weight_zero_point", "weight_g_idx", "weight_shape"
_BITS = (4, 8)


def unpack(packed: Packed) -> tuple[Unpacked, ...]:
    """`base.Unpack` of what is packed."""
    weight, scale = packed.spec("weight_packed", 2, "int32"), packed.parts["weight_scale"]
    need(scale.dtype.name in ("float16", "bfloat16", "float32", "float64"), f"its 'weight_scale' is {scale.dtype.name}")
    need(packed.spec(_SHAPE, 1, "int64", "int32").shape == (2,), f"its '{_SHAPE}' has no two sizes")
    outputs, inputs = (int(size) for size in packed.read(_SHAPE))
    shape = outputs, inputs
    need(outputs == weight.shape[0], f"its '{_SHAPE}' {shape} does not fit its 'weight_packed' {weight.shape}")
    possible = [bits for bits in _BITS if weight.shape[1] == -(-inputs * bits // 32)]
    fits = f"its '{_SHAPE}' {shape} and 'weight_packed' {weight.shape}"
    need(len(possible) == 1, f"{fits} are those of {' and of '.join(map(str, possible)) or 'neither 4 nor 8'} bits")
    rows, group = blocks_of(packed, shape, scale, "weight_scale")
    used = ["weight_packed", "weight_scale"]
    count = inputs // group
    if _ZEROS in packed.parts:
        zeros, each = packed.parts[_ZEROS], -(-outputs * possible[0] // 32)
        plain = zeros.dtype.name == "int8" and zeros.shape == scale.shape
        words = zeros.dtype.name == "int32" and zeros.shape == (each, count) and rows == 1
        need(plain or words, f"its '{_ZEROS}' {zeros.dtype.name} {zeros.shape} does not fit its scales {scale.shape}")
        used.append(_ZEROS)
    if _GROUPS in packed.parts:
        g_idx = packed.spec(_GROUPS, 1, "int32", "int64")
        need(g_idx.shape == (inputs,), f"its '{_GROUPS}' {g_idx.shape} does not fit its {inputs} inputs")
        used.append(_GROUPS)
    compute = partial(_weight, shape=(outputs, inputs), bits=possible[0], blocks=(rows, group), dtype=scale.dtype)
    return (Unpacked("weight", shape, scale.dtype, tuple(used), compute),)


def _weight(
    parts: Mapping[str, Array], shape: tuple[int, int], bits: int, blocks: tuple[int, int], dtype: DType
) -> Array:
    packed, (outputs, inputs) = parts["weight_packed"], shape
    scales = parts["weight_scale"].reshape(-1, inputs // blocks[1]).astype(wide(dtype))
    zeros = _zeros(parts, bits, outputs, scales)
    group = _group_of(parts.get(_GROUPS), inputs, scales.shape[1])
    if group is not None:
        scales, zeros = scales[:, group], None if zeros is None else zeros[:, group]
        blocks = (blocks[0], 1)
    result = np.empty(shape, dtype)
    half = np.int16(1 << bits - 1)
    for rows in row_blocks(shape):
        numbers = bit_fields(np.ascontiguousarray(packed[rows]), bits, inputs).astype(np.int16) - half
        own = rows if blocks[0] == 1 else slice(None)
        each = (1, blocks[1]) if blocks[0] == 1 else (len(numbers), blocks[1])
        result[rows] = rescaled(numbers, scales[own], None if zeros is None else zeros[own], each, dtype)
    return result


def _zeros(parts: Mapping[str, Array], bits: int, outputs: int, scales: Array) -> Array | None:
    zeros = parts.get(_ZEROS)
    if zeros is None:
        return None
    if zeros.dtype.name == "int8":
        return zeros.reshape(scales.shape).astype(scales.dtype)
    fields = bit_fields(np.ascontiguousarray(zeros.T), bits, outputs).T
    return fields.astype(scales.dtype) - (1 << bits - 1)


def _group_of(g_idx: Array | None, inputs: int, groups: int) -> Array | None:
    """The group of each input; None where there is no order but that of the inputs. Raises QuantizedError."""
    if g_idx is None or (g_idx == -1).any():
        return None
    inside = bool(((g_idx >= 0) & (g_idx < groups)).all())
    need(inside, f"its '{_GROUPS}' names groups that are none of its {groups}")
    need(bool((np.bincount(g_idx, minlength=groups) == inputs // groups).all()), f"its '{_GROUPS}' has uneven groups")
    return g_idx
