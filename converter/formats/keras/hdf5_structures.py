"""The structures of plain HDF5 files: superblock, object headers, groups. Read by our own code: libhdf5 trusts them.

Plain is what the library writes unless it is asked for more, and Keras, TensorFlow and h5py with it: superblock 0,
object headers of version 1, groups as a B-tree with a heap of names. Whatever else stands there raises `Unusual`.
The structures of a file do not overlap, so all together they are no larger than the file: `Structures` counts, and a
file in which everything refers to one large list is refused before it takes time.
Source: the HDF5 File Format Specification, version 3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

import msgspec

from converter.errors import FormatError
from converter.formats.io.source import Source
from converter.formats.keras.hdf5_text import ATTRIBUTE, CONTINUATION, MESSAGE, PREFIX, SPAN, Attribute
from converter.formats.keras.hdf5_tree import Unusual

__all__ = ["SIGNATURE", "UNDEFINED", "Child", "Header", "Structures"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: The address of what is nowhere.
UNDEFINED = (1 << 64) - 1

#: version, that of free space, of the root group, and of shared headers, sizes of offsets and lengths.
_SUPERBLOCK = struct.Struct("<BBBxBBB")
#: base, free space, end of file, driver.
_ADDRESSES = struct.Struct("<4Q")
#: offset of the name, address of the header, kind, scratch.
_ENTRY = struct.Struct("<QQI4x16s")
_NODE = struct.Struct("<4sBBH16x")
_LEAF = struct.Struct("<4sBxH")
_HEAP = struct.Struct("<4sB3xQQQ")
_SOFT_LINK = 2
_GROUP_NODE = 0

SPACE, KIND, OLD_FILL, FILL, LAYOUT, FILTERS, SYMBOLS = 0x01, 0x03, 0x04, 0x05, 0x08, 0x0B, 0x11
_ONCE = frozenset({SPACE, KIND, OLD_FILL, FILL, LAYOUT, FILTERS, SYMBOLS})
#: Link info, link, external files, group info, many attributes.
_UNUSUAL = frozenset({0x02, 0x06, 0x07, 0x0A, 0x15})
_SHARED = 0x02


class Header(msgspec.Struct):
    """Of one object. messages: kind -> body, of the kinds that it has once; attributes: by name."""

    messages: dict[int, bytes] = msgspec.field(default_factory=dict)
    attributes: dict[str, Attribute] = msgspec.field(default_factory=dict)

    @property
    def is_group(self) -> bool:
        return SYMBOLS in self.messages

    @property
    def is_dataset(self) -> bool:
        return LAYOUT in self.messages


class Child(msgspec.Struct, frozen=True):
    """A name in a group: the address of an object's header, or the path of a soft link."""

    name: str
    address: int
    soft: str | None = None


