"""TensorFlow checkpoints of the first format (`Saver(write_version=V1)`): one table, or one per shard.

Key "" holds a `SavedTensorSliceMeta` that lists all tensors and their slices; every other key one slice
as a `TensorProto`. Source: tensorflow/core/util/saved_tensor_slice.proto, tensor_slice_writer.cc.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from converter.core.contents import Contents, LeftOut
from converter.core.natural_order import natural_key
from converter.core.tensors import Array, DType, TensorSpec
from converter.errors import FormatError
from converter.formats.base import Opening, Probe, Reader, ReadOptions
from converter.formats.io.budget import RECORD, beyond
from converter.formats.io.files import Beside
from converter.formats.io.tiling import Slice, check_tiling
from converter.formats.tensorflow.object_graph import why_left_out
from converter.formats.tensorflow.paths import INDEX, STATE_FILE, choose, names_in, state_of
from converter.formats.tensorflow.protowire import Message, WireError
from converter.formats.tensorflow.table import Table, is_table
from converter.formats.tensorflow.tensor_proto import DTYPES_OF_VALUES, read_values
from converter.formats.tensorflow.types import (
    DTYPE_OF_CODE,
    OTHER_TYPES,
    Extents,
    read_extents,
    read_shape,
    slice_key,
    slice_of,
)

_SHARD = re.compile(r"(.+)-(\d{5}|\?{5})-of-(\d{5})", re.DOTALL)
_META = b""


def detect(probe: Probe) -> bool:
    """A table that is not an index of the second format, its prefix or folder, or the state file of one."""
    try:
        if probe.is_file and probe.path.name != STATE_FILE and not is_table(probe.tail):
            return False
        return bool(_files(probe.path)) and all(is_table(Probe(file).tail) for file in _files(probe.path)[:1])
    except (OSError, ValueError, FormatError):
        return False


def _files(path: Path, step: int | None = None) -> list[Path]:
    """The tables of the checkpoint that the path means, [] when it means none."""
    if path.is_file() and path.name != STATE_FILE:
        if path.name.endswith(INDEX):
            return []
        return _shards(path.parent, path.name) or [path]
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and path.name != STATE_FILE:
        return _shards(folder, path.name)
    names = sorted({_stem(name) for name in names_in(folder) if _SHARD.fullmatch(name) or _is_single(folder, name)})
    if not names or any(name.endswith(INDEX) for name in names_in(folder)):
        return []
    newest = state_of(folder)
    is_newest = step is None and newest is not None and _stem(newest) in names
    name = _stem(newest) if is_newest and newest is not None else choose(path, folder, names, step)
    return _shards(folder, name) or [folder / name]


def _is_single(folder: Path, name: str) -> bool:
    """Whether a file of the folder is a table by itself, as its state file says."""
    return name == state_of(folder) and (folder / name).is_file()


def _stem(name: str) -> str:
    match = _SHARD.fullmatch(name)
    return match[1] if match else name


def _shards(folder: Path, name: str) -> list[Path]:
    """All shards of the checkpoint to which the name belongs (a shard, the pattern with ?????, or the prefix)."""
    own = _SHARD.fullmatch(name)
    stem, count = (own[1], own[3]) if own else (name, None)
    shards = [(shard, match) for shard in names_in(folder) if (match := _SHARD.fullmatch(shard)) and match[1] == stem]
    counts = {match[3] for _, match in shards if count in (None, match[3])}
    if len(counts) != 1:
        return []
    total = counts.pop()
    return sorted(folder / shard for shard, match in shards if match[3] == total)


class _Tensor(msgspec.Struct):
    code: int
    shape: tuple[int, ...]
    #: (the slice, the extents that its key is made of, the table that holds it)
    parts: list[tuple[Slice, Extents, Table]] = msgspec.field(default_factory=list)


class FileReader(Reader):
    """Reads the lists of tensors at once, and of the rest the blocks of a tensor when it is asked for."""

    dtypes = DTYPES_OF_VALUES
    takes = frozenset({"step"})

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._tables: list[Table] = []
        self._tensors: dict[str, _Tensor] = {}
        self._files = Beside(path)
        try:
            files = _files(path, options.step)
            self._refuse_missing(files)
            self._first = files[0]
            for file in files:
                self._tables.append(Table(self._files.open(file), options.checksums))
                self._list(self._tables[-1])
            self._refuse_incomplete()
        except BaseException:
            self.close()
            raise

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(table.path for table in self._tables)

    @property
    def opening(self) -> Opening:
        return Opening(FileReader, self._first.absolute(), self.options)

    def close(self) -> None:
        for table in self._tables:
            table.close()

    @cached_property
    def contents(self) -> Contents:
        specs, left_out = [], []
        for name in sorted(self._tensors, key=natural_key):
            tensor = self._tensors[name]
            dtype = DTYPE_OF_CODE.get(tensor.code)
            why = why_left_out(name, self._tensors)
            if dtype is None:
                why = f"holds {OTHER_TYPES.get(tensor.code, f'type {tensor.code}')}, not numbers"
            if dtype is None or why is not None:
                left_out.append(LeftOut(name, why or ""))
            else:
                specs.append(TensorSpec(name, tensor.shape, dtype))
        return Contents(tuple(specs), left_out=tuple(left_out))

    def read(self, name: str) -> Array:
        tensor, dtype = self._tensors[name], self.contents.by_name[name].dtype
        self._refuse_too_large(name, tensor, dtype)
        if len(tensor.parts) == 1:
            return self._slice(name, *tensor.parts[0], dtype)
        whole = np.empty(tensor.shape, dtype)
        for part, extents, table in tensor.parts:
            whole[part.region] = self._slice(name, part, extents, table, dtype)
        whole.flags.writeable = False
        return whole

    def _refuse_missing(self, files: Sequence[Path]) -> None:
        shards = [_SHARD.fullmatch(file.name) for file in files]
        if not files or (shards[0] is not None and len(files) != int(shards[0][3])):
            raise FormatError(self.path, f"shards are missing: there are only {[file.name for file in files][:5]}")

    def _list(self, table: Table) -> None:
        """SavedTensorSlices.meta = 1 {tensor = 1 {name = 1, shape = 2, type = 3, slice = 4}}."""
        try:
            meta = Message(table.get(_META))
            if 1 not in meta:
                raise FormatError(table.path, "a table without a list of tensors: no TensorFlow checkpoint")
            for message in Message(meta.data(1)).messages(1):
                self._add(table, message)
        except WireError as error:
            raise FormatError(table.path, f"the list of tensors is damaged: {error}") from None

    def _add(self, table: Table, message: Message) -> None:
        name, code, shape = message.text(1), message.integer(3), read_shape(Message(message.data(2)))
        if name not in self._tensors:
            self._files.budget.charge_name(name)
        tensor = self._tensors.setdefault(name, _Tensor(code, shape))
        if (tensor.code, tensor.shape) != (code, shape):
            raise WireError(f"'{name}' has two shapes or types")
        for extents in map(read_extents, message.messages(4)):
            self._files.budget.charge(RECORD * (1 + len(shape)), "the slices in it")
            tensor.parts.append((slice_of(extents, shape), extents, table))

    def _refuse_incomplete(self) -> None:
        for name, tensor in self._tensors.items():
            try:
                check_tiling(tensor.shape, [part for part, _, _ in tensor.parts])
            except ValueError as error:
                raise FormatError(self.path, f"of '{name}', {error}") from None

    def _refuse_too_large(self, name: str, tensor: _Tensor, dtype: DType) -> None:
        size = math.prod(tensor.shape) * dtype.itemsize
        stored = sum({table.path: table.size for _, _, table in tensor.parts}.values())
        self._files.budget.check(beyond(size, stored), f"'{name}' of shape {tensor.shape}")

    def _slice(self, name: str, part: Slice, extents: Extents, table: Table, dtype: DType) -> Array:
        """SavedTensorSlices.data = 2 {name = 1, slice = 2, data = 3 (TensorProto)}."""
        try:
            saved = Message(Message(table.get(slice_key(name.encode(), extents))).data(2))
            values = read_values(Message(saved.data(3)), dtype, part.size).reshape(part.lengths)
        except WireError as error:
            raise FormatError(table.path, f"'{name}' is damaged: {error}") from None
        values.flags.writeable = False
        return values
