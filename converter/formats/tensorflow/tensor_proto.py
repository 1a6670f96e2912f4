"""The values of a `TensorProto`: raw bytes, or a repeated field that depends on the dtype.

Source: tensorflow/core/framework/tensor.proto.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec
import numpy as np

from converter.core.tensors import Array, DType
from converter.formats.tensorflow.protowire import Message, WireError

_CONTENT = 4
#: Bytes of packed numbers that are unpacked at once.
_RUN = 1 << 20


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

    def as_values(numbers: Array) -> Array:
        if field is _HALF:
            return numbers.astype(np.uint16).view(dtype)
        return numbers.astype(dtype) if dtype.kind == "u" else numbers.view(np.int64).astype(dtype)

    return _exactly(_varints(message, field.number, as_values), count, dtype)


def _exactly(values: Array, count: int, dtype: DType) -> Array:
    if len(values) != count:
        raise WireError(f"{len(values)} values of {dtype.name}, expected {count}")
    return values


def _fixed(message: Message, number: int, stored: DType) -> Array:
    """Packed, or one by one. Not copied where it is one run."""
    width = stored.itemsize * (2 if number in (9, 12) else 1)
    runs = []
    for value in message.values(number):
        if isinstance(value, int) and value >> 8 * stored.itemsize:
            raise WireError(f"field {number} has a number of more than {stored.itemsize} bytes")
        runs.append(value.to_bytes(stored.itemsize, "little") if isinstance(value, int) else value)
    if sum(map(len, runs)) % width or any(len(run) % stored.itemsize for run in runs):
        raise WireError(f"field {number} has {sum(map(len, runs))} bytes")
    parts = [np.frombuffer(run, stored) for run in runs if len(run)]
    values = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, stored), *parts])
    return np.require(values.astype(stored.newbyteorder("="), copy=False), requirements="A")


def _varints(message: Message, number: int, as_values: Callable[[Array], Array]) -> Array:
    """Packed, or one by one. as_values: what the numbers (uint64) stand for."""
    parts = [as_values(np.empty(0, np.uint64))]
    for value in message.values(number):
        runs = [np.array([value], np.uint64)] if isinstance(value, int) else map(_unpack, _runs(value))
        parts += map(as_values, runs)
    return np.concatenate(parts)


def _runs(data: memoryview) -> Iterator[memoryview]:
    """Pieces of whole numbers: of each byte, some hundred are needed to unpack it."""
    start = 0
    while start < len(data):
        end = min(start + _RUN, len(data))
        while end < len(data) and end - start < _RUN + 10 and data[end - 1] >= 0x80:
            end += 1
        yield data[start:end]
        start = end


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
