"""Keras 3 weights, ``.weights.h5``; also any other HDF5 file of plain arrays, which is read alike.

A tensor is called as its dataset: ``layers/dense/vars/0``. The paths are made of attributes and of
class names with a counter; the name that the user gave to a layer is the attribute ``name`` of the
group ``vars``. Source: keras/src/saving/saving_lib.py (H5IOStore).

Order: groups as they were written (see `H5File`), in each the variables by number. An array with
several names (hard links) is listed once, under ``layers/`` where it has such a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import ConversionError, OutputError
from converter.formats.atomic import discard, partial_path, publish
from converter.formats.base import Contents, LeftOut, Probe, Reader, ReadOptions, Writer, check_names
from converter.formats.h5_file import Dataset, H5File, Tree, import_h5py, is_hdf5
from converter.formats.natural import natural_key
from converter.tensors import Array, TensorSpec

VARS = "vars"
_OPTIMIZER = "optimizer/"


def detect(probe: Probe) -> bool:
    try:
        return is_hdf5(probe)
    except OSError:
        return False


class FileReader(Reader):
    """Walks the groups when `contents` is asked for; reads a dataset when it is asked for."""

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._file = H5File(path)

    def close(self) -> None:
        self._file.close()

    @cached_property
    def contents(self) -> Contents:
        return keras_contents(self._file)

    def read(self, name: str) -> Array:
        return self._file.read(self.contents.by_name[name])


def keras_contents(file: H5File) -> Contents:
    """What a file in the layout of Keras 3 holds."""
    tree = file.tree()
    ordered = [found.spec for found in sorted(tree.datasets, key=_age_then_number(tree))]
    optimizer = [spec for spec in ordered if spec.name.startswith(_OPTIMIZER)]
    return Contents(
        specs=check_names(file.path, (spec for spec in ordered if not spec.name.startswith(_OPTIMIZER))),
        labels=_labels(file, tree),
        links=tree.links,
        left_out=(*(LeftOut(spec.name, "state of the optimizer") for spec in optimizer), *tree.left_out),
    )


def _age_then_number(tree: Tree) -> Any:
    ages: dict[str, int] = {}
    for found in tree.datasets:
        group = found.spec.name.rpartition("/")[0]
        ages[group] = max(ages.get(group, 0), found.age)

    def key(found: Dataset) -> tuple[Any, ...]:
        group, _, leaf = found.spec.name.rpartition("/")
        return ages[group], natural_key(group), natural_key(leaf)

    return key


def _labels(file: H5File, tree: Tree) -> Mapping[str, str]:
    """Group -> the name of its layer; "" is the model itself."""
    found = {}
    for path in tree.groups:
        group, _, last = path.rpartition("/")
        if last == VARS and not path.startswith(_OPTIMIZER) and (name := file.text(path, "name")):
            found[group] = name
    return found


class FileWriter(Writer):
    """Writes what `keras.Model.load_weights` reads.

    ``contents.labels`` become the names of layers; ``contents.links`` become hard links, with which one
    file loads into models that call the same layer otherwise. Every dataset has its place from the
    start, so the bytes do not depend on the order of `write`.
    """

    def __init__(self, path: Path, contents: Contents) -> None:
        super().__init__(path, contents)
        h5py = import_h5py(path)
        self._left = {spec.name for spec in contents.specs}
        self._partial = partial_path(path)
        self._file = h5py.File(self._partial, "w")
        try:
            for spec in contents.specs:
                create_dataset(h5py, self._file, spec)
            self._lay_out(contents)
        except BaseException:
            self.abort()
            raise

    def _lay_out(self, contents: Contents) -> None:
        for group, name in contents.labels.items():
            self._file.require_group(f"{group}/{VARS}").attrs["name"] = name
        for other, path in contents.links.items():
            if path not in self._file:
                raise OutputError(f"{self.path}: the link '{other}' leads to '{path}', which holds no tensor")
            if other not in self._file:
                self._file[other] = self._file[path]

    def write(self, name: str, array: Array) -> None:
        write_dataset(self._file[name], array)
        self._left.discard(name)

    def commit(self) -> None:
        if self._left:
            raise ConversionError(f"{self.path}: nothing was written for {', '.join(sorted(self._left)[:5])}")
        self._file.close()
        publish([(self._partial, self.path)])

    def abort(self) -> None:
        try:
            self._file.close()
        finally:
            discard(self._partial)


def create_dataset(h5py: Any, file: Any, spec: TensorSpec) -> None:
    """An empty dataset with its room already reserved; no filters, no dates."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    group, _, leaf = spec.name.rpartition("/")
    parent = file.require_group(group) if group else file
    opaque = spec.dtype.kind == "V" or spec.dtype.name not in _NATIVE
    stored = np.dtype(f"V{spec.dtype.itemsize}") if opaque else spec.dtype.newbyteorder("<")
    space = h5py.h5s.create_simple(spec.shape) if spec.shape else h5py.h5s.create(h5py.h5s.SCALAR)
    kind = h5py.h5t.py_create(stored, logical=True)
    h5py.h5d.create(parent.id, leaf.encode(), kind, space, properties)
    if opaque:
        parent[leaf].attrs["dtype"] = spec.dtype.name


_NATIVE = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128".split()
)


def write_dataset(dataset: Any, array: Array) -> None:
    if not array.size:
        return
    array = np.ascontiguousarray(array)
    if array.dtype.name in _NATIVE:
        dataset.write_direct(array) if array.shape else dataset.__setitem__((), array)
    else:
        dataset[...] = array.view(f"V{array.dtype.itemsize}")
