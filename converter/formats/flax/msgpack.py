"""Flax msgpack: what ``flax.serialization.to_bytes`` and ``msgpack_serialize`` write.

Format: flax/serialization.py. Extension 1 is an array, itself the packed tuple (shape, dtype name,
bytes); 2 a Python complex; 3 a NumPy scalar, packed as an array. Arrays beyond 2**30 bytes stand as a
map {``__msgpack_chunked_array__``, ``shape``, ``chunks``}. Lists, tuples and FrozenDicts are maps.

A ``/`` inside of one key (flax.linen.WeightNorm has such) looks like nesting in our names; ``contents.keys`` knows
better, so that it is written as it was.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec.structs import replace

from converter.core.contents import Container, Contents, LeftOut
from converter.core.tensors import DTYPES, Array, DType, TensorSpec
from converter.errors import FormatError
from converter.formats.base import Probe, Reader, ReadOptions, StateTensor
from converter.formats.flax.jax_tree import Groups, choose
from converter.formats.flax.msgpack_scan import Cursor, Kind, MsgpackValue, Scan
from converter.formats.flax.msgpack_writer import ARRAY, CHUNKED, FileWriter
from converter.formats.io.files import open_source
from converter.formats.io.source import Source, check_shape, frozen

__all__ = ["FileReader", "FileWriter", "Stored", "detect", "read_stored", "say", "stored_arrays"]

COMPLEX, SCALAR = 2, 3
_STARTS = frozenset((*range(0x80, 0xA0), 0xC7, 0xC8, 0xC9, *range(0xD4, 0xD9), 0xDC, 0xDD, 0xDE, 0xDF))
_TRIPLE = b"\x93"
_NO_NUMBERS = ("str", "bytes", "void", "datetime64", "timedelta64", "record")
_CONTAINERS: Mapping[Kind, Container] = {"map": "dict", "array": "list"}
T = TypeVar("T")


class Piece(NamedTuple):
    """Where the bytes of so many elements start."""

    start: int
    size: int


class Stored(NamedTuple):
    """A tensor and the pieces that it is put together from, one but for a chunked array."""

    spec: TensorSpec
    pieces: tuple[Piece, ...]


def detect(probe: Probe) -> bool:
    """Whether it is msgpack up to its first array, or to its end if it has none (msgpack itself has no magic)."""
    if not probe.head or probe.head[0] not in _STARTS:
        return False
    try:
        source = open_source(probe.path)
    except FormatError:
        return False
    try:
        scan = Scan(source)
        is_found = any(_is_array(leaf) and leaf.ahead[:1] == _TRIPLE for leaf in scan)
        return is_found or (scan.kind == "map" and probe.head[0] != 0x80)
    except FormatError:
        return False
    finally:
        source.close()


class FileReader(Reader):
    """Lazy: one scan over the headers; each tensor is a view of the mapped file, a chunked one is a copy."""

    takes = frozenset({"key"})

    parallel = True

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._source = open_source(path)
        try:
            self._tensors, self._contents = _contents(self._source, options.key)
        except BaseException:
            self._source.close()
            raise

    @property
    def contents(self) -> Contents:
        return self._contents

    def read(self, name: str) -> Array:
        return read_stored(self._source, name, self._tensors[name])

    def raw(self, name: str) -> Array:
        """Nothing is aligned in msgpack, so that `read` copies nearly everything."""
        stored = self._tensors[name]
        if len(stored.pieces) > 1:
            return self.read(name)
        spec = stored.spec
        flat = self._source.array(stored.pieces[0].start, (spec.nbytes,), DTYPES["uint8"], f"'{name}'")
        return flat.view(spec.dtype).reshape(spec.shape)

    def training(self) -> Mapping[str, Any]:
        """The whole tree of the file. An optimizer's state is a part of it that only its form tells."""
        scanned = stored_arrays(self._source)
        root: dict[str, Any] = {}
        for name, stored in scanned.arrays.items():
            read = partial(read_stored, self._source, name, stored)
            _put(root, scanned.keys.get(name, tuple(name.split("/"))), StateTensor(stored.spec, read))
        for name, leaf in scanned.others.items():
            if leaf.kind in _PLAIN:
                value = {} if leaf.kind in ("map", "array") else leaf.value
                _put(root, scanned.keys.get(name, tuple(name.split("/"))), value)
        return root

    def close(self) -> None:
        self._source.close()


