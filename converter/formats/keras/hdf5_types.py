"""Datatypes and shapes of plain HDF5 files, from the bytes of their messages.

Source: the HDF5 File Format Specification, IV.A.2.b (dataspace) and IV.A.2.d (datatype).
"""

from __future__ import annotations

import struct
from typing import TypeAlias

import msgspec
import numpy as np

from converter.core.tensors import DType
from converter.formats.keras.hdf5_tree import Unusual

__all__ = ["Opaque", "StoredType", "Text", "read_shape", "read_type"]


class Text(msgspec.Struct, frozen=True):
    """length: bytes of each, or None for those that stand in the global heap; ends: whether the first 0 ends it."""

    length: int | None
    ends: bool = False


class Opaque(msgspec.Struct, frozen=True):
    """Bytes of which an attribute says what they are."""

    length: int


#: Numbers: as they are stored, with their byte order.
StoredType: TypeAlias = "DType | Text | Opaque"

_INTEGER, _FLOAT, _STRING, _OPAQUE, _COMPOUND, _ENUM, _VARIABLE = 0, 1, 3, 5, 6, 8, 9
#: size -> (bit offset, precision, position and size of the exponent, of the mantissa, bias): IEEE 754.
_FLOATS = {
    2: (0, 16, 10, 5, 0, 10, 15),
    4: (0, 32, 23, 8, 0, 23, 127),
    8: (0, 64, 52, 11, 0, 52, 1023),
}
_IMPLIED_BIT = 0x20
_HEAD = 8
_TEXT_OF_TEXTS = 1
_NULL_TERMINATED, _NULL_PADDED = 0, 1
_BOOL = {b"FALSE": 0, b"TRUE": 1}


def read_type(data: bytes) -> StoredType:
    """Raises Unusual for what is no number, text or opaque bytes, and for numbers that NumPy has no type for."""
    kind, version = data[0] & 15, data[0] >> 4
    bits, size = int.from_bytes(data[1:4], "little"), int.from_bytes(data[4:8], "little")
    if version not in (1, 2, 3):
        raise Unusual
    if kind == _INTEGER:
        return _integer(data, bits, size)
    if kind == _FLOAT:
        return _float(data, bits, size)
    if kind == _STRING and bits & 15 in (_NULL_TERMINATED, _NULL_PADDED):
        return Text(size, bits & 15 == _NULL_TERMINATED)
    if kind == _VARIABLE and bits & 15 == _TEXT_OF_TEXTS:
        return Text(None)
    if kind == _OPAQUE:
        return Opaque(size)
    if kind == _ENUM:
        return _enum(data, bits & 0xFFFF, version)
    if kind == _COMPOUND and version == 1:
        return _complex(data, bits & 0xFFFF, size)
    raise Unusual


def _order(bits: int) -> str:
    return ">" if bits & 1 else "<"


def _integer(data: bytes, bits: int, size: int) -> DType:
    if size not in (1, 2, 4, 8) or struct.unpack_from("<HH", data, _HEAD) != (0, 8 * size):
        raise Unusual
    return np.dtype(f"{_order(bits)}{'i' if bits & 8 else 'u'}{size}")


def _float(data: bytes, bits: int, size: int) -> DType:
    sign = 8 * size - 1
    if bits & ~1 != _IMPLIED_BIT | sign << 8 or struct.unpack_from("<HH4BI", data, _HEAD) != _FLOATS.get(size):
        raise Unusual
    return np.dtype(f"{_order(bits)}f{size}")


def _enum(data: bytes, count: int, version: int) -> DType:
    """Names and values after the type of the values: h5py stores bool so."""
    base = read_type(data[_HEAD:])
    if not isinstance(base, np.dtype) or base.kind not in "iu":
        raise Unusual
    position, names = _HEAD + _HEAD + 4, []
    for _ in range(count):
        end = data.index(b"\0", position)
        names.append(data[position:end])
        position = end + 1 if version == 3 else position + -(-(end + 1 - position) // 8) * 8
    values = np.frombuffer(data, base, count, position).tolist()
    return np.dtype(bool) if base.itemsize == 1 and dict(zip(names, values, strict=True)) == _BOOL else base


def _complex(data: bytes, count: int, size: int) -> DType:
    """Two floats, r and i, as h5py stores complex numbers: name, offset, rank, 28 bytes of no use here, type."""
    parts: list[DType] = []
    position = _HEAD
    for name in (b"r", b"i"):
        if count != 2 or data[position : position + 8].rstrip(b"\0") != name:
            raise Unusual
        (offset,), rank = struct.unpack_from("<I", data, position + 8), data[position + 12]
        kind = read_type(data[position + 40 :])
        if rank or not isinstance(kind, np.dtype) or kind.kind != "f" or offset != len(parts) * kind.itemsize:
            raise Unusual
        parts.append(kind)
        position += 40 + _HEAD + 12
    if parts[0] != parts[1] or size != 2 * parts[0].itemsize or size not in (8, 16):
        raise Unusual
    return np.dtype(f"{parts[0].str[0]}c{size}")


def read_shape(data: bytes) -> tuple[int, ...] | None:
    """None for a dataspace that holds nothing, () for one value."""
    version, rank, _, kind = data[:4]
    if version not in (1, 2):
        raise Unusual
    if version == 2 and kind == 2:
        return None
    return struct.unpack_from(f"<{rank}Q", data, 8 if version == 1 else 4)
