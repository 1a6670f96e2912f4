"""TensorBundle, the second and current format of TensorFlow's checkpoints, opened for reading.

``PREFIX.index`` is a table: key "" holds the header, every other key a `BundleEntryProto` that says
where in which of the ``PREFIX.data-00000-of-00001`` files the bytes lie. A tensor that was saved in
parts has an entry without data that lists its slices, and one entry more for each of them.
Source: tensorflow/core/util/tensor_bundle/tensor_bundle.cc, tensor_bundle.proto.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from converter.core.tensors import Array, DType
from converter.errors import FormatError
from converter.formats.io.budget import RECORD
from converter.formats.io.checksums import masked_crc32c
from converter.formats.io.files import Beside
from converter.formats.io.source import Source
from converter.formats.io.tiling import Slice, check_tiling
from converter.formats.tensorflow.protowire import Message, WireError, read_varint
from converter.formats.tensorflow.table import Table
from converter.formats.tensorflow.types import (
    DTYPE_OF_CODE,
    OTHER_TYPES,
    STRING,
    read_extents,
    read_shape,
    slice_key,
    slice_of,
)

_HEADER = b""
_BIG_ENDIAN = 1
_MOST_SHARDS = 100_000


class Piece(msgspec.Struct, frozen=True):
    """Where the bytes of a tensor, or of a slice of it, lie. ``crc`` is the masked checksum."""

    shard: int
    offset: int
    size: int
    crc: int


class BundleEntry(msgspec.Struct, frozen=True):
    """One tensor: either one piece, or several slices with a piece each."""

    code: int
    shape: tuple[int, ...]
    parts: tuple[tuple[Slice | None, Piece], ...]

    @property
    def dtype(self) -> DType | None:
        """None for what is not numeric (text, resources, quantized types)."""
        return DTYPE_OF_CODE.get(self.code)

    @property
    def type_name(self) -> str:
        dtype = self.dtype
        return OTHER_TYPES.get(self.code, f"of type {self.code}") if dtype is None else dtype.name


class Bundle:
    """The entries of ``PREFIX.index`` and their bytes."""

    def __init__(self, prefix: Path, files: Beside, verify: bool = True) -> None:
        """files: of the checkpoint that the prefix belongs to."""
        self.prefix = prefix
        self._files = files
        self.budget = files.budget
        self.index = prefix.with_name(prefix.name + ".index")
        self._verify = verify
        self._sources: dict[int, Source] = {}
        table = Table(files.open(self.index), verify)
        try:
            raw = dict(table.entries())
        finally:
            table.close()
        try:
            self._read_header(raw)
        except WireError as error:
            raise FormatError(self.index, f"the header entry is damaged: {error}") from None
        self.entries = self._read_entries(raw)
        self._refuse_shared_bytes()

    def close(self) -> None:
        for source in self._sources.values():
            source.close()

    def shard_path(self, shard: int) -> Path:
        return self.prefix.with_name(f"{self.prefix.name}.data-{shard:05}-of-{self.shards:05}")

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.index, *map(self.shard_path, range(self.shards)))

    def read(self, name: str) -> Array:
        """One numeric tensor."""
        entry = self.entries[name]
        dtype = entry.dtype
        assert dtype is not None, "callers ask for numeric tensors"
        if len(entry.parts) == 1 and entry.parts[0][0] is None:
            return self._numbers(entry.parts[0][1], dtype, entry.shape, name)
        return self._joined(entry, dtype, name)

    def read_text(self, name: str) -> bytes:
        """A text tensor of one element: {varint length, checksum of the length, bytes}."""
        entry = self.entries[name]
        if entry.code != STRING or entry.shape != () or entry.parts[0][0] is not None:
            raise FormatError(self.index, f"'{name}' is not one text")
        piece = entry.parts[0][1]
        data = self._bytes(piece, name).tobytes()
        try:
            length, start = read_varint(data, 0)
        except WireError as error:
            raise FormatError(self.shard_path(piece.shard), f"'{name}': {error}") from None
        if start + 4 + length != len(data):
            raise FormatError(self.shard_path(piece.shard), f"'{name}' claims {length} bytes, it has {len(data)}")
        width = 4 if length < 1 << 32 else 8
        self._check(piece, name, length.to_bytes(width, "little"), data[start:])
        return data[start + 4 :]

    def _read_header(self, raw: dict[bytes, memoryview]) -> None:
        """BundleHeaderProto: num_shards = 1, endianness = 2."""
        if _HEADER not in raw:
            raise FormatError(self.index, "the header entry is missing: not a TensorFlow checkpoint, or damaged")
        header = Message(raw.pop(_HEADER))
        self.shards = header.integer(1)
        self._order = ">" if header.integer(2) == _BIG_ENDIAN else "<"
        if not 0 < self.shards <= _MOST_SHARDS:
            raise FormatError(self.index, f"the header claims {self.shards} data files")

    def _read_entries(self, raw: dict[bytes, memoryview]) -> dict[str, BundleEntry]:
        entries: dict[str, BundleEntry] = {}
        for key, value in raw.items():
            if key.startswith(b"\0"):
                continue  # a slice: read with the tensor that it belongs to
            try:
                name = key.decode("utf-8")
            except UnicodeDecodeError:
                raise FormatError(self.index, f"the key {key[:80]!r} is not UTF-8 text") from None
            try:
                entries[name] = self._entry(key, name, Message(value), raw)
            except WireError as error:
                raise FormatError(self.index, f"the entry of '{name}' is damaged: {error}") from None
        return entries

    def _entry(self, key: bytes, name: str, message: Message, raw: dict[bytes, memoryview]) -> BundleEntry:
        """BundleEntryProto: dtype = 1, shape = 2, shard_id = 3, offset = 4, size = 5, crc32c = 6, slices = 7."""
        code, shape = message.integer(1), read_shape(Message(message.data(2)))
        if 7 not in message:
            piece = self._piece(name, message, code, math.prod(shape))
            return BundleEntry(code, shape, ((None, piece),))
        parts = []
        for extents in map(read_extents, message.messages(7)):
            self.budget.charge(RECORD * (1 + len(shape)), "the slices in it")
            part = slice_of(extents, shape)
            stored = raw.get(slice_key(key, extents))
            if stored is None:
                raise WireError(f"its slice {part.starts} + {part.lengths} is missing")
            parts.append((part, self._piece(name, Message(stored), code, part.size)))
        try:
            check_tiling(shape, [part for part, _ in parts])
        except ValueError as error:
            raise WireError(f"in slices, {error}") from None
        return BundleEntry(code, shape, tuple(parts))

    def _piece(self, name: str, message: Message, code: int, count: int) -> Piece:
        shard, offset, size = message.integer(3), message.integer(4), message.integer(5)
        if message.integer(1) != code:
            raise WireError("a slice has another type")
        dtype = DTYPE_OF_CODE.get(code)
        if dtype is not None and size != count * dtype.itemsize:
            raise WireError(f"{count} elements of {dtype.name} take {count * dtype.itemsize} bytes, it says {size}")
        if shard >= self.shards:
            raise WireError(f"it lies in data file {shard} of {self.shards}")
        if size and offset + size > self._source(shard).size:
            raise FormatError(
                self.shard_path(shard),
                f"'{name}' lies at offset {offset} with {size} bytes, but the file ends at {self._source(shard).size}",
            )
        return Piece(shard, offset, size, message.integer(6))

    def _refuse_shared_bytes(self) -> None:
        """TensorFlow stores each piece for itself; one that many share would make much of few bytes."""
        pieces = ((piece, name) for name, entry in self.entries.items() for _, piece in entry.parts if piece.size)
        shard, end = -1, 0
        for piece, name in sorted(pieces, key=lambda item: (item[0].shard, item[0].offset)):
            if piece.shard == shard and piece.offset < end:
                raise FormatError(self.index, f"'{name}' lies at offset {piece.offset}, where another tensor lies too")
            shard, end = piece.shard, piece.offset + piece.size

    def _source(self, shard: int) -> Source:
        if shard not in self._sources:
            self._sources[shard] = self._files.open(self.shard_path(shard))
        return self._sources[shard]

    def _bytes(self, piece: Piece, name: str) -> Array:
        """The bytes of a piece as they lie in the file, not copied."""
        if piece.size == 0:
            return np.empty(0, np.uint8)
        return self._source(piece.shard).array(piece.offset, (piece.size,), np.dtype(np.uint8), f"'{name}'")

    def _numbers(self, piece: Piece, dtype: DType, shape: Sequence[int], name: str) -> Array:
        data = self._bytes(piece, name)
        self._check(piece, name, data)
        if self._order == ">" and dtype.itemsize > 1:
            data = _swapped(data, dtype)
        if data.ctypes.data % dtype.alignment:
            data = data.copy()
        array = np.asarray(data).view(dtype).reshape(shape)
        array.flags.writeable = False
        return array

    def _check(self, piece: Piece, name: str, *parts: bytes | Array) -> None:
        if self._verify and masked_crc32c(*parts) != piece.crc:
            raise FormatError(self.shard_path(piece.shard), f"'{name}' is damaged: wrong checksum")

    def _joined(self, entry: BundleEntry, dtype: DType, name: str) -> Array:
        whole = np.empty(entry.shape, dtype)
        for part, piece in entry.parts:
            assert part is not None, "an entry in parts has slices only"
            whole[part.region] = self._numbers(piece, dtype, part.lengths, name)
        whole.flags.writeable = False
        return whole


def _swapped(data: Array, dtype: DType) -> Array:
    """Bytes of the other endianness turned round; a complex number has two of them."""
    width = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    return np.ascontiguousarray(data.reshape(-1, width)[:, ::-1]).reshape(-1)
