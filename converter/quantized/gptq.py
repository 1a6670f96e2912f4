"""GPTQ: whole numbers of 2, 3, 4 or 8 bits with a scale and a zero point for each group of inputs.

``qweight`` int32 [in * bits / 32, out]: the inputs packed, the lowest bits first; ``qzeros`` int32 [groups,
out * bits / 32], packed along the outputs; ``scales`` [groups, out]; ``g_idx`` int32 [in], the group of each input
(act-order). Weight = scales[g] * (q - zeros[g]), in the dtype of the scales, transposed to [out, in]. The first version
of the format stores each zero point less one; ``checkpoint_format: gptq_v2`` stores it as it is.

Upstream: AutoGPTQ, ``auto_gptq/nn_modules/qlinear/qlinear_cuda.py`` (forward without a kernel); GPTQModel,
``gptqmodel/nn_modules/qlinear/__init__.py`` (dequantize_weight), ``utils/model.py`` (v1 to v2). In v1 a stored zero
point of all ones is 2**bits, as AutoGPTQ and the kernels of ExLlama have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from converter.core.tensors import Array, DType
from converter.quantized.base import Packed, Unpacked, bit_fields, need, row_blocks, wide

_V1, _V2 = ("gptq", "", None), ("gptq_v2",)


def unpack(packed: Packed) -> tuple[Unpacked, ...]:
    """`base.Unpack` of GPTQ."""
    qweight, qzeros = packed.spec("qweight", 2, "int32", "uint32"), packed.spec("qzeros", 2, "int32", "uint32")
    scales = packed.spec("scales", 2, "float")
    groups, outputs = scales.shape
    need(qweight.shape[1] == outputs, f"its 'qweight' {qweight.shape} does not fit its 'scales' {scales.shape}")
    need(bool(groups and outputs), f"its 'scales' {scales.shape} are empty")
    bits = qzeros.shape[1] * 32 // outputs
    fits = bits in (2, 3, 4, 8) and qzeros.shape == (groups, outputs * bits // 32) and not outputs * bits % 32
    need(fits, f"its 'qzeros' {qzeros.shape} do not fit its 'scales' {scales.shape} with 2, 3, 4 or 8 bits")
    need(not qweight.shape[0] % (3 if bits == 3 else 1), f"its 'qweight' {qweight.shape} has no rows of {bits} bits")
    inputs = qweight.shape[0] * 32 // bits
    grouped = "g_idx" in packed.parts
    if grouped:
        g_idx = packed.spec("g_idx", 1, "int32", "int64")
        need(g_idx.shape == (inputs,), f"its 'g_idx' {g_idx.shape} does not fit its {inputs} inputs")
    else:
        need(not inputs % groups, f"its {inputs} inputs are no {groups} groups, and 'g_idx' is missing")
    used = ("qweight", "qzeros", "scales", *(["g_idx"] if grouped else []))
    compute = partial(_weight, bits=bits, added=_added(packed, bits), dtype=scales.dtype)
    return (Unpacked("weight", (outputs, inputs), scales.dtype, used, compute, f"GPTQ, {bits} bits"),)


def _added(packed: Packed, bits: int) -> int:
    """What is added to the stored zero points."""
    version = packed.setting("checkpoint_format", "whether its zero points are stored less one depends on the version")
    need(version in _V1 + _V2, f"its 'checkpoint_format' is {version!r}, which is not known; gptq and gptq_v2 are")
    stated = packed.setting("bits", "")
    need(stated in (None, bits), f"its shapes are those of {bits} bits, and {packed.where} says {stated!r}")
    return 0 if version in _V2 else 1


def _weight(parts: Mapping[str, Array], bits: int, added: int, dtype: DType) -> Array:
    scales, qweight = parts["scales"].T.astype(wide(dtype)), parts["qweight"]
    outputs, groups = scales.shape
    inputs = len(qweight) * 32 // bits
    zeros = bit_fields(np.ascontiguousarray(parts["qzeros"]), bits, outputs).T.astype(scales.dtype) + added
    group = _group_of(parts.get("g_idx"), inputs, groups)
    result = np.empty((outputs, inputs), dtype)
    for rows in row_blocks(result.shape):
        numbers = bit_fields(np.ascontiguousarray(qweight[:, rows].T), bits, inputs)
        if group is None:
            apart = numbers.reshape(len(numbers), groups, -1)
            values = (apart - zeros[rows, :, None]) * scales[rows, :, None]
        else:
            values = (numbers - zeros[rows][:, group]) * scales[rows][:, group]
        with np.errstate(over="ignore"):
            result[rows] = values.reshape(len(numbers), inputs)
    return result


def _group_of(g_idx: Array | None, inputs: int, groups: int) -> Array | None:
    """The group of each input; None where they are in order and of one size. Raises QuantizedError."""
    if g_idx is None:
        return None
    lowest, highest = int(g_idx.min(initial=0)), int(g_idx.max(initial=0))
    need(lowest >= 0 and highest < groups, f"its 'g_idx' names group {lowest if lowest < 0 else highest} of {groups}")
    if inputs % groups == 0 and np.array_equal(g_idx, np.repeat(np.arange(groups), inputs // groups)):
        return None
    return g_idx
