"""Writing HDF5 the same way every time: room reserved at the start, no dates."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from converter.core.contents import Contents
from converter.core.tensors import Array, TensorSpec
from converter.formats.io.in_place import InPlaceWriter
from converter.formats.keras.hdf5_file import import_h5py

#: What HDF5 has types for. The others are stored as opaque bytes with their name in an attribute, as Keras does.
_NATIVE = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128".split()
)


class H5Writer(InPlaceWriter):
    """The library lays the file out, with room for every dataset; the elements are then put in their places.

    So the bytes do not depend on the order of `write`, and threads need not wait for the library's one lock.
    """

    def __init__(self, path: Path, contents: Contents) -> None:
        h5py = import_h5py(path)  # first: it takes long, and an interrupt then must find no file
        super().__init__(path, contents)
        try:
            with h5py.File(self._partial, "w") as self.file:
                for spec in contents.specs:
                    _create(h5py, self.file, spec)
                self.lay_out()
                self._offsets = {spec.name: self.file[spec.name].id.get_offset() for spec in contents.specs}
        except BaseException as error:
            self.abort()
            if isinstance(error, RuntimeError):  # h5py's word for what the disk refused
                raise OSError(f"{self._partial}: {error}") from None
            raise

    @abstractmethod
    def lay_out(self) -> None:
        """Add to `file` what the format wants beside the datasets, which exist already, without their values."""

    def write(self, name: str, array: Array) -> None:
        self.checked(name, array)
        if array.size:
            self.fill(self._offsets[name], array)


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
