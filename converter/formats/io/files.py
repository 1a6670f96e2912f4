"""Opening files to read: regular files on the disk, and URLs.

Only a regular file is opened: a pipe would block, a device never ends.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from io import FileIO
from pathlib import Path

import numpy as np

from converter.core.tensors import Array, DType
from converter.errors import FormatError, UnsafeFileError
from converter.formats.io.budget import Budget
from converter.formats.io.source import ENDS, Source, frozen
from converter.formats.locations import is_url

#: An array of this many bytes or more is mapped, not copied; its pages leave memory with the array.
MAP_FROM = 1 << 20
#: An entry for each that asks now that nothing is mapped; see `unmapped`.
_unmapped: list[None] = []


@contextmanager
def unmapped() -> Iterator[None]:
    """Within, arrays are read into memory: a file that is cut off then is an error, where a map of it would be the end
    of the process (SIGBUS). Without, an array of any size is there at once, and for as long as it is used."""
    _unmapped.append(None)
    try:
        yield
    finally:
        _unmapped.pop()


class FileSource(Source):
    """A regular file on the disk. file: where it is open already."""

    maps = True

    def __init__(self, path: Path, budget: Budget | None = None, file: FileIO | None = None) -> None:
        self._file = file or open_regular(path)
        super().__init__(path, os.fstat(self._file.fileno()).st_size, budget)

    def fileno(self) -> int:
        return self._file.fileno()

    def _bytes(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._file.fileno(), length, offset)
        except OSError as error:
            raise self._refused(error) from error
        if len(data) == length:
            return data
        whole = bytearray(length)  # one call reads at most 2 GiB
        self.into(offset, memoryview(whole))
        return bytes(whole)

    def _array(self, offset: int, count: int, dtype: DType) -> Array:
        length = count * dtype.itemsize
        if length < MAP_FROM:
            return super()._array(offset, count, dtype)
        if _unmapped or offset % dtype.alignment:
            return self._copied(offset, count, dtype)
        return self._mapped(offset, count, dtype)

    def view(self, offset: int, length: int, what: str) -> Array:
        self.check(offset, length, what)
        return frozen(self._mapped(offset, length, np.dtype(np.uint8)) if length else np.empty(0, np.uint8))

    def ends(self, offset: int, count: int, dtype: DType, what: str) -> Array:
        if count * dtype.itemsize < MAP_FROM:
            return super().ends(offset, count, dtype, what)
        self.check(offset, count * dtype.itemsize, what)
        last = offset + (count - ENDS) * dtype.itemsize
        return frozen(np.concatenate([self.array(start, (ENDS,), dtype, what) for start in (offset, last)]))

    def _mapped(self, offset: int, count: int, dtype: DType) -> Array:
        length = count * dtype.itemsize
        if offset + length > (size := os.fstat(self._file.fileno()).st_size):
            raise FormatError(self.path, f"became shorter while it was read: no byte at {size}")
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        try:
            mapped = mmap.mmap(self._file.fileno(), offset - start + length, offset=start, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise self._refused(error) from error
        return np.frombuffer(mapped, dtype, count, offset - start)

    def _copied(self, offset: int, count: int, dtype: DType) -> Array:
        """Read into new memory: where elements lie across the bounds of words, NumPy is slow or refuses."""
        memory = mmap.mmap(-1, count * dtype.itemsize)  # unlike that of malloc, it is returned to the system at once
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # where the system has none
                memory.madvise(mmap.MADV_HUGEPAGE)
        self.into(offset, memoryview(memory))
        return np.frombuffer(memory, dtype)

    def into(self, offset: int, memory: memoryview) -> None:
        while memory:  # one call reads at most 2 GiB
            try:
                got = os.preadv(self._file.fileno(), [memory], offset)
            except OSError as error:
                raise self._refused(error) from error
            if not got:
                raise FormatError(self.path, f"became shorter while it was read: no byte at {offset}")
            memory, offset = memory[got:], offset + got

    def _refused(self, error: OSError | ValueError) -> FormatError:
        return FormatError(self.path, f"cannot be read: {_reason(error)}")

    def close(self) -> None:
        self._file.close()


def open_source(path: Path, budget: Budget | None = None) -> Source:
    """A file on the disk, mapped where that helps, or one at a URL, of which ranges are fetched.

    budget: of the checkpoint, for one of its files; none for the only file.
    """
    if is_url(path):
        from converter.formats.io.remote import RemoteSource

        return RemoteSource(path, budget)
    return FileSource(path, budget)


def beside(root: Path, path: Path) -> Path:
    """The file that the checkpoint in the folder ``root`` has at ``path``: where links lead to it, and the file itself.

    A link may lead to another file below the folder, or, where the folder is one of the cache of the Hugging Face hub
    (``snapshots/REVISION/NAME`` -> ``blobs/HASH``), to the blobs of that cache. Raises UnsafeFileError for any other:
    a checkpoint from strangers could name any file of this machine. What the user names may be a link to anywhere.
    """
    if is_url(path):  # where there are no links
        return path
    try:
        target, home = path.resolve(strict=True), root.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise FormatError(path, "there is no such file beside the rest of the checkpoint") from None
    if not any(target.is_relative_to(place) for place in (home, *_blobs(home))):
        raise UnsafeFileError(
            path,
            f"a link that leads out of the folder of its checkpoint, to '{target}'; if that is meant, put a copy of the"
            " file in the place of the link",
        )
    return target


def _blobs(home: Path) -> list[Path]:
    """Of the cache that the folder is a snapshot of, or is in one."""
    return [folder.parents[1] / "blobs" for folder in (home, *home.parents) if folder.parent.name == "snapshots"][:1]


class Beside:
    """The files of one checkpoint: of the folder that ``source`` names, or of that in which it lies. One budget."""

    def __init__(self, source: Path, budget: Budget | None = None) -> None:
        self.source = source
        self.budget = budget or Budget(source)

    @cached_property
    def root(self) -> Path:
        return self.source if self.source.is_dir() else self.source.parent

    def checked(self, path: Path) -> Path:
        """The file itself: see `beside`."""
        return path if path == self.source else beside(self.root, path)

    def open(self, path: Path) -> Source:
        """Messages name the path, whatever links lead on from it."""
        if is_url(path):
            return open_source(path, self.budget)
        return FileSource(path, self.budget, open_regular(self.checked(path), path))

    def read(self, path: Path, limit: int) -> bytes:
        """All of a small file."""
        with closing(self.open(path)) as source:
            return source.whole(limit)


def read_whole(path: Path, limit: int) -> bytes:
    """All of a small file. Raises FormatError when it is larger than ``limit`` bytes."""
    with closing(open_source(path)) as source:
        return source.whole(limit)


def mapped_apart(source: Source, start: int, whole: Array, array: Array) -> Array:
    """The same array, aligned, in a mapping of its own: its pages leave memory with it, not with ``whole``.

    whole: bytes of the source from ``start`` on, of which ``array`` may be a view; a copy is returned as it is.
    """
    inside = array.ctypes.data - whole.ctypes.data
    is_part = isinstance(source, FileSource) and 0 <= inside <= whole.nbytes - array.nbytes
    if is_part and array.nbytes:
        return source.array(start + inside, array.shape, array.dtype, "an array in the pickle")
    return array if array.flags.aligned else frozen(array.copy())


def let_go(mapped: Array) -> None:
    """Let the pages of a mapped array leave memory; what of them is used again is read again.

    One byte that is looked at may bring two megabytes into memory, where the system holds the file in large pages.
    """
    base: object = mapped
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def open_regular(path: Path, called: Path | None = None) -> FileIO:
    """The file, unbuffered. Raises FormatError when there is none, and for a pipe, which would block, or a device.

    called: the path for messages, where ``path`` is what its links lead to.
    """
    named = called or path
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise FormatError(named, f"the file cannot be opened: {_reason(error)}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FormatError(named, "not a regular file")
    return FileIO(descriptor, "rb")
