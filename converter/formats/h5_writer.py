"""Writing HDF5 the same way every time: room reserved at the start, no dates, one tensor in memory."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import ConversionError
from converter.formats.atomic import discard, partial_path, publish
from converter.formats.base import Contents, Writer
from converter.formats.h5_file import import_h5py
from converter.tensors import Array, TensorSpec

#: What HDF5 has types for. The others are stored as opaque bytes with their name in an attribute, as Keras does.
_NATIVE = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128".split()
)


class H5Writer(Writer):
    """Every dataset has its place from the start, so the bytes do not depend on the order of `write`."""

    def __init__(self, path: Path, contents: Contents) -> None:
        super().__init__(path, contents)
        h5py = import_h5py(path)
        self._left = {spec.name for spec in contents.specs}
        self._partial = partial_path(path)
        self.file = h5py.File(self._partial, "w")
        try:
            for spec in contents.specs:
                _create(h5py, self.file, spec)
            self.lay_out()
        except BaseException:
            self.abort()
            raise

    @abstractmethod
    def lay_out(self) -> None:
        """Add what the format wants beside the datasets, which exist already, without their values."""

    def write(self, name: str, array: Array) -> None:
        _fill(self.file[name], array)
        self._left.discard(name)

    def commit(self) -> None:
        if self._left:
            raise ConversionError(f"{self.path}: nothing was written for {', '.join(sorted(self._left)[:5])}")
        try:
            self.file.close()
        except RuntimeError as error:  # h5py's word for what the disk refused
            raise OSError(f"{self._partial}: {error}") from None
        publish([(self._partial, self.path)])

    def abort(self) -> None:
        with suppress(Exception):  # a full disk fails here once more, and what is left is thrown away
            self.file.close()
        discard(self._partial)


def _create(h5py: Any, file: Any, spec: TensorSpec) -> None:
    """An empty dataset, contiguous, with its room reserved."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    group, _, leaf = spec.name.rpartition("/")
    parent = file.require_group(group) if group else file
    native = spec.dtype.name in _NATIVE
    stored = spec.dtype.newbyteorder("<") if native else np.dtype(f"V{spec.dtype.itemsize}")
    space = h5py.h5s.create_simple(spec.shape) if spec.shape else h5py.h5s.create(h5py.h5s.SCALAR)
    h5py.h5d.create(parent.id, leaf.encode(), h5py.h5t.py_create(stored, logical=True), space, properties)
    if not native:
        parent[leaf].attrs["dtype"] = spec.dtype.name


def _fill(dataset: Any, array: Array) -> None:
    array = np.ascontiguousarray(array).reshape(array.shape)
    if not array.size:
        return
    if array.dtype.name not in _NATIVE:
        dataset[...] = array.view(f"V{array.dtype.itemsize}")
    elif array.shape:
        dataset.write_direct(array)
    else:
        dataset[()] = array
