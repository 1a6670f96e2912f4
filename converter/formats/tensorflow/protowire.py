"""The wire format of protocol buffers, as much of it as checkpoints need: a bounded reader and a writer.

Source: protobuf.dev/programming-guides/encoding. No schema: a field is asked for by its number.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import TypeAlias

Value: TypeAlias = "int | memoryview"

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED64: struct.Struct("<Q"), FIXED32: struct.Struct("<I")}
#: Of one message: a field of two bytes takes some hundred in memory. A graph has one for each of its objects.
MOST_FIELDS = 1 << 18
_MASK64 = (1 << 64) - 1


class WireError(ValueError):
    """Bytes that are not a message: a field that runs over the end, an unknown wire type, a wrong type."""


def read_varint(data: memoryview | bytes, position: int) -> tuple[int, int]:
    """The number at ``position`` and the position after it. At most ten bytes, 64 bits."""
    number = shift = 0
    end = len(data)
    while position < end:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            if number > _MASK64:
                raise WireError("a number has more than 64 bits")
            return number, position
        shift += 7
        if shift > 63:
            raise WireError("a number has more than ten bytes")
    raise WireError("a number runs over the end")


def fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """(field number, value) in the order of the bytes."""
    position, end = 0, len(data)
    while position < end:
        tag, position = read_varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, position = read_varint(data, position)
            yield number, value
            continue
        if wire == BYTES:
            length, position = read_varint(data, position)
        elif wire in _FIXED:
            length = _FIXED[wire].size
        else:
            raise WireError(f"field {number} has the unknown wire type {wire}")
        if length > end - position:
            raise WireError(f"field {number} claims {length} bytes where {end - position} are left")
        chunk = data[position : position + length]
        yield number, chunk if wire == BYTES else _FIXED[wire].unpack(chunk)[0]
        position += length


class Message:
    """One message taken apart, one level deep; nested messages are taken apart when they are asked for."""

    def __init__(self, data: memoryview | bytes) -> None:
        self._fields: dict[int, list[Value]] = {}
        for count, (number, value) in enumerate(fields(memoryview(data))):
            if count >= MOST_FIELDS:
                raise WireError(f"a message of more than {MOST_FIELDS} fields")
            self._fields.setdefault(number, []).append(value)

    def integer(self, number: int) -> int:
        """The last value as an unsigned number, 0 when the field is absent."""
        value = self._fields.get(number, [0])[-1]
        if not isinstance(value, int):
            raise WireError(f"field {number} holds bytes where a number belongs")
        return value

    def signed(self, number: int) -> int:
        """The last value as an int64, 0 when the field is absent."""
        value = self.integer(number)
        return value - (1 << 64) if value >> 63 else value

    def data(self, number: int) -> memoryview:
        """The last value as bytes, empty when the field is absent."""
        values = self.all_data(number)
        return values[-1] if values else memoryview(b"")

    def all_data(self, number: int) -> list[memoryview]:
        values = []
        for value in self._fields.get(number, []):
            if isinstance(value, int):
                raise WireError(f"field {number} holds a number where bytes belong")
            values.append(value)
        return values

    def text(self, number: int) -> str:
        try:
            return bytes(self.data(number)).decode("utf-8")
        except UnicodeDecodeError:
            raise WireError(f"field {number} is not UTF-8 text") from None

    def messages(self, number: int) -> Iterator[Message]:
        return (Message(data) for data in self.all_data(number))

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def values(self, number: int) -> list[Value]:
        """Every value of a repeated field, as it stands."""
        return self._fields.get(number, [])


def varint(number: int) -> bytes:
    """A number as a varint; a negative one as its 64-bit two's complement."""
    number &= _MASK64
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def put_integer(number: int, value: int) -> bytes:
    """A varint field; nothing for 0, as proto3 has it."""
    return varint(number << 3 | VARINT) + varint(value) if value else b""


def put_fixed32(number: int, value: int) -> bytes:
    return varint(number << 3 | FIXED32) + struct.pack("<I", value) if value else b""


def put_bytes(number: int, value: bytes) -> bytes:
    """A bytes, text or message field; written even when empty."""
    return varint(number << 3 | BYTES) + varint(len(value)) + value


def put_text(number: int, value: str) -> bytes:
    return put_bytes(number, value.encode()) if value else b""


def put_all(number: int, values: Iterable[bytes]) -> bytes:
    return b"".join(put_bytes(number, value) for value in values)