#: Values that are told as they are.
_PLAIN = ("nil", "bool", "int", "float", "map", "array")


def _put(root: dict[str, Any], keys: tuple[str, ...], value: object) -> None:
    """Set what these keys lead to, one inside of the other. What a tensor has the place of stays it."""
    for key in keys[:-1]:
        inner = root.setdefault(key, {})
        if not isinstance(inner, dict):
            return
        root = inner
    root.setdefault(keys[-1], value)


def read_stored(source: Source, name: str, stored: Stored) -> Array:
    spec, what = stored.spec, f"'{name}'"
    if len(stored.pieces) == 1:
        return source.array(stored.pieces[0].start, spec.shape, spec.dtype, what)
    joined = np.empty(spec.size, spec.dtype)
    end = 0
    for start, size in stored.pieces:
        joined[end : end + size] = source.array(start, (size,), spec.dtype, what)
        end += size
    return frozen(joined.reshape(spec.shape))


class Scanned(NamedTuple):
    """What a file holds: the container at its top, the arrays and all other values by name, and the keys of names
    where one of them contains a slash."""

    container: Container
    arrays: dict[str, Stored]
    others: dict[str, MsgpackValue]
    keys: dict[str, tuple[str, ...]]


def stored_arrays(source: Source) -> Scanned:
    """Raises FormatError."""
    scan, headers = Scan(source), _Headers(source)
    arrays: dict[str, Stored] = {}
    others: dict[str, MsgpackValue] = {}
    keys: dict[str, tuple[str, ...]] = {}
    for leaf in scan:
        if leaf.keys:
            keys[leaf.name] = leaf.keys
        if leaf.name in arrays or leaf.name in others:
            raise FormatError(source.path, f"the name '{leaf.name}' occurs twice in the file")
        stored = headers.stored(leaf) if _is_array(leaf) else None
        if stored is None:
            others[leaf.name] = leaf
        else:
            arrays[leaf.name] = stored
    is_chunked = _join_chunks(source.path, arrays, others)
    container = "tensor" if is_chunked else _CONTAINERS.get(scan.kind, "tensor")
    return Scanned(container, arrays, others, keys)


def say(source: Source, leaf: MsgpackValue) -> str:
    """Why a leaf is left out."""
    if _is_array(leaf):
        return "an array of texts, times or records"
    if leaf.kind == "ext" and leaf.code == COMPLEX and leaf.value == 19:
        real, imaginary = struct.unpack(">2xdxd", source.take(leaf.start, 19, f"'{leaf.name}'"))
        return f"the Python number {complex(real, imaginary)}"
    if leaf.kind == "str":
        assert isinstance(leaf.value, int)
        text = source.take(leaf.start, min(leaf.value, 60), f"'{leaf.name}'").decode(errors="replace")
        return f"the text {text!r}"
    sayings = {
        "nil": "None",
        "bin": f"{leaf.value} bytes",
        "ext": f"a msgpack extension of type {leaf.code}",
        "array": "an empty list",
        "map": "an empty dict",
    }
    return sayings.get(leaf.kind, f"the Python number {leaf.value}")


def _contents(source: Source, key: str | None) -> tuple[Mapping[str, Stored], Contents]:
    container, arrays, others, keys = stored_arrays(source)
    chosen = choose(source.path, arrays, key)
    kept = chosen.kept
    if key is not None:
        kept = {name: Stored(replace(stored.spec, name=name), stored.pieces) for name, stored in kept.items()}
    if not arrays and container == "tensor":
        raise FormatError(source.path, "holds no array, but a single msgpack value")
    groups = Groups(line.name for line in chosen.left_out)
    lines = [LeftOut(leaf.name, say(source, leaf)) for leaf in others.values() if not groups.hold(leaf.name)]
    specs = tuple(stored.spec for stored in kept.values())
    container = "tensor" if chosen.is_tensor else container
    return kept, Contents(specs, container, keys=keys if key is None else {}, left_out=(*chosen.left_out, *lines))


def _is_array(leaf: MsgpackValue) -> bool:
    return leaf.kind == "ext" and leaf.code in (ARRAY, SCALAR)


