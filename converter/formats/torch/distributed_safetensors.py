"""Distributed checkpoints of PyTorch in safetensors: a folder of files, one of each process, without an index.

``shard-00001-model-00001-of-00002.safetensors`` holds pieces of tensors; ``DCP_SHARDING_INFO`` in its metadata says
where each of them starts. The shape of a tensor is written nowhere: it is what its pieces make up. Upstream:
``torch/distributed/checkpoint/hf_storage.py`` (HuggingFaceStorageWriter with ``save_distributed``). What the
other ways of that writer leave (whole tensors and an index) is read by `safetensors.sharded`.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from converter.core.contents import Contents
from converter.core.natural_order import natural_key
from converter.core.tensors import Array, TensorSpec
from converter.errors import FormatError
from converter.formats.base import Probe, Reader, ReadOptions
from converter.formats.io.budget import Budget
from converter.formats.io.json import parse_json
from converter.formats.io.shards import shard_path
from converter.formats.io.source import MAX_AXES, frozen
from converter.formats.io.tiling import Slice, check_tiling
from converter.formats.safetensors import file as safetensors

__all__ = ["FileReader", "detect"]

_FILE = re.compile(r"shard-\d+-model-\d+-of-\d+\.safetensors")
_INDEX = ".safetensors.index.json"
_SHARDING_INFO = "DCP_SHARDING_INFO"


def detect(probe: Probe) -> bool:
    """The folder, or one of its files."""
    if probe.is_dir:
        names = probe.entries
        return any(map(_FILE.fullmatch, names)) and not any(name.endswith(_INDEX) for name in names)
    return _FILE.fullmatch(probe.path.name) is not None and safetensors.detect(probe)


class _Piece(msgspec.Struct, frozen=True):
    file: str
    slice: Slice


class FileReader(Reader):
    """Lazy: the headers of all files. A tensor is put together of the pieces that it has in each of them."""

    dtypes = safetensors.FileReader.dtypes
    parallel = True

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._folder = path if path.is_dir() else path.parent
        self._files: dict[str, safetensors.FileReader] = {}
        self._budget = Budget(path)
        try:
            for name in sorted(filter(_FILE.fullmatch, (file.name for file in self._folder.iterdir()))):
                file = shard_path(path, self._folder, name)
                self._files[name] = safetensors.FileReader(file, options, self._budget)
        except BaseException:
            self.close()
            raise

    @cached_property
    def contents(self) -> Contents:
        specs = []
        for name, pieces in sorted(self._pieces.items(), key=lambda item: natural_key(item[0])):
            shape = tuple(max(ends) for ends in zip(*(piece.slice.ends for piece in pieces), strict=True))
            dtypes = {self._spec(piece, name).dtype for piece in pieces}
            if len(dtypes) > 1:
                raise FormatError(self._folder, f"the pieces of '{name}' have the dtypes {sorted(map(str, dtypes))}")
            try:
                check_tiling(shape, [piece.slice for piece in pieces])
            except ValueError as error:
                raise FormatError(self._folder, f"of '{name}', {error}; is a file missing?") from None
            specs.append(TensorSpec(name, shape, dtypes.pop()))
        return Contents(tuple(specs))

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self._folder / name for name in self._files)

    def read(self, name: str) -> Array:
        spec, pieces = self.contents.by_name[name], self._pieces[name]
        if len(pieces) == 1:
            return self._files[pieces[0].file].read(name)
        whole = np.empty(spec.shape, spec.dtype)
        for piece in pieces:
            whole[piece.slice.region] = self._files[piece.file].read(name)
        return frozen(whole)

    def close(self) -> None:
        for reader in self._files.values():
            reader.close()

    def _spec(self, piece: _Piece, name: str) -> TensorSpec:
        return self._files[piece.file].contents.by_name[name]

    @cached_property
    def _pieces(self) -> dict[str, list[_Piece]]:
        pieces: dict[str, list[_Piece]] = {}
        for file, reader in self._files.items():
            text = reader.contents.metadata.get(_SHARDING_INFO)
            what = f"'{_SHARDING_INFO}' in the header"
            starts = None if text is None else parse_json(reader.path, text.encode(), what, self._budget)
            for spec in reader.contents.specs:
                piece = _Piece(file, Slice(_starts(reader.path, spec, starts), spec.shape))
                pieces.setdefault(spec.name, []).append(piece)
        return pieces


def _starts(path: Path, spec: TensorSpec, info: dict[str, object] | None) -> tuple[int, ...]:
    """Where the piece starts in its tensor; a file without positions has whole tensors."""
    if info is None:
        return (0,) * len(spec.shape)
    entry = info.get(spec.name)
    starts = entry.get("saved_offsets") if isinstance(entry, dict) else None
    fits = isinstance(starts, list) and len(starts) == len(spec.shape) <= MAX_AXES
    if not fits or not all(type(start) is int and 0 <= start < 1 << 62 for start in starts or ()):
        raise FormatError(
            path, f"'{_SHARDING_INFO}' in the header does not say where '{spec.name}' of {spec.shape} starts"
        )
    return tuple(starts or ())
