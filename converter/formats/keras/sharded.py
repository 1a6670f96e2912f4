"""Keras 3 weights in shards: ``model.weights.json`` beside ``model_00000.weights.h5``, ...

The JSON says in which files the variables of each group lie. Source: keras/src/saving/saving_lib.py
(ShardedH5IOStore).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from converter.core.contents import Contents, LeftOut
from converter.core.tensors import Array, TensorSpec
from converter.errors import FormatError, UnsafeFileError
from converter.formats.base import Probe, Reader, ReadOptions, check_names
from converter.formats.io.files import Beside
from converter.formats.io.json import read_json
from converter.formats.io.shards import index_name
from converter.formats.keras.h5 import keras_contents
from converter.formats.keras.hdf5_file import H5File

_EXTENSION, _USUAL = ".weights.json", "model.weights.json"
_SHARD = re.compile(rb'"[^"]*\.weights\.h5"')


def detect(probe: Probe) -> bool:
    """A JSON map whose first entries name ``.weights.h5`` files, or the folder in which one lies."""
    try:
        name = index_name(probe.entries, _EXTENSION, _USUAL) if probe.is_dir else None
        head = (Probe(probe.path / name) if name else probe).head.lstrip()
        return head.startswith(b"{") and b'"weight_map"' in head and _SHARD.search(head) is not None
    except OSError:
        return False


class FileReader(Reader):
    """Opens all shards; they lie in the folder of the JSON. Groups come in the order of the map."""

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        files, index = Beside(path), path
        if path.is_dir():
            name = index_name(Probe(path).entries, _EXTENSION, _USUAL)
            if name is None:
                raise FormatError(path, f"the index '{_USUAL}' is missing")
            index = path / name
        self._index = index
        self._map = _weight_map(index, read_json(index, files))
        self._shards: dict[str, H5File] = {}
        try:
            for name in dict.fromkeys(name for names in self._map.values() for name in names):
                shard = index.with_name(name)
                self._shards[name] = H5File(shard, files.open(shard))
        except BaseException:
            self.close()
            raise

    @property
    def files(self) -> tuple[Path, ...]:
        return (self._index, *map(self._index.with_name, self._shards))

    def close(self) -> None:
        for shard in self._shards.values():
            shard.close()

    @cached_property
    def contents(self) -> Contents:
        specs: list[TensorSpec] = []
        labels: dict[str, str] = {}
        links: dict[str, str] = {}
        left_out: list[LeftOut] = []
        for name, contents in self._by_shard.items():
            self._refuse_unlisted(name, contents)
            specs += contents.specs
            labels |= contents.labels
            links |= contents.links
            left_out += contents.left_out
        position = {group: number for number, group in enumerate(self._map)}
        specs.sort(key=lambda spec: position.get(spec.name.rpartition("/")[0], len(position)))
        return Contents(check_names(self.path, specs), labels=labels, links=links, left_out=tuple(left_out))

    def read(self, name: str) -> Array:
        shard = next(shard for shard, contents in self._by_shard.items() if name in contents.by_name)
        return self._shards[shard].read(self.contents.by_name[name])

    @cached_property
    def _by_shard(self) -> dict[str, Contents]:
        return {name: keras_contents(shard) for name, shard in self._shards.items()}

    def _refuse_unlisted(self, shard: str, contents: Contents) -> None:
        for spec in contents.specs:
            group = spec.name.rpartition("/")[0]
            if shard not in self._map.get(group, ()):
                raise FormatError(self.path, f"'{spec.name}' is in '{shard}', but the map does not say so")


def _weight_map(path: Path, index: Mapping[str, Any]) -> dict[str, list[str]]:
    """Group (without the leading slash) -> names of the files that hold its variables."""
    groups = index.get("weight_map")
    if not isinstance(groups, dict) or not groups:
        raise FormatError(path, "the JSON has no 'weight_map'")
    return {group.lstrip("/"): _shard_names(path, group, names) for group, names in groups.items()}


def _shard_names(path: Path, group: str, names: Any) -> list[str]:
    files = names if isinstance(names, list) else [names]
    for name in files:
        if not isinstance(name, str) or not name:
            raise FormatError(path, f"'{group}' lies in {str(name)[:80]!r}, expected the name of a file")
        if Path(name).name != name or "\\" in name or "\0" in name:
            raise UnsafeFileError(path, f"'{group}' lies in '{name[:200]}', outside of the folder")
    return files
