"""Flax msgpack: what ``flax.serialization.to_bytes`` and ``msgpack_serialize`` write.

Format: flax/serialization.py. Extension 1 is an array, itself the packed tuple (shape, dtype name,
bytes); 2 a Python complex; 3 a NumPy scalar, packed as an array. Arrays beyond 2**30 bytes stand as a
map {``__msgpack_chunked_array__``, ``shape``, ``chunks``}. Lists, tuples and FrozenDicts are maps.

A ``/`` inside of one key cannot be told from nesting in our names; writing makes it nesting.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from converter.errors import FormatError
from converter.formats.base import Container, Contents, LeftOut, Probe, Reader, ReadOptions
from converter.formats.flax_msgpack_writer import ARRAY, CHUNKED, FileWriter
from converter.formats.jax_tree import choose
from converter.formats.msgpack_walk import Cursor, Kind, Leaf, Walk
from converter.formats.source import FileSource, Source, check_shape, frozen
from converter.tensors import DTYPES, Array, TensorSpec

__all__ = ["FileReader", "FileWriter", "Stored", "detect", "read_stored", "say", "stored_arrays"]

COMPLEX, SCALAR = 2, 3
_STARTS = frozenset((*range(0x80, 0xA0), 0xC7, 0xC8, 0xC9, *range(0xD4, 0xD9), 0xDC, 0xDD, 0xDE, 0xDF))
_NO_NUMBERS = ("str", "bytes", "void", "datetime64", "timedelta64", "record")
_CONTAINERS: Mapping[Kind, Container] = {"map": "dict", "array": "list"}
T = TypeVar("T")


@dataclass(frozen=True)
class Piece:
    """One array payload: its spec, and where its bytes start."""

    spec: TensorSpec
    start: int


@dataclass(frozen=True)
class Stored:
    """A tensor and the pieces that it is put together from, one but for a chunked array."""

    spec: TensorSpec
    pieces: tuple[Piece, ...]


def detect(probe: Probe) -> bool:
    """Whether the file is whole msgpack headers up to its first array (msgpack itself has no magic)."""
    if not probe.head or probe.head[0] not in _STARTS:
        return False
    try:
        source = FileSource(probe.path)
    except FormatError:
        return False
    try:
        walk = Walk(source)
        found = [_is_array(leaf) for leaf in _until_array(source, walk)]
        return any(found) or (walk.kind == "map" and probe.head[0] != 0x80)
    except FormatError:
        return False
    finally:
        source.close()


class FileReader(Reader):
    """Lazy: one walk over the headers; each tensor is a view of the mapped file, a chunked one is a copy."""

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._source = FileSource(path)
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

    def close(self) -> None:
        self._source.close()


def read_stored(source: Source, name: str, stored: Stored) -> Array:
    spec, what = stored.spec, f"'{name}'"
    if len(stored.pieces) == 1:
        return source.array(stored.pieces[0].start, spec.shape, spec.dtype, what)
    joined = np.empty(spec.size, spec.dtype)
    end = 0
    for piece in stored.pieces:
        part = source.array(piece.start, piece.spec.shape, spec.dtype, what)
        joined[end : end + part.size] = part.reshape(-1)
        end += part.size
    return frozen(joined.reshape(spec.shape))


def stored_arrays(source: Source) -> tuple[Container, dict[str, Stored], dict[str, Leaf]]:
    """(how the top is held, the arrays by name, every other leaf by name). Raises FormatError."""
    walk = Walk(source)
    arrays: dict[str, Stored] = {}
    others: dict[str, Leaf] = {}
    for leaf in walk:
        if leaf.name in arrays or leaf.name in others:
            raise FormatError(source.path, f"the name '{leaf.name}' stands twice in the file")
        stored = _stored(source, leaf) if _is_array(leaf) else None
        if stored is None:
            others[leaf.name] = leaf
        else:
            arrays[leaf.name] = stored
    is_chunked = _join_chunks(source.path, arrays, others)
    return "tensor" if is_chunked else _CONTAINERS.get(walk.kind, "tensor"), arrays, others


def say(source: Source, leaf: Leaf) -> str:
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


def _contents(source: FileSource, key: str | None) -> tuple[Mapping[str, Stored], Contents]:
    container, arrays, others = stored_arrays(source)
    chosen = choose(source.path, arrays, key)
    kept = {
        name: Stored(TensorSpec(name, stored.spec.shape, stored.spec.dtype), stored.pieces)
        for name, stored in chosen.kept.items()
    }
    if not arrays and container == "tensor":
        raise FormatError(source.path, "holds no array, but a single msgpack value")
    groups = tuple(line.name + "/" for line in chosen.left_out)
    lines = [LeftOut(leaf.name, say(source, leaf)) for leaf in others.values() if not leaf.name.startswith(groups)]
    specs = tuple(stored.spec for stored in kept.values())
    container = "tensor" if chosen.is_tensor else container
    return kept, Contents(specs, container, left_out=(*chosen.left_out, *lines))


def _until_array(source: Source, walk: Walk) -> Iterator[Leaf]:
    for leaf in walk:
        yield leaf
        if _is_array(leaf) and _stored(source, leaf):
            return


def _is_array(leaf: Leaf) -> bool:
    return leaf.kind == "ext" and leaf.code in (ARRAY, SCALAR)


def _stored(source: Source, leaf: Leaf) -> Stored | None:
    """The array whose packed tuple (shape, dtype name, bytes) is the payload. None when it holds no numbers."""
    assert isinstance(leaf.value, int)
    end = leaf.start + leaf.value
    cursor = Cursor(source, leaf.start, end)
    if cursor.size("array") != 3:
        raise FormatError(source.path, f"'{leaf.name}' is no packed (shape, dtype, bytes)")
    count = cursor.size("array")
    if count > 64:
        raise FormatError(source.path, f"'{leaf.name}' claims {count} axes")
    shape = tuple(cursor.size("int") for _ in range(count))
    length = cursor.size("str", "bin")
    name = cursor.take(length, f"the dtype of '{leaf.name}'").decode("latin-1") if length <= 64 else "of a long name"
    if name.startswith(_NO_NUMBERS):
        return None
    dtype = DTYPES.get(name)
    if dtype is None:
        raise FormatError(source.path, f"'{leaf.name}' has the unknown dtype {name!r}")
    nbytes = cursor.size("bin", "str")
    spec = TensorSpec(leaf.name, check_shape(source.path, shape, dtype, f"'{leaf.name}'"), dtype)
    if nbytes != spec.nbytes or cursor.position + nbytes != end:
        raise FormatError(
            source.path,
            f"'{leaf.name}' of {dtype} and shape {shape} needs {spec.nbytes} bytes; "
            f"{nbytes} are announced and {end - cursor.position} are there",
        )
    return Stored(spec, (Piece(spec, cursor.position),))


def _join_chunks(path: Path, arrays: dict[str, Stored], others: dict[str, Leaf]) -> bool:
    """Put the arrays of chunked maps together, under the name of the map. True when the top is one, then "0"."""
    flagged = [name[: -len(CHUNKED)] for name in others if name == CHUNKED or name.endswith("/" + CHUNKED)]
    for prefix in flagged:
        del others[prefix + CHUNKED]
        name = prefix[:-1] or "0"
        dims = _pop_numbered(others, f"{prefix}shape/")
        shape = [leaf.value for leaf in dims if leaf.kind == "int" and isinstance(leaf.value, int)]
        if len(shape) != len(dims):
            raise FormatError(path, f"the chunked array '{name}' has a shape of no whole numbers")
        pieces = tuple(piece for stored in _pop_numbered(arrays, f"{prefix}chunks/") for piece in stored.pieces)
        if not pieces or name in arrays or name in others:
            raise FormatError(path, f"the chunked array '{name}' has no chunks, or stands twice")
        dtype = pieces[0].spec.dtype
        spec = TensorSpec(name, check_shape(path, shape, dtype, f"'{name}'"), dtype)
        if any(piece.spec.dtype != dtype for piece in pieces) or sum(p.spec.size for p in pieces) != spec.size:
            raise FormatError(path, f"the chunks of '{name}' do not fill its shape {spec.shape} with one dtype")
        arrays[name] = Stored(spec, pieces)
    if flagged:
        in_file_order = sorted(arrays.items(), key=lambda item: item[1].pieces[0].start)
        arrays.clear()
        arrays.update(in_file_order)
    return "" in flagged


def _pop_numbered(found: dict[str, T], prefix: str) -> list[T]:
    items: list[T] = []
    while (name := f"{prefix}{len(items)}") in found:
        items.append(found.pop(name))
    return items
