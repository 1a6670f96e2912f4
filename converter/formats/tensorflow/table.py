"""The sorted table of leveldb, which TensorFlow uses for the index of its checkpoints.

A file of blocks, each followed by a byte for its compression and a masked CRC-32C; inside a block the
keys are prefix-compressed. The last 48 bytes point to the index block, whose values point to the data
blocks. Source: tensorflow/core/lib/io/{table,format,block}.cc and leveldb doc/table_format.md.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property
from typing import BinaryIO

from converter.errors import FormatError
from converter.formats.io.checksums import masked_crc32c
from converter.formats.io.source import Source
from converter.formats.tensorflow import snappy
from converter.formats.tensorflow.protowire import WireError, read_varint, varint

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER = 48
_TRAILER = 5
_PLAIN, _SNAPPY = 0, 1
_RESTART_INTERVAL = 16
_BLOCK_SIZE = 1 << 18


def is_table(tail: bytes) -> bool:
    """Whether a file that ends with these bytes is such a table."""
    return tail.endswith(MAGIC)


class Table:
    """A table for reading: `entries` walks it, `get` looks one key up and reads one block. Closes the source."""

    def __init__(self, source: Source, verify: bool = True) -> None:
        self.path = source.path
        self.verify = verify
        self._source = source
        self.size = source.size
        try:
            self._blocks = self._read_index()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._source.close()

    def entries(self) -> Iterator[tuple[bytes, memoryview]]:
        """(key, value) in the order of the keys, which no table holds twice."""
        last: bytes | None = None
        budget = self._source.budget
        for _, offset, size in self._blocks:
            data = self._block(offset, size)
            budget.charge(len(data), "the tables in it")  # of which each value is a part
            for key, value in self._pairs(data, offset):
                if last is not None and key <= last:
                    raise FormatError(self.path, f"the key {_show(key)} is out of order or occurs twice")
                last = key
                budget.charge_name(key)
                yield key, value

    def get(self, key: bytes) -> memoryview:
        """The value of one key. Raises FormatError when it is not there."""
        at = bisect_left(self._last_keys, key)
        if at < len(self._blocks):
            _, offset, size = self._blocks[at]
            for other, value in self._pairs(self._block(offset, size), offset):
                if other == key:
                    return value
        raise FormatError(self.path, f"the key {_show(key)} is missing")

    @cached_property
    def _last_keys(self) -> list[bytes]:
        return [last for last, _, _ in self._blocks]

    def _read_index(self) -> list[tuple[bytes, int, int]]:
        """(a key not before any of the block, offset, size) of every data block."""
        footer = self._source.take(max(0, self.size - FOOTER), min(FOOTER, self.size), "the footer")
        if not is_table(footer):
            raise FormatError(self.path, "not a checkpoint table, or its end is missing (no magic number at the end)")
        try:
            _, position = self._handle(footer, 0)
            (offset, size), _ = self._handle(footer, position)
            blocks, end = [], 0
            for key, value in self._pairs(self._block(offset, size), offset):
                self._source.budget.charge_name(key)
                (start, length), _ = self._handle(value, 0)
                if start < end:
                    raise FormatError(self.path, f"the index points back to offset {start} after {end}")
                end = start + length
                blocks.append((key, start, length))
        except WireError as error:
            raise FormatError(self.path, f"the index of the table is damaged: {error}") from None
        return blocks

    @staticmethod
    def _handle(data: memoryview | bytes, position: int) -> tuple[tuple[int, int], int]:
        offset, position = read_varint(data, position)
        size, position = read_varint(data, position)
        return (offset, size), position

    def _pairs(self, block: memoryview, offset: int) -> Iterator[tuple[bytes, memoryview]]:
        try:
            yield from _pairs(block)
        except WireError as error:
            raise FormatError(self.path, f"the block at offset {offset} is damaged: {error}") from None

    def _block(self, offset: int, size: int) -> memoryview:
        what = f"the block at offset {offset}"
        if offset + size + _TRAILER > self.size:
            raise FormatError(self.path, f"{what} claims {size} bytes, over the end of the file ({self.size} bytes)")
        raw = self._source.take(offset, size + _TRAILER, what)
        (stored,) = struct.unpack_from("<I", raw, size + 1)
        if self.verify and masked_crc32c(raw[: size + 1]) != stored:
            raise FormatError(self.path, f"{what} is damaged: wrong checksum")
        try:
            return self._plain(memoryview(raw)[:size], raw[size])
        except WireError as error:
            raise FormatError(self.path, f"{what} is damaged: {error}") from None

    def _plain(self, data: memoryview, compression: int) -> memoryview:
        if compression == _PLAIN:
            return data
        if compression == _SNAPPY:
            self._source.budget.check(2 * snappy.unpacked_size(data), "a table in it")
            return memoryview(snappy.decompress(data))
        raise WireError(f"unknown compression {compression}")


def _pairs(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The entries of one block: {shared, not shared, value length, rest of the key, value}, then the restarts."""
    if len(data) < 4:
        raise WireError("too short")
    (restarts,) = struct.unpack_from("<I", data, len(data) - 4)
    end = len(data) - 4 * (restarts + 1)
    if end < 0:
        raise WireError(f"{restarts} restart points do not fit")
    key, position = b"", 0
    while position < end:
        shared, position = read_varint(data, position)
        rest, position = read_varint(data, position)
        length, position = read_varint(data, position)
        if shared > len(key):
            raise WireError(f"an entry shares {shared} bytes with a key of {len(key)}")
        if rest + length > end - position:
            raise WireError(f"an entry of {rest} + {length} bytes runs over the end")
        key = key[:shared] + bytes(data[position : position + rest])
        position += rest
        yield key, data[position : position + length]
        position += length


def _show(key: bytes) -> str:
    return repr(key.decode("utf-8", "backslashreplace")[:200])


class TableWriter:
    """Writes a table, uncompressed, to an open file. Keys come in ascending order."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._offset = 0
        self._block = _Block()
        self._index = _Block(interval=1)

    def add(self, key: bytes, value: bytes) -> None:
        self._block.add(key, value)
        if len(self._block) >= _BLOCK_SIZE:
            self._flush()

    def finish(self) -> None:
        self._flush()
        handles = self._put(_Block()) + self._put(self._index)
        self._file.write(handles.ljust(FOOTER - len(MAGIC), b"\0") + MAGIC)

    def _flush(self) -> None:
        if len(self._block):
            last = self._block.last
            self._index.add(last, self._put(self._block))
            self._block = _Block()

    def _put(self, block: _Block) -> bytes:
        """Write a block; its handle (offset and size)."""
        data = block.finish() + bytes([_PLAIN])
        self._file.write(data + struct.pack("<I", masked_crc32c(data)))
        handle = varint(self._offset) + varint(len(data) - 1)
        self._offset += len(data) + 4
        return handle


def _shared(a: bytes, b: bytes) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class _Block:
    def __init__(self, interval: int = _RESTART_INTERVAL) -> None:
        self.last = b""
        self._interval = interval
        self._data = bytearray()
        self._restarts = [0]
        self._count = 0

    def __len__(self) -> int:
        return len(self._data)

    def add(self, key: bytes, value: bytes) -> None:
        if self._count == self._interval:
            self._restarts.append(len(self._data))
            self._count = 0
        shared = _shared(self.last, key) if self._count else 0
        self._data += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        self.last = key
        self._count += 1

    def finish(self) -> bytes:
        return bytes(self._data) + struct.pack(f"<{len(self._restarts) + 1}I", *self._restarts, len(self._restarts))
