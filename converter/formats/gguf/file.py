"""GGUF of llama.cpp and ggml: a header with metadata, then the tensors, many of them in quantized blocks.

Format: ggml, ``docs/gguf.md``. Blocks are read as the float32 that they stand for (`converter.quantized.ggml`); written
are plain elements alone. Shapes are turned round: ggml names the axis of neighbours first, so that its matrix
[in, out] is [out, in] here, as PyTorch has it. What the file says beside the tensors goes along to another GGUF file.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from converter.core.contents import Contents, LeftOut
from converter.core.tensors import DTYPES, Array
from converter.errors import FormatError, OutputError
from converter.formats.base import Probe, Reader, ReadOptions
from converter.formats.gguf.header import (
    ALIGNMENT,
    ALIGNMENT_KEY,
    ARCHITECTURE_KEY,
    FILE_TYPE_KEY,
    MAGIC,
    MAX_DIMS,
    NUMBER_OF,
    PLAIN,
    TEXT,
    U32,
    VERSION,
    Value,
    entries,
    read_header,
)
from converter.formats.io.budget import beyond, names_beyond
from converter.formats.io.files import open_source
from converter.formats.io.in_place import InPlaceWriter
from converter.formats.io.source import MemorySource, frozen
from converter.quantized.base import GROWTH
from converter.quantized.ggml import dequantized

#: Key of `Contents.metadata`: all values with their types, as the file has them, in base64.
TYPED = "gguf"
_NOT_A_WEIGHT = "{} values of metadata, no weight; they go along to another GGUF file"
#: A name and its end, as ggml has room for them.
_LONGEST_NAME = 63
#: What ``general.file_type`` says of files whose matrices are of this dtype (llama.h, enum llama_ftype).
_FILE_TYPES = {"float32": 0, "float16": 1, "bfloat16": 32}


def detect(probe: Probe) -> bool:
    return probe.head.startswith(MAGIC)


class FileReader(Reader):
    """Lazy: the header at once; a plain tensor is a view of the mapped file, a quantized one is computed."""

    dtypes = tuple(PLAIN.values())
    parallel = True

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._source = open_source(path)
        try:
            self._header = read_header(self._source)
            tensors = self._header.tensors
            self._source.budget.charge(names_beyond(len(tensors), self._source.size), "the names of its tensors")
        except BaseException:
            self._source.close()
            raise

    @cached_property
    def contents(self) -> Contents:
        header = self._header
        arrays = [(key, value) for key, value in header.values.items() if value.shown is None]
        metadata = {key: value.shown for key, value in header.values.items() if value.shown is not None}
        metadata[TYPED] = _packed(header.values)
        return Contents(
            tuple(info.spec for info in header.tensors.values()),
            left_out=tuple(LeftOut(key, _NOT_A_WEIGHT.format(f"{value.count:,}")) for key, value in arrays),
            metadata=metadata,
            quantized={name: f"GGUF, {info.kind}" for name, info in header.tensors.items() if info.block},
        )

    def read(self, name: str) -> Array:
        info = self._header.tensors[name]
        start, what = self._header.data + info.start, f"'{name}'"
        if info.block is None:
            return self._source.array(start, info.spec.shape, info.spec.dtype, what)
        count = info.nbytes // info.block.nbytes
        with self._source.budget.lent(beyond(info.spec.nbytes, GROWTH * info.nbytes), what):
            blocks = self._source.array(start, (count, info.block.nbytes), DTYPES["uint8"], what)
            return frozen(dequantized(blocks, info.block).reshape(info.spec.shape))

    def close(self) -> None:
        self._source.close()


class FileWriter(InPlaceWriter):
    """Streams: the header is known from the specs, each tensor is written at its offset.

    Raises OutputError for a dtype that ggml lacks, for more than four axes, and for long names.
    """

    def __init__(self, path: Path, contents: Contents) -> None:
        infos, end = bytearray(), 0
        self._starts: dict[str, int] = {}
        for spec in contents.specs:
            name = spec.name.encode()
            _check(path, spec.name, len(name), len(spec.shape), spec.dtype in NUMBER_OF, str(spec.dtype))
            dims = spec.shape[::-1]
            infos += struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
            infos += struct.pack("<IQ", NUMBER_OF[spec.dtype], end)
            self._starts[spec.name] = end
            end += -(-spec.nbytes // ALIGNMENT) * ALIGNMENT
        values = _values(path, contents)
        head = MAGIC + struct.pack("<IQQ", VERSION, len(contents.specs), len(values)) + b"".join(values) + bytes(infos)
        self._data = -(-len(head) // ALIGNMENT) * ALIGNMENT
        pieces = {0: head.ljust(self._data, b"\0")}
        for spec in contents.specs:
            stop = self._data + self._starts[spec.name] + spec.nbytes
            if stop % ALIGNMENT:
                pieces[stop] = b"\0" * (-stop % ALIGNMENT)
        super().__init__(path, contents, pieces)

    def write(self, name: str, array: Array) -> None:
        self.checked(name, array)
        self.fill(self._data + self._starts[name], array)


def _check(path: Path, name: str, length: int, ndim: int, has_dtype: bool, dtype: str) -> None:
    problem = ""
    if not has_dtype:
        problem = f"is {dtype}, which ggml does not have"
    elif ndim > MAX_DIMS:
        problem = f"has {ndim} axes, and ggml at most {MAX_DIMS}"
    elif length > _LONGEST_NAME:
        problem = f"has a name of {length} bytes, and ggml has room for {_LONGEST_NAME}"
    if problem:
        raise OutputError(f"{path}: '{name}' {problem}. Cast or rename it, or choose another format.")


# -- metadata: [length of the key, key, type, value] ------------------------------------------------------------------


def _packed(values: Mapping[str, Value]) -> str:
    return base64.b64encode(b"".join(_entry(key, value.encoded) for key, value in values.items())).decode()


def _entry(key: str, encoded: bytes) -> bytes:
    name = key.encode()
    return struct.pack("<Q", len(name)) + name + encoded


def _values(path: Path, contents: Contents) -> list[bytes]:
    """What a new file says beside the tensors: as the source did if that was a GGUF file, else only what none lacks.

    That its tensors are quantized, and how they are aligned, is not taken over.
    """
    values = _typed(path, contents.metadata.get(TYPED, ""))
    if not values:
        text = contents.metadata.get(ARCHITECTURE_KEY, "unknown").encode()
        values[ARCHITECTURE_KEY] = struct.pack("<IQ", TEXT, len(text)) + text
    values.pop(ALIGNMENT_KEY, None)
    matrices = [spec.dtype.name for spec in contents.specs if len(spec.shape) > 1]
    file_type = _FILE_TYPES.get(matrices[0]) if matrices and len(set(matrices)) == 1 else None
    if values.pop(FILE_TYPE_KEY, None) is not None and file_type is not None:
        values[FILE_TYPE_KEY] = struct.pack("<II", U32, file_type)
    return [_entry(key, encoded) for key, encoded in values.items()]


def _typed(path: Path, text: str) -> dict[str, bytes]:
    """What `_packed` made; of a text that it did not make, nothing."""
    try:
        source = MemorySource(path, base64.b64decode(text, validate=True))
        return {key: value.encoded for key, value in entries(source)}
    except (ValueError, FormatError):
        return {}
