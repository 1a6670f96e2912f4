"""The values of a `TensorProto`: raw bytes, or a repeated field that depends on the dtype.

Source: tensorflow/core/framework/tensor.proto.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from converter.core.tensors import Array, DType
from converter.formats.tensorflow.protowire import Message, WireError

_CONTENT = 4


class _Field(msgspec.Struct, frozen=True):
    """number of the field; stored: the fixed-size type in it, None for varints."""

    number: int
    stored: str | None = None


_HALF = _Field(13)
_FIELDS: Mapping[str, _Field] = {
    "float32": _Field(5, "<f4"),
    "float64": _Field(6, "<f8"),
    "complex64": _Field(9, "<f4"),
    "complex128": _Field(12, "<f8"),
    "int64": _Field(10),
    "bool": _Field(11),
    "uint32": _Field(16),
    "uint64": _Field(17),
    "float16": _HALF,
    "bfloat16": _HALF,
    **dict.fromkeys(("int32", "int16", "int8", "uint16", "uint8"), _Field(7)),
}
#: What the values of a TensorProto can be.
DTYPES_OF_VALUES = tuple(_FIELDS)


def read_values(message: Message, dtype: DType, count: int) -> Array:
    """``count`` values, flat. Raises WireError when there are more or fewer."""
    if len(content := message.data(_CONTENT)):
        return _exactly(np.frombuffer(content, dtype.newbyteorder("<")).astype(dtype), count, dtype)
    if dtype.name not in _FIELDS:
        raise WireError(f"its values of {dtype.name} are nowhere")
    field = _FIELDS[dtype.name]
    if field.stored is not None:
        raw = _fixed(message, field.number, np.dtype(field.stored))
        return _exactly(raw.view(dtype), count, dtype)
    numbers = _varints(message, field.number)
    if field is _HALF:
        return _exactly(numbers.astype(np.uint16).view(dtype), count, dtype)
    return _exactly(numbers.view(np.int64).astype(dtype) if dtype.kind != "u" else numbers.astype(dtype), count, dtype)


def _exactly(values: Array, count: int, dtype: DType) -> Array:
    if len(values) != count:
        raise WireError(f"{len(values)} values of {dtype.name}, expected {count}")
    return values


def _fixed(message: Message, number: int, stored: DType) -> Array:
    """Packed, or one by one."""
    chunks = []
    for value in message.values(number):
        data = value.to_bytes(stored.itemsize, "little") if isinstance(value, int) else bytes(value)
        chunks.append(data)
    joined = b"".join(chunks)
    if len(joined) % (2 * stored.itemsize if number in (9, 12) else stored.itemsize):
        raise WireError(f"field {number} has {len(joined)} bytes")
    return np.frombuffer(joined, stored).astype(stored.newbyteorder("="))


def _varints(message: Message, number: int) -> Array:
    """Packed, or one by one: as uint64."""
    chunks = [
        np.array([value], np.uint64) if isinstance(value, int) else _unpack(value) for value in message.values(number)
    ]
    return np.concatenate(chunks) if chunks else np.empty(0, np.uint64)


def _unpack(data: memoryview) -> Array:
    """A run of varints, all at once: seven bits of every byte, shifted by its position in its number."""
    raw = np.frombuffer(data, np.uint8)
    if not len(raw):
        return np.empty(0, np.uint64)
    ends = np.flatnonzero(raw < 0x80)
    if not len(ends) or ends[-1] != len(raw) - 1:
        raise WireError("a number runs over the end")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 10:
        raise WireError("a number has more than ten bytes")
    values = np.zeros(len(starts), np.uint64)
    for index in range(int(lengths.max())):
        has = lengths > index
        values[has] |= (raw[starts[has] + index].astype(np.uint64) & np.uint64(0x7F)) << np.uint64(7 * index)
    return values
