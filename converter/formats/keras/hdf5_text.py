"""Text attributes of variable length in HDF5 files, read without libhdf5.

libhdf5 (1.14) never returns from some damaged global heaps, and crashes on others; this reads the few
bytes itself, bounded. Source: the HDF5 File Format Specification, III.E (global heap), IV.A (object
headers, attribute message).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

#: (offset, size) -> that many bytes of the file, or fewer at its end.
Pread = Callable[[int, int], bytes]

_CONTINUATION, _ATTRIBUTE = 0x10, 0x0C
_PREFIX_V1 = struct.Struct("<BxHII4x")
_MESSAGE_V1 = struct.Struct("<HHB3x")
_MESSAGE_V2 = struct.Struct("<BHB")
_SPAN = struct.Struct("<QQ")
_REFERENCE = struct.Struct("<IQI")
_HEAP = struct.Struct("<4sB3xQ")
_HEAP_OBJECT = struct.Struct("<HH4xQ")
_MOST_CHUNKS = 64
_MOST_HEAP = 1 << 24


def read_texts(pread: Pread, header: int, name: str, count: int) -> list[str] | None:
    """The ``count`` texts of the attribute of the object whose header is at ``header``.

    None when the attribute is not in the header itself (very many, or very large attributes).
    Raises ValueError when the bytes are not what they should be.
    """
    try:
        for body in _messages(pread, header):
            data = _value(body, name)
            if data is not None:
                return [_heap_text(pread, *_REFERENCE.unpack_from(data, i * _REFERENCE.size)) for i in range(count)]
    except (struct.error, IndexError) as error:
        raise ValueError(f"the object header is damaged: {error}") from None
    return None


def _messages(pread: Pread, header: int) -> Iterator[bytes]:
    """The bodies of the attribute messages, in the header and its continuations."""
    head = pread(header, 64)
    if head.startswith(b"OHDR"):
        flags = head[5]
        start = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(head[start : start + width], "little")
        chunks, message, extra = [(header + start + width, size)], _MESSAGE_V2, 2 if flags & 4 else 0
    else:
        _, _, _, size = _PREFIX_V1.unpack_from(head)
        chunks, message, extra = [(header + _PREFIX_V1.size, size)], _MESSAGE_V1, 0
    for number, (offset, size) in enumerate(chunks):  # grows while it is walked
        if number >= _MOST_CHUNKS or size > _MOST_HEAP:
            raise ValueError("the object header is damaged: too large")
        data = pread(offset, size)
        position = 0
        while position + message.size + extra <= len(data):
            kind, length, _ = message.unpack_from(data, position)
            position += message.size + extra
            body = data[position : position + length]
            position += length
            if kind == _ATTRIBUTE:
                yield body
            elif kind == _CONTINUATION:
                at, length = _SPAN.unpack_from(body)
                # The chunks of the second version begin with OCHK and end with a checksum.
                chunks.append((at + 4, max(0, length - 8)) if message is _MESSAGE_V2 else (at, length))


def _value(body: bytes, name: str) -> bytes | None:
    """The value of an attribute message, when it has that name."""
    version = body[0]
    name_size, type_size, space_size = struct.unpack_from("<HHH", body, 2)
    start = {1: 8, 2: 8, 3: 9}.get(version)
    if start is None:
        raise ValueError(f"the attribute has the unknown version {version}")
    if body[start : start + name_size].rstrip(b"\0") != name.encode():
        return None
    sizes = (name_size, type_size, space_size)
    return body[start + sum(-(-size // 8) * 8 if version == 1 else size for size in sizes) :]


def _heap_text(pread: Pread, length: int, address: int, index: int) -> str:
    """Object ``index`` of the global heap collection at ``address``."""
    if not length:
        return ""
    signature, _, size = _HEAP.unpack_from(pread(address, _HEAP.size))
    if signature != b"GCOL" or size > _MOST_HEAP:
        raise ValueError("the text is not where the attribute says")
    heap = pread(address, size)
    position = _HEAP.size
    while position + _HEAP_OBJECT.size <= len(heap):
        number, _, held = _HEAP_OBJECT.unpack_from(heap, position)
        position += _HEAP_OBJECT.size
        if number == index:
            if length > held or position + length > len(heap):
                raise ValueError("the text is longer than the heap that holds it")
            return heap[position : position + length].decode("utf-8")
        if number == 0:
            break
        position += -(-held // 8) * 8
    raise ValueError("the text is missing in the heap")
