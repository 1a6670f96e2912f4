"""Writes a TensorFlow checkpoint of one data file, as `tf.train.Checkpoint.restore` and tf_keras read it.

Sources as in `bundle` and `object_graph`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import ClassVar

import msgspec

from converter.core.contents import Contents
from converter.core.tensors import Array, TensorSpec
from converter.core.transposing import blocks
from converter.errors import ConversionError, OutputError
from converter.formats.atomic import discard, partial_path, publish
from converter.formats.base import Writer
from converter.formats.io.checksums import Crc32c, masked, masked_crc32c
from converter.formats.io.in_place import put
from converter.formats.tensorflow.object_graph import GRAPH_KEY, SUFFIX, build_graph
from converter.formats.tensorflow.protowire import put_bytes, put_fixed32, put_integer, varint
from converter.formats.tensorflow.table import TableWriter
from converter.formats.tensorflow.types import CODE_OF_DTYPE, STRING, write_shape

_INDEX, _DATA = ".index", ".data-00000-of-00001"
#: BundleHeaderProto: num_shards = 1, (little endian), version = 3 {producer = 1}.
_HEADER = put_integer(1, 1) + put_bytes(3, put_integer(1, 1))


class _Slot(msgspec.Struct):
    """Where the bytes of one entry go, and what its BundleEntryProto says."""

    code: int
    shape: tuple[int, ...]
    offset: int
    size: int
    crc: int | None = None

    def message(self) -> bytes:
        """dtype = 1, shape = 2, offset = 4, size = 5, crc32c = 6."""
        return (
            put_integer(1, self.code)
            + put_bytes(2, write_shape(self.shape))
            + put_integer(4, self.offset)
            + put_integer(5, self.size)
            + put_fixed32(6, self.crc or 0)
        )


class FileWriter(Writer):
    """Keys that end in ``/.ATTRIBUTES/VARIABLE_VALUE`` also get a node in the object graph.

    ``contents.links`` are further edges of that graph: one file then restores into objects that call
    the same variables otherwise. Every tensor has its position from the start, so the bytes do not
    depend on the order of `write`; the index appears last. A former checkpoint steps aside for an instant before
    (see `atomic.publish`): its index never meets new data. The state file ``checkpoint`` of the folder is not
    written: it speaks of other checkpoints too.
    """

    suffixes: ClassVar[tuple[str, ...]] = (_INDEX, _DATA)

    def __init__(self, path: Path, contents: Contents) -> None:
        super().__init__(path, contents)
        text = self._graph_text()
        self._slots = dict(self._all_slots(text))
        self._index = partial_path(self._final(_INDEX))
        self._data = partial_path(self._final(_DATA))
        self._file = self._data.open("wb", buffering=0)
        self._turn = Lock()  # as in InPlaceWriter
        try:
            self._file.truncate(sum(slot.size for slot in self._slots.values()))
            if text is not None:
                crc, *parts = _text_parts(text)
                put(self._file.fileno(), self._slots[GRAPH_KEY].offset, b"".join(parts))
                self._slots[GRAPH_KEY].crc = crc
        except BaseException:
            self.abort()
            raise

    def write(self, name: str, array: Array) -> None:
        slot, crc = self._slots[name], Crc32c()
        offset = slot.offset
        for piece in blocks(array):
            crc.update(piece)
            with self._turn:
                put(self._file.fileno(), offset, piece.data)
            offset += len(piece)
        slot.crc = masked(crc.value)

    def commit(self) -> None:
        missing = [name for name, slot in self._slots.items() if slot.crc is None]
        if missing:
            raise ConversionError(f"{self.path}: nothing was written for {', '.join(missing[:5])}")
        self._file.close()
        with self._index.open("wb") as file:
            table = TableWriter(file)
            table.add(b"", _HEADER)
            for key, slot in sorted((name.encode(), slot) for name, slot in self._slots.items()):
                table.add(key, slot.message())
            table.finish()
        publish([(self._data, self._final(_DATA)), (self._index, self._final(_INDEX))])

    def abort(self) -> None:
        self._file.close()
        discard(self._index)
        discard(self._data)

    def _final(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _graph_text(self) -> bytes | None:
        keys = [spec.name for spec in self.contents.specs if spec.name.endswith(SUFFIX)]
        if not keys:
            return None
        try:
            return build_graph(keys, self.contents.links)
        except KeyError as error:
            raise OutputError(f"{self.path}: a link leads to '{error.args[0]}', which holds no tensor") from None

    def _all_slots(self, text: bytes | None) -> Iterator[tuple[str, _Slot]]:
        """In the order of the keys, as TensorFlow lays them out."""
        offset = 0
        graph = [] if text is None else [GRAPH_KEY]
        for name in sorted([*self.contents.by_name, *graph], key=str.encode):
            slot = self._slot(self.contents.by_name.get(name), text, offset)
            yield name, slot
            offset += slot.size

    def _slot(self, spec: TensorSpec | None, text: bytes | None, offset: int) -> _Slot:
        if spec is None:
            assert text is not None, "only the graph has no spec"
            return _Slot(STRING, (), offset, sum(map(len, _text_parts(text)[1:])))
        if spec.dtype not in CODE_OF_DTYPE:
            raise OutputError(f"{self.path}: '{spec.name}' is {spec.dtype.name}, which TensorFlow does not have")
        return _Slot(CODE_OF_DTYPE[spec.dtype], spec.shape, offset, spec.nbytes)


def _text_parts(text: bytes) -> tuple[int, bytes, bytes, bytes]:
    """The checksum of a text tensor of one element, then its bytes: length, checksum of the length, text."""
    length = struct.pack("<I" if len(text) < 1 << 32 else "<Q", len(text))
    check = struct.pack("<I", masked_crc32c(length))
    return masked_crc32c(length, check, text), varint(len(text)), check, text
