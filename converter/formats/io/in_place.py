"""Writing one file at known offsets, in any order, under a hidden name until it is whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from types import MappingProxyType

from converter.core.contents import Contents
from converter.core.tensors import Array
from converter.core.transposing import Joined, blocks
from converter.formats.atomic import discard, partial_path, publish
from converter.formats.base import Writer
from converter.formats.io.checksums import Checksum


class InPlaceWriter(Writer):
    """A writer of one file whose layout follows from the specs: a subclass knows the offsets.

    Subclasses implement `write` with `checked`, `fill` and `put`, and may override `finish`.
    """

    def __init__(self, path: Path, contents: Contents, pieces: Mapping[int, bytes] = MappingProxyType({})) -> None:
        """pieces: offset -> bytes that do not depend on the tensors."""
        super().__init__(path, contents)
        self._partial = partial_path(path)
        self._file = self._partial.open("xb", buffering=0)
        # The kernel lets one thread write to a file at a time; waiting here leaves the processor to the others.
        self._turn = Lock()
        try:
            for offset, piece in pieces.items():
                self.put(offset, piece)
        except BaseException:
            self.abort()
            raise

    def put(self, offset: int, data: bytes | memoryview) -> None:
        with self._turn:
            put(self._file.fileno(), offset, data)

    def fill(self, offset: int, array: Array | Joined, *checksums: Checksum) -> None:
        """Put the elements there in C order; the checksums see every piece while it is in the processor's cache."""
        for piece in blocks(array):
            for checksum in checksums:
                checksum.update(piece)
            self.put(offset, piece.data)
            offset += len(piece)

    def finish(self) -> None:
        """Write what could not be written before all tensors were."""

    def commit(self) -> None:
        move = self.closed()
        publish([move])

    def closed(self) -> tuple[Path, Path]:
        """Finish the file under its hidden name; the move that gives it its own, for `publish`."""
        self.check_complete()
        self.finish()
        self._file.close()
        return self._partial, self.path

    def abort(self) -> None:
        self._file.close()
        discard(self._partial)


def put(descriptor: int, offset: int, data: bytes | memoryview) -> None:
    """Write all of the bytes at that offset of the file; several threads may do so at once."""
    rest = memoryview(data)
    while rest:  # one call writes at most 2 GiB, and what a nearly full disk has room for
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written
