"""The elements of a plain HDF5 dataset: in the header, in one piece, or in chunks that pass through filters.

What a filter may make is known before it runs: a chunk has its declared size, and not a byte more.
Source: the HDF5 File Format Specification, III.A.1 (B-trees), IV.A.2.i (layout), IV.A.2.l (filters).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from converter.core.tensors import Array, DType
from converter.errors import FormatError
from converter.formats.io.budget import beyond
from converter.formats.io.source import Source, check_shape
from converter.formats.keras.hdf5_structures import FILL, FILTERS, LAYOUT, OLD_FILL, UNDEFINED, Header, Structures
from converter.formats.keras.hdf5_tree import Unusual

__all__ = ["Place", "find_place"]

_COMPACT, _CONTIGUOUS, _CHUNKED = 0, 1, 2
_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3
_CHUNK_NODE = 1
_NODE = struct.Struct("<4sBBH16x")
_FILTER = struct.Struct("<4H")
_CHECKSUM = 4
_BYTE = np.dtype(np.uint8)
#: Of a chunk, while filters are undone.
_COPIES = 3
#: Words that are summed at once, below 2**63.
_WORDS = 1 << 20


class Filter(msgspec.Struct, frozen=True):
    code: int
    values: tuple[int, ...]


class Chunks(msgspec.Struct, frozen=True):
    """table: size, mask of filters that were left out, at (the offset of the first element), address."""

    sides: tuple[int, ...]
    filters: tuple[Filter, ...]
    table: Array


class Place(msgspec.Struct, frozen=True):
    """Where the elements are. stored: bytes in the file; offset: of one piece, else None."""

    stored: int
    offset: int | None = None
    inline: bytes = b""
    chunks: Chunks | None = None

    def read(self, source: Source, shape: tuple[int, ...], dtype: DType, what: str) -> Array:
        if self.chunks is not None:
            return _joined(source, self.chunks, shape, dtype, what)
        if self.offset is not None:
            return source.array(self.offset, shape, dtype, what)
        count = math.prod(shape)
        return (np.frombuffer(self.inline, dtype, count) if count else np.empty(0, dtype)).reshape(shape)


def find_place(file: Structures, header: Header, shape: tuple[int, ...], dtype: DType, what: str) -> Place:
    """Checked against the file and the budget. Raises FormatError or Unusual."""
    body = header.messages[LAYOUT]
    path = file.source.path
    nbytes = math.prod(check_shape(path, shape, dtype, what)) * dtype.itemsize
    if body[0] != 3:
        raise Unusual
    if body[1] == _CHUNKED:
        return _chunked(file, header, shape, dtype, what)
    if FILTERS in header.messages:
        raise Unusual
    if body[1] == _COMPACT:
        (size,) = struct.unpack_from("<H", body, 2)
        place = Place(size, inline=body[4 : 4 + size])
    elif body[1] == _CONTIGUOUS:
        address, size = struct.unpack_from("<QQ", body, 2)
        place = Place(0 if address == UNDEFINED else size, None if address == UNDEFINED else address)
    else:
        raise Unusual
    if place.stored < nbytes:
        if not place.stored:
            file.source.budget.check(beyond(nbytes, file.source.size), what)
            raise Unusual  # never written: the library knows what it is filled with
        raise FormatError(path, f"{what} of shape {shape} takes {nbytes} bytes, the file holds {place.stored} of it")
    if place.offset is not None and nbytes:
        file.source.check(place.offset, nbytes, what)
        file.count(nbytes)
    return place


def _chunked(file: Structures, header: Header, shape: tuple[int, ...], dtype: DType, what: str) -> Place:
    body = header.messages[LAYOUT]
    rank = body[2] - 1
    (address,) = struct.unpack_from("<Q", body, 3)
    *sides, itemsize = struct.unpack_from(f"<{rank + 1}I", body, 11)
    check_shape(file.source.path, sides, dtype, f"a chunk of {what}")
    if rank != len(shape) or itemsize != dtype.itemsize or not all(sides):
        raise FormatError(file.source.path, f"{what} of shape {shape} has chunks of {sides} x {itemsize} bytes")
    filters = _filters(header.messages.get(FILTERS, b""))
    table = np.concatenate([_empty_table(rank), *_nodes(file, address, rank)])
    stored = sum(table["size"].tolist())
    file.count(stored)
    file.source.budget.check(beyond(math.prod(shape) * itemsize, file.source.size), what)
    at = table["at"][:, :rank]
    if (at >= np.array(shape, np.uint64)).any() or (at % np.array(sides, np.uint64)).any():
        raise FormatError(file.source.path, f"damaged HDF5: a chunk of {what} lies outside of it")
    if len(np.unique(at, axis=0)) != len(at):
        raise FormatError(file.source.path, f"damaged HDF5: a chunk of {what} occurs twice")
    whole = math.prod(-(-size // side) for size, side in zip(shape, sides, strict=True))
    if len(table) < whole and _is_filled(header):
        raise Unusual
    return Place(stored, chunks=Chunks(tuple(sides), filters, table))


def _is_filled(header: Header) -> bool:
    """Whether what was never written may be other than zeros."""
    fill, old = header.messages.get(FILL, b""), header.messages.get(OLD_FILL, b"")
    return not fill or any(fill[6 if fill[0] == 3 else 8 :]) or any(old[4:])


def _filters(body: bytes) -> tuple[Filter, ...]:
    """In the order in which they were applied. Raises Unusual for any but the three, and for one that comes twice."""
    if not body:
        return ()
    version, count = body[0], body[1]
    if version not in (1, 2):
        raise Unusual
    position, filters = 8 if version == 1 else 2, []
    for _ in range(count):
        if version == 1:
            code, name, _, values = _FILTER.unpack_from(body, position)
            start = position + _FILTER.size + name
        else:
            (code, _, values), start = struct.unpack_from("<3H", body, position), position + 6
        if code not in (_DEFLATE, _SHUFFLE, _FLETCHER32):
            raise Unusual
        filters.append(Filter(code, struct.unpack_from(f"<{values}I", body, start)))
        position = start + 4 * (values + values % 2 if version == 1 else values)
    if len({filter.code for filter in filters}) != len(filters):
        raise Unusual
    return tuple(filters)


def _table_type(rank: int) -> DType:
    return np.dtype([("size", "<u4"), ("mask", "<u4"), ("at", "<u8", (rank + 1,)), ("address", "<u8")])


def _empty_table(rank: int) -> Array:
    return np.empty(0, _table_type(rank))


def _nodes(file: Structures, root: int, rank: int) -> Iterator[Array]:
    """The leaves of the B-tree of chunks."""
    kind = _table_type(rank)
    stack: list[tuple[int, int | None]] = [] if root == UNDEFINED else [(root, None)]
    while stack:
        address, level = stack.pop()
        signature, node, at, count = _NODE.unpack(file.take(address, _NODE.size))
        if signature != b"TREE" or node != _CHUNK_NODE or (level is not None and at != level):
            raise FormatError(file.source.path, f"damaged HDF5: no node of chunks at byte {address}")
        entries = np.frombuffer(file.take(address + _NODE.size, count * kind.itemsize), kind)
        if at == 0:
            yield entries
        else:
            stack.extend((child, at - 1) for child in reversed(entries["address"].tolist()))


def _joined(source: Source, chunks: Chunks, shape: tuple[int, ...], dtype: DType, what: str) -> Array:
    whole = np.zeros(shape, dtype)
    size = math.prod(chunks.sides) * dtype.itemsize
    for entry in chunks.table:
        packed = source.take(int(entry["address"]), int(entry["size"]), what)
        with source.budget.lent(_COPIES * max(0, size - len(packed)), what):
            data = _undone(source.path, packed, chunks.filters, int(entry["mask"]), size, what)
            starts = entry["at"][:-1].tolist()
            region = tuple(slice(at, at + side) for at, side in zip(starts, chunks.sides, strict=True))
            inside = tuple(slice(0, min(s.stop, n) - s.start) for s, n in zip(region, shape, strict=True))
            whole[region] = np.frombuffer(data, dtype).reshape(chunks.sides)[inside]
    return whole


def _undone(path: Path, data: bytes, filters: Sequence[Filter], mask: int, size: int, what: str) -> bytes:
    """The chunk before it was filtered. mask: a bit for each filter that was left out."""
    for index, step in reversed(list(enumerate(filters))):
        if mask >> index & 1:
            continue
        # what it was before: a checksum comes after the elements if it was applied earlier
        checked = any(other.code == _FLETCHER32 and not mask >> i & 1 for i, other in enumerate(filters[:index]))
        expected = size + _CHECKSUM * checked
        if step.code == _DEFLATE:
            data = _inflated(path, data, expected, what)
        elif step.code == _SHUFFLE:
            data = _unshuffled(data, step.values[0] if step.values else 1)
        else:
            data = _checked(path, data, what)
    if len(data) != size:
        raise FormatError(path, f"damaged HDF5: a chunk of {what} has {len(data)} bytes, expected {size}")
    return data


def _inflated(path: Path, packed: bytes, size: int, what: str) -> bytes:
    machine = zlib.decompressobj()
    try:
        data = machine.decompress(packed, size + 1)
    except zlib.error as error:
        raise FormatError(path, f"damaged HDF5: a chunk of {what} cannot be unpacked ({error})") from None
    if len(data) != size or not machine.eof:
        met = "more" if len(data) > size else "fewer"
        raise FormatError(path, f"damaged HDF5: a chunk of {what} unpacks to {met} than its {size} bytes")
    return data


def _unshuffled(data: bytes, width: int) -> bytes:
    """The first bytes of all elements came first, then the second ones."""
    count = len(data) // width if width else 0
    if width < 2 or count < 2:
        return data
    planes = np.frombuffer(data, _BYTE, count * width).reshape(width, count)
    return planes.T.tobytes() + data[count * width :]


def _checked(path: Path, data: bytes, what: str) -> bytes:
    """Without the checksum at the end. The library of before 1.6.3 stored it with its bytes in another order."""
    body, stored = data[:-_CHECKSUM], int.from_bytes(data[-_CHECKSUM:], "little")
    right = _fletcher32(body)
    if stored not in (right, _swapped(right)):
        raise FormatError(path, f"damaged HDF5: a chunk of {what} has the wrong checksum")
    return body


def _swapped(checksum: int) -> int:
    a, b, c, d = checksum.to_bytes(4, "little")
    return int.from_bytes(bytes((b, a, d, c)), "little")


def _fletcher32(data: bytes) -> int:
    """As H5_checksum_fletcher32: sums of big-endian words, and of these sums, modulo 65535 (which is 0 for no sum)."""
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2")
    first = second = 0
    for start in range(0, len(words), _WORDS):
        part = words[start : start + _WORDS].astype(np.int64)
        second += first * len(part) + int((part * np.arange(len(part), 0, -1)).sum())
        first += int(part.sum())
    return _folded(second) << 16 | _folded(first)


def _folded(total: int) -> int:
    return (total - 1) % 0xFFFF + 1 if total else 0