class _Packed(msgspec.Struct, frozen=True):
    """The header of a packed (shape, dtype name, bytes). dtype: None when the elements are not numeric."""

    header: bytes
    shape: tuple[int, ...]
    dtype: DType | None


class _Headers:
    """Parses the headers of arrays. Layers repeat each other, so most headers have been seen before."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[int, _Packed] = {}

    def stored(self, leaf: MsgpackValue) -> Stored | None:
        """The array of an extension. None when it holds no numeric values."""
        assert isinstance(leaf.value, int)
        packed = self._known.get(leaf.value)
        if packed is None or not leaf.ahead.startswith(packed.header):
            packed = _parse(self._source, leaf, leaf.value)
            self._known[leaf.value] = packed
        if packed.dtype is None:
            return None
        spec = TensorSpec(leaf.name, packed.shape, packed.dtype)
        return Stored(spec, (Piece(leaf.start + len(packed.header), spec.size),))


def _parse(source: Source, leaf: MsgpackValue, length: int) -> _Packed:
    """Raises FormatError unless the header describes just the bytes that follow it."""
    cursor = Cursor(source, leaf.start, leaf.start + length, leaf.ahead)
    if cursor.size("array") != 3:
        raise FormatError(source.path, f"'{leaf.name}' is not a packed (shape, dtype, bytes)")
    count = cursor.size("array")
    if count > 64:
        raise FormatError(source.path, f"'{leaf.name}' claims {count} axes")
    shape = tuple(cursor.size("int") for _ in range(count))
    size = cursor.size("str", "bin")
    name = cursor.take(size, f"the dtype of '{leaf.name}'").decode("latin-1") if size <= 64 else "of a long name"
    dtype = DTYPES.get(name)
    if dtype is None and not name.startswith(_NO_NUMBERS):
        raise FormatError(source.path, f"'{leaf.name}' has the unknown dtype {name!r}")
    nbytes = cursor.size("bin", "str")
    if dtype is not None:
        spec = TensorSpec(leaf.name, check_shape(source.path, shape, dtype, f"'{leaf.name}'"), dtype)
        there = cursor.end - cursor.position
        if nbytes != spec.nbytes or nbytes != there:
            wants = f"'{leaf.name}' of {dtype} and shape {shape} needs {spec.nbytes} bytes"
            raise FormatError(source.path, f"{wants}; {nbytes} are announced and {there} are there")
    header = source.take(leaf.start, cursor.position - leaf.start, f"'{leaf.name}'")
    return _Packed(header, shape, dtype)


def _join_chunks(path: Path, arrays: dict[str, Stored], others: dict[str, MsgpackValue]) -> bool:
    """Put the arrays of chunked maps together, under the name of the map. True when the top is one, then "0"."""
    flagged = [name[: -len(CHUNKED)] for name in others if name == CHUNKED or name.endswith("/" + CHUNKED)]
    for prefix in flagged:
        del others[prefix + CHUNKED]
        name = prefix[:-1] or "0"
        dims = _pop_numbered(others, f"{prefix}shape/")
        shape = [leaf.value for leaf in dims if leaf.kind == "int" and isinstance(leaf.value, int)]
        if len(shape) != len(dims):
            raise FormatError(path, f"the chunked array '{name}' has a shape that is not whole numbers")
        chunks = _pop_numbered(arrays, f"{prefix}chunks/")
        if not chunks or name in arrays or name in others:
            raise FormatError(path, f"the chunked array '{name}' has no chunks, or occurs twice")
        dtype = chunks[0].spec.dtype
        spec = TensorSpec(name, check_shape(path, shape, dtype, f"'{name}'"), dtype)
        if any(chunk.spec.dtype != dtype for chunk in chunks) or sum(chunk.spec.size for chunk in chunks) != spec.size:
            raise FormatError(path, f"the chunks of '{name}' do not fill its shape {spec.shape} with one dtype")
        arrays[name] = Stored(spec, tuple(piece for chunk in chunks for piece in chunk.pieces))
    if flagged:
        in_file_order = sorted(arrays.items(), key=lambda item: item[1].pieces[0].start)
        arrays.clear()
        arrays.update(in_file_order)
    return "" in flagged


def _pop_numbered(named: dict[str, T], prefix: str) -> list[T]:
    items: list[T] = []
    while (name := f"{prefix}{len(items)}") in named:
        items.append(named.pop(name))
    return items
