"""Writing Flax msgpack byte for byte as ``flax.serialization.msgpack_serialize``, each array at its offset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec

from converter.core.contents import Contents
from converter.core.tensors import Array, TensorSpec
from converter.core.transposing import Joined, blocks
from converter.errors import OutputError
from converter.formats.io.in_place import InPlaceWriter
from converter.formats.pickle.nested import MAX_DEPTH

ARRAY = 1
CHUNKED = "__msgpack_chunked_array__"
MAX_CHUNK_SIZE = 1 << 30
MAX_EXT = (1 << 32) - 1
_FIXED_EXT = {1 << n: 0xD4 + n for n in range(5)}

Tree: TypeAlias = "dict[str, Tree] | list[TensorSpec] | TensorSpec | int | float | None"


class ByteRange(msgspec.Struct, frozen=True):
    """Where the bytes from `first` to `last` of one array begin in the file."""

    first: int
    last: int
    offset: int


class FileWriter(InPlaceWriter):
    """Streams: the headers follow from the specs, so every array has its position before it is known.

    The bytes are those of ``msgpack_serialize(tree, in_place=True)``. Raises OutputError for names that
    are a tensor and a container at once.
    """

    def __init__(self, path: Path, contents: Contents) -> None:
        layout = _Layout(path)
        layout.value(_tree(path, contents))
        super().__init__(path, contents, dict(layout.heads))
        self._ranges = layout.ranges

    def takes_joined(self, name: str) -> bool:
        return True

    def write(self, name: str, array: Array | Joined) -> None:
        self.checked(name, array)
        done = 0
        for piece in blocks(array):
            for span in self._ranges[name]:
                first, last = max(span.first, done), min(span.last, done + len(piece))
                if first < last:
                    self.put(span.offset + first - span.first, piece[first - done : last - done].data)
            done += len(piece)


def _tree(path: Path, contents: Contents) -> Tree:
    """The nested dicts that the names stand for, in the order of their first use."""
    if contents.container == "tensor":
        return contents.specs[0]
    if contents.container == "list":
        return list(contents.specs)
    root: dict[str, Tree] = {}
    for spec in contents.specs:
        *parents, last = contents.keys.get(spec.name) or spec.name.split("/")
        node = root
        for parent in parents:
            inner = node.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise OutputError(f"{path}: '{spec.name}' is inside the tensor '{parent}'. Rename one.")
            node = inner
        if len(parents) >= MAX_DEPTH or last in node:
            raise OutputError(f"{path}: '{spec.name}' is a tensor and a container at once, or too deep. Rename it.")
        node[last] = spec
    if isinstance(contents.tree, dict):
        _merge(root, contents.tree)
    return root


def _merge(root: dict[str, Tree], tree: Mapping[str, Tree]) -> None:
    """Numbers and empty dicts beside the tensors."""
    for key, value in tree.items():
        inner = root.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            _merge(inner, value)
        else:
            root.setdefault(key, value)


class _Layout:
    """The headers of a tree, each with its offset, and the ranges of the arrays between them."""

    def __init__(self, path: Path) -> None:
        import msgpack

        self.path = path
        self.heads: list[tuple[int, bytes]] = []
        self.ranges: dict[str, list[ByteRange]] = {}
        self._packer = msgpack.Packer()
        self._size = 0

    def value(self, tree: Tree, *, may_chunk: bool = True) -> None:
        if isinstance(tree, TensorSpec):
            self._tensor(tree, may_chunk)
        elif isinstance(tree, list):
            self._head(self._packer.pack_array_header(len(tree)))
            for spec in tree:
                self.value(spec, may_chunk=False)  # flax looks for large arrays in dicts only
        elif not isinstance(tree, dict):
            self._head(self._packer.pack(tree))
        else:
            self._head(self._packer.pack_map_header(len(tree)))
            for key, inner in tree.items():
                self._head(self._packer.pack(key))
                self.value(inner)

    def _tensor(self, spec: TensorSpec, may_chunk: bool) -> None:
        if not may_chunk or spec.nbytes <= MAX_CHUNK_SIZE:
            self._array(spec, spec.shape, 0, spec.nbytes)
            return
        step = max(1, MAX_CHUNK_SIZE // spec.dtype.itemsize)
        pack, header = self._packer.pack, self._packer.pack_map_header
        self._head(header(3) + pack(CHUNKED) + pack(True) + pack("shape"))
        self._head(pack({str(axis): dim for axis, dim in enumerate(spec.shape)}) + pack("chunks"))
        self._head(header(-(-spec.size // step)))
        for index, first in enumerate(range(0, spec.size, step)):
            last = min(first + step, spec.size)
            self._head(pack(str(index)))
            self._array(spec, (last - first,), first * spec.dtype.itemsize, last * spec.dtype.itemsize)

    def _array(self, spec: TensorSpec, shape: tuple[int, ...], first: int, last: int) -> None:
        inner = self._packer.pack_array_header(3) + self._packer.pack(shape) + self._packer.pack(spec.dtype.name)
        inner += _sized({}, (0xC4, 0xC5, 0xC6), last - first)
        length = len(inner) + last - first
        if length > MAX_EXT:
            raise OutputError(f"{self.path}: '{spec.name}' is too large for a list of Flax msgpack. Give it a name.")
        self._head(_sized(_FIXED_EXT, (0xC7, 0xC8, 0xC9), length) + bytes([ARRAY]) + inner)
        self.ranges.setdefault(spec.name, []).append(ByteRange(first, last, self._size))
        self._size += last - first

    def _head(self, data: bytes) -> None:
        self.heads.append((self._size, data))
        self._size += len(data)


def _sized(fixed: Mapping[int, int], codes: tuple[int, int, int], length: int) -> bytes:
    """The first byte and the length of a binary or an extension, in the shortest form."""
    if length in fixed:
        return bytes([fixed[length]])
    width = 0 if length < 1 << 8 else 1 if length < 1 << 16 else 2
    return bytes([codes[width]]) + length.to_bytes(1 << width, "big")
