"""Writing one checkpoint as several files and an index, which appears last and makes them visible."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from converter.errors import OutputError
from converter.formats.atomic import discard, partial_path, publish
from converter.formats.base import Contents, Writer
from converter.formats.in_place import InPlaceWriter
from converter.tensors import Array, TensorSpec

__all__ = ["ShardWriter"]

MAX_SHARD_BYTES = 5_000_000_000


class ShardWriter(Writer):
    """Streams. ``path`` is that of the index; the shards stand beside it, as ``NAME-00001-of-00002.bin``.

    A subclass says how the name of the index ends (`ending`), that of a shard (`suffix`), and what writes one.
    Over former shards of the same names there is an instant without an index, never a mixture: see `atomic.publish`.
    max_shard_bytes: data that goes into one shard; a larger tensor has one for itself.
    The index is that of ``huggingface_hub/serialization``: ``{"metadata": {"total_size": bytes}, "weight_map":
    {tensor: file name}}``.
    """

    ending: ClassVar[str]
    suffix: ClassVar[str]
    shard_writer: ClassVar[type[InPlaceWriter]]

    def __init__(self, path: Path, contents: Contents, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        super().__init__(path, contents)
        if not path.name.endswith(self.ending):
            raise OutputError(f"{path}: the name of the index of shards must end in '{self.ending}'")
        groups = _groups(contents.specs, max_shard_bytes)
        stem = path.name.removesuffix(self.ending)
        self._weight_map: dict[str, str] = {}
        self._writers: dict[str, InPlaceWriter] = {}
        self._partial: Path | None = None
        try:
            for number, group in enumerate(groups, 1):
                name = f"{stem}-{number:05}-of-{len(groups):05}{self.suffix}"
                part = Contents(tuple(group), metadata=contents.metadata)
                self._writers[name] = self.shard_writer(path.parent / name, part)
                self._weight_map |= {spec.name: name for spec in group}
        except BaseException:
            self.abort()
            raise

    def write(self, name: str, array: Array) -> None:
        self._writers[self._weight_map[name]].write(name, array)

    def commit(self) -> None:
        moves = [writer.closed() for writer in self._writers.values()]
        total = sum(spec.nbytes for spec in self.contents.specs)
        index = {"metadata": {"total_size": total}, "weight_map": self._weight_map}
        self._partial = partial_path(self.path)
        self._partial.write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        publish([*moves, (self._partial, self.path)])

    def abort(self) -> None:
        for writer in self._writers.values():
            writer.abort()
        if self._partial is not None:
            discard(self._partial)


def _groups(specs: Sequence[TensorSpec], max_bytes: int) -> list[list[TensorSpec]]:
    """The specs in order, a new group wherever the next one would not fit."""
    groups: list[list[TensorSpec]] = [[]]
    size = 0
    for spec in specs:
        if groups[-1] and size + spec.nbytes > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(spec)
        size += spec.nbytes
    return groups
