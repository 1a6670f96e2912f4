"""Bytes that are read at any offset, each access checked against their true extent before it is made."""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converter.core.tensors import Array, DType
from converter.errors import FormatError
from converter.formats.io.budget import Budget

#: NumPy before 2.0 has no more axes than this, and no framework uses more.
MAX_AXES = 32
MAX_BYTES = 1 << 63
#: This many elements at each end distinguish most tensors.
ENDS = 64


class Source(ABC):
    """``size`` bytes of the file ``path`` (or of a part of it). Every read raises FormatError outside of them.

    budget: of the checkpoint that the file belongs to; its own where it is the only file.
    """

    #: Whether `view` is a map of the file, which may be cut.
    maps = False

    def __init__(self, path: Path, size: int, budget: Budget | None = None) -> None:
        self.path = path
        self.size = size
        self.budget = budget or Budget(path)

    @abstractmethod
    def _bytes(self, offset: int, length: int) -> bytes:
        """The bytes of a range that was checked to lie inside."""

    def _array(self, offset: int, count: int, dtype: DType) -> Array:
        """A flat read-only array over a range that was checked to lie inside."""
        return np.frombuffer(self._bytes(offset, count * dtype.itemsize), dtype, count)  # aligned: new memory

    def into(self, offset: int, memory: memoryview) -> None:
        """Fill the memory with the bytes of a range that was checked to lie inside."""
        memory[:] = self._bytes(offset, len(memory))

    def expect(self, offsets: Iterable[int]) -> None:  # noqa: B027  # what is on a disk need not be fetched ahead
        """Announce where small pieces will be read next: over a network, all are fetched at once."""

    def check(self, offset: int, length: int, what: str) -> None:
        """Raise FormatError unless the range lies inside."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise FormatError(
                self.path, f"{what} needs bytes {offset} to {offset + length}, but the file ends at {self.size}"
            )

    def take(self, offset: int, length: int, what: str) -> bytes:
        self.check(offset, length, what)
        return self._bytes(offset, length)

    def whole(self, limit: int) -> bytes:
        """All of a small file. Raises FormatError when it is larger than ``limit`` bytes."""
        if self.size > limit:
            raise FormatError(self.path, f"it has {self.size} bytes, more than such a file can have")
        return self.take(0, self.size, "it")

    def array(self, offset: int, shape: Sequence[int], dtype: DType, what: str) -> Array:
        """The array stored there: little-endian on disk as in memory, C order, read-only."""
        dims = check_shape(self.path, shape, dtype, what)
        count = math.prod(dims)
        self.check(offset, count * dtype.itemsize, what)
        array = self._array(offset, count, dtype) if count else np.empty(dims, dtype)
        return frozen(array if array.shape == dims else array.reshape(dims))

    def view(self, offset: int, length: int, what: str) -> Array:
        """The bytes there, mapped if they can be: for what is parsed from one end to the other, not for tensors."""
        return self.array(offset, (length,), np.dtype(np.uint8), what)

    def ends(self, offset: int, count: int, dtype: DType, what: str) -> Array:
        """The elements stored there; where they have to be fetched, no more than the first and the last `ENDS`."""
        return self.array(offset, (count,), dtype, what)

    def close(self) -> None:  # noqa: B027  # bytes in memory have nothing to release
        """Release the file; arrays that were returned stay valid."""


class Part(Source):
    """A part of another source, such as a stored member of an archive. Closing it leaves the other open."""

    def __init__(self, outer: Source, start: int, size: int, what: str) -> None:
        outer.check(start, size, what)
        super().__init__(outer.path, size, outer.budget)
        self.outer, self.start = outer, start

    def _bytes(self, offset: int, length: int) -> bytes:
        return self.outer._bytes(self.start + offset, length)

    def _array(self, offset: int, count: int, dtype: DType) -> Array:
        return self.outer._array(self.start + offset, count, dtype)

    def into(self, offset: int, memory: memoryview) -> None:
        self.outer.into(self.start + offset, memory)


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


class Parsed:
    """A part of a source that is parsed from one end to the other. `take` reads what is looked at: in a map of the file
    that would be the end of the process, if the file were cut at that moment. `view` gives large data to be kept, at
    which nobody looks yet."""

    def __init__(self, source: Source, start: int, what: str, size: int | None = None) -> None:
        self._source, self._start, self._what = source, start, what
        self.whole = source.view(start, source.size - start if size is None else size, what)

    def __len__(self) -> int:
        return len(self.whole)

    def take(self, begin: int, size: int) -> memoryview:
        if not self._source.maps:
            return self.view(begin, min(size, len(self) - begin))
        return memoryview(self._source.take(self._start + begin, min(size, len(self) - begin), self._what))

    def view(self, begin: int, size: int) -> memoryview:
        return self.whole.data[begin : begin + size]


class MemorySource(Source):
    """Bytes that stand inside another file, such as a record in the state of a pickled object.

    Its arrays are views and may be unaligned; `mapped_apart` makes up for that.
    """

    def __init__(self, path: Path, data: bytes | memoryview, budget: Budget | None = None) -> None:
        super().__init__(path, len(data), budget)
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
            raise FormatError(path, f"{what} claims the impossible shape {written(dims)}")
    return dims


def written(value: object) -> str:
    """The value for a message; Python writes no number of more than 4300 digits."""
    try:
        return repr(value)
    except ValueError:
        return "with a number of thousands of digits"


def frozen(array: Array) -> Array:
    """The same array, read-only from now on."""
    array.flags.writeable = False
    return array
