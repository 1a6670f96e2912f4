"""Writing one checkpoint as several files and an index, which appears last and makes them visible."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import ClassVar

import msgspec

from converter.core.contents import Contents
from converter.core.tensors import Array, TensorSpec
from converter.errors import OutputError
from converter.formats.base import Writer
from converter.formats.io.atomic import discard, partial_path, publish
from converter.formats.io.in_place import InPlaceWriter
from converter.formats.io.staging import Staging

__all__ = ["Shard", "ShardWriter", "index_of"]

MAX_SHARD_BYTES = 5_000_000_000


class Shard(msgspec.Struct, frozen=True):
    """One of the files: its name, and what it holds."""

    name: str
    contents: Contents


class ShardWriter(Writer):
    """Streams. ``path`` is that of the index; the shards stand beside it, as ``NAME-00001-of-00002.bin``.

    A subclass says how the name of the index ends (`ending`), that of a shard (`suffix`), and what writes one.
    Over former shards of the same names there is an instant without an index, never a mixture: see `atomic.publish`.
    max_shard_bytes: data that goes into one shard; a larger tensor has one for itself.
    resume: what tells this work from any other. Then complete shards wait for the rest, also after an error or a
    kill, and are not written again by a writer that is given the same text: see `Staging`.
    """

    ending: ClassVar[str]
    suffix: ClassVar[str]
    shard_writer: ClassVar[type[InPlaceWriter]]

    def __init__(
        self, path: Path, contents: Contents, max_shard_bytes: int = MAX_SHARD_BYTES, resume: str | None = None
    ) -> None:
        super().__init__(path, contents)
        self._shards = self.shards(path, contents, max_shard_bytes)
        self._shard_of = {spec.name: shard.name for shard in self._shards for spec in shard.contents.specs}
        self._writers: dict[str, InPlaceWriter] = {}
        self._counting, self._left = Lock(), dict[str, int]()
        self._partial: Path | None = None
        self._kept = None if resume is None else Staging(path, resume)
        folder = path.parent if self._kept is None else self._kept.folder
        try:
            for shard in self._shards:
                if self._kept is not None and self._kept.has(shard.name):
                    self.done |= {spec.name for spec in shard.contents.specs}
                else:
                    self._writers[shard.name] = self.shard_writer(folder / shard.name, shard.contents)
                    self._left[shard.name] = len(shard.contents.specs)
        except BaseException:
            self.abort()
            raise

    @classmethod
    def shards(cls, path: Path, contents: Contents, max_shard_bytes: int = MAX_SHARD_BYTES) -> tuple[Shard, ...]:
        """The files beside that index. Raises OutputError for a name that no index has."""
        if not path.name.endswith(cls.ending):
            raise OutputError(f"{path}: the name of the index of shards must end in '{cls.ending}'")
        groups = _groups(contents.specs, max_shard_bytes)
        stem = path.name.removesuffix(cls.ending)
        return tuple(
            Shard(
                f"{stem}-{number:05}-of-{len(groups):05}{cls.suffix}",
                Contents(tuple(group), metadata=contents.metadata),
            )
            for number, group in enumerate(groups, 1)
        )

    def write(self, name: str, array: Array) -> None:
        shard = self._shard_of[name]
        self._writers[shard].write(name, array)
        if self._kept is not None:
            with self._counting:
                self._left[shard] -= 1
                is_whole = not self._left[shard]
            if is_whole:
                self._writers[shard].commit()

    def commit(self) -> None:
        if self._kept is not None:
            self._kept.publish([shard.name for shard in self._shards], index_of(self._shards))
            return
        moves = [writer.closed() for writer in self._writers.values()]
        self._partial = partial_path(self.path)
        self._partial.write_text(index_of(self._shards), encoding="utf-8")
        publish([*moves, (self._partial, self.path)])

    def abort(self) -> None:
        for writer in self._writers.values():
            writer.abort()
        if self._partial is not None:
            discard(self._partial)
        if self._kept is not None:
            self._kept.leave()


def index_of(shards: Sequence[Shard]) -> str:
    """The text of the index, as that of ``huggingface_hub/serialization``: ``{"metadata": {"total_size": bytes},
    "weight_map": {tensor: file name}}``."""
    total = sum(spec.nbytes for shard in shards for spec in shard.contents.specs)
    weight_map = {spec.name: shard.name for shard in shards for spec in shard.contents.specs}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return json.dumps(index, indent=2, ensure_ascii=False) + "\n"


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
