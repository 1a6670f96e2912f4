"""HDF5 files, opened with suspicion: what is in them, and their arrays, without following any link out.

What Keras, TensorFlow and h5py write by default is read by our own code (`hdf5_plain`). For everything else libhdf5 is
asked, which crashes on damaged files: in another process, with limits (`hdf5_child`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from converter.core.tensors import Array, TensorSpec
from converter.errors import MissingLibraryError
from converter.formats.base import Probe, Reader, ReadOptions
from converter.formats.io.files import open_source
from converter.formats.io.source import Source
from converter.formats.keras.hdf5_plain import PlainFile
from converter.formats.keras.hdf5_structures import SIGNATURE
from converter.formats.keras.hdf5_tree import Content, Tree, Unusual, damaged_means_format_error

__all__ = ["H5File", "H5Reader", "import_h5py", "is_hdf5"]

T = TypeVar("T")


def is_hdf5(probe: Probe) -> bool:
    return probe.head.startswith(SIGNATURE)


class H5Reader(Reader):
    """A reader of one HDF5 file, whose datasets are its tensors; a subclass says which, in `contents`."""

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._file = H5File(path)

    def close(self) -> None:
        self._file.close()

    def read(self, name: str) -> Array:
        return self._file.read(self.contents.by_name[name])


def import_h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise MissingLibraryError(f"{path}: HDF5 files need h5py: pip install h5py") from None
    return h5py


class H5File:
    """An HDF5 file for reading; see `Content`. Closes the source."""

    def __init__(self, path: Path, source: Source | None = None) -> None:
        self.path = path
        self._source = source or open_source(path)
        self.budget = self._source.budget
        self._content: Content | None = None
        self._tree: Tree | None = None

    def close(self) -> None:
        try:
            if self._content is not None:
                self._content.close()
        finally:
            self._source.close()

    def tree(self) -> Tree:
        """Read once, however often it is asked for."""
        if self._tree is None:
            self._tree = self._ask("the file", lambda content: content.tree())
        return self._tree

    def read(self, spec: TensorSpec) -> Array:
        return self._ask(f"'{spec.name}'", lambda content: content.read(spec))

    def text(self, path: str, attribute: str) -> str:
        """A text attribute of a group, "" when there is none."""
        values = self.texts(path, attribute)
        return values[0] if values else ""

    def texts(self, path: str, attribute: str) -> list[str]:
        return self._ask(f"the attribute '{attribute}' of '/{path}'", lambda content: content.texts(path, attribute))

    def has(self, path: str) -> bool:
        return self._ask(f"'{path}'", lambda content: content.has(path))

    def attributes(self, path: str) -> list[str]:
        return self._ask(f"'/{path}'", lambda content: content.attributes(path))

    def _ask(self, what: str, question: Callable[[Content], T]) -> T:
        with damaged_means_format_error(self.path, what):
            try:
                self._content = self._content or PlainFile(self._source)
                return question(self._content)
            except Unusual:
                from converter.formats.keras.hdf5_child import ChildFile

                self._content = ChildFile(self._source)
                return question(self._content)
