"""Distributed checkpoints of PyTorch: a folder with ``.metadata`` (a pickle) and ``__RANK_N.distcp`` files.

The pickle says of each tensor its size and its chunks, and of each chunk the part of a file that holds it: a whole
``torch.save`` archive. Upstream: ``torch/distributed/checkpoint/metadata.py`` and ``filesystem.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from converter.core.tensors import DTYPES, Array, DType
from converter.errors import FormatError
from converter.formats.base import Probe
from converter.formats.io.budget import Budget, Loan
from converter.formats.io.files import read_whole
from converter.formats.io.shards import shard_path
from converter.formats.io.tiling import Slice, check_tiling
from converter.formats.pickle.load import Global, Opaque, PickleError, inert_class, load
from converter.formats.torch.archive import TorchArchive
from converter.formats.torch.objects import TorchReader
from converter.formats.torch.rebuild import TENSOR_GLOBALS
from converter.formats.torch.tensors import (
    TORCH_DTYPES,
    FileTensor,
    NotATensor,
    Storage,
    StridedTensor,
    TorchFile,
    sizes_of,
)
from converter.formats.zip.members import ZipMembers

__all__ = ["FileReader", "detect"]

_METADATA = ".metadata"
MAX_METADATA = 1 << 30
_MODULE = "torch.distributed.checkpoint"


def detect(probe: Probe) -> bool:
    """The folder, or its ``.metadata``."""
    if probe.is_dir:
        return _METADATA in probe.entries or any(name.endswith(".distcp") for name in probe.entries)
    return probe.path.name == _METADATA and _MODULE.encode() in probe.head


class _Chunk(msgspec.Struct, frozen=True):
    """A block of a tensor, and the part of a file that holds it."""

    slice: Slice
    file: str
    begin: int
    length: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.slice.lengths


class _ChunkedTensor(FileTensor, frozen=True, eq=False):
    dtype: DType
    shape: tuple[int, ...]
    chunks: tuple[_Chunk, ...]

    @property
    def storages(self) -> tuple[Storage, ...]:
        return tuple(Storage(f"{part.file}:{part.begin}", DTYPES["uint8"], part.length) for part in self.chunks)

    def check(self, file: TorchFile) -> None:
        assert isinstance(file, DistributedCheckpoint)
        self.check_shape()
        for chunk in self.chunks:
            if math.prod(chunk.shape) * self.dtype.itemsize > chunk.length:
                raise PickleError(f"a chunk of shape {chunk.shape} in {chunk.length} bytes")
            if chunk.begin + chunk.length > file.size(chunk.file):
                raise PickleError(f"it needs the bytes up to {chunk.begin + chunk.length} of '{chunk.file}'")
        try:
            check_tiling(self.shape, [chunk.slice for chunk in self.chunks])
        except ValueError as error:
            raise PickleError(f"in chunks, {error}") from None
        self.check_growth(file)

    def read(self, file: TorchFile) -> Array:
        assert isinstance(file, DistributedCheckpoint)
        if len(self.chunks) == 1 and self.chunks[0].shape == self.shape:
            return file.chunk(self.chunks[0], self.dtype)
        whole = np.empty(self.shape, self.dtype)
        for chunk in self.chunks:
            whole[chunk.slice.region] = file.chunk(chunk, self.dtype)
        return whole


class DistributedCheckpoint(TorchFile):
    """The tensors by the nested keys of the state dict that was saved."""

    def __init__(self, path: Path, verify: bool) -> None:
        self.path = path / _METADATA if path.is_dir() else path
        self.folder = self.path.parent
        self.verify = verify
        self.budget = Budget(self.path)
        self._sizes: dict[str, int] = {}

    def load(self, loan: Loan) -> object:
        if not self.path.is_file():
            raise FormatError(self.folder, f"the file '{_METADATA}' of this distributed checkpoint is missing")
        data = read_whole(self.path, MAX_METADATA)
        metadata, _ = load(data, self.path, TENSOR_GLOBALS, None, inert_class, loan=loan)
        if not isinstance(metadata, Opaque) or not metadata.name.endswith(" Metadata"):
            raise FormatError(self.path, "it does not hold the metadata of a distributed checkpoint")
        try:
            return self._tree(metadata.attributes)
        except PickleError as error:
            raise FormatError(self.path, str(error)) from None

    def size(self, key: str) -> int:
        """Of the file of that name."""
        if key not in self._sizes:
            self._sizes[key] = shard_path(self.path, self.folder, key).stat().st_size
        return self._sizes[key]

    def raw(self, key: str, begin: int, length: int) -> Array:
        raise FormatError(self.path, f"a tensor in '{key}' that is not in an archive")

    def chunk(self, chunk: _Chunk, dtype: DType) -> Array:
        """The chunk itself, read from its own archive."""
        path = shard_path(self.path, self.folder, chunk.file)
        members = ZipMembers(path, self.verify, chunk.begin, chunk.length, self.budget)
        try:
            archive = TorchArchive(members)
            with Loan(self.budget) as loan:
                tensor = archive.load(loan)
            if not isinstance(tensor, StridedTensor) or (tensor.shape, tensor.dtype) != (chunk.shape, dtype):
                raise FormatError(path, f"at byte {chunk.begin} there is no tensor of shape {chunk.shape}, {dtype}")
            tensor.check(archive)
            return tensor.read(archive)
        finally:
            members.close()

    def _tree(self, attributes: Mapping[object, object]) -> object:
        described = _mapping(attributes.get("state_dict_metadata"), "state_dict_metadata")
        stored = self._stored(_mapping(attributes.get("storage_data"), "storage_data"))
        paths = attributes.get("planner_data")
        tree: dict[object, object] = {}
        for name, meta in described.items():
            leaf = self._leaf(name, meta, stored)
            keys = paths.get(name) if isinstance(paths, dict) else None
            _insert(tree, keys if isinstance(keys, tuple) and keys else (name,), leaf)
        return tree

    def _stored(self, entries: Mapping[object, object]) -> Mapping[tuple[object, object], Mapping[object, object]]:
        """(name, offsets) -> file, begin and length."""
        stored: dict[tuple[object, object], Mapping[object, object]] = {}
        for index, info in entries.items():
            if not isinstance(index, Opaque) or not isinstance(info, Opaque):
                raise PickleError("its storage data are not what such a checkpoint has")
            key = index.attributes
            name, offset = key.get("fqn"), key.get("offset")
            if not isinstance(name, str) or not isinstance(offset, (tuple, type(None))):
                raise PickleError("an entry of its storage data has no name")
            stored[name, None if offset is None else sizes_of(offset)] = info.attributes
        return stored

    def _leaf(
        self, name: object, meta: object, stored: Mapping[tuple[object, object], Mapping[object, object]]
    ) -> object:
        if not isinstance(meta, Opaque) or not meta.name.endswith(" TensorStorageMetadata"):
            return NotATensor("not a tensor")
        attributes = meta.attributes
        chunks = attributes.get("chunks")
        if not isinstance(chunks, list):
            raise PickleError(f"the chunks of '{name}' are missing")
        return _ChunkedTensor(
            _dtype(name, attributes.get("properties")),
            sizes_of(attributes.get("size")),
            tuple(self._chunk(name, chunk, stored) for chunk in chunks),
        )

    def _chunk(
        self, name: object, chunk: object, stored: Mapping[tuple[object, object], Mapping[object, object]]
    ) -> _Chunk:
        attributes = chunk.attributes if isinstance(chunk, Opaque) else {}
        offsets, shape = sizes_of(attributes.get("offsets")), sizes_of(attributes.get("sizes"))
        info = stored.get((name, offsets))
        if info is None or len(offsets) != len(shape):
            raise PickleError(f"the position of the chunk {offsets} of '{name}' is missing")
        if info.get("transform_descriptors"):
            extensions = str(info["transform_descriptors"])[:80]
            raise PickleError(
                f"'{name}' was packed by the extensions {extensions} of torch.distributed.checkpoint, which are not "
                "undone here. Load it with PyTorch and save it again without them"
            )
        file, begin, length = info.get("relative_path"), info.get("offset"), info.get("length")
        if not isinstance(file, str) or not isinstance(begin, int) or not isinstance(length, int):
            raise PickleError(f"the position of the chunk {offsets} of '{name}' is missing")
        if begin < 0 or length < 0:
            raise PickleError(f"the chunk {offsets} of '{name}' has a negative offset")
        return _Chunk(Slice(offsets, shape), file, begin, length)


def _mapping(value: object, what: str) -> Mapping[object, object]:
    if not isinstance(value, dict):
        raise PickleError(f"its '{what}' is missing")
    return value


def _dtype(name: object, properties: object) -> DType:
    """``TensorProperties`` pickles as a tuple that begins with the dtype; older ones as attributes."""
    state = properties.state if isinstance(properties, Opaque) else None
    dtype = state[0] if isinstance(state, tuple) and state else None
    if dtype is None and isinstance(properties, Opaque):
        dtype = properties.attributes.get("dtype")
    code = dtype.name.split()[-1] if isinstance(dtype, Global) else ""
    if code not in TORCH_DTYPES:
        raise PickleError(f"the dtype of '{name}' is unknown")
    return TORCH_DTYPES[code]


def _insert(tree: dict[object, object], keys: tuple[object, ...], leaf: object) -> None:
    """``tree[k1][k2]... = leaf``; the indices of lists are keys like others."""
    if len(keys) > 64 or not all(isinstance(key, (str, int)) for key in keys):
        raise PickleError("an invalid path of keys")
    for key in keys[:-1]:
        below = tree.setdefault(key, {})
        if not isinstance(below, dict):
            raise PickleError(f"the key '{key}' holds a tensor and more keys")
        tree = below
    if keys[-1] in tree:
        raise PickleError(f"the key '{keys[-1]}' occurs twice")
    tree[keys[-1]] = leaf


class FileReader(TorchReader):
    """See `DistributedCheckpoint`. One tensor is read at a time, from the files that hold its chunks."""

    lazy = "tensor, or its zip member if packed"

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path if self.path.is_dir() else self.path.parent,)

    def open(self) -> TorchFile:
        return DistributedCheckpoint(self.path, self.options.checksums)
