"""safetensors: a JSON header with every name, dtype, shape and offset, then the data.

Format: the README of huggingface/safetensors and ``Metadata::validate`` in its ``tensor.rs``. Its own
Python library cannot stream, and knows no bfloat16 or float8 with NumPy; hence this reader and writer.

The files written here carry one more thing in ``__metadata__``: ``xxh3_128``, a JSON object {tensor
name: hex digest of its bytes}, which any other reader passes over.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from converter.core.contents import Contents
from converter.core.tensors import DTYPES, Array, TensorSpec
from converter.core.transposing import Joined, blocks, contiguous
from converter.errors import FormatError, OutputError
from converter.formats.base import Probe, Reader, ReadOptions
from converter.formats.io.budget import Budget, names_beyond
from converter.formats.io.files import open_source
from converter.formats.io.in_place import InPlaceWriter
from converter.formats.io.source import frozen
from converter.formats.safetensors.header import (
    CODE_OF,
    CODES,
    HASHES,
    MAX_HEADER,
    PACKED,
    TensorInfo,
    digests_of,
    entry_bytes,
    read_header,
)
from converter.formats.safetensors.naming import joined_with_dots, named, ties


def detect(probe: Probe) -> bool:
    head = probe.head
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER


class FileReader(Reader):
    """Lazy: the header at once, each tensor as a view of the mapped file (elements of 4 or 6 bits are unpacked)."""

    dtypes = tuple(name for name in CODES.values() if name in DTYPES)
    parallel = True

    def __init__(self, path: Path, options: ReadOptions = ReadOptions(), budget: Budget | None = None) -> None:
        """budget: of the checkpoint that the file belongs to."""
        super().__init__(path, options)
        self._source = open_source(path, budget)
        try:
            self._data, self._metadata, self._entries = read_header(self._source)
            self._digests = digests_of(path, self._metadata.pop(HASHES, None), self._entries, options.checksums)
            self._named = named((entry.spec for entry in self._entries.values()), self._metadata)
            paid = names_beyond(len(self._named), self._source.size)
            self._source.budget.charge(paid, "the names of its tensors")
        except BaseException:
            self._source.close()
            raise

    @cached_property
    def contents(self) -> Contents:
        return Contents(tuple(spec for spec, _ in self._named.values()), metadata=self._metadata)

    def read(self, name: str) -> Array:
        return self._read(self._named[name][1], self._digests)

    def peek(self, name: str) -> Array:
        name = self._named[name][1]
        entry = self._entries[name]
        if entry.code in PACKED:
            return self._read(name, None)
        return self._source.ends(self._data + entry.start, entry.spec.size, entry.spec.dtype, f"'{name}'")

    def digest(self, name: str) -> Hashable:
        return self._digests and self._digests[self._named[name][1]]

    def _read(self, name: str, digests: Mapping[str, str] | None) -> Array:
        """name: that in the file."""
        entry = self._entries[name]
        size = entry.end - entry.start
        what = f"'{name}'"
        if digests is None and entry.code not in PACKED:
            return self._source.array(self._data + entry.start, entry.spec.shape, entry.spec.dtype, what)
        raw = self._source.array(self._data + entry.start, (size,), DTYPES["uint8"], what)
        if digests is not None and (digest := _digest(raw.data)) != digests[name]:
            raise FormatError(
                self.path, f"the data of {what} was changed: its xxh3-128 is {digest}, not {digests[name]}"
            )
        if entry.code in PACKED:
            raw = unpack(raw, PACKED[entry.code])
        elif not raw.flags.c_contiguous or raw.ctypes.data % entry.spec.dtype.alignment:
            raw = raw.copy()
        return frozen(raw.view(entry.spec.dtype).reshape(entry.spec.shape))

    def close(self) -> None:
        self._source.close()


class FileWriter(InPlaceWriter):
    """Streams: the header is known from the specs, each tensor is written at its offset, the digests last.

    The header keeps the order of the specs; the data is laid out by falling element size, as the
    library does, so that every tensor is aligned. A tensor that is tied to another, as the metadata say, is not
    stored. Raises OutputError for a dtype that has no code.
    """

    def __init__(self, path: Path, contents: Contents) -> None:
        from xxhash import xxh3_128

        self._hash = xxh3_128
        specs = contents.by_name
        self._tied = ties(contents.metadata, specs)
        self._entries = _lay_out(path, [spec for name, spec in specs.items() if name not in self._tied])
        self._stored = joined_with_dots(contents.specs, contents.metadata)
        super().__init__(path, contents)
        self._digests = dict.fromkeys(specs, "0" * 32)
        self._data = len(self._header())

    def takes_joined(self, name: str) -> bool:
        return name in self._tied or self._entries[name].code not in PACKED

    def write(self, name: str, array: Array | Joined) -> None:
        self.checked(name, array)
        digest = self._hash()
        if name in self._tied:
            for piece in blocks(array):
                digest.update(piece.data)
            self._digests[name] = digest.hexdigest()
            return
        entry = self._entries[name]
        if entry.code in PACKED:
            assert not isinstance(array, Joined)
            array = pack(contiguous(array).reshape(-1).view(np.uint8), PACKED[entry.code])
        self.fill(self._data + entry.start, array, digest)
        self._digests[name] = digest.hexdigest()

    def finish(self) -> None:
        """Raises OutputError for a tensor that is tied to another, and has other values."""
        for name, kept in self._tied.items():
            if self._digests[name] != self._digests[kept]:
                raise OutputError(
                    f"{self.path}: '{name}' is tied to '{kept}' in the clone, and has other values in the source. Take "
                    "a clone in which it is not tied, or another format."
                )
        self.put(0, self._header())

    def _header(self) -> bytes:
        digests = {self._stored[name]: self._digests[name] for name in self._entries}
        metadata = {**self.contents.metadata, HASHES: msgspec.json.encode(digests).decode()}
        header: dict[str, Any] = {"__metadata__": metadata}
        for name, entry in self._entries.items():
            offsets = [entry.start, entry.end]
            header[self._stored[name]] = {"dtype": entry.code, "shape": list(entry.spec.shape), "data_offsets": offsets}
        text = msgspec.json.encode(header)
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def _lay_out(path: Path, specs: Sequence[TensorSpec]) -> dict[str, TensorInfo]:
    """The entries in the order of the specs, their data by falling element size."""
    entries, start = {}, 0
    for spec in sorted(specs, key=lambda spec: -spec.dtype.itemsize):
        code = CODE_OF.get(spec.dtype)
        if code is None or spec.name == "__metadata__":
            problem = f"is {spec.dtype}, which safetensors cannot hold" if code is None else "is a reserved name"
            raise OutputError(f"{path}: '{spec.name}' {problem}. Cast or rename it, or choose another format.")
        try:
            entries[spec.name] = TensorInfo(spec, code, start, start + entry_bytes(code, spec))
        except ValueError as error:
            raise OutputError(f"{path}: {error}. Cast it, or choose another format.") from None
        start = entries[spec.name].end
    return {spec.name: entries[spec.name] for spec in specs}


def _digest(data: memoryview) -> str:
    import xxhash

    return xxhash.xxh3_128_hexdigest(data)


# -- elements of less than a byte: one after the other, the lowest bits first. The format only says little-endian; for
# four bits this is torch's float4_e2m1fn_x2, for six how CUDA (16U6_ALIGN16B), AMD's matrix instructions and AMD
# Quark's Pack_mxfp6 lay them out: four elements in three bytes.


def pack(codes: Array, bits: int) -> Array:
    """A flat array of uint8, one code a byte, as a flat one of ``len(codes) * bits / 8`` bytes."""
    count, width = _group(bits)
    words = np.zeros(len(codes) // count, _word(width))
    for index in range(count):
        # the masked bits mean nothing in ml_dtypes
        words |= (codes[index::count] & (1 << bits) - 1).astype(words.dtype) << index * bits
    packed = np.empty((len(words), width), np.uint8)
    for index in range(width):
        packed[:, index] = words >> 8 * index & 0xFF
    return packed.reshape(-1)


def unpack(packed: Array, bits: int) -> Array:
    """The inverse of `pack`."""
    count, width = _group(bits)
    words = np.zeros(len(packed) // width, _word(width))
    for index in range(width):
        words |= packed[index::width].astype(words.dtype) << 8 * index
    codes = np.empty((len(words), count), np.uint8)
    for index in range(count):
        codes[:, index] = words >> index * bits & (1 << bits) - 1
    return codes.reshape(-1)


def _group(bits: int) -> tuple[int, int]:
    """The fewest elements that fill whole bytes, and how many bytes."""
    together = math.lcm(8, bits)
    return together // bits, together // 8


def _word(width: int) -> np.dtype[np.generic]:
    return np.dtype(np.uint8 if width == 1 else np.uint32)
