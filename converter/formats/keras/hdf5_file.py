"""HDF5 files, opened with suspicion: what is in them, and their arrays, without following any link out.

h5py trusts its input in ways that a reader of strangers' files cannot: links and datasets may point to
other files, a declared shape may claim any size, and damage surfaces as nearly any exception. Here
sizes are checked before memory is allocated, and everything else becomes a `FormatError`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
import numpy as np

from converter.core.contents import LeftOut
from converter.core.natural_order import natural_key
from converter.core.tensors import DTYPES, Array, DType, TensorSpec
from converter.errors import ConversionError, FormatError, MissingLibraryError, UnsafeFileError
from converter.formats.base import Probe, Reader, ReadOptions
from converter.formats.io.files import open_regular, open_source, regular_size
from converter.formats.io.source import SourceFile
from converter.formats.keras.hdf5_rehearsal import rehearse
from converter.formats.keras.hdf5_text import Pread, read_texts
from converter.formats.locations import is_url
from converter.formats.zip.members import most_unpacked

SIGNATURE = b"\x89HDF\r\n\x1a\n"

#: An array may be larger than `most_unpacked` says by this much (HDF5 does not store what was never written).
_FREE_BYTES = 1 << 20

#: Filters of the library itself (deflate, shuffle, fletcher32, szip, nbit, scale-offset) and lzf of h5py.
_FILTERS = frozenset({1, 2, 3, 4, 5, 6, 32000})
_COMPRESSING = frozenset({1, 4, 32000})


def is_hdf5(probe: Probe) -> bool:
    return probe.head.startswith(SIGNATURE)


class H5Reader(Reader):
    """A reader of one HDF5 file, whose datasets are its tensors; a subclass says which, in `contents`."""

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._file = H5File(path)

    def close(self) -> None:
        self._file.close()

    def read(self, name: str) -> Array:
        return self._file.read(self.contents.by_name[name])


@contextmanager
def damaged_means_format_error(path: Path, what: str) -> Iterator[None]:
    """h5py meets damage with OSError, RuntimeError, KeyError, ValueError and more: all become FormatError."""
    try:
        yield
    except ConversionError:
        raise
    except Exception as error:
        text = str(error).strip("'\"") or type(error).__name__
        raise FormatError(path, f"{what}: damaged or incomplete HDF5 ({text[:200]})") from None


def import_h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise MissingLibraryError(f"{path}: HDF5 files need h5py: pip install h5py") from None
    return h5py


class Dataset(msgspec.Struct, frozen=True):
    """A numeric dataset. ``age`` grows with the time of its writing (see `H5File`)."""

    spec: TensorSpec
    age: int


class Tree(msgspec.Struct):
    """The objects of a file; paths have no leading slash. ages: group -> the highest address of its objects."""

    datasets: list[Dataset] = msgspec.field(default_factory=list)
    groups: list[str] = msgspec.field(default_factory=list)
    links: dict[str, str] = msgspec.field(default_factory=dict)
    left_out: list[LeftOut] = msgspec.field(default_factory=list)


class H5File:
    """An HDF5 file (or a file object that holds one) for reading.

    Where a group does not keep the order of creation, `Dataset.age` tells it nearly always: objects go
    to the end of the file, or into a gap left earlier, so of all objects of a group the one with the
    highest address shows when the group was written.
    """

    def __init__(self, path: Path, source: BinaryIO | None = None, size: int | None = None) -> None:
        self.path = path
        self._size = regular_size(path) if size is None else size
        self._h5py = import_h5py(path)
        if source is None and is_url(path):
            source = cast(BinaryIO, SourceFile(open_source(path)))
        self._source = source if source is not None else open_regular(path)[0]
        try:
            rehearse(path, self._source)
            with damaged_means_format_error(path, "the file"):
                self._file = self._h5py.File(source or path, "r", **({} if source else {"locking": False}))
        except BaseException:
            self._source.close()
            raise

    def close(self) -> None:
        try:
            with damaged_means_format_error(self.path, "the file"):
                self._file.close()
        finally:
            self._source.close()

    def _pread(self, offset: int, size: int) -> bytes:
        self._source.seek(offset)
        return self._source.read(min(size, self._size))

    def tree(self) -> Tree:
        """Every object once, under its first name; ``layers`` goes before the other names of a group."""
        with damaged_means_format_error(self.path, "the file"):
            return _TreeScan(self._h5py, self.path, self._file, self._size, self._pread).run()

    def read(self, spec: TensorSpec) -> Array:
        with damaged_means_format_error(self.path, f"'{spec.name}'"):
            return self._read(spec)

    def text(self, path: str, attribute: str) -> str:
        """A text attribute of a group, "" when there is none."""
        values = self.texts(path, attribute)
        return values[0] if values else ""

    def texts(self, path: str, attribute: str) -> list[str]:
        """A text attribute of one or several values, [] when there is none."""
        with damaged_means_format_error(self.path, f"the attribute '{attribute}' of '/{path}'"):
            return _texts(self._h5py, self._pread, self._size, self._file[path or "/"], attribute)

    def has(self, path: str) -> bool:
        with damaged_means_format_error(self.path, f"'{path}'"):
            return self._file.get(path, getlink=True) is not None

    def attributes(self, path: str) -> list[str]:
        with damaged_means_format_error(self.path, f"'/{path}'"):
            return list(self._file[path or "/"].attrs)

    def _read(self, spec: TensorSpec) -> Array:
        dataset = self._h5py.h5d.open(self._file.id, spec.name.encode())
        array: Array = np.empty(spec.shape, spec.dtype)
        if array.size:
            space = self._h5py.h5s.ALL
            if dataset.get_type().get_class() == self._h5py.h5t.OPAQUE:
                dataset.read(space, space, array.view(f"V{spec.dtype.itemsize}"), mtype=dataset.get_type())
            else:
                dataset.read(space, space, array)
        array.flags.writeable = False
        return array


class _TreeScan:
    def __init__(self, h5py: Any, path: Path, file: Any, size: int, pread: Pread) -> None:
        self._pread = pread
        self._h5py = h5py
        self._path = path
        self._file = file
        self._size = size
        self._seen: dict[int, str] = {}
        self._addresses: dict[str, int] = {}  # of the groups
        self._links_left = size // 8 + 64
        self._tree = Tree()

    def run(self) -> Tree:
        stack: list[tuple[str, Any]] = [("", self._file)]
        while stack:
            path, item = stack.pop()
            address = object_address(self._h5py, item)
            if address in self._seen:
                self._tree.links[path] = self._seen[address]
                continue
            self._seen[address] = path
            if isinstance(item, self._h5py.Group):
                self._addresses[path] = address
                self._tree.groups.append(path)
                stack.extend(reversed(list(self._children(path, item))))
            elif isinstance(item, self._h5py.Dataset):
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
            if group.id.links.get_info(name.encode()).type == self._h5py.h5l.TYPE_HARD:
                yield child, self._opened(group, name)
                continue
            link = group.get(name, getlink=True)
            if not isinstance(link, self._h5py.SoftLink):
                raise UnsafeFileError(self._path, f"'{child}' is a link to another file ('{link.filename}')")
            self._tree.left_out.append(LeftOut(child, f"a soft link to '{link.path}'"))

    def _opened(self, group: Any, name: str) -> Any:
        """``group[name]``, which takes h5py three times as long."""
        opened = self._h5py.h5o.open(group.id, name.encode())
        for low, high in ((self._h5py.h5g.GroupID, self._h5py.Group), (self._h5py.h5d.DatasetID, self._h5py.Dataset)):
            if isinstance(opened, low):
                return high(opened)
        return group[name]

    def _names(self, group: Any) -> Sequence[str]:
        names = [name.decode("utf-8") for name in group.id]  # raises for a name that is not text
        if group.id.get_create_plist().get_link_creation_order():
            return names
        return sorted(names, key=lambda name: (name != "layers", natural_key(name)))

    def _dataset(self, path: str, dataset: Any, address: int) -> None:
        if dataset.shape is None or self._h5py.check_string_dtype(dataset.dtype) is not None:
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
            name = next(iter(_texts(self._h5py, self._pread, self._size, dataset, "dtype")), "")
            if name in DTYPES and DTYPES[name].itemsize == dtype.itemsize:
                return DTYPES[name]
        if dtype.kind in "biufc" and dtype.newbyteorder("=").name in DTYPES:
            return DTYPES[dtype.newbyteorder("=").name]
        raise FormatError(self._path, f"'{path}' has the type {dtype}, expected numeric values")

    def _refuse_too_large(self, spec: TensorSpec, dataset: Any) -> None:
        stored = min(dataset.id.get_storage_size(), self._size)
        chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize if dataset.chunks else 0
        unpacked = most_unpacked(stored, regular_size(self._path))  # of the .keras where the file is a member of one
        most = stored if dataset.chunks is None and stored else _FREE_BYTES + unpacked
        if max(spec.nbytes, chunk) > most:
            raise FormatError(
                self._path,
                f"'{spec.name}' of shape {spec.shape} takes {spec.nbytes} bytes, the file holds {stored} of it",
            )


def object_address(h5py: Any, item: Any) -> int:
    """Where its header is. Not by ``H5Oget_info``, which never ends when two nodes of a damaged B-tree follow each
    other (``H5B_get_info`` walks the siblings to sum their sizes)."""
    low, high = h5py.h5g.get_objinfo(item.id).objno
    return int(low) | int(high) << 32


def _texts(h5py: Any, pread: Pread, size: int, item: Any, attribute: str) -> list[str]:
    """A text attribute of one or several values, [] when there is none."""
    if attribute not in item.attrs:
        return []
    stored = item.attrs.get_id(attribute)
    kind = h5py.check_string_dtype(stored.dtype)
    count = math.prod(stored.shape)
    if count == 0:  # an empty list has the type of no text: Keras 2 writes it as float64
        return []
    if kind is None or count * stored.dtype.itemsize > size:
        raise ValueError("not a text, or larger than the file")
    if kind.length is None:
        return read_texts(pread, object_address(h5py, item), attribute, count) or []
    return [_text(value) for value in np.ravel(item.attrs[attribute])]


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
