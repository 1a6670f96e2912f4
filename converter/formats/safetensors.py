"""safetensors: a JSON header with every name, dtype, shape and offset, then the data.

Format: the README of huggingface/safetensors and ``Metadata::validate`` in its ``tensor.rs``. Its own
Python library cannot stream, and knows no bfloat16 or float8 with NumPy; hence this reader and writer.

The files written here carry one more thing in ``__metadata__``: ``xxh3_128``, a JSON object {tensor
name: hex digest of its bytes}, which any other reader passes over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import FormatError, OutputError
from converter.formats.base import Contents, Probe, Reader, ReadOptions
from converter.formats.in_place import InPlaceWriter, raw_bytes
from converter.formats.source import FileSource, check_shape, frozen
from converter.tensors import DTYPES, Array, TensorSpec

MAX_HEADER = 100_000_000
HASHES = "xxh3_128"

#: `Dtype` of safetensors 0.8 -> ours. F6_E2M3 and F6_E3M2 have no counterpart in NumPy.
CODES: Mapping[str, str] = {
    "BOOL": "bool",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F4": "float4_e2m1fn",
}
NAMES = {name: code for code, name in CODES.items()}
PACKED = "F4"  # two elements a byte, the first in the low half, as in torch's float4_e2m1fn_x2


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies, from the start of the data."""

    spec: TensorSpec
    code: str
    start: int
    end: int


def detect(probe: Probe) -> bool:
    head = probe.head
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER


class FileReader(Reader):
    """Lazy: the header at once, each tensor as a view of the mapped file (F4 is unpacked)."""

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._source = FileSource(path)
        try:
            self._data, self._metadata, self._entries = _read_header(self._source)
            self._digests = _digests(path, self._metadata.pop(HASHES, None), self._entries, options.verify)
        except BaseException:
            self._source.close()
            raise

    @cached_property
    def contents(self) -> Contents:
        return Contents(tuple(entry.spec for entry in self._entries.values()), metadata=self._metadata)

    def read(self, name: str) -> Array:
        entry = self._entries[name]
        size = entry.end - entry.start
        what = f"'{name}'"
        if self._digests is None and entry.code != PACKED:
            return self._source.array(self._data + entry.start, entry.spec.shape, entry.spec.dtype, what)
        raw = self._source.array(self._data + entry.start, (size,), DTYPES["uint8"], what)
        if self._digests is not None and (found := _digest(raw.data)) != self._digests[name]:
            raise FormatError(
                self.path, f"the data of {what} was changed: its xxh3-128 is {found}, not {self._digests[name]}"
            )
        if entry.code == PACKED:
            raw = np.stack([raw & 0x0F, raw >> 4], axis=-1).reshape(-1)
        elif not raw.flags.c_contiguous or raw.ctypes.data % entry.spec.dtype.alignment:
            raw = raw.copy()
        return frozen(raw.view(entry.spec.dtype).reshape(entry.spec.shape))

    def close(self) -> None:
        self._source.close()


class FileWriter(InPlaceWriter):
    """Streams: the header is known from the specs, each tensor goes to its place, the digests last.

    The header keeps the order of the specs; the data is laid out by falling element size, as the
    library does, so that every tensor is aligned. Raises OutputError for a dtype that has no code.
    """

    def __init__(self, path: Path, contents: Contents) -> None:
        self._entries = _lay_out(path, contents.specs)
        super().__init__(path, contents)
        self._digests = {spec.name: "0" * 32 for spec in contents.specs}
        self._data = len(self._header())

    def write(self, name: str, array: Array) -> None:
        self.checked(name, array)
        entry = self._entries[name]
        data = raw_bytes(array)
        if entry.code == PACKED:
            pairs = np.frombuffer(data, np.uint8).reshape(-1, 2)
            data = (pairs[:, 0] | pairs[:, 1] << 4).data
        self._digests[name] = _digest(data)
        self.put(self._data + entry.start, data)

    def finish(self) -> None:
        self.put(0, self._header())

    def _header(self) -> bytes:
        metadata = {**self.contents.metadata, HASHES: json.dumps(self._digests, separators=(",", ":"))}
        header: dict[str, Any] = {"__metadata__": metadata}
        for name, entry in self._entries.items():
            offsets = [entry.start, entry.end]
            header[name] = {"dtype": entry.code, "shape": list(entry.spec.shape), "data_offsets": offsets}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def _lay_out(path: Path, specs: Sequence[TensorSpec]) -> dict[str, Entry]:
    """The entries in the order of the specs, their data by falling element size."""
    entries, start = {}, 0
    for spec in sorted(specs, key=lambda spec: -spec.dtype.itemsize):
        code = NAMES.get(spec.dtype.name)
        if code is None or spec.name == "__metadata__":
            found = f"is {spec.dtype}, which safetensors cannot hold" if code is None else "is a reserved name"
            raise OutputError(f"{path}: '{spec.name}' {found}. Cast or rename it, or choose another format.")
        if code == PACKED and spec.size % 2:
            raise OutputError(f"{path}: '{spec.name}' has {spec.size} elements of 4 bits, which fill no whole byte.")
        entries[spec.name] = Entry(spec, code, start, start + _nbytes(code, spec))
        start = entries[spec.name].end
    return {spec.name: entries[spec.name] for spec in specs}


