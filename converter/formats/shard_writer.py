"""Writing one checkpoint as several files and an index, which appears last and makes them visible."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
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
    resume: what tells this work from any other. Then complete shards wait in the hidden folder
    ``.INDEX.resume`` for the rest, also after an error or a kill, and are not written again by a writer that
    is given the same text.
    The index is that of ``huggingface_hub/serialization``: ``{"metadata": {"total_size": bytes}, "weight_map":
    {tensor: file name}}``.
    """

    ending: ClassVar[str]
    suffix: ClassVar[str]
    shard_writer: ClassVar[type[InPlaceWriter]]

    def __init__(
        self, path: Path, contents: Contents, max_shard_bytes: int = MAX_SHARD_BYTES, resume: str | None = None
    ) -> None:
        super().__init__(path, contents)
        if not path.name.endswith(self.ending):
            raise OutputError(f"{path}: the name of the index of shards must end in '{self.ending}'")
        groups = _groups(contents.specs, max_shard_bytes)
        stem = path.name.removesuffix(self.ending)
        self._weight_map: dict[str, str] = {}
        self._writers: dict[str, InPlaceWriter] = {}
        self._counting, self._left = Lock(), dict[str, int]()
        self._partial: Path | None = None
        self._kept = None if resume is None else _Kept(path, resume)
        folder = path.parent if self._kept is None else self._kept.folder
        try:
            for number, group in enumerate(groups, 1):
                name = f"{stem}-{number:05}-of-{len(groups):05}{self.suffix}"
                part = Contents(tuple(group), metadata=contents.metadata)
                self._weight_map |= {spec.name: name for spec in group}
                if self._kept is not None and self._kept.has(name):
                    self.done |= {spec.name for spec in group}
                else:
                    self._writers[name] = self.shard_writer(folder / name, part)
                    self._left[name] = len(group)
        except BaseException:
            self.abort()
            raise

    def write(self, name: str, array: Array) -> None:
        shard = self._weight_map[name]
        self._writers[shard].write(name, array)
        if self._kept is not None:
            with self._counting:
                self._left[shard] -= 1
                is_whole = not self._left[shard]
            if is_whole:
                self._writers[shard].commit()

    def commit(self) -> None:
        if self._kept is None:
            moves = [writer.closed() for writer in self._writers.values()]
        else:
            shards = dict.fromkeys(self._weight_map.values())
            moves = [(self._kept.folder / shard, self.path.parent / shard) for shard in shards]
        total = sum(spec.nbytes for spec in self.contents.specs)
        index = {"metadata": {"total_size": total}, "weight_map": self._weight_map}
        self._partial = partial_path(self.path)
        self._partial.write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        publish([*moves, (self._partial, self.path)])
        if self._kept is not None:
            discard(self._kept.folder)

    def abort(self) -> None:
        for writer in self._writers.values():
            writer.abort()
        if self._partial is not None:
            discard(self._partial)
        if self._kept is not None:
            self._kept.leave()


class _Kept:
    """The folder of complete shards of an earlier attempt at the same work; empty for any other work."""

    def __init__(self, path: Path, work: str) -> None:
        self.folder = path.with_name(f".{path.name}.resume")
        self._work = self.folder / "work"
        if not self._work.is_file() or self._work.read_text(encoding="utf-8") != work:
            partial_path(path)  # raises for a folder that is not there
            discard(self.folder)
            self.folder.mkdir()
            self._work.write_text(work, encoding="utf-8")
        for unfinished in self.folder.glob(".*.partial"):  # of a killed process
            discard(unfinished)

    def has(self, shard: str) -> bool:
        """Whether it is there: it got its name when it was whole and on the disk."""
        return (self.folder / shard).is_file()

    def leave(self) -> None:
        """Keep what is worth it."""
        if list(self.folder.glob("*")) == [self._work]:
            discard(self.folder)


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
