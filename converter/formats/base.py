"""The contract of every format: what a file holds (`Contents`), `Reader`, `Writer`, and detection (`Probe`).

A format knows how bytes on disk hold named tensors. It knows nothing of layers and imports nothing
from ``converter.frameworks``.
"""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from converter.core.contents import Contents
from converter.core.tensors import DTYPES, Array, TensorSpec
from converter.core.transposing import Joined
from converter.errors import FormatError
from converter.formats.atomic import disk
from converter.formats.locations import open_binary
from converter.formats.zip_directory import MOST_ENTRIES, TAIL, entries_at_most
from converter.options import ReadOptions

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11

__all__ = ["Opening", "Probe", "ReadOptions", "Reader", "StateTensor", "Writer"]


class StateTensor(msgspec.Struct, frozen=True, eq=False):
    """A tensor of what a file holds beside the weights (`Reader.training`). ``read`` gives its values."""

    spec: TensorSpec
    read: Callable[[], Array]

    def number(self) -> float:
        """The one value that it has."""
        return float(self.read().astype("float64").reshape(()))


class Reader(ABC):
    """A file opened for reading. A context manager; `contents` touches headers only.

    Every declared offset, length, dtype and shape is checked against the real size of the file
    before memory is allocated for it. Raises `FormatError` for anything that is not right.
    """

    #: names, in `tensors.DTYPES`, of the dtypes that such a file can hold
    dtypes: ClassVar[Collection[str]] = DTYPES
    #: how much data is read for one tensor
    lazy: ClassVar[Literal["tensor", "tensor, or its zip member if packed", "tensor, or all if packed"]] = "tensor"
    #: which of the options ``step`` and ``key`` mean something for such a file
    takes: ClassVar[frozenset[str]] = frozenset()
    #: whether several threads may call `read` at a time, once `contents` was asked for
    parallel: bool = False

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        self.path = path
        self.options = options

    @property
    @abstractmethod
    def contents(self) -> Contents:
        """Read from the headers, once (a cached_property in every subclass)."""

    @property
    def files(self) -> tuple[Path, ...]:
        """What it is read from, over which nothing may be written. A folder stands for all that is below it."""
        return (self.path,)

    @abstractmethod
    def read(self, name: str) -> Array:
        """One tensor: native byte order, C-contiguous, read-only, not copied where the format allows.

        ``name`` is one of ``contents.specs``.
        """

    def raw(self, name: str) -> Array:
        """As `read`, for callers that only move elements: unaligned where aligning would take a copy."""
        return self.read(name)

    def peek(self, name: str) -> Array:
        """The tensor for callers that compare a few elements: no checksum is verified where that takes time.

        The result may be flat and hold only the first and the last elements where the others would have to be fetched.
        """
        return self.read(name)

    def digest(self, name: str) -> Hashable:
        """A checksum stored in the file, the same for equal tensors of one shape and dtype; else None."""
        return None

    def training(self) -> Mapping[str, Any]:
        """What the file holds of a training beside the weights, by its place in the file: nested dicts and lists of
        numbers and texts, with a `StateTensor` for each tensor. Nothing in formats that keep no such.

        Read when it is asked for, and never for a conversion of weights alone. Raises FormatError.
        """
        return {}

    def prepare(self, names: Iterable[str]) -> Mapping[str, TensorSpec]:
        """The specs of those of these tensors that exist; afterwards several threads may `read` them.

        Reads only the headers that are needed: a checkpoint of many files opens only those of these tensors.
        """
        specs = self.contents.by_name
        return {name: specs[name] for name in names if name in specs}

    @property
    def opening(self) -> Opening:
        """How to open the same file again, even after a newer checkpoint was written to its folder."""
        return Opening(type(self), self.path.absolute(), self.options)

    def close(self) -> None:  # noqa: B027 - a format that holds nothing open has nothing to do
        """Release the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Opening(msgspec.Struct, frozen=True):
    """Calling it opens the file with that reader; it can be pickled, so another process can open it."""

    reader: Callable[[Path, ReadOptions], Reader]
    path: Path
    options: ReadOptions

    def __call__(self) -> Reader:
        return self.reader(self.path, self.options)


class Writer(ABC):
    """A file being written. A context manager: on a clean exit `commit`, on an exception `abort`.

    All specs are known at the start (``contents``); `write` is called once for each, in any order and by several
    threads at a time. Until `commit` nothing exists under the final name; after `abort`
    nothing new exists.
    An error of the disk leaves the ``with`` block as an OutputError.
    """

    #: whether one tensor is in memory at a time
    streams: ClassVar[bool] = True
    #: tensors that an earlier attempt has written already
    done: frozenset[str] = frozenset()

    #: suffixes of the files that this format writes at ``path + suffix``; ("",) is the path itself.
    suffixes: ClassVar[tuple[str, ...]] = ("",)

    def __init__(self, path: Path, contents: Contents) -> None:
        self.path = path
        self.contents = contents
        self._missing = {spec.name for spec in contents.specs}

    def checked(self, name: str, array: Array | Joined) -> TensorSpec:
        """The spec of the tensor to write. Raises ValueError if the array has another shape or dtype."""
        spec = self.contents.by_name[name]
        if array.shape != spec.shape or array.dtype != spec.dtype:
            raise ValueError(f"'{name}' was announced as {spec.dtype}{spec.shape}, not {array.dtype}{array.shape}")
        self._missing.remove(name)
        return spec

    def check_complete(self) -> None:
        """Raises ValueError when an announced tensor was never written."""
        if self._missing:
            raise ValueError(f"never written: {sorted(self._missing)}")

    @classmethod
    def stranger(cls, path: Path) -> Path | None:
        """What there, or in the folder there, is no part of a former result and must not be replaced; or None."""
        return None if path.is_file() else path

    def takes_joined(self, name: str) -> bool:
        """Whether `write` takes this tensor `Joined`, too, and writes it part by part."""
        return False

    @abstractmethod
    def write(self, name: str, array: Array) -> None:
        """Write one tensor of ``contents.specs``; shape and dtype are as its spec says."""

    @abstractmethod
    def commit(self) -> None:
        """Finish the file, flush it to the disk and give it its final name."""

    @abstractmethod
    def abort(self) -> None:
        """Remove what was written so far; the former file stays as it was."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                with disk(self.path):
                    self.commit()
            except BaseException:
                self.abort()
                raise
            return
        self.abort()
        if isinstance(error, OSError):
            with disk(self.path):
                raise error


