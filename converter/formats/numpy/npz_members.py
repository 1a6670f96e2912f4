"""The members of a zip, and the first bytes of each without the rest."""

from __future__ import annotations

import zlib

from converter.errors import FormatError
from converter.formats.zip.members import ZipMembers


class NpzMembers(ZipMembers):
    """`head` reads what lists the arrays, however large they are, packed or not."""

    def rest(self, name: str, begin: int) -> memoryview:
        """What follows in a member that describes objects: packed no tighter than a description may be."""
        member = self.member(name)
        return (
            self.array(name, begin, member.size - begin).data if member.stored else memoryview(self.read(name))[begin:]
        )

    def head(self, name: str, length: int) -> bytes:
        """The first ``length`` bytes of a member, or all if it has fewer. Their CRC is not checked here."""
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
