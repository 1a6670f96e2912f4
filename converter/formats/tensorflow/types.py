"""TensorFlow's dtypes, shapes and slices, as its protos spell them.

Source: tensorflow/core/framework/{types,tensor_shape,tensor_slice}.proto.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from converter.core.tensors import DTYPES, DType
from converter.formats.io.tiling import Slice
from converter.formats.tensorflow.protowire import Message, WireError, put_all, put_bytes, put_integer

STRING = 7

_CODES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    8: "complex64",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    18: "complex128",
    19: "float16",
    22: "uint32",
    23: "uint64",
    24: "float8_e5m2",
    25: "float8_e4m3fn",
    26: "float8_e4m3fnuz",
    27: "float8_e4m3b11fnuz",
    28: "float8_e5m2fnuz",
    29: "int4",
    30: "uint4",
    33: "float4_e2m1fn",
}

#: DataType -> dtype. The 4-bit types take one byte an element in the file too.
DTYPE_OF_CODE: Mapping[int, DType] = MappingProxyType(
    {code: DTYPES[name] for code, name in _CODES.items() if name in DTYPES}
)
CODE_OF_DTYPE: Mapping[DType, int] = MappingProxyType({dtype: code for code, dtype in DTYPE_OF_CODE.items()})

#: What is not a weight: DataType -> what it is called.
OTHER_TYPES: Mapping[int, str] = MappingProxyType(
    {
        STRING: "text",
        11: "qint8",
        12: "quint8",
        13: "qint32",
        15: "qint16",
        16: "quint16",
        20: "a resource",
        21: "a variant",
        31: "int2",
        32: "uint2",
    }
)

#: Of a slice: (start, length) along every axis.
Extents: TypeAlias = "tuple[tuple[int, int], ...]"

_MOST_AXES = 254
FULL_EXTENT = -1


def read_shape(message: Message) -> tuple[int, ...]:
    """TensorShapeProto: dim = 2 {size = 1}, unknown_rank = 3."""
    if message.integer(3):
        raise WireError("the shape has an unknown rank")
    shape = tuple(dim.signed(1) for dim in message.messages(2))
    if len(shape) > _MOST_AXES or any(size < 0 for size in shape):
        raise WireError(f"the shape {shape[:8]} is impossible")
    return shape


def write_shape(shape: Sequence[int]) -> bytes:
    return put_all(2, (put_integer(1, size) for size in shape))


def read_extents(message: Message) -> Extents:
    """TensorSliceProto: extent = 1 {start = 1, length = 2}; no length means the whole axis."""
    return tuple((extent.signed(1), extent.signed(2) if 2 in extent else FULL_EXTENT) for extent in message.messages(1))


def slice_of(extents: Sequence[tuple[int, int]], shape: Sequence[int]) -> Slice:
    """The slice within a tensor of that shape. Raises WireError when it is not inside."""
    if len(extents) != len(shape):
        raise WireError(f"a slice of {len(extents)} axes in a tensor of {len(shape)}")
    starts = tuple(start for start, _ in extents)
    lengths = tuple(size if length == FULL_EXTENT else length for (_, length), size in zip(extents, shape, strict=True))
    for start, length, size in zip(starts, lengths, shape, strict=True):
        if start < 0 or length < 0 or start + length > size:
            raise WireError(f"a slice from {start} with {length} elements of an axis of {size}")
    return Slice(starts, lengths)


def entry_message(code: int, shape: Sequence[int]) -> bytes:
    """The first two fields of a BundleEntryProto."""
    return put_integer(1, code) + put_bytes(2, write_shape(shape))


def slice_key(name: bytes, extents: Sequence[tuple[int, int]]) -> bytes:
    """The key under which a slice of a tensor is stored (EncodeTensorNameSlice in saved_tensor_slice_util.cc)."""
    # Names are UTF-8, which has no byte 0xff: only 0 needs an escape.
    head = b"\0" + name.replace(b"\0", b"\0\xff") + b"\0\x01" + _ordered(len(extents))
    return head + b"".join(_ordered_signed(number) for extent in extents for number in extent)


def _ordered(number: int) -> bytes:
    """OrderedCode::WriteNumIncreasing (ordered_code.cc): the length in bytes, then the bytes."""
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return bytes([len(data)]) + data


def _ordered_signed(number: int) -> bytes:
    """OrderedCode::WriteSignedNumIncreasing: as many leading ones as bytes, the sign reversed."""
    magnitude = ~number if number < 0 else number
    length = magnitude.bit_length() // 7 + 1
    head = ((1 << length) - 1) << (8 * length - length)
    return ((number & ((1 << 8 * length) - 1)) ^ head).to_bytes(length, "big")
