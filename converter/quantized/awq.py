"""AWQ: whole numbers of 4 bits with a scale and a zero point for each group of inputs, eight outputs in one word.

``qweight`` int32 [in, out / 8], ``qzeros`` int32 [groups, out / 8], ``scales`` [groups, out]; the eight outputs of a
word stand in it in the order 0 2 4 6 1 3 5 7, the lowest bits first. Weight = (q - zeros[g]) * scales[g], in the dtype
of the scales, transposed to [out, in].

Upstream: AutoAWQ, ``awq/utils/packing_utils.py`` (dequantize_gemm). The layouts of its other kernels (gemv, gemv_fast,
marlin) are known by what ``config.json`` says, or by their shapes, and are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from converter.core.tensors import Array, DType
from converter.quantized.base import Packed, Unpacked, need, row_blocks, wide, words

#: Output of each eight -> the place of its four bits in the word.
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
_EACH = len(_PLACES)


def unpack(packed: Packed) -> tuple[Unpacked, ...]:
    """`base.Unpack` of AWQ."""
    qweight, qzeros = packed.spec("qweight", 2, "int32", "uint32"), packed.spec("qzeros", 2, "int32", "uint32")
    scales = packed.spec("scales", 2, "float")
    settings = packed.settings or {}
    version, bits = str(settings.get("version") or "gemm").lower(), settings.get("bits", settings.get("w_bit", 4))
    need(version == "gemm", f"it is laid out for the kernel '{version}' of AWQ; 'gemm' is read")
    need(bits == 4, f"{packed.where} says {bits!r} bits, and AWQ has 4")
    (inputs, packed_outputs), (groups, outputs) = qweight.shape, scales.shape
    fits = packed_outputs * _EACH == outputs and qzeros.shape == (groups, packed_outputs)
    shapes = f"'qweight' {qweight.shape}, 'qzeros' {qzeros.shape} and 'scales' {scales.shape}"
    need(fits and bool(groups and outputs) and not inputs % groups, f"its {shapes} do not fit each other")
    compute = partial(_weight, dtype=scales.dtype)
    return (Unpacked("weight", (outputs, inputs), scales.dtype, ("qweight", "qzeros", "scales"), compute, "AWQ"),)


def _weight(parts: Mapping[str, Array], dtype: DType) -> Array:
    qweight, scales = parts["qweight"], np.ascontiguousarray(parts["scales"].T).astype(wide(dtype))
    (outputs, groups), inputs = scales.shape, len(qweight)
    zeros = _outputs(np.ascontiguousarray(parts["qzeros"].T)).astype(scales.dtype)
    result = np.empty((outputs, inputs), dtype)
    for rows in row_blocks((qweight.shape[1], inputs * _EACH)):
        numbers = _outputs(np.ascontiguousarray(qweight[:, rows].T))
        own = slice(rows.start * _EACH, rows.stop * _EACH)
        values = (numbers.reshape(len(numbers), groups, -1) - zeros[own, :, None]) * scales[own, :, None]
        with np.errstate(over="ignore"):
            result[own] = values.reshape(len(numbers), inputs)
    return result


def _outputs(packed: Array) -> Array:
    """[words, n] -> [8 * words, n] of uint8."""
    source = words(packed)
    result = np.empty((len(source), _EACH, source.shape[1]), np.uint8)
    for output, place in enumerate(_PLACES):
        result[:, output] = source >> np.uint32(4 * place) & np.uint32(15)
    return result.reshape(-1, source.shape[1])
