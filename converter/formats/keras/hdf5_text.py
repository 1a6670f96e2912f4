"""Attributes and texts of variable length in HDF5 files, read without libhdf5.

libhdf5 (1.14) never returns from some damaged global heaps, and crashes on others; this reads the few
bytes itself, bounded. Source: the HDF5 File Format Specification, III.E (global heap), IV.A (object
headers, attribute message).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import msgspec

#: (offset, size) -> that many bytes of the file. Raises ValueError or FormatError where they are not there.
Take = Callable[[int, int], bytes]

CONTINUATION, ATTRIBUTE = 0x10, 0x0C
#: version, number of messages, references, size.
PREFIX = struct.Struct("<BxHII4x")
#: type, size, flags.
MESSAGE = struct.Struct("<HHB3x")
SPAN = struct.Struct("<QQ")
_MESSAGE_V2 = struct.Struct("<BHB")
_REFERENCE = struct.Struct("<IQI")
_HEAP = struct.Struct("<4sB3xQ")
_HEAP_OBJECT = struct.Struct("<HH4xQ")
_MOST_CHUNKS = 64
_MOST_HEAP = 1 << 24
#: The list of the smallest objects of a collection takes so many times its bytes.
_KEPT = 13


class Attribute(msgspec.Struct, frozen=True):
    """kind, space, value: the bytes of its datatype and dataspace messages, and of its values."""

    name: str
    kind: bytes
    space: bytes
    value: bytes
    is_shared: bool

    @classmethod
    def parse(cls, body: bytes) -> Attribute:
        """Raises ValueError, struct.error or IndexError."""
        version, flags = body[0], body[1]
        name_size, kind_size, space_size = struct.unpack_from("<HHH", body, 2)
        start = {1: 8, 2: 8, 3: 9}.get(version)
        if start is None:
            raise ValueError(f"the attribute has the unknown version {version}")
        parts = []
        for size in (name_size, kind_size, space_size):
            parts.append(body[start : start + size])
            start += -(-size // 8) * 8 if version == 1 else size
        name, kind, space = parts
        text = name.split(b"\0")[0].decode("utf-8", "replace")
        return cls(text, kind, space, body[start:], version > 1 and flags & 3 != 0)


class Heaps:
    """The global heap: collections of texts, each read once, however often it is referred to.

    charge: told the bytes that every new collection and text takes, before it is read.
    """

    def __init__(self, take: Take, charge: Callable[[int], None] = lambda nbytes: None) -> None:
        self._take = take
        self._charge = charge
        self._collections: dict[int, tuple[bytes, dict[int, tuple[int, int]]]] = {}
        self._texts: dict[tuple[int, int, int], str] = {}

    def texts(self, value: bytes, count: int) -> list[str]:
        """The values of an attribute of ``count`` texts."""
        return [self._text(*_REFERENCE.unpack_from(value, i * _REFERENCE.size)) for i in range(count)]

    def _text(self, length: int, address: int, index: int) -> str:
        if not length:
            return ""
        reference = (length, address, index)
        if reference not in self._texts:
            heap, objects = self._collection(address)
            if index not in objects:
                raise ValueError("the text is missing in the heap")
            start, held = objects[index]
            if length > held or start + length > len(heap):
                raise ValueError("the text is longer than the heap that holds it")
            self._charge(length)
            self._texts[reference] = heap[start : start + length].decode("utf-8")
        return self._texts[reference]

    def _collection(self, address: int) -> tuple[bytes, dict[int, tuple[int, int]]]:
        if address not in self._collections:
            head = self._take(address, _HEAP.size)
            signature, _, size = _HEAP.unpack(head)
            if signature != b"GCOL" or not _HEAP.size <= size <= _MOST_HEAP:
                raise ValueError("the text is not where the attribute says")
            self._charge(_KEPT * size)
            heap = head + self._take(address + _HEAP.size, size - _HEAP.size)
            self._collections[address] = heap, dict(_heap_objects(heap))
        return self._collections[address]


def _heap_objects(heap: bytes) -> Iterator[tuple[int, tuple[int, int]]]:
    """(index, (position, size)); the object 0 is what is free."""
    position = _HEAP.size
    while position + _HEAP_OBJECT.size <= len(heap):
        number, _, held = _HEAP_OBJECT.unpack_from(heap, position)
        position += _HEAP_OBJECT.size
        if number == 0:
            return
        yield number, (position, held)
        position += -(-held // 8) * 8


def read_texts(take: Take, heaps: Heaps, header: int, name: str, count: int) -> list[str] | None:
    """The ``count`` texts of the attribute of the object whose header is at ``header``.

    None when the attribute is not in the header itself (very many, or very large attributes).
    Raises ValueError when the bytes are not what they should be.
    """
    try:
        for body in _attributes(take, header):
            attribute = Attribute.parse(body)
            if attribute.name == name:
                return heaps.texts(attribute.value, count)
    except (struct.error, IndexError) as error:
        raise ValueError(f"the object header is damaged: {error}") from None
    return None


def _attributes(take: Take, header: int) -> Iterator[bytes]:
    """The bodies of the attribute messages, in the header and its continuations."""
    head = take(header, 64)
    if head.startswith(b"OHDR"):
        flags = head[5]
        start = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(head[start : start + width], "little")
        chunks, message, extra = [(header + start + width, size)], _MESSAGE_V2, 2 if flags & 4 else 0
    else:
        _, _, _, size = PREFIX.unpack_from(head)
        chunks, message, extra = [(header + PREFIX.size, size)], MESSAGE, 0
    for number, (offset, size) in enumerate(chunks):  # grows while it is walked
        if number >= _MOST_CHUNKS or size > _MOST_HEAP:
            raise ValueError("the object header is damaged: too large")
        data = take(offset, size)
        position = 0
        while position + message.size + extra <= len(data):
            kind, length, _ = message.unpack_from(data, position)
            position += message.size + extra
            body = data[position : position + length]
            position += length
            if kind == ATTRIBUTE:
                yield body
            elif kind == CONTINUATION:
                at, length = SPAN.unpack_from(body)
                # The chunks of the second version begin with OCHK and end with a checksum.
                chunks.append((at + 4, max(0, length - 8)) if message is _MESSAGE_V2 else (at, length))
