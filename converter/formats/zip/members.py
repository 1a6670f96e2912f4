"""The members of a zip file, as positions in it: every range checked, nothing extracted, stored ones read in place.

Python's ``zipfile`` reads the central directory; the local headers and the data are read here, because
members may carry a CRC field of zero (PyTorch with ``set_crc32_options(False)``), which ``zipfile`` rejects.
The layout is that of PKWARE's APPNOTE.TXT, sections 4.3.7 and 4.4.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TypeVar

import msgspec
import numpy as np

from converter.core.tensors import DTYPES, Array
from converter.errors import FormatError, UnsafeFileError
from converter.formats.io.budget import Budget, beyond
from converter.formats.io.checksums import Crc32, crc32
from converter.formats.io.files import open_source
from converter.formats.io.source import Parsed, SourceFile, frozen
from converter.formats.zip_directory import READ_ENTRY, TAIL, entries_at_most

__all__ = ["Member", "ZipMembers"]

T = TypeVar("T")
_LOCAL = struct.Struct("<4s5H3I2H")  # signature, version, flags, method, time, date, crc, packed, size, name, extra
_ENCRYPTED = 0x1
#: What is parsed as a whole (JSON) takes so many times its bytes.
PARSED = 16
#: Deflate makes at most so many bytes of one: two bits for a match of 258.
DEFLATE = 1032
#: Of what is unpacked to the disk, so many times the file are no more than it justifies.
ON_DISK = 16
#: Bytes of memory for a `Member`.
ENTRY = 350
_BLOCK = 1 << 20
_BYTE = DTYPES["uint8"]
_READ_ERRORS = (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, OverflowError, struct.error)


class Member(msgspec.Struct, frozen=True, gc=False):
    """offset: of the data in the file; packed: bytes there; size: bytes when unpacked; crc: 0 where not recorded."""

    name: str
    offset: int
    packed: int
    size: int
    stored: bool
    crc: int


class _Unpacked(msgspec.Struct, frozen=True):
    """charged: to the budget, as long as it is kept."""

    name: str
    data: Array
    charged: int


class ZipMembers:
    """All members of the file by name. Raises FormatError for a damaged or hostile archive."""

    def __init__(
        self, path: Path, verify: bool = True, begin: int = 0, size: int | None = None, budget: Budget | None = None
    ) -> None:
        """begin, size: the part of the file that is the archive; by default all of it. budget: see `Source`."""
        self.path = path
        self.verify = verify
        self.begin = begin
        self._verified: set[str] = set()
        self._last_unpacked: _Unpacked | None = None  # many tensors may be parts of one packed member
        self._lock = Lock()
        self.source = open_source(path, budget)
        try:
            rest = max(0, self.source.size - begin)
            self._size = rest if size is None else min(size, rest)
            file = SourceFile(self.source, min(begin, self.source.size), self._size)
            budget = self.source.budget
            tail = self._pread(max(0, self._size - TAIL), min(self._size, TAIL))
            with budget.lent(READ_ENTRY * entries_at_most(tail, self._size), "the directory of the archive"):
                with zipfile.ZipFile(io.BufferedReader(file)) as archive:
                    entries, directory = archive.infolist(), archive.start_dir
                budget.charge(ENTRY * len(entries), "the directory of the archive")
                self.members = self._checked(entries, directory)
        except _READ_ERRORS as error:
            self.source.close()
            raise FormatError(path, f"not a whole zip archive: {error}") from None
        except BaseException:
            self.source.close()
            raise

    @classmethod
    def opened(cls, path: Path, verify: bool, use: Callable[[ZipMembers], T], budget: Budget | None = None) -> T:
        """``use(the members)``; the file is closed again when that fails."""
        members = cls(path, verify, budget=budget)
        try:
            return use(members)
        except BaseException:
            members.close()
            raise

    def close(self) -> None:
        self.source.close()

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def member(self, name: str) -> Member:
        try:
            return self.members[name]
        except KeyError:
            raise FormatError(self.path, f"the archive has no member '{name}'") from None

    def read(self, name: str) -> bytes:
        """The whole member. For the small ones: pickles, versions."""
        member = self.member(name)
        if not member.stored:
            self.source.budget.check(PARSED * (member.size - member.packed), f"'{name}', unpacked and parsed,")
            return self._unpacked(member).tobytes()
        data = self._pread(member.offset, member.size)
        self._check_crc(member, crc32(data) if self.verify else 0)
        return data

    def head(self, name: str, length: int) -> bytes:
        """The first ``length`` bytes of a member, or all if it is shorter. Their CRC is not checked."""
        member = self.member(name)
        length = min(length, member.size)
        if member.stored:
            return self._pread(member.offset, length)
        machine = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            # deflate never needs more packed bytes than these for so many unpacked ones
            return machine.decompress(self._pread(member.offset, min(member.packed, 2 * length + 1024)), length)
        except zlib.error as error:
            raise FormatError(self.path, f"'{name}' is damaged: {error}") from None

    def rest(self, name: str, begin: int) -> memoryview | Parsed:
        """What follows in a member that describes objects."""
        member = self.member(name)
        if not member.stored:
            return memoryview(self.read(name))[begin:]
        self._verify(member, None)
        return Parsed(self.source, self.begin + member.offset + begin, f"'{name}'", member.size - begin)

    def array(self, name: str, begin: int, length: int) -> Array:
        """A part of the member as bytes; mapped, not copied, when it is stored and large. Verifies the member's CRC."""
        return self.part(self.member(name), begin, length)

    def part(self, member: Member, begin: int, length: int) -> Array:
        """`array`, of a member that was looked up already."""
        if begin < 0 or length < 0 or begin + length > member.size:
            raise FormatError(
                self.path, f"'{member.name}' has {member.size} bytes; {length} are wanted from its byte {begin} on"
            )
        if not member.stored:
            return self._unpacked(member)[begin : begin + length]
        data = self.source.array(self.begin + member.offset + begin, (length,), _BYTE, f"'{member.name}'")
        self._verify(member, data)
        return data

    @contextmanager
    def unverified(self) -> Iterator[None]:
        """Within, no CRC is compared. Not for several threads."""
        verify, self.verify = self.verify, False
        try:
            yield
        finally:
            self.verify = verify

    def verify_member(self, name: str) -> None:
        """Check the CRC of a stored member, once."""
        self._verify(self.member(name), None)

    def _verify(self, member: Member, part: Array | None) -> None:
        """part: what of the member is in memory already, or mapped."""
        if not self.verify or not member.crc or member.name in self._verified:
            return
        crc = Crc32()
        for begin in range(0, member.size, _BLOCK):
            if part is not None and part.size == member.size:
                crc.update(part[begin : begin + _BLOCK])
            else:
                crc.update(self._pread(member.offset + begin, min(_BLOCK, member.size - begin)))
        self._check_crc(member, crc.value)
        self._verified.add(member.name)

    def _check_crc(self, member: Member, crc: int) -> None:
        if self.verify and member.crc and crc != member.crc:
            raise FormatError(self.path, f"'{member.name}' is damaged: its CRC is {crc:08x}, not {member.crc:08x}")

    def _unpacked(self, member: Member) -> Array:
        """The whole member as bytes; kept until the next one is unpacked."""
        self._check_ratio(member)
        with self._lock:
            if self._last_unpacked is None or self._last_unpacked.name != member.name:
                if self._last_unpacked is not None:  # never two of them in memory
                    self.source.budget.release(self._last_unpacked.charged)
                    self._last_unpacked = None
                charged = beyond(member.size, self._size)
                self.source.budget.charge(charged, f"'{member.name}', which would unpack to {member.size} bytes,")
                try:
                    self._last_unpacked = _Unpacked(member.name, self._unpack(member), charged)
                except BaseException:
                    self.source.budget.release(charged)
                    raise
            return self._last_unpacked.data

    def _check_ratio(self, member: Member) -> None:
        if member.size > DEFLATE * member.packed:
            what = f"'{member.name}' would unpack from {member.packed} to {member.size} bytes"
            raise FormatError(self.path, f"{what}, which no deflate does")

    def unpacked_pieces(self, name: str) -> Iterator[bytes]:
        """A packed member, piece by piece; its CRC is verified at the end. Raises FormatError."""
        member, crc, size = self.member(name), Crc32(), 0
        self._check_ratio(member)
        self.source.budget.check(max(0, member.size - ON_DISK * self._size), f"'{name}', unpacked,")
        try:
            for piece in self._pieces(member):
                crc.update(np.frombuffer(piece, np.uint8))
                size += len(piece)
                if size > member.size:
                    break
                yield piece
        except zlib.error as error:
            raise FormatError(self.path, f"'{name}' is damaged: {error}") from None
        if size != member.size:
            raise FormatError(self.path, f"'{name}' does not unpack to {member.size} bytes")
        self._check_crc(member, crc.value)

    def _unpack(self, member: Member) -> Array:
        data, end = np.empty(member.size, np.uint8), 0  # takes memory only as it is filled
        try:
            for piece in self._pieces(member):
                data[end : end + len(piece)] = np.frombuffer(piece, np.uint8)[: member.size - end]
                end += len(piece)
                if end > member.size:
                    break
        except zlib.error as error:
            raise FormatError(self.path, f"'{member.name}' is damaged: {error}") from None
        if end != member.size:
            raise FormatError(self.path, f"'{member.name}' does not unpack to {member.size} bytes")
        self._check_crc(member, crc32(data.data) if self.verify else 0)
        return frozen(data)

    def _pieces(self, member: Member) -> Iterator[bytes]:
        machine = zlib.decompressobj(-zlib.MAX_WBITS)
        for begin in range(0, member.packed, _BLOCK):
            packed = self._pread(member.offset + begin, min(_BLOCK, member.packed - begin))
            while packed and not machine.eof:
                yield machine.decompress(packed, _BLOCK)
                packed = machine.unconsumed_tail
        yield machine.flush()

    def _pread(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise FormatError(
                self.path, f"the archive ends at byte {self._size}; {length} bytes are wanted from byte {offset} on"
            )
        return self.source.take(self.begin + offset, length, "the archive")

    def _checked(self, entries: list[zipfile.ZipInfo], directory: int) -> dict[str, Member]:
        members: dict[str, Member] = {}
        used: list[tuple[int, int, str]] = []
        self.source.expect(self.begin + entry.header_offset for entry in entries)
        for entry in entries:
            member = self._member_at(entry)
            if member.name in members:
                raise FormatError(self.path, f"the archive holds the member '{member.name}' twice")
            members[member.name] = member
            used.append((entry.header_offset, member.offset + member.packed, member.name))
        used.sort()
        if used and used[0][0] > 0:  # of a cut archive, `zipfile` finds a member that is an archive, too
            raise FormatError(self.path, f"not a whole zip archive: its first member starts at byte {used[0][0]}")
        for (_, end, name), (start, _, other) in zip(used, [*used[1:], (directory, 0, "")], strict=True):
            if end > start:
                where = f"the member '{other}'" if other else "the directory of the archive"
                raise FormatError(self.path, f"the member '{name}' reaches into {where}")
        return members

    def _member_at(self, entry: zipfile.ZipInfo) -> Member:
        name = entry.orig_filename
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
            raise UnsafeFileError(self.path, f"a member of the archive has the name '{name}', outside of it")
        if entry.flag_bits & _ENCRYPTED or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FormatError(self.path, f"the member '{name}' is encrypted or packed in an unusual way")
        if entry.header_offset < 0:
            raise FormatError(self.path, f"the member '{name}' starts before the file")
        expected = name.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")
        raw = self._pread(entry.header_offset, _LOCAL.size + len(expected))
        header = _LOCAL.unpack_from(raw)
        if header[0] != b"PK\x03\x04" or header[9] > 4096:
            raise FormatError(self.path, f"no member starts at byte {entry.header_offset}, where '{name}' should")
        if header[9] != len(expected) or raw[_LOCAL.size :] != expected:
            raise FormatError(self.path, f"the member '{name}' has another name in its own header")
        stored = entry.compress_type == zipfile.ZIP_STORED
        if stored and entry.compress_size != entry.file_size:
            raise FormatError(self.path, f"the member '{name}' is stored, but has two sizes")
        offset = entry.header_offset + _LOCAL.size + header[9] + header[10]
        return Member(name, offset, entry.compress_size, entry.file_size, stored, entry.CRC)
