"""Writing one file at known offsets, in any order, under a hidden name until it is whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import numpy as np

from converter.errors import OutputError
from converter.formats.atomic import discard, partial_path, publish
from converter.formats.base import Contents, Writer
from converter.tensors import Array, TensorSpec


class InPlaceWriter(Writer):
    """A writer of one file whose layout follows from the specs: a subclass knows the offsets.

    Subclasses implement `write` with `checked` and `put`, and may override `finish`.
    """

    def __init__(self, path: Path, contents: Contents, pieces: Mapping[int, bytes] = MappingProxyType({})) -> None:
        """pieces: offset -> what stands there whatever the tensors are."""
        super().__init__(path, contents)
        self._missing = {spec.name for spec in contents.specs}
        with self._disk():
            self._partial = partial_path(path)
            self._file = self._partial.open("xb")
        try:
            for offset, piece in pieces.items():
                self.put(offset, piece)
        except BaseException:
            self.abort()
            raise

    def checked(self, name: str, array: Array) -> TensorSpec:
        """The spec of the tensor that is written now. Raises ValueError for one that was not announced."""
        spec = self.contents.by_name[name]
        if array.shape != spec.shape or array.dtype != spec.dtype:
            raise ValueError(f"'{name}' was announced as {spec.dtype}{spec.shape}, not {array.dtype}{array.shape}")
        self._missing.remove(name)
        return spec

    def put(self, offset: int, data: bytes | memoryview) -> None:
        with self._disk():
            self._file.seek(offset)
            self._file.write(data)

    def finish(self) -> None:
        """Write what could not be written before all tensors were."""

    def commit(self) -> None:
        move = self.closed()
        with self._disk():
            publish([move])

    def closed(self) -> tuple[Path, Path]:
        """Finish the file under its hidden name; the move that gives it its own, for `publish`."""
        if self._missing:
            raise ValueError(f"never written: {sorted(self._missing)}")
        self.finish()
        with self._disk():
            self._file.close()
        return self._partial, self.path

    def abort(self) -> None:
        try:
            self._file.close()  # flushes, which fails again on a full disk
        except OSError:
            pass
        finally:
            discard(self._partial)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from error


def raw_bytes(array: Array) -> memoryview:
    """The elements in C order as flat bytes, not copied when they lie so already."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
