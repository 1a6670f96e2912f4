"""``pytorch_model.bin.index.json`` and its shards: which file holds which tensor.

Upstream: ``transformers/modeling_utils.py`` (save_pretrained) and ``huggingface_hub/serialization``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from threading import Lock

from converter.core.contents import Contents, LeftOut
from converter.core.tensors import Array, TensorSpec
from converter.errors import FormatError
from converter.formats.base import Probe, Reader, ReadOptions, check_names
from converter.formats.io.shards import ShardWriter, shard_path
from converter.formats.torch import legacy as torch_legacy
from converter.formats.torch import zip as torch_zip
from converter.formats.torch.json import Document

__all__ = ["FileReader", "FileWriter", "detect"]

_EXTENSION = ".bin.index.json"
_USUAL = "pytorch_model.bin.index.json"


def detect(probe: Probe) -> bool:
    """The index, or a folder with one such index."""
    if probe.is_dir:
        return _index_in(probe.path, probe.entries) is not None
    telling = probe.head + probe.tail
    named = probe.path.name.endswith(_EXTENSION) or b'.bin"' in telling
    return named and telling.lstrip().startswith(b"{") and b'"weight_map"' in telling


def _index_in(folder: Path, names: frozenset[str]) -> Path | None:
    indices = [name for name in names if name.endswith(_EXTENSION)]
    return folder / (_USUAL if _USUAL in indices else indices[0]) if _USUAL in indices or len(indices) == 1 else None


class FileReader(Reader):
    """Each shard is a PyTorch file of its own, opened once; the index says which tensors count."""

    dtypes = torch_zip.FileReader.dtypes
    lazy = "tensor, or its zip member if packed"
    parallel = True

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        index = _index_in(path, Probe(path).entries) if path.is_dir() else path
        if index is None:
            raise FormatError(path, f"the index '{_USUAL}' is missing")
        self.index = index
        self._open: dict[str, Reader] = {}
        self._opening = Lock()

    @cached_property
    def weight_map(self) -> Mapping[str, str]:
        """Name of the tensor -> name of the shard."""
        index = Document.read(self.index, "the index")
        return {name: shard.text() for name, shard in index.get("weight_map").items()}

    @cached_property
    def contents(self) -> Contents:
        specs = [self._spec(name) for name in self.weight_map]
        surplus = [
            LeftOut(spec.name, f"in '{shard}', but not in the index")
            for shard, reader in self._open.items()
            for spec in reader.contents.specs
            if self.weight_map.get(spec.name) != shard
        ]
        return Contents(check_names(self.index, specs), left_out=tuple(surplus))

    def read(self, name: str) -> Array:
        return self._shard(self.weight_map[name]).read(name)

    def peek(self, name: str) -> Array:
        return self._shard(self.weight_map[name]).peek(name)

    def digest(self, name: str) -> Hashable:
        return self._shard(self.weight_map[name]).digest(name)

    def prepare(self, names: Iterable[str]) -> Mapping[str, TensorSpec]:
        return {name: self._spec(name) for name in names if name in self.weight_map}

    def close(self) -> None:
        for reader in self._open.values():
            reader.close()

    def _spec(self, name: str) -> TensorSpec:
        shard = self.weight_map[name]
        spec = self._shard(shard).contents.by_name.get(name)
        if spec is None:
            raise FormatError(self.index, f"it says that '{name}' is in '{shard}', but it is not")
        return spec

    def _shard(self, name: str) -> Reader:
        with self._opening:
            if name not in self._open:
                self._open[name] = self._opened(shard_path(self.index, self.index.parent, name))
            return self._open[name]

    def _opened(self, path: Path) -> Reader:
        probe = Probe(path)
        module = next((module for module in (torch_zip, torch_legacy) if module.detect(probe)), None)
        if module is None:
            raise FormatError(path, "not a PyTorch file, as its index says")
        opened: Reader = module.FileReader(path, ReadOptions(checksums=self.options.checksums))
        return opened


class FileWriter(ShardWriter):
    """``path`` is that of the index, ``NAME.bin.index.json``; the shards are zip files of PyTorch."""

    extension = _EXTENSION
    suffix = ".bin"
    shard_writer = torch_zip.FileWriter
