"""A file at a URL, of which ranges are fetched: large ones as they are asked for, small ones in blocks."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np

from converter.core.tensors import Array, DType
from converter.errors import FormatError
from converter.formats.io.budget import Budget
from converter.formats.io.source import ENDS, Source
from converter.formats.locations import inner_path, reading, store

__all__ = ["RemoteSource"]

#: A request takes as long as this many bytes do, or longer; headers are smaller, and stand together.
BLOCK = 64 << 10
#: So many are kept, 32 MB.
MOST_BLOCKS = 512
#: Requests under way at a time.
AT_ONCE = 32


class RemoteSource(Source):
    """fsspec's file systems may be asked by several threads at a time. Whatever they meet is a FormatError."""

    def __init__(self, path: Path, budget: Budget | None = None) -> None:
        with reading(path):
            self._store = store(path)
            self._inner_path = inner_path(path)
            info = self._store.info(self._inner_path)
            if info["type"] != "file":
                raise FormatError(path, "is not a file")
            if info.get("size") is None:
                raise FormatError(path, "its server does not say how large it is, so no ranges of it can be read")
            #: What the file was when it was opened, which it has to be still, for a store that compares.
            self._same = {"like": info} if getattr(self._store, "takes_like", False) else {}
        super().__init__(path, int(info["size"]), budget)
        self._block = lru_cache(MOST_BLOCKS)(self._read_block)

    def _bytes(self, offset: int, length: int) -> bytes:
        if length > BLOCK:
            return self._fetch(offset, offset + length)
        first, last = offset // BLOCK, max(offset, offset + length - 1) // BLOCK
        start = offset - first * BLOCK
        return b"".join(map(self._block, range(first, last + 1)))[start : start + length]

    def ends(self, offset: int, count: int, dtype: DType, what: str) -> Array:
        if count <= 2 * ENDS:
            return super().ends(offset, count, dtype, what)
        last = offset + (count - ENDS) * dtype.itemsize
        return np.concatenate([self.array(start, (ENDS,), dtype, what) for start in (offset, last)])

    def expect(self, offsets: Iterable[int]) -> None:
        blocks = sorted({offset // BLOCK for offset in offsets if 0 <= offset < self.size})[:MOST_BLOCKS]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._block, blocks))

    def _read_block(self, number: int) -> bytes:
        return self._fetch(number * BLOCK, min((number + 1) * BLOCK, self.size))

    def _fetch(self, start: int, end: int) -> bytes:
        if start >= end:
            return b""
        with reading(self.path):
            data: bytes = self._store.cat_file(self._inner_path, start=start, end=end, **self._same)
        if len(data) != end - start:
            raise FormatError(self.path, f"became shorter while it was read: no byte at {start + len(data)}")
        return data
