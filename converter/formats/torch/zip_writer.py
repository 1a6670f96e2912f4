"""Writing PyTorch's zip form, such that ``torch.load(weights_only=True)`` reads it.

Every size is known before the first tensor comes, so each member has its place in the file at once and tensors
may be written in any order. The same tensors always give the same bytes.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import msgspec

from converter.core.contents import Contents
from converter.core.tensors import Array
from converter.formats.io.checksums import Crc32, crc32
from converter.formats.io.in_place import InPlaceWriter
from converter.formats.torch.description import check_dtypes, described

__all__ = ["TorchZipWriter"]

FOLDER = "archive/"
ALIGNMENT = 64
_LIMIT_32 = 0xFFFFFFFF
_NEW_YEAR_1980 = 0x21
_UTF8 = 0x800
_VERSION = 45  # zip64
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")


class _Member(msgspec.Struct, eq=False):
    """A stored member: its header stands at `start`, its data at `offset`, which is a multiple of 64."""

    name: bytes
    start: int
    size: int
    crc: int = 0

    @property
    def offset(self) -> int:
        bare = self.start + _LOCAL.size + len(self.name) + self._zip64_extra
        return bare + 4 + -(bare + 4) % ALIGNMENT

    @property
    def end(self) -> int:
        return self.offset + self.size

    @property
    def _zip64_extra(self) -> int:
        return 20 if self.size >= _LIMIT_32 else 0

    def header(self) -> bytes:
        """From `start` to `offset`; the padding stands in an extra field, as PyTorch does it."""
        large = self.size >= _LIMIT_32
        padding = self.offset - self.start - _LOCAL.size - len(self.name) - self._zip64_extra - 4
        extra = struct.pack("<2H2Q", 1, 16, self.size, self.size) if large else b""
        extra += struct.pack("<2s H", b"FB", padding) + b"Z" * padding
        short = _LIMIT_32 if large else self.size
        fields = (
            b"PK\x03\x04",
            _VERSION,
            _UTF8,
            0,
            0,
            _NEW_YEAR_1980,
            self.crc,
            short,
            short,
            len(self.name),
            len(extra),
        )
        return _LOCAL.pack(*fields) + self.name + extra

    def directory_entry(self) -> bytes:
        wide = [value for value in (self.size, self.size, self.start) if value >= _LIMIT_32]
        extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        size, start = min(self.size, _LIMIT_32), min(self.start, _LIMIT_32)
        fields = (_VERSION, _VERSION, _UTF8, 0, 0, _NEW_YEAR_1980, self.crc, size, size, len(self.name), len(extra))
        return _CENTRAL.pack(b"PK\x01\x02", *fields, 0, 0, 0, 0, start) + self.name + extra


class TorchZipWriter(InPlaceWriter):
    """A tensor, a list, or a dict of tensors. Memory: one tensor, if it is not contiguous."""

    def __init__(self, path: Path, contents: Contents) -> None:
        check_dtypes(path, contents.specs)
        pickle = described(contents.specs, contents.container)
        small = {"data.pkl": pickle, ".format_version": b"1", ".storage_alignment": b"%d" % ALIGNMENT}
        self._members: list[_Member] = []
        self._end = 0
        pieces = dict(self._piece(name, data) for name, data in small.items())
        pieces |= [self._piece("byteorder", sys.byteorder.encode())]
        self._tensors = {spec.name: self._place(f"data/{key}", spec.nbytes) for key, spec in enumerate(contents.specs)}
        pieces |= [self._piece("version", b"3\n")]
        super().__init__(path, contents, pieces)

    def write(self, name: str, array: Array) -> None:
        self.checked(name, array)
        member, crc = self._tensors[name], Crc32()
        self.fill(member.offset, array, crc)
        member.crc = crc.value
        self.put(member.start, member.header())

    def finish(self) -> None:
        directory = b"".join(member.directory_entry() for member in self._members)
        self.put(self._end, directory + _end_of(len(self._members), len(directory), self._end))

    def _place(self, name: str, size: int) -> _Member:
        """The next member; the end moves behind it."""
        member = _Member((FOLDER + name).encode(), self._end, size)
        self._members.append(member)
        self._end = member.end
        return member

    def _piece(self, name: str, data: bytes) -> tuple[int, bytes]:
        member = self._place(name, len(data))
        member.crc = crc32(data)
        return member.start, member.header() + data


def _end_of(count: int, size: int, start: int) -> bytes:
    """The records that end the archive; the wide ones only where the narrow ones do not suffice."""
    wide = b""
    if count > 0xFFFF or max(size, start) >= _LIMIT_32:
        wide = _END_64.pack(b"PK\x06\x06", 44, _VERSION, _VERSION, 0, 0, count, count, size, start)
        wide += _LOCATOR.pack(b"PK\x06\x07", 0, start + size, 1)
    short = min(count, 0xFFFF)
    return wide + _END.pack(b"PK\x05\x06", 0, 0, short, short, min(size, _LIMIT_32), min(start, _LIMIT_32), 0)
