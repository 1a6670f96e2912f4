"""Snappy's raw format, decoding only: for the small index blocks of a checkpoint.

A decoder of fifty lines instead of a library: only an index of kilobytes is ever compressed, and a
bound on what comes out is part of it. Source: google/snappy format_description.txt.
"""

from __future__ import annotations

from converter.formats.tensorflow.protowire import WireError, read_varint

#: The densest element copies 64 bytes for 3.
_MOST_PER_BYTE = 22


def unpacked_size(data: memoryview) -> int:
    """What the data says of itself. Raises WireError when so few bytes cannot hold so many."""
    size, _ = read_varint(data, 0)
    if size > _MOST_PER_BYTE * len(data):
        raise WireError(f"{len(data)} compressed bytes claim to hold {size}")
    return size


def decompress(data: memoryview) -> bytes:
    """The original bytes. Raises WireError when they cannot be what was compressed."""
    size, position = unpacked_size(data), read_varint(data, 0)[1]
    out = bytearray()
    while position < len(data):
        tag = data[position]
        position = _literal(data, position, out) if tag & 3 == 0 else _copy(data, position, out)
        if len(out) > size:
            break
    if len(out) != size:
        raise WireError(f"the compressed data holds {len(out)} bytes, its header says {size}")
    return bytes(out)


def _number(data: memoryview, position: int, width: int) -> int:
    if position + width > len(data):
        raise WireError("the compressed data ends early")
    return int.from_bytes(data[position : position + width], "little")


def _literal(data: memoryview, position: int, out: bytearray) -> int:
    length = data[position] >> 2
    position += 1
    if length >= 60:
        width = length - 59
        length = _number(data, position, width)
        position += width
    length += 1
    if position + length > len(data):
        raise WireError("the compressed data ends early")
    out += data[position : position + length]
    return position + length


def _copy(data: memoryview, position: int, out: bytearray) -> int:
    tag, kind = data[position], data[position] & 3
    if kind == 1:
        length, offset, width = (tag >> 2 & 7) + 4, (tag >> 5) << 8 | _number(data, position + 1, 1), 1
    else:
        width = 2 if kind == 2 else 4
        length, offset = (tag >> 2) + 1, _number(data, position + 1, width)
    if not 0 < offset <= len(out):
        raise WireError("the compressed data copies from before its start")
    start = len(out) - offset
    # A copy may overlap what it writes: then the last `offset` bytes repeat.
    out += (out[start : start + length] * (length // offset + 1))[:length]
    return position + 1 + width
