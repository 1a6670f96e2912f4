"""``model.safetensors.index.json`` and its shards, as the Hugging Face hub and ``save_pretrained`` make them.

Format: ``huggingface_hub/serialization``: ``{"metadata": {"total_size": bytes}, "weight_map": {tensor:
file name}}``. A file that the index names must stand beside it; see `shards.shard_path`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from threading import Lock

from converter.core.contents import Contents, LeftOut
from converter.core.tensors import Array, TensorSpec
from converter.errors import FormatError
from converter.formats.base import Probe, Reader, ReadOptions
from converter.formats.io.json import read_json
from converter.formats.io.shards import ShardWriter, shard_path
from converter.formats.safetensors import file as safetensors

EXTENSION = ".safetensors.index.json"
USUAL = "model" + EXTENSION


def detect(probe: Probe) -> bool:
    """The index, or a folder with one."""
    if probe.is_dir:
        return _index_name(probe.entries) is not None
    head = probe.head.lstrip()
    return head[:1] == b"{" and (probe.path.name.endswith(EXTENSION) or b'.safetensors"' in head + probe.tail)


def _index_name(names: frozenset[str]) -> str | None:
    indices = [name for name in names if name.endswith(EXTENSION)]
    return USUAL if USUAL in indices else indices[0] if len(indices) == 1 else None


class FileReader(Reader):
    """Lazy: the headers of all shards. The order is that of the index."""

    dtypes = safetensors.FileReader.dtypes
    parallel = True

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._index = path
        if path.is_dir():
            name = _index_name(Probe(path).entries)
            if name is None:
                raise FormatError(path, f"has no '{USUAL}'")
            self._index = path / name
        self._shards: dict[str, safetensors.FileReader] = {}
        self._opening = Lock()
        self._weight_map = _weight_map(self._index)

    @cached_property
    def contents(self) -> Contents:
        metadata: dict[str, str] = {}
        for name in dict.fromkeys(self._weight_map.values()):
            metadata |= self._shard(name).contents.metadata
        surplus = [
            LeftOut(spec.name, f"in '{shard}', but not in the index")
            for shard, reader in self._shards.items()
            for spec in reader.contents.specs
            if self._weight_map.get(spec.name) != shard
        ]
        specs = tuple(self._spec(name, shard) for name, shard in self._weight_map.items())
        return Contents(specs, left_out=tuple(surplus), metadata=metadata)

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

    def _shard(self, name: str) -> safetensors.FileReader:
        with self._opening:
            if name not in self._shards:
                path = shard_path(self._index, self._index.parent, name)
                self._shards[name] = safetensors.FileReader(path, self.options)
            return self._shards[name]


class FileWriter(ShardWriter):
    """``path`` is that of the index, ``NAME.safetensors.index.json``."""

    extension = EXTENSION
    suffix = ".safetensors"
    shard_writer = safetensors.FileWriter


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor -> file name. Raises FormatError."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise FormatError(index, "its 'weight_map' must map tensors to file names")
    return weight_map