class Structures:
    """Raises FormatError, Unusual, or what `hdf5_tree.damaged_means_format_error` makes one of."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._left = source.size
        self._headers: dict[int, Header] = {}
        self._groups: dict[int, list[Child]] = {}
        self._addresses: dict[int, dict[str, int]] = {}
        self.root = self._root()

    def take(self, offset: int, size: int) -> bytes:
        self.count(size)
        return self.source.take(offset, size, "a structure")

    def count(self, size: int) -> None:
        """That many bytes belong to one structure or array, and to nothing else."""
        self._left -= size
        if self._left < 0:
            raise FormatError(
                self.source.path, "damaged HDF5: its parts overlap, for together they are larger than the file"
            )

    def header(self, address: int) -> Header:
        if address not in self._headers:
            self._headers[address] = self._read_header(address)
        return self._headers[address]

    def children(self, address: int) -> list[Child]:
        """Of the group with that header, in the order of the file."""
        if address not in self._groups:
            tree, heap = SPAN.unpack_from(self.header(address).messages[SYMBOLS])
            children = list(self._entries(tree, self._names(heap)))
            if len({child.name for child in children}) != len(children):
                raise FormatError(self.source.path, "a name occurs twice in a group")
            self._groups[address] = children
        return self._groups[address]

    def names(self, address: int) -> Mapping[str, int]:
        """Name -> address, of what is no soft link."""
        if address not in self._addresses:
            children = self.children(address)
            self._addresses[address] = {child.name: child.address for child in children if child.soft is None}
        return self._addresses[address]

    def _root(self) -> int:
        data = self.source.take(0, min(self.source.size, 128), "the superblock")
        if not data.startswith(SIGNATURE):
            raise FormatError(self.source.path, "not an HDF5 file: it starts with other bytes")
        version, _, _, shared, offsets, lengths = _SUPERBLOCK.unpack_from(data, len(SIGNATURE))
        if version > 1 or shared or (offsets, lengths) != (8, 8):
            raise Unusual
        start = 24 + 4 * version
        base, _, end, driver = _ADDRESSES.unpack_from(data, start)
        if base or driver != UNDEFINED:
            raise Unusual
        if end > self.source.size:
            raise FormatError(
                self.source.path, f"damaged or incomplete HDF5: {end} bytes long, the file has {self.source.size}"
            )
        _, address, _, _ = _ENTRY.unpack_from(data, start + _ADDRESSES.size)
        return int(address)

    def _read_header(self, address: int) -> Header:
        version, _, _, size = PREFIX.unpack(self.take(address, PREFIX.size))
        if version == ord("O"):  # OHDR, of the second version
            raise Unusual
        if version != 1:
            raise FormatError(self.source.path, f"damaged HDF5: no object at byte {address}")
        header = Header()
        spans = [(address + PREFIX.size, size)]
        for start, length in spans:  # grows while it is walked
            for kind, flags, body in _messages(self.take(start, length)):
                if kind == CONTINUATION:
                    spans.append(SPAN.unpack_from(body))
                elif kind in _UNUSUAL or (flags & _SHARED and kind in (*_ONCE, ATTRIBUTE)):
                    raise Unusual
                elif kind in _ONCE:
                    header.messages.setdefault(kind, body)
                elif kind == ATTRIBUTE:
                    self.source.budget.charge_name("")
                    attribute = Attribute.parse(body)
                    header.attributes.setdefault(attribute.name, attribute)
        self.source.budget.charge_name("")
        return header

    def _entries(self, root: int, names: bytes) -> Iterator[Child]:
        """The leaves of the B-tree, from left to right."""
        stack: list[tuple[int, int | None]] = [(root, None)]
        while stack:
            address, level = stack.pop()
            if level == -1:
                yield from self._leaf(address, names)
                continue
            signature, kind, at, count = _NODE.unpack(self.take(address, _NODE.size))
            if signature != b"TREE" or kind != _GROUP_NODE or (level is not None and at != level):
                raise FormatError(self.source.path, f"damaged HDF5: no node of a group at byte {address}")
            # a key before each address and after the last
            numbers = struct.unpack(f"<{2 * count + 1}Q", self.take(address + _NODE.size, 8 * (2 * count + 1)))
            stack.extend((child, at - 1) for child in reversed(numbers[1::2]))

    def _leaf(self, address: int, names: bytes) -> Iterator[Child]:
        signature, version, count = _LEAF.unpack(self.take(address, _LEAF.size))
        if signature != b"SNOD" or version != 1:
            raise FormatError(self.source.path, f"damaged HDF5: no names of a group at byte {address}")
        for name, header, kind, scratch in _ENTRY.iter_unpack(self.take(address + _LEAF.size, count * _ENTRY.size)):
            soft = self._name(names, int.from_bytes(scratch[:4], "little")) if kind == _SOFT_LINK else None
            yield Child(self._name(names, name), header, soft)

    def _names(self, heap: int) -> bytes:
        signature, version, size, _, start = _HEAP.unpack(self.take(heap, _HEAP.size))
        if signature != b"HEAP" or version:
            raise FormatError(self.source.path, f"damaged HDF5: no heap of names at byte {heap}")
        return self.take(start, size)

    def _name(self, names: bytes, offset: int) -> str:
        end = names.find(b"\0", offset)
        if end <= offset:
            raise FormatError(self.source.path, "damaged HDF5: the name of an object is missing")
        name = names[offset:end]
        self.source.budget.charge_name(name)
        return name.decode("utf-8")


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(kind, flags, body)."""
    position = 0
    while position + MESSAGE.size <= len(data):
        kind, length, flags = MESSAGE.unpack_from(data, position)
        position += MESSAGE.size
        yield kind, flags, data[position : position + length]
        position += length
