"""Writing zip archives of stored members, whose positions follow from their sizes: in any order, always the same bytes.

Layout: PKWARE's APPNOTE.TXT, 4.3. The data of every member starts at a multiple of 64 bytes, so that it can be
mapped; the padding is an extra field of the local header, as PyTorch and Android's zipalign write it. Sizes of
4 GiB and more stand in zip64 fields. All dates are the same.
"""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec

from converter.core.contents import Contents
from converter.core.tensors import Array
from converter.formats.io.checksums import Crc32, crc32
from converter.formats.io.in_place import InPlaceWriter

__all__ = ["NEW_YEAR_1980", "PlannedMember", "ZipLayout", "ZipWriter"]

ALIGNMENT = 64
NEW_YEAR_1980 = 0x21
_LIMIT = 0xFFFFFFFF
_UTF8 = 0x800
_VERSION = 45  # the first with zip64
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")


class PlannedMember(msgspec.Struct, gc=False):
    """A member with its position in the archive.

    start: offset of its local header. head: its first bytes, which are known (the header of an ``.npy``).
    data: offset of what follows the head, aligned. end: offset after it. crc: of head and data, set when written.
    """

    name: bytes
    start: int
    head: bytes
    data: int
    end: int
    crc: int = 0

    @property
    def size(self) -> int:
        return len(self.head) + self.end - self.data


class ZipLayout:
    """The members of an archive, one after the other.

    date: MS-DOS date of all members. padding: the id of the extra field that aligns the data, and its filler.
    """

    def __init__(self, date: int = NEW_YEAR_1980, padding: tuple[bytes, bytes] = (b"\x35\xd9", b"\0")) -> None:
        self.members: list[PlannedMember] = []
        self.end = 0
        self._date = date
        self._padding_id, self._filler = padding

    def add(self, name: str, nbytes: int, head: bytes = b"") -> PlannedMember:
        """Plan the next member, of ``head`` and then ``nbytes`` bytes."""
        raw = name.encode()
        bare = self.end + _LOCAL.size + len(raw) + len(_sizes(len(head) + nbytes)) + 4 + len(head)
        data = bare + -bare % ALIGNMENT
        member = PlannedMember(raw, self.end, head, data, data + nbytes)
        self.members.append(member)
        self.end = member.end
        return member

    def add_whole(self, name: str, content: bytes) -> tuple[int, bytes]:
        """Plan a member whose content is known; its offset and all of its bytes, with the local header."""
        member = self.add(name, len(content))
        member.crc = crc32(content)
        return member.start, self.header(member) + content

    def header(self, member: PlannedMember) -> bytes:
        """The local header and the head: the bytes from ``member.start`` to ``member.data``."""
        extra = _sizes(member.size)
        gap = member.data - member.start - _LOCAL.size - len(member.name) - len(extra) - 4 - len(member.head)
        extra += self._padding_id + struct.pack("<H", gap) + self._filler * gap
        fields = (_VERSION, *self._common(member), len(extra))
        return _LOCAL.pack(b"PK\x03\x04", *fields) + member.name + extra + member.head

    def directory(self) -> bytes:
        """What follows the last member. The zip64 records are written only where the others do not suffice."""
        entries = b"".join(map(self._entry, self.members))
        count, size = len(self.members), len(entries)
        wide = b""
        if count > 0xFFFF or max(self.end, size) >= _LIMIT:
            wide = _END_64.pack(b"PK\x06\x06", 44, _VERSION, _VERSION, 0, 0, count, count, size, self.end)
            wide += _LOCATOR.pack(b"PK\x06\x07", 0, self.end + size, 1)
        short = min(count, 0xFFFF)
        last = _END.pack(b"PK\x05\x06", 0, 0, short, short, min(size, _LIMIT), min(self.end, _LIMIT), 0)
        return entries + wide + last

    def _entry(self, member: PlannedMember) -> bytes:
        wide = [value for value in (member.size, member.size, member.start) if value >= _LIMIT]
        extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        fields = (_VERSION, _VERSION, *self._common(member), len(extra), 0, 0, 0, 0, min(member.start, _LIMIT))
        return _CENTRAL.pack(b"PK\x01\x02", *fields) + member.name + extra

    def _common(self, member: PlannedMember) -> tuple[int, ...]:
        """Flags, method, time, date, CRC, both sizes, length of the name."""
        size = min(member.size, _LIMIT)
        return _UTF8, 0, 0, self._date, member.crc, size, size, len(member.name)


def _sizes(size: int) -> bytes:
    """The zip64 extra field of a local header, where it is needed."""
    return struct.pack("<2H2Q", 1, 16, size, size) if size >= _LIMIT else b""


class ZipWriter(InPlaceWriter):
    """Streams: each tensor is the data of one planned member. Memory: one tensor, if it is not contiguous."""

    def __init__(
        self,
        path: Path,
        contents: Contents,
        layout: ZipLayout,
        tensors: dict[str, PlannedMember],
        pieces: dict[int, bytes] | None = None,
    ) -> None:
        """tensors: name -> its member. pieces: offset -> the bytes of members with known content."""
        self._layout, self._members = layout, tensors
        super().__init__(path, contents, pieces or {})

    def write(self, name: str, array: Array) -> None:
        self.checked(name, array)
        member = self._members[name]
        crc = Crc32(member.head)
        self.fill(member.data, array, crc)
        member.crc = crc.value
        self.put(member.start, self._layout.header(member))

    def finish(self) -> None:
        self.put(self._layout.end, self._layout.directory())
