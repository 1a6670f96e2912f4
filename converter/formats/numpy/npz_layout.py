"""A zip of stored ``.npy`` members whose places follow from the specs: what ``np.savez`` writes, in any order.

Layout: PKWARE's APPNOTE.TXT, 4.3. The data of every array starts at a multiple of 64 bytes, so that it can
be mapped; the gap is an extra field, as Android's zipalign makes it. Sizes of 4 GiB and more stand in the
zip64 fields. Dates are fixed: the same arrays give the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

ALIGNMENT = 64
NEW_YEAR_1980 = 0x21
LIMIT = 0xFFFFFFFF
UTF8 = 0x800
VERSION = 45  # the first with zip64

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")
_ALIGN_ID = 0xD935


class Place(msgspec.Struct, frozen=True):
    """One member. start: of its local header; head: the array's own header; nbytes: of the array's data."""

    name: bytes
    start: int
    head: bytes
    nbytes: int
    date: int = NEW_YEAR_1980

    @property
    def size(self) -> int:
        return len(self.head) + self.nbytes

    @property
    def data(self) -> int:
        """Where the array's data starts."""
        end = self.start + _LOCAL.size + len(self.name) + len(self._sizes()) + 4 + len(self.head)
        return end + -end % ALIGNMENT

    @property
    def end(self) -> int:
        return self.data + self.nbytes

    def header(self, crc: int) -> bytes:
        """From `start` to `data`."""
        sizes = self._sizes()
        gap = self.data - self.start - _LOCAL.size - len(self.name) - len(sizes) - 4 - len(self.head)
        extra = sizes + struct.pack("<2H", _ALIGN_ID, gap) + bytes(gap)
        size = min(self.size, LIMIT)
        fields = (VERSION, UTF8, 0, 0, self.date, crc, size, size, len(self.name), len(extra))
        return _LOCAL.pack(b"PK\x03\x04", *fields) + self.name + extra + self.head

    def entry(self, crc: int) -> bytes:
        """What the directory says of it."""
        wide = [value for value in (self.size, self.size, self.start) if value >= LIMIT]
        extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        size = min(self.size, LIMIT)
        fields = (VERSION, VERSION, UTF8, 0, 0, self.date, crc, size, size, len(self.name), len(extra))
        return _CENTRAL.pack(b"PK\x01\x02", *fields, 0, 0, 0, 0, min(self.start, LIMIT)) + self.name + extra

    def _sizes(self) -> bytes:
        return struct.pack("<2H2Q", 1, 16, self.size, self.size) if self.size >= LIMIT else b""


def directory(places: Sequence[Place], crcs: Sequence[int]) -> bytes:
    """What follows after the last member."""
    start = places[-1].end if places else 0
    entries = b"".join(place.entry(crc) for place, crc in zip(places, crcs, strict=True))
    count, size = len(places), len(entries)
    wide = b""
    if count > 0xFFFF or max(start, size) >= LIMIT:
        wide = _END_64.pack(b"PK\x06\x06", 44, VERSION, VERSION, 0, 0, count, count, size, start)
        wide += _LOCATOR.pack(b"PK\x06\x07", 0, start + size, 1)
    short = min(count, 0xFFFF)
    return entries + wide + _END.pack(b"PK\x05\x06", 0, 0, short, short, min(size, LIMIT), min(start, LIMIT), 0)
