"""The header of a GGUF file: metadata with types, then name, shape, type and offset of each tensor.

Format: ggml, ``docs/gguf.md`` and ``src/gguf.cpp`` (gguf_init_from_file), whose checks are made here. All versions that
have sizes of 64 bits (2, 3) in little-endian are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from converter.core.tensors import DTYPES, DType, TensorSpec
from converter.errors import FormatError
from converter.formats.io.source import Source, check_shape
from converter.quantized.ggml import BLOCK_TYPES, BlockType

MAGIC = b"GGUF"
VERSIONS, VERSION = (2, 3), 3
ALIGNMENT, ALIGNMENT_KEY, FILE_TYPE_KEY = 32, "general.alignment", "general.file_type"
ARCHITECTURE_KEY = "general.architecture"
MAX_DIMS = 4
#: Number of a type in the file -> its name in ggml (``ggml.h``, enum ggml_type).
TYPES: Mapping[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
#: Types of elements -> ours.
PLAIN: Mapping[str, str] = {
    "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
}  # fmt: skip
NUMBER_OF: Mapping[DType, int] = {DTYPES[PLAIN[name]]: number for number, name in TYPES.items() if name in PLAIN}
#: Number of the type of a value of the metadata -> its form for `struct`.
SCALARS: Mapping[int, str] = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
U32, TEXT, ARRAY = 4, 8, 9
#: Read on by so many bytes, and by twice as many each time: small headers are many, and some list a million tokens.
_WINDOW, _LARGEST_WINDOW = 64 << 10, 1 << 20
#: The least that a value and a tensor take in the file.
_LEAST_VALUE, _LEAST_TENSOR = 13, 24
_LONGEST_KEY = 65535


class Value(msgspec.Struct, frozen=True, gc=False):
    """A value of the metadata. encoded: its type and bytes, as in the file. shown: a number or a text; None of an
    array, of ``count`` values.
    """

    encoded: bytes
    shown: str | None
    count: int = 1


class TensorInfo(msgspec.Struct, frozen=True, gc=False):
    """Where one tensor lies, from the start of the data. block: of quantized ones. kind: the name of its type."""

    spec: TensorSpec
    kind: str
    start: int
    nbytes: int
    block: BlockType | None


class Header(msgspec.Struct, frozen=True):
    """data: where the data starts. end: of the last tensor, from there."""

    values: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]
    data: int
    end: int


class _Cursor:
    """Reads on, through a window of the file."""

    def __init__(self, source: Source, at: int) -> None:
        self._source, self.at = source, at
        self._window, self._start, self._next = b"", at, _WINDOW

    def take(self, size: int, what: str) -> bytes:
        begin = self.at - self._start
        if begin + size > len(self._window):
            length = max(size, min(self._next, self._source.size - self.at))
            self._next = min(2 * self._next, _LARGEST_WINDOW)
            self._window, self._start, begin = self._source.take(self.at, length, what), self.at, 0
        self.at += size
        return self._window[begin : begin + size]

    def number(self, form: str, what: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form), what))[0]
        return value

    def text(self, what: str) -> str:
        data = self.take(self.number("<Q", what), what)
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise FormatError(self._source.path, f"{what} is not UTF-8") from None


def read_header(source: Source) -> Header:
    """Raises FormatError for whatever llama.cpp would not load, too."""
    path = source.path
    cursor = _Cursor(source, len(MAGIC))
    version = cursor.number("<I", "the version")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        what = f"big-endian GGUF (version {swapped})" if swapped in VERSIONS else f"GGUF of version {version}"
        raise FormatError(path, f"{what}; versions 2 and 3 in little-endian are read")
    tensors, values = cursor.number("<Q", "the number of tensors"), cursor.number("<Q", "the number of values")
    if tensors * _LEAST_TENSOR + values * _LEAST_VALUE > source.size:
        raise FormatError(path, f"claims {tensors} tensors and {values} values of metadata in {source.size} bytes")
    metadata = dict(_values(cursor, values, source))
    alignment = _alignment(path, metadata)
    found = list(_tensors(cursor, tensors, source))
    data = -(-cursor.at // alignment) * alignment
    return _header(path, metadata, found, alignment, data, source.size)


def _header(
    path: Path, values: Mapping[str, Value], found: list[TensorInfo], alignment: int, data: int, size: int
) -> Header:
    """Raises FormatError unless the tensors lie one after the other, each aligned, and inside of the file."""
    end = 0
    for info in found:
        expected = -(-end // alignment) * alignment
        if info.start != expected:
            what = f"'{info.spec.name}' starts at {info.start} of the data"
            raise FormatError(path, f"{what}; after the tensors before it that is {expected}")
        end = info.start + info.nbytes
        if data + end > size:
            raise FormatError(path, f"'{info.spec.name}' ends at byte {data + end}; the file has {size}: it is cut off")
    tensors = {info.spec.name: info for info in found}
    if len(tensors) < len(found):
        raise FormatError(path, "the name of a tensor occurs twice in the file")
    return Header(values, tensors, data, end)


def _values(cursor: _Cursor, count: int, source: Source) -> Iterator[tuple[str, Value]]:
    seen = set()
    for _ in range(count):
        key = cursor.text("a key of the metadata")
        if key in seen or len(key) > _LONGEST_KEY:
            what = "occurs twice" if key in seen else f"has {len(key)} characters"
            raise FormatError(source.path, f"the key '{key[:60]}' of the metadata {what}")
        seen.add(key)
        source.budget.charge_name(key)
        yield key, _value(cursor, f"'{key[:60]}' of the metadata", source)


def _value(cursor: _Cursor, what: str, source: Source) -> Value:
    kind = cursor.number("<I", what)
    head = struct.pack("<I", kind)
    if kind in SCALARS:
        form = SCALARS[kind]
        data = cursor.take(struct.calcsize(form), what)
        return Value(head + data, str(struct.unpack(form, data)[0]))
    if kind == TEXT:
        text = cursor.text(what)
        data = text.encode()
        source.budget.charge(2 * len(data), what)
        return Value(head + struct.pack("<Q", len(data)) + data, text)
    if kind != ARRAY:
        raise FormatError(source.path, f"{what} has the unknown type {kind}")
    return _array(cursor, head, what, source)


def _array(cursor: _Cursor, head: bytes, what: str, source: Source) -> Value:
    of, count = cursor.number("<I", what), cursor.number("<Q", what)
    head += struct.pack("<IQ", of, count)
    if of in SCALARS:
        size = count * struct.calcsize(SCALARS[of])
        source.check(cursor.at, size, what)
        source.budget.charge(size, what)
        return Value(head + cursor.take(size, what), None, count)
    if of != TEXT:
        raise FormatError(source.path, f"{what} is an array of the type {of}; of numbers and texts are read")
    source.check(cursor.at, 8 * count, what)
    pieces = bytearray(head)
    for _ in range(count):
        length = cursor.take(8, what)
        size = int.from_bytes(length, "little")
        source.check(cursor.at, size, what)
        pieces += length + cursor.take(size, what)
    source.budget.charge(len(pieces), what)
    return Value(bytes(pieces), None, count)


def _alignment(path: Path, metadata: Mapping[str, Value]) -> int:
    value = metadata.get(ALIGNMENT_KEY)
    if value is None:
        return ALIGNMENT
    alignment = int(value.shown or "0") if int.from_bytes(value.encoded[:4], "little") == U32 else 0
    if alignment < 1 or alignment & (alignment - 1):
        raise FormatError(path, f"'{ALIGNMENT_KEY}' is {value.shown}, and no power of two as a uint32")
    return alignment


def _tensors(cursor: _Cursor, count: int, source: Source) -> Iterator[TensorInfo]:
    path = source.path
    for _ in range(count):
        name = cursor.text("the name of a tensor")
        source.budget.charge_name(name)
        what = f"'{name[:60]}'"
        dims = cursor.number("<I", what)
        if dims > MAX_DIMS:
            raise FormatError(path, f"{what} claims {dims} axes; ggml has at most {MAX_DIMS}")
        shape = struct.unpack(f"<{dims}Q", cursor.take(8 * dims, what))[::-1]
        number, start = cursor.number("<I", what), cursor.number("<Q", what)
        yield _tensor(path, name, shape, number, start)


def _tensor(path: Path, name: str, shape: tuple[int, ...], number: int, start: int) -> TensorInfo:
    """shape: turned round, the axis of neighbours last."""
    kind = TYPES.get(number, f"number {number}")
    if kind in PLAIN:
        dtype = DTYPES[PLAIN[kind]]
        spec = TensorSpec(name, check_shape(path, shape, dtype, f"'{name[:60]}'"), dtype)
        return TensorInfo(spec, kind, start, spec.nbytes, None)
    block = BLOCK_TYPES.get(kind)
    if block is None:
        read = ", ".join([*PLAIN, *BLOCK_TYPES])
        raise FormatError(path, f"'{name[:60]}' has the type {kind} of ggml, which is not read; these are: {read}")
    spec = TensorSpec(name, check_shape(path, shape, DTYPES["float32"], f"'{name[:60]}'"), DTYPES["float32"])
    if not shape or shape[-1] % block.elements:
        raise FormatError(path, f"'{name[:60]}' {shape} has rows that are no blocks of {block.elements}, as {kind} has")
    return TensorInfo(spec, kind, start, spec.size // block.elements * block.nbytes, block)


def entries(source: Source) -> Iterator[tuple[str, Value]]:
    """Values of the metadata that stand alone, one after the other to the end. Raises FormatError."""
    cursor = _Cursor(source, 0)
    while cursor.at < source.size:
        yield from _values(cursor, 1, source)
