"""Opening files to read: regular files on the disk, and URLs.

Only a regular file is opened: a pipe would block, a device never ends.
"""

from __future__ import annotations

import mmap
import os
import stat
from contextlib import closing
from io import FileIO
from pathlib import Path

import numpy as np

from converter.core.tensors import Array, DType
from converter.errors import FormatError
from converter.formats.io.budget import Budget
from converter.formats.io.source import Source, frozen
from converter.formats.locations import is_url

#: An array of this many bytes or more is mapped, not copied; its pages leave memory with the array.
MAP_FROM = 1 << 20


class FileSource(Source):
    """A regular file on the disk. file: where it is open already."""

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
        if offset % dtype.alignment:
            return self._copied(offset, count, dtype)
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        try:
            mapped = mmap.mmap(self._file.fileno(), offset - start + length, offset=start, access=mmap.ACCESS_READ)
        except OSError as error:
            raise self._refused(error) from error
        return np.frombuffer(mapped, dtype, count, offset - start)

    def _copied(self, offset: int, count: int, dtype: DType) -> Array:
        """Read into new memory: where elements lie across the bounds of words, NumPy is slow or refuses."""
        memory = mmap.mmap(-1, count * dtype.itemsize)  # unlike that of malloc, it is returned to the system at once
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

    def _refused(self, error: OSError) -> FormatError:
        return FormatError(self.path, f"cannot be read: {error.strerror or error}")

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


def read_whole(path: Path, limit: int) -> bytes:
    """All of a small file. Raises FormatError when it is larger than ``limit`` bytes."""
    with closing(open_source(path)) as source:
        if source.size > limit:
            raise FormatError(path, f"it has {source.size} bytes, more than such a file can have")
        return source.take(0, source.size, "it")


def mapped_apart(source: Source, start: int, whole: Array, array: Array) -> Array:
    """The same array, aligned, in a mapping of its own: its pages leave memory with it, not with ``whole``.

    whole: bytes of the source from ``start`` on, of which ``array`` may be a view; a copy is returned as it is.
    """
    inside = array.ctypes.data - whole.ctypes.data
    is_part = isinstance(source, FileSource) and 0 <= inside <= whole.nbytes - array.nbytes
    if is_part and array.nbytes >= MAP_FROM:
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


def open_regular(path: Path) -> FileIO:
    """The file, unbuffered. Raises FormatError when there is none, and for a pipe, which would block, or a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise FormatError(path, f"the file cannot be opened: {reason}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FormatError(path, "not a regular file")
    return FileIO(descriptor, "rb")
