"""HDF5 files as libhdf5 reads them, without following any link out. Only `hdf5_child` uses it, in its own process.

h5py trusts its input in ways that a reader of strangers' files cannot: links and datasets may point to
other files, a declared shape may claim any size, and damage surfaces as nearly any exception.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import h5py
import numpy as np

from converter.core.contents import LeftOut
from converter.core.tensors import DTYPES, Array, DType, TensorSpec
from converter.errors import FormatError, UnsafeFileError
from converter.formats.io.budget import beyond
from converter.formats.io.source import Source, SourceFile
from converter.formats.keras.hdf5_text import Heaps, read_texts
from converter.formats.keras.hdf5_tree import Dataset, Tree, in_order

__all__ = ["LibraryFile"]

#: Filters of the library itself (deflate, shuffle, fletcher32, szip, nbit, scale-offset) and lzf of h5py.
_FILTERS = frozenset({1, 2, 3, 4, 5, 6, 32000})
_COMPRESSING = frozenset({1, 4, 32000})
#: Elements that are read at once, and chunks that are kept unpacked.
_PIECE, _KEPT = 8 << 20, 64 << 20


class LibraryFile:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._path = source.path
        self._file = h5py.File(SourceFile(source), "r", rdcc_nbytes=_KEPT)
        self._heaps = Heaps(self._take)

    def tree(self) -> Tree:
        return _TreeScan(self).run()

    def pieces(self, spec: TensorSpec) -> Iterator[Array]:
        """The elements in C order, some megabytes at a time."""
        dataset = h5py.h5d.open(self._file.id, spec.name.encode())
        kind = dataset.get_type() if dataset.get_type().get_class() == h5py.h5t.OPAQUE else None
        space = dataset.get_space()
        chunked = dataset.get_create_plist().get_layout() == h5py.h5d.CHUNKED
        step = dataset.get_create_plist().get_chunk()[0] if chunked else 1
        for start, shape in _regions(spec.shape, spec.dtype.itemsize, step):
            piece = np.empty(shape, spec.dtype if kind is None else f"V{spec.dtype.itemsize}")
            if not spec.shape:
                dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, piece, mtype=kind)
            else:
                space.select_hyperslab(start, shape)
                dataset.read(h5py.h5s.create_simple(shape), space, piece, mtype=kind)
            yield piece

    def texts(self, path: str, attribute: str) -> list[str]:
        return self.texts_of(self._file[path or "/"], attribute)

    def has(self, path: str) -> bool:
        return self._file.get(path, getlink=True) is not None

    def attributes(self, path: str) -> list[str]:
        return list(self._file[path or "/"].attrs)

    def texts_of(self, item: Any, attribute: str) -> list[str]:
        if attribute not in item.attrs:
            return []
        stored = item.attrs.get_id(attribute)
        kind = h5py.check_string_dtype(stored.dtype)
        count = math.prod(stored.shape)
        if count == 0:  # an empty list has the type of no text: Keras 2 writes it as float64
            return []
        if kind is None or count * stored.dtype.itemsize > self._source.size:
            raise ValueError("not a text, or larger than the file")
        if kind.length is None:
            return read_texts(self._take, self._heaps, object_address(item), attribute, count) or []
        return [_text(value) for value in np.ravel(item.attrs[attribute])]

    def _take(self, offset: int, size: int) -> bytes:
        """Or fewer at the end of the file."""
        size = max(0, min(size, self._source.size - offset))
        return self._source.take(offset, size, "an attribute")


class _TreeScan:
    def __init__(self, library: LibraryFile) -> None:
        self._library = library
        self._source = library._source
        self._path = library._path
        self._seen: dict[int, str] = {}
        self._addresses: dict[str, int] = {}  # of the groups
        self._links_left = self._source.size // 8 + 64
        self._tree = Tree()

    def run(self) -> Tree:
        stack: list[tuple[str, Any]] = [("", self._library._file)]
        while stack:
            path, item = stack.pop()
            address = object_address(item)
            if address in self._seen:
                self._tree.links[path] = self._seen[address]
                continue
            self._seen[address] = path
            if isinstance(item, h5py.Group):
                self._addresses[path] = address
                self._tree.groups.append(path)
                stack.extend(reversed(list(self._children(path, item))))
            elif isinstance(item, h5py.Dataset):
                self._dataset(path, item, address)
            else:
                self._tree.left_out.append(LeftOut(path, "a datatype, not an array"))
        return self._tree

    def _children(self, path: str, group: Any) -> Iterator[tuple[str, Any]]:
        for name in self._names(group):
            self._links_left -= 1
            if self._links_left < 0:
                raise FormatError(self._path, "more links than the file has room for")
            child = f"{path}/{name}" if path else name
            self._source.budget.charge_name(child)
            if group.id.links.get_info(name.encode()).type == h5py.h5l.TYPE_HARD:
                yield child, self._opened(group, name)
                continue
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.SoftLink):
                raise UnsafeFileError(self._path, f"'{child}' is a link to another file ('{link.filename}')")
            self._tree.left_out.append(LeftOut(child, f"a soft link to '{link.path}'"))

    def _opened(self, group: Any, name: str) -> Any:
        """``group[name]``, which takes h5py three times as long."""
        opened = h5py.h5o.open(group.id, name.encode())
        for low, high in ((h5py.h5g.GroupID, h5py.Group), (h5py.h5d.DatasetID, h5py.Dataset)):
            if isinstance(opened, low):
                return high(opened)
        return group[name]

    def _names(self, group: Any) -> Sequence[str]:
        names = [name.decode("utf-8") for name in group.id]  # raises for a name that is not text
        return names if group.id.get_create_plist().get_link_creation_order() else in_order(names)

    def _dataset(self, path: str, dataset: Any, address: int) -> None:
        if dataset.shape is None or h5py.check_string_dtype(dataset.dtype) is not None:
            self._tree.left_out.append(LeftOut(path, "holds text or nothing, not numbers"))
            return
        self._refuse_outside(path, dataset)
        spec = TensorSpec(path, tuple(map(int, dataset.shape)), self._dtype(path, dataset))
        self._refuse_too_large(spec, dataset)
        parent = path.rpartition("/")[0]
        above = [self._addresses[group] for group in (parent, parent.rpartition("/")[0])]
        self._tree.datasets.append(Dataset(spec, max(address, *above, dataset.id.get_offset() or 0)))

    def _refuse_outside(self, path: str, dataset: Any) -> None:
        if dataset.is_virtual:
            raise UnsafeFileError(self._path, f"'{path}' is a virtual dataset, put together from other files")
        if dataset.external:
            raise UnsafeFileError(self._path, f"the data of '{path}' is in another file")
        properties = dataset.id.get_create_plist()
        filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
        if not _FILTERS.issuperset(filters) or sum(code in _COMPRESSING for code in filters) > 1:
            raise FormatError(self._path, f"'{path}' is stored through the filters {filters}, which cannot be undone")

    def _dtype(self, path: str, dataset: Any) -> DType:
        dtype: DType = dataset.dtype
        if dtype.kind == "V" and dtype.fields is None and dtype.subdtype is None:
            # Keras: HDF5 has no bfloat16, so the bytes are opaque and an attribute says what they are.
            name = next(iter(self._library.texts_of(dataset, "dtype")), "")
            if name in DTYPES and DTYPES[name].itemsize == dtype.itemsize:
                return DTYPES[name]
        if dtype.kind in "biufc" and dtype.newbyteorder("=").name in DTYPES:
            return DTYPES[dtype.newbyteorder("=").name]
        raise FormatError(self._path, f"'{path}' has the type {dtype}, expected numeric values")

    def _refuse_too_large(self, spec: TensorSpec, dataset: Any) -> None:
        stored = min(dataset.id.get_storage_size(), self._source.size)
        self._source.budget.check(beyond(spec.nbytes, self._source.size), f"'{spec.name}'")
        if stored and dataset.chunks is None and spec.nbytes > stored:
            raise FormatError(
                self._path,
                f"'{spec.name}' of shape {spec.shape} takes {spec.nbytes} bytes, the file holds {stored} of it",
            )


def _regions(shape: tuple[int, ...], itemsize: int, step: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(start, shape) of pieces of about `_PIECE` bytes, in C order. step: of the first axis, that of a chunk."""
    if not shape:
        yield (), ()
        return
    row = math.prod(shape[1:]) * itemsize
    if row * min(step, shape[0]) > _KEPT and len(shape) > 1:
        for at in range(shape[0]):
            for start, inner in _regions(shape[1:], itemsize, 1):
                yield (at, *start), (1, *inner)
        return
    rows = max(step, _PIECE // max(row, 1) // step * step)
    for at in range(0, shape[0] if row else 0, rows):
        yield (at, *[0] * (len(shape) - 1)), (min(rows, shape[0] - at), *shape[1:])


def object_address(item: Any) -> int:
    """Where its header is. Not by ``H5Oget_info``, which never ends when two nodes of a damaged B-tree follow each
    other (``H5B_get_info`` walks the siblings to sum their sizes)."""
    low, high = h5py.h5g.get_objinfo(item.id).objno
    return int(low) | int(high) << 32


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
