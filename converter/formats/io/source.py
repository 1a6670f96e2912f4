"""Bytes that are read at any offset, each access checked against their true extent before it is made."""

from __future__ import annotations

import io
import math
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from converter.core.tensors import Array, DType
from converter.errors import FormatError
from converter.formats.io.locations import is_url
from converter.formats.io.regular_file import open_regular

#: NumPy before 2.0 has no more axes than this, and no framework uses more.
MAX_AXES = 32
MAX_BYTES = 1 << 63
#: An array of this many bytes or more is mapped, not copied; its pages leave memory with the array.
MAP_FROM = 1 << 20
#: So many elements at each end tell most tensors apart.
ENDS = 64


class Source(ABC):
    """``size`` bytes of the file ``path`` (or of a part of it). Every read raises FormatError outside of them."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size

    @abstractmethod
    def _bytes(self, offset: int, length: int) -> bytes:
        """The bytes of a range that is known to lie inside."""

    def _array(self, offset: int, count: int, dtype: DType) -> Array:
        """A flat read-only array over a range that is known to lie inside."""
        return np.frombuffer(self._bytes(offset, count * dtype.itemsize), dtype, count)  # aligned: new memory

    def into(self, offset: int, memory: memoryview) -> None:
        """Fill the memory with the bytes of a range that is known to lie inside."""
        memory[:] = self._bytes(offset, len(memory))

    def expect(self, offsets: Iterable[int]) -> None:  # noqa: B027  # what is on a disk need not be fetched ahead
        """Tell where small pieces will be taken next: over a network, all are fetched at once."""

    def check(self, offset: int, length: int, what: str) -> None:
        """Raise FormatError unless the range lies inside."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise FormatError(
                self.path, f"{what} needs bytes {offset} to {offset + length}, but the file ends at {self.size}"
            )

    def take(self, offset: int, length: int, what: str) -> bytes:
        self.check(offset, length, what)
        return self._bytes(offset, length)

    def array(self, offset: int, shape: Sequence[int], dtype: DType, what: str) -> Array:
        """The array stored there: little-endian on disk as in memory, C order, read-only."""
        dims = check_shape(self.path, shape, dtype, what)
        count = math.prod(dims)
        self.check(offset, count * dtype.itemsize, what)
        array = self._array(offset, count, dtype) if count else np.empty(dims, dtype)
        return frozen(array if array.shape == dims else array.reshape(dims))

    def ends(self, offset: int, count: int, dtype: DType, what: str) -> Array:
        """The elements stored there; where they have to be fetched, no more than the first and the last `ENDS`."""
        return self.array(offset, (count,), dtype, what)

    def close(self) -> None:  # noqa: B027  # bytes in memory have nothing to release
        """Release the file; arrays that were handed out stay valid."""


class FileSource(Source):
    """A regular file on the disk."""

    def __init__(self, path: Path) -> None:
        self._file, size = open_regular(path)
        super().__init__(path, size)

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
        memory = mmap.mmap(-1, count * dtype.itemsize)  # unlike that of malloc, it is given back at once
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


def open_source(path: Path) -> Source:
    """A file on the disk, mapped where that helps, or one behind a URL, of which ranges are fetched."""
    if is_url(path):
        from converter.formats.io.remote_source import RemoteSource

        return RemoteSource(path)
    return FileSource(path)


def read_whole(path: Path, limit: int) -> bytes:
    """All of a small file. Raises FormatError when it is larger than ``limit`` bytes."""
    with closing(open_source(path)) as source:
        if source.size > limit:
            raise FormatError(path, f"it has {source.size} bytes, more than such a file can have")
        return source.take(0, source.size, "it")


class SourceFile(io.RawIOBase):
    """A source, or a part of it, as a file for libraries that read files. Closing it leaves the source open."""

    def __init__(self, source: Source, start: int = 0, size: int | None = None) -> None:
        self._source = source
        self._start = start
        self._size = source.size - start if size is None else size
        self._position = 0
        source.check(start, self._size, "a part of the file")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """All of the buffer, as far as the file goes."""
        memory = memoryview(buffer).cast("B")[: max(0, self._size - self._position)]
        self._source.into(self._start + self._position, memory)
        self._position += len(memory)
        return len(memory)


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


class MemorySource(Source):
    """Bytes that stand inside another file, such as a record in the state of a pickled object.

    Its arrays are views and may be unaligned; `mapped_apart` makes up for that.
    """

    def __init__(self, path: Path, data: bytes | memoryview) -> None:
        super().__init__(path, len(data))
        self._data = data

    def _bytes(self, offset: int, length: int) -> bytes:
        return bytes(self._data[offset : offset + length])

    def _array(self, offset: int, count: int, dtype: DType) -> Array:
        return np.frombuffer(self._data, dtype, count, offset)


def check_shape(path: Path, shape: Sequence[int], dtype: DType, what: str) -> tuple[int, ...]:
    """The shape as a tuple, after making sure that NumPy can hold it. Raises FormatError.

    An array without elements is checked too: (0, 2**62, 2**62) has a size of 0 and still breaks NumPy.
    """
    dims = tuple(shape)
    if len(dims) > MAX_AXES:
        raise FormatError(path, f"{what} claims {len(dims)} axes; at most {MAX_AXES} are possible")
    size = dtype.itemsize
    for dim in dims:
        size *= dim or 1
        if dim < 0 or size >= MAX_BYTES:
            raise FormatError(path, f"{what} claims the impossible shape {dims}")
    return dims


def frozen(array: Array) -> Array:
    """The same array, read-only from now on."""
    array.flags.writeable = False
    return array