class Probe:
    """What detection may look at: the name, the first and last bytes, a zip's or a folder's entries."""

    HEAD = 4096

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def is_dir(self) -> bool:
        return self.path.is_dir()

    @cached_property
    def is_file(self) -> bool:
        return self.path.is_file()

    @cached_property
    def head(self) -> bytes:
        """The first 4096 bytes of a file; empty for a folder or a prefix."""
        if not self.is_file:
            return b""
        with open_binary(self.path) as file:
            return file.read(self.HEAD)

    @cached_property
    def tail(self) -> bytes:
        """The last 64 bytes of a file; empty for a folder or a prefix."""
        if not self.is_file:
            return b""
        with open_binary(self.path) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 64))
            return file.read()

    @property
    def is_zip(self) -> bool:
        """Whether it starts as a zip does."""
        return self.head.startswith(b"PK\x03\x04")

    @property
    def first_member(self) -> str:
        """The name of the first member of a zip, all that is left of a file that was cut off; else "".

        Read from the first local header, so that a directory of thousands need not be parsed.
        """
        end = 30 + int.from_bytes(self.head[26:28], "little")
        return self.head[30:end].decode("latin-1") if self.is_zip else ""

    @cached_property
    def entries(self) -> frozenset[str]:
        """Names in the folder, or in the zip file, or nothing.

        A zip that was cut off may end with one of its members that is a zip, too, which `zipfile` would take for it.
        """
        if self.is_dir:
            return frozenset(entry.name for entry in self.path.iterdir())
        if self.is_zip:
            try:
                with open_binary(self.path) as file:
                    size = file.seek(0, 2)
                    file.seek(max(0, size - TAIL))
                    if entries_at_most(file.read(), size) > MOST_ENTRIES:
                        raise FormatError(self.path, f"an archive of more than {MOST_ENTRIES} members")
                with open_binary(self.path) as file, zipfile.ZipFile(file) as archive:
                    is_whole = min((info.header_offset for info in archive.infolist()), default=0) == 0
                    return frozenset(archive.namelist()) if is_whole else frozenset()
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeDecodeError):
                return frozenset()
        return frozenset()


def check_names(path: Path, specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The specs as a tuple. Raises FormatError if a name occurs twice."""
    seen: dict[str, TensorSpec] = {}
    for spec in specs:
        if spec.name in seen:
            raise FormatError(path, f"the name '{spec.name}' occurs twice in the file")
        seen[spec.name] = spec
    return tuple(seen.values())