def _nbytes(code: str, spec: TensorSpec) -> int:
    return spec.size // 2 if code == PACKED else spec.nbytes


def _digest(data: memoryview) -> str:
    import xxhash

    return xxhash.xxh3_128_hexdigest(data)


def _read_header(source: FileSource) -> tuple[int, dict[str, str], dict[str, Entry]]:
    """Where the data starts, the free metadata, and the entries: in the header's order if the file is
    ours, else in the order of the data (a header written from a hash map has no order)."""
    path = source.path
    length = int.from_bytes(source.take(0, 8, "the length of the header"), "little")
    if length > MAX_HEADER:
        raise FormatError(path, f"claims a header of {length} bytes; at most {MAX_HEADER} are allowed")
    header = _parse(path, source.take(8, length, "the header"))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(path, "'__metadata__' in the header must map names to texts")
    entries = [_entry(path, name, entry) for name, entry in header.items()]
    in_data_order = sorted(entries, key=lambda entry: (entry.start, entry.end))
    end = 0
    for entry in in_data_order:
        if entry.start != end:
            raise FormatError(path, f"'{entry.spec.name}' starts at {entry.start}; the data before it ends at {end}")
        end = entry.end
    if 8 + length + end != source.size:
        raise FormatError(
            path, f"the header describes {8 + length + end} bytes, but the file has {source.size}: it is cut or damaged"
        )
    ordered = entries if HASHES in metadata else in_data_order
    return 8 + length, metadata, {entry.spec.name: entry for entry in ordered}


def _entry(path: Path, name: str, entry: object) -> Entry:
    """One value of the header, checked against itself."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(path, f"the header's entry for '{name}' must have dtype, shape and data_offsets, and no more")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in CODES:
        raise FormatError(path, f"'{name}' has the dtype {code!r}; known are {', '.join(CODES)}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise FormatError(path, f"'{name}' has the shape {shape!r} and the offsets {offsets!r}, which are no sizes")
    dtype = DTYPES[CODES[code]]
    spec = TensorSpec(name, check_shape(path, shape, dtype, f"'{name}'"), dtype)
    start, end = offsets
    if code == PACKED and spec.size % 2:
        raise FormatError(path, f"'{name}' has {spec.size} elements of 4 bits, which fill no whole byte")
    if end - start != _nbytes(code, spec):
        raise FormatError(
            path, f"'{name}' of {code} and shape {spec.shape} needs {_nbytes(code, spec)} bytes, not {end - start}"
        )
    return Entry(spec, code, start, end)


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _digests(path: Path, text: str | None, entries: Mapping[str, Entry], verify: bool) -> Mapping[str, str] | None:
    """Tensor name -> hex digest; None when the file has none or they are not to be checked."""
    if text is None or not verify:
        return None
    digests = _parse(path, text.encode())
    if digests.keys() != entries.keys():
        raise FormatError(path, f"'{HASHES}' in the metadata and the tensors have different names: the file is damaged")
    return digests


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    """A JSON object in which no name stands twice. Raises FormatError for anything else."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            raise FormatError(path, f"a name stands twice in the header, among {names[:5]}")
        return found

    try:
        parsed = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(path, f"the header is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise FormatError(path, "the header is not a JSON object")
    return parsed
