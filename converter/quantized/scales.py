"""Whole numbers or floats of 8 bits with scales: of the tensor, of each output, of groups of inputs, or of blocks.

``weight`` [out, in], ``weight_scale``, perhaps ``weight_zero_point`` of the same shape; weight = (q - zero) * scale,
each step in the dtype of the scales (compressed-tensors), or float32 where these are powers of two in a byte.
``weight_scale_inv`` of DeepSeek and transformers is a factor, too, one for each block of 128 x 128, of which those at
the ends may be smaller; the block is what ``weight_block_size`` of ``config.json`` says. Scales of inputs do nothing
here.

Upstream: compressed-tensors, ``quantization/lifecycle/forward.py`` (_dequantize) and ``compressors/naive_quantized``;
DeepSeek-V3, ``inference/kernel.py`` (weight_dequant); transformers, ``integrations/finegrained_fp8.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from converter.core.tensors import DTYPES, Array, DType, TensorSpec, is_float
from converter.quantized.base import Packed, Unpacked, need, row_blocks, wide

#: In the order in which they are looked for: "scale_weight" is that of ComfyUI.
SCALES = ("weight_scale", "weight_scale_inv", "scale_weight")
_ZEROS = "weight_zero_point"


def unpack(packed: Packed) -> tuple[Unpacked, ...]:
    """`base.Unpack` of a weight that has an element for each of its own."""
    scale = next((leaf for leaf in SCALES if leaf in packed.parts), None)
    need(scale is not None, f"none of its tensors is a scale of its weight ({', '.join(SCALES)})")
    assert scale is not None
    need("weight_scale_2" not in packed.parts, "it has two levels of scales (NVFP4), which are not undone")
    weight, spec = packed.parts["weight"], packed.parts[scale]
    need(weight.dtype.name == "int8" or weight.dtype.name.startswith("float8"), f"its weight is {weight.dtype.name}")
    pairs = weight.dtype.name == "int8" and scale != "weight_scale"
    need(not pairs, f"its weight is int8 with '{scale}', of which each byte may be two floats of 4 bits")
    need(is_float(spec.dtype), f"its '{scale}' is {spec.dtype.name}, and no float")
    need(len(weight.shape) == 2, f"its weight has the shape {weight.shape}, and no outputs and inputs")
    blocks = blocks_of(packed, weight.shape, spec, scale)
    zeros = packed.parts.get(_ZEROS)
    need(zeros is None or zeros.shape == spec.shape, f"its '{_ZEROS}' does not fit its '{scale}' {spec.shape}")
    dtype = spec.dtype if spec.dtype.itemsize > 1 else DTYPES["float32"]
    used = ("weight", scale, *([_ZEROS] if zeros is not None else []))
    compute = partial(_weight, scale=scale, blocks=blocks, dtype=dtype)
    return (Unpacked("weight", weight.shape, dtype, used, compute),)


def blocks_of(packed: Packed, shape: Sequence[int], scale: TensorSpec, leaf: str) -> tuple[int, int]:
    """How many outputs and inputs have one scale. Raises QuantizedError."""
    outputs, inputs = shape
    need(bool(outputs and inputs), f"its weight has the shape {tuple(shape)}, and no elements")
    if scale.size == 1:
        return outputs, inputs
    rows, columns = (*scale.shape, 1)[:2]
    need(len(scale.shape) in (1, 2) and bool(scale.size), f"its '{leaf}' has the shape {scale.shape}")
    if rows == outputs:
        need(inputs % columns == 0, f"its {inputs} inputs are no {columns} groups, as its '{leaf}' {scale.shape} says")
        return 1, inputs // columns
    size = _block_size(packed)
    fits = (rows, columns) == (-(-outputs // size[0]), -(-inputs // size[1]))
    said = f"its '{leaf}' {scale.shape} does not fit a weight {tuple(shape)} with blocks of {size[0]} x {size[1]}"
    need(fits, f"{said}, as {packed.where} says")
    return size


def _block_size(packed: Packed) -> tuple[int, int]:
    why = "its scales are those of blocks, whose size no shape tells"
    stated = packed.setting("weight_block_size", why)
    if stated is None:
        groups = packed.setting("config_groups", why)
        each = [_structure(group) for group in groups.values()] if isinstance(groups, Mapping) else []
        sizes = [size for size in each if size is not None]
        stated = sizes[0] if sizes and all(size == sizes[0] for size in sizes) else None
    is_pair = isinstance(stated, list) and len(stated) == 2
    is_size = is_pair and all(type(size) is int and 0 < size < 1 << 31 for size in stated)
    need(is_size, f"{why}, and {packed.where} has no 'weight_block_size' of two numbers")
    return stated[0], stated[1]


def _structure(group: Any) -> Any:
    weights = group.get("weights") if isinstance(group, Mapping) else None
    return weights.get("block_structure") if isinstance(weights, Mapping) else None


def _weight(parts: Mapping[str, Array], scale: str, blocks: tuple[int, int], dtype: DType) -> Array:
    weight, scales = parts["weight"], _as_rows(parts[scale]).astype(wide(dtype))
    zeros = _as_rows(parts[_ZEROS]).astype(scales.dtype) if _ZEROS in parts else None
    return rescaled(weight, scales, zeros, blocks, dtype)


def rescaled(numbers: Array, scales: Array, zeros: Array | None, blocks: tuple[int, int], dtype: DType) -> Array:
    """(numbers - zeros) * scales, each rounded to ``dtype``. scales, zeros: [rows, columns] of blocks of this size."""
    result = np.empty(numbers.shape, dtype)
    inputs = numbers.shape[1]
    for rows in row_blocks(numbers.shape):
        at = np.arange(rows.start, rows.stop) // blocks[0]
        part = numbers[rows].astype(scales.dtype)
        if zeros is not None:
            part -= _along(zeros[at], blocks[1], inputs)
            part = part if zeros.dtype == dtype else part.astype(dtype).astype(scales.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            if inputs % blocks[1]:
                result[rows] = part * _along(scales[at], blocks[1], inputs)
            else:
                result[rows] = (part.reshape(len(part), -1, blocks[1]) * scales[at, :, None]).reshape(part.shape)
    return result


def _along(each: Array, size: int, inputs: int) -> Array:
    """[rows, columns] -> [rows, inputs]."""
    return np.repeat(each, size, 1)[:, :inputs] if each.shape[1] > 1 else each


def _as_rows(array: Array) -> Array:
    return array.reshape(array.shape[0], -1) if array.ndim else array.reshape(1, 1)
