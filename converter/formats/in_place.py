"""Writing one file at known offsets, in any order, under a hidden name until it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from converter.formats.atomic import discard, partial_path, publish
from converter.formats.base import Contents, Writer
from converter.tensors import Array


class InPlaceWriter(Writer):
    """A writer of one file whose layout follows from the specs: a subclass knows the offsets.

    Subclasses implement `write` with `checked` and `put`, and may override `finish`.
    """

    def __init__(self, path: Path, contents: Contents, pieces: Mapping[int, bytes] = MappingProxyType({})) -> None:
        """pieces: offset -> what stands there whatever the tensors are."""
        super().__init__(path, contents)
        self._partial = partial_path(path)
        self._file = self._partial.open("xb")
        try:
            for offset, piece in pieces.items():
                self.put(offset, piece)
        except BaseException:
            self.abort()
            raise

    def put(self, offset: int, data: bytes | memoryview) -> None:
        self._file.seek(offset)
        self._file.write(data)

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
        try:
            self._file.close()  # flushes, which fails again on a full disk
        except OSError:
            pass
        finally:
            discard(self._partial)


def raw_bytes(array: Array) -> memoryview:
    """The elements in C order as flat bytes, not copied when they lie so already."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
