"""One checkpoint in several files, the shards, and an index that names them."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import ClassVar

import msgspec

from converter.core.contents import Contents, LeftOut
from converter.core.tensors import Array, TensorSpec
from converter.errors import FormatError, OutputError, UnsafeFileError
from converter.formats.atomic import check_folder, discard, partial_path, publish
from converter.formats.base import Probe, Reader, ReadOptions, Writer
from converter.formats.io.files import Beside, beside
from converter.formats.io.in_place import InPlaceWriter
from converter.formats.io.json import read_json
from converter.formats.locations import exists, is_url

__all__ = ["Shard", "ShardReader", "ShardWriter", "Staging", "index_name", "index_of", "shard_path"]

MAX_SHARD_BYTES = 5_000_000_000


def shard_path(index: Path, folder: Path, name: str) -> Path:
    """The file ``name`` in ``folder``, as the ``index`` says. Raises UnsafeFileError or FormatError; see `beside`."""
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise UnsafeFileError(index, f"it names the file '{name[:80]}', which is not in its folder")
    path = folder / name
    if is_url(path) and set(name) & set("%?#"):  # which a server may take for a way out of the folder
        raise UnsafeFileError(index, f"it names the file '{name[:80]}', which is not in its folder")
    if is_url(path):  # where there are no links
        if not path.is_file():
            raise FormatError(index, f"it names the file '{name[:80]}', which is missing")
        return path
    if not os.path.lexists(path):
        raise FormatError(index, f"it names the file '{name[:80]}', which is missing")
    if not beside(folder, path).is_file():
        raise FormatError(index, f"it names '{name[:80]}', which is not a file")
    return path


def index_name(names: Collection[str], extension: str, usual: str) -> str | None:
    """The index among the files of a folder: the usual name, or the only one with that extension."""
    indices = [name for name in names if name.endswith(extension)]
    return usual if usual in indices else indices[0] if len(indices) == 1 else None


class ShardReader(Reader):
    """Lazy: the headers of all shards, each opened once. The order is that of the index.

    A subclass has the extension of the index, its usual name, and `open_shard`.
    """

    extension: ClassVar[str]
    usual: ClassVar[str]
    parallel = True

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._index = path
        if path.is_dir():
            name = index_name(Probe(path).entries, self.extension, self.usual)
            if name is None:
                raise FormatError(path, f"the index '{self.usual}' is missing")
            self._index = path / name
        self._shards: dict[str, Reader] = {}
        self._opening = Lock()
        files = Beside(path)
        self.budget = files.budget  # of all shards together
        weight_map = read_json(self._index, files).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise FormatError(self._index, "its 'weight_map' must map tensors to file names")
        self._weight_map: dict[str, str] = weight_map

    @abstractmethod
    def open_shard(self, path: Path) -> Reader:
        """Open one of the files. Raises FormatError."""

    @cached_property
    def contents(self) -> Contents:
        specs = tuple(self._spec(name, shard) for name, shard in self._weight_map.items())
        metadata: dict[str, str] = {}
        for reader in self._shards.values():
            metadata |= reader.contents.metadata
        surplus = [
            LeftOut(spec.name, f"in '{shard}', but not in the index")
            for shard, reader in self._shards.items()
            for spec in reader.contents.specs
            if self._weight_map.get(spec.name) != shard
        ]
        beside = [item for reader in self._shards.values() for item in reader.contents.left_out]
        return Contents(specs, left_out=(*surplus, *beside), metadata=metadata)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self._index, *(self._index.parent / name for name in dict.fromkeys(self._weight_map.values())))

    def read(self, name: str) -> Array:
        return self._shard(self._weight_map[name]).read(name)

    def peek(self, name: str) -> Array:
        return self._shard(self._weight_map[name]).peek(name)

    def digest(self, name: str) -> Hashable:
        return self._shard(self._weight_map[name]).digest(name)

    def prepare(self, names: Iterable[str]) -> Mapping[str, TensorSpec]:
        return {name: self._spec(name, self._weight_map[name]) for name in names if name in self._weight_map}

    def close(self) -> None:
        for reader in self._shards.values():
            reader.close()

    def _spec(self, name: str, shard: str) -> TensorSpec:
        spec = self._shard(shard).contents.by_name.get(name)
        if spec is None:
            raise FormatError(self._index, f"says that '{name}' is in '{shard}', which does not hold it")
        return spec

    def _shard(self, name: str) -> Reader:
        with self._opening:
            if name not in self._shards:
                self._shards[name] = self.open_shard(shard_path(self._index, self._index.parent, name))
            return self._shards[name]


class Shard(msgspec.Struct, frozen=True):
    """One of the files: its name, and what it holds."""

    name: str
    contents: Contents


class ShardWriter(Writer):
    """Streams. ``path`` is that of the index; the shards are written to its folder, as ``NAME-00001-of-00002.bin``.

    A subclass has the extension of the index, that of a shard (`suffix`), and the writer of one.
    Over former shards of the same names there is an instant without an index, never a mixture: see `atomic.publish`.
    max_shard_bytes: limit of the data in one shard; a larger tensor gets a shard of its own.
    resume: an identifier of this conversion. Then complete shards wait for the rest, also after an error or a
    kill, and are not written again by a writer with the same text: see `Staging`.
    """

    extension: ClassVar[str]
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
        """The files beside that index. Raises OutputError for an index with another extension."""
        if not path.name.endswith(cls.extension):
            raise OutputError(f"{path}: the name of the index of shards must end in '{cls.extension}'")
        groups = _groups(contents.specs, max_shard_bytes)
        stem = path.name.removesuffix(cls.extension)
        return tuple(
            Shard(
                f"{stem}-{number:05}-of-{len(groups):05}{cls.suffix}",
                Contents(tuple(group), metadata=contents.metadata),
            )
            for number, group in enumerate(groups, 1)
        )

    def takes_joined(self, name: str) -> bool:
        return self._writers[self._shard_of[name]].takes_joined(name)

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


class Staging:
    """Shards get their names in `folder` when they are whole; `publish` gives all of them their places at once.

    work: an identifier of this conversion; then shards of an earlier attempt at it are there already, also after
    an error or a kill, and `leave` keeps them in ``.INDEX.resume``. None: the folder is new, and `leave` removes it.
    running: a file that exists as long as a process waits for the shards.
    Raises OutputError when the folder of the index is not there or cannot be written to.
    """

    def __init__(self, path: Path, work: str | None = None) -> None:
        self.path = path
        self.folder = partial_path(path) if work is None else path.with_name(f".{path.name}.resume")
        self._work = self.folder / "work"
        if work is None or not exists(self._work) or self._work.read_text(encoding="utf-8") != work:
            check_folder(path)
            self._refuse_other()
            discard(self.folder)
            self.folder.mkdir()
            if work is not None:
                self._work.write_text(work, encoding="utf-8")
        for left in (*self.folder.glob(".*.partial"), *self.folder.glob("running.*")):  # by a killed process
            discard(left)
        self.running = self.folder / f"running.{os.urandom(4).hex()}"
        self.running.touch()

    def _refuse_other(self) -> None:
        """A folder of that name that no former attempt made is not removed."""
        inside = sorted(self.folder.glob("*")) if exists(self.folder) and not exists(self._work) else []
        if inside:
            raise OutputError(f"{self.folder}: '{inside[0].name}' in it is of no conversion. Move it away.")

    def has(self, shard: str) -> bool:
        """Whether the shard is complete: it gets its name when it is on the disk."""
        return exists(self.folder / shard)

    def publish(self, shards: Iterable[str], index: str) -> None:
        """Write the index, give all files their final names, and remove the folder."""
        written = self.folder / self.path.name
        written.write_text(index, encoding="utf-8")
        publish([*((self.folder / shard, self.path.parent / shard) for shard in shards), (written, self.path)])
        discard(self.folder)

    def leave(self) -> None:
        """Keep the folder if it holds complete shards."""
        discard(self.running)
        if not exists(self._work) or list(self.folder.glob("*")) == [self._work]:
            discard(self.folder)
