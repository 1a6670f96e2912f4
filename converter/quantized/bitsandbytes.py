"""bitsandbytes: whole numbers of 8 bits with the largest of each output (LLM.int8), and 4 bits from a table (NF4, FP4).

8 bits: ``weight`` int8 [out, in], ``SCB`` float32 [out]; weight = q * SCB * (1 / 127) in float32.

4 bits: ``weight`` two elements a byte, the upper four bits first, in runs of ``blocksize``; ``weight.absmax``, the
factor of each run; ``weight.quant_map`` float32 [16], what each code stands for;
``weight.quant_state.bitsandbytes__nf4`` (or fp4) uint8, the bytes of a JSON object with the shape and dtype. With
nested quantization absmax is uint8 itself: nested_quant_map[absmax] * nested_absmax[run] + nested_offset. Computed in
float32, then rounded to the dtype that the state names.

Upstream: bitsandbytes, ``functional.py`` (QuantState.from_dict, dequantize_4bit, int8_vectorwise_dequant), and the
kernels (kDequantizeBlockwise).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial

import msgspec
import numpy as np

from converter.core.tensors import DTYPES, Array, DType
from converter.quantized.base import (
    BLOCK,
    Packed,
    QuantizedError,
    Unpacked,
    looked_up,
    need,
    pairs,
    row_blocks,
)

_STATE = "quant_state.bitsandbytes__"
#: Of the JSON object: a real one has some hundred bytes.
_MOST_STATE = 4096
_TO_ONE = np.float32(7.874015718698502e-3)
_ROWS = 0


class State(msgspec.Struct, frozen=True):
    """The JSON object of a weight of 4 bits."""

    quant_type: str
    blocksize: int
    dtype: str
    shape: list[int]
    nested_blocksize: int = 0
    nested_offset: float = 0.0


def unpack_8_bits(packed: Packed) -> tuple[Unpacked, ...]:
    """`base.Unpack` of LLM.int8."""
    weight, scales = packed.spec("weight", 2, "int8"), packed.spec("SCB", 1, "float32", "float16")
    need(scales.shape == weight.shape[:1], f"its 'SCB' {scales.shape} does not fit its weight {weight.shape}")
    order = packed.parts.get("weight_format")
    if order is not None:
        need(order.size == 1 and order.dtype.kind in "iu", f"its 'weight_format' has the shape {order.shape}")
        met = int(packed.read("weight_format").reshape(-1)[0])
        need(met == _ROWS, f"its 'weight_format' is {met}, an order of tiles for one kind of GPU; {_ROWS} is read")
    return (Unpacked("weight", weight.shape, DTYPES["float32"], ("weight", "SCB"), _from_8_bits),)


def _from_8_bits(parts: Mapping[str, Array]) -> Array:
    weight, scales = parts["weight"], parts["SCB"].astype(np.float32)
    result = np.empty(weight.shape, np.float32)
    for rows in row_blocks(weight.shape):
        np.multiply(weight[rows], scales[rows, None], out=result[rows])
        result[rows] *= _TO_ONE
    return result


def unpack_4_bits(packed: Packed) -> tuple[Unpacked, ...]:
    """`base.Unpack` of NF4 and FP4. The names of parts are those behind ``weight.``; "" is the weight itself."""
    state = _state(packed)
    shape, blocks = tuple(state.shape), -(-math.prod(state.shape) // state.blocksize)
    weight, table, absmax = packed.parts[""], packed.spec("quant_map", 1, "float32"), packed.parts.get("absmax")
    size = math.prod(shape)
    fits = weight.nbytes == -(-size // 2) and weight.dtype.kind in "uifV"
    need(fits, f"its weight has {weight.nbytes} bytes, and {shape} of 4 bits takes {-(-size // 2)}")
    need(table.shape == (16,), f"its 'quant_map' {table.shape} has no 16 values")
    nested = absmax is not None and absmax.dtype.name == "uint8"
    used = ["", "absmax", "quant_map"]
    if nested:
        need(state.nested_blocksize > 0, "its 'absmax' is quantized, and its state names no 'nested_blocksize'")
        runs = -(-blocks // state.nested_blocksize)
        need(packed.spec("nested_quant_map", 1, "float32").shape == (256,), "its 'nested_quant_map' has no 256 values")
        need(packed.spec("nested_absmax", 1, "float32").shape == (runs,), f"its 'nested_absmax' has no {runs} values")
        used += ["nested_quant_map", "nested_absmax"]
    need(packed.spec("absmax", 1, "float32", "uint8").shape == (blocks,), f"its 'absmax' has no {blocks} values")
    dtype = DTYPES[state.dtype]
    return (Unpacked("", shape, dtype, tuple(used), partial(_from_4_bits, state=state, dtype=dtype)),)


def _state(packed: Packed) -> State:
    """Raises QuantizedError unless the bytes are such an object."""
    leaf = next((leaf for leaf in packed.parts if leaf.startswith(_STATE)), None)
    need(leaf is not None, f"its '{_STATE}…' is missing, which has its shape and dtype")
    assert leaf is not None
    spec = packed.spec(leaf, 1, "uint8")
    need(spec.size <= _MOST_STATE, f"its '{leaf}' has {spec.size} bytes; at most {_MOST_STATE} are read")
    try:
        state = msgspec.convert(json.loads(packed.read(leaf).tobytes()), State)
    except (ValueError, RecursionError) as error:
        raise QuantizedError(f"its '{leaf}' is not the JSON of a quantization: {error}") from None
    sizes = len(state.shape) <= 8 and all(0 < size < 1 << 40 for size in state.shape)
    need(
        sizes and bool(state.shape) and math.prod(state.shape) < 1 << 40, f"its '{leaf}' names the shape {state.shape}"
    )
    need(0 < state.blocksize < 1 << 31, f"its '{leaf}' names a 'blocksize' of {state.blocksize}")
    need(0 <= state.nested_blocksize < 1 << 31, f"its '{leaf}' names a 'nested_blocksize' of {state.nested_blocksize}")
    need(math.isfinite(state.nested_offset), f"its '{leaf}' names a 'nested_offset' of {state.nested_offset}")
    need(state.dtype in ("float16", "bfloat16", "float32"), f"its '{leaf}' names the dtype {state.dtype!r}")
    need(state.quant_type in ("nf4", "fp4"), f"its '{leaf}' names the quantization {state.quant_type!r}")
    return state


def _from_4_bits(parts: Mapping[str, Array], state: State, dtype: DType) -> Array:
    data = parts[""].reshape(-1).view(np.uint8)
    table, factors = parts["quant_map"], _factors(parts, state)
    codes = np.arange(256)
    both = pairs(table[codes >> 4], table[codes & 15])
    size = math.prod(state.shape)
    result = np.empty(size, dtype)
    by_runs = state.blocksize <= BLOCK and not state.blocksize % 2  # else they are not whole bytes, or too large
    step = state.blocksize * (BLOCK // state.blocksize) if by_runs else BLOCK
    for start in range(0, size, step):
        stop = min(start + step, size)
        values = looked_up(both, data[start // 2 : -(-stop // 2)])[: stop - start]
        if by_runs and not len(values) % state.blocksize:
            own = factors[start // state.blocksize : stop // state.blocksize]
            values.reshape(-1, state.blocksize)[:] *= own[:, None]
        else:
            values = values * factors[np.arange(start, stop) // state.blocksize]
        with np.errstate(over="ignore"):
            result[start:stop] = values
    return result.reshape(state.shape)


def _factors(parts: Mapping[str, Array], state: State) -> Array:
    absmax = parts["absmax"]
    if absmax.dtype == np.float32:
        return absmax
    outer = np.repeat(parts["nested_absmax"], state.nested_blocksize)[: len(absmax)]
    factors: Array = parts["nested_quant_map"][absmax] * outer + np.float32(state.nested_offset)
    return factors
