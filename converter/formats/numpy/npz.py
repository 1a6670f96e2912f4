"""NumPy's ``.npz``: a zip of ``.npy`` members, of ``np.savez``, ``jnp.savez`` and ``np.savez_compressed``.

Sparse arrays stand in several members: ``NAME/{data,indices,indptr,shape,format}.npy`` of MXNet 2 (see its
``src/serialization/cnpy.cc``), the same without ``NAME/`` of ``scipy.sparse.save_npz``. They come out dense.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np

from converter.core.contents import Contents, LeftOut
from converter.core.tensors import Array, TensorSpec
from converter.errors import FormatError, OutputError
from converter.formats.base import Probe, Reader, ReadOptions, check_names
from converter.formats.io.budget import names_beyond
from converter.formats.io.sparse import to_dense
from converter.formats.numpy import npy_header
from converter.formats.numpy.npy_header import Header
from converter.formats.pickled.arrays import PickledArrays, read_pickle
from converter.formats.zip.members import ZipMembers
from converter.formats.zip.writer import NEW_YEAR_1980, PlannedMember, ZipLayout, ZipWriter

SUFFIX = ".npy"
#: kind of sparse array -> its members beside data, shape and format.
SPARSE_PARTS: Mapping[str, tuple[str, ...]] = {"csr": ("indptr", "indices"), "row_sparse": ("indices",)}


def detect(probe: Probe) -> bool:
    return probe.is_zip and (
        probe.first_member.endswith(SUFFIX) or any(name.endswith(SUFFIX) for name in probe.entries)
    )


class _Dense(msgspec.Struct, frozen=True):
    member: str
    header: Header


class _Sparse(msgspec.Struct, frozen=True):
    kind: str
    parts: tuple[_Dense, ...]
    shape: tuple[int, ...]


class _Inside(msgspec.Struct, frozen=True):
    """An array in the pickle of an object array."""

    pickle: PickledArrays
    name: str


class FileReader(Reader):
    """Lazy: the directory and the header of each member; a stored array is a view of the mapped file, a
    compressed one is unpacked when it is read. CRCs are verified then."""

    lazy = "tensor, or its zip member if packed"
    parallel = True

    def __init__(self, path: Path, options: ReadOptions = ReadOptions()) -> None:
        super().__init__(path, options)
        self._members = ZipMembers(path, options.checksums)
        try:
            self._left_out: list[LeftOut] = []
            self._found = list(self._arrays())
            specs = check_names(path, [TensorSpec(name, *_form(found)) for name, found in self._found])
        except BaseException:
            self._members.close()
            raise
        source = self._members.source
        source.budget.charge(names_beyond(len(specs), source.size), "the names of its arrays")
        self._specs = specs
        self._by_name = dict(self._found)

    @cached_property
    def contents(self) -> Contents:
        return Contents(self._specs, left_out=tuple(self._left_out))

    def read(self, name: str) -> Array:
        stored = self._by_name[name]
        if isinstance(stored, _Inside):
            return stored.pickle.arrays[stored.name]
        if isinstance(stored, _Dense):
            return self._dense(stored)
        parts = [self._dense(part) for part in stored.parts]
        return to_dense(self._members.source.budget, f"'{name}'", stored.kind, stored.shape, parts)

    def close(self) -> None:
        self._members.close()

    def _dense(self, dense: _Dense) -> Array:
        return npy_header.to_array(
            dense.header, self._members.array(dense.member, dense.header.start, dense.header.nbytes)
        )

    def _arrays(self) -> Iterator[tuple[str, _Dense | _Sparse | _Inside]]:
        """Name and array, in the order of the archive."""
        names = [name for name in self._members.members if name.endswith(SUFFIX)]
        self._left_out += [LeftOut(name, "not an array") for name in self._members.members if not name.endswith(SUFFIX)]
        sparse = self._sparse_folders(names)
        for name in names:
            folder, _, leaf = name.rpartition("/")
            if folder in sparse:
                if leaf == "data" + SUFFIX:
                    yield folder or "0", self._sparse(folder, sparse[folder])
                continue
            dense = self._header(name)
            label = name.removesuffix(SUFFIX)
            if dense.header.is_pickle:
                yield from self._inside(name, label, dense.header)
            elif dense.header.dtype is not None:
                yield label, dense
            elif dense.header.is_unclear:
                raise FormatError(self.path, f"the elements of '{label}' are {dense.header.problem}")
            else:
                self._left_out.append(LeftOut(label, f"its elements are {dense.header.problem}"))

    def _inside(self, name: str, label: str, header: Header) -> Iterator[tuple[str, _Inside]]:
        """The arrays in an array of objects, which are named and left out as in an ``.npy`` file."""
        source = self._members.source
        pickled = read_pickle(self._members.rest(name, header.start), self.path, source.budget)
        contents = pickled.contents
        self._left_out += [LeftOut(f"{label}/{item.name}", item.reason) for item in contents.left_out]
        for spec in contents.specs:
            yield label if contents.container == "tensor" else f"{label}/{spec.name}", _Inside(pickled, spec.name)

    def _header(self, name: str) -> _Dense:
        header = npy_header.parse(self.path, self._members.head(name, npy_header.HEAD), f"'{name}'")
        size = self._members.members[name].size
        if header.dtype is not None and not header.is_pickle and header.start + header.nbytes != size:
            what = f"'{name}' of {header.dtype} and shape {header.shape} needs {header.nbytes} bytes"
            raise FormatError(self.path, f"{what}; {size - header.start} are in the archive")
        return _Dense(name, header)

    def _sparse_folders(self, names: list[str]) -> dict[str, str]:
        """Folder of a sparse array -> its kind."""
        folders: dict[str, set[str]] = {}
        for name in names:
            folder, _, leaf = name.rpartition("/")
            folders.setdefault(folder, set()).add(leaf.removesuffix(SUFFIX))
        patterns = {kind: {"data", "shape", "format", *parts} for kind, parts in SPARSE_PARTS.items()}
        kinds = {}
        for folder, leaves in folders.items():
            kind = next((kind for kind, pattern in patterns.items() if leaves == pattern), None)
            if kind is None:
                continue
            # MXNet's header of this member is not a Python literal; what follows it is the text
            said = self._members.head(_joined(folder, "format"), 1 << 12)[10:].rpartition(b"\n")[2].rstrip(b"\0")
            if said.replace(b"\0", b"") != kind.encode():
                raise FormatError(self.path, f"'{folder}' is a sparse array of the format {said[:20]!r}, not {kind}")
            kinds[folder] = kind
        return kinds

    def _sparse(self, folder: str, kind: str) -> _Sparse:
        shape, *parts = (self._header(_joined(folder, part)) for part in ("shape", "data", *SPARSE_PARTS[kind]))
        if any(part.header.dtype is None or part.header.is_pickle for part in (shape, *parts)):
            raise FormatError(self.path, f"the sparse array '{folder}' has parts that are not numeric")
        sizes = self._dense(shape)
        if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or sizes.size > 32:
            raise FormatError(self.path, f"the shape of the sparse array '{folder}' is not a list of sizes")
        return _Sparse(kind, tuple(parts), tuple(int(size) for size in sizes))


class FileWriter(ZipWriter):
    """A list is named ``arr_0``, ... as ``np.savez(*arrays)`` does. Raises OutputError for a dtype that NumPy's
    format has no name for."""

    date: ClassVar[int] = NEW_YEAR_1980
    unknown_dtypes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, path: Path, contents: Contents) -> None:
        layout = ZipLayout(self.date)
        tensors: dict[str, PlannedMember] = {}
        for spec in contents.specs:
            descr = npy_header.descr_of(spec.dtype)
            if descr is None or spec.dtype.name in self.unknown_dtypes:
                problem = f"'{spec.name}' is {spec.dtype}, which this format has no name for"
                raise OutputError(f"{path}: {problem}. Cast it, or write .safetensors.")
            name = spec.name if contents.container == "dict" else f"arr_{spec.name}"
            tensors[spec.name] = layout.add(name + SUFFIX, spec.nbytes, npy_header.build(spec.shape, descr))
        super().__init__(path, contents, layout, tensors)


def _joined(folder: str, leaf: str) -> str:
    return (f"{folder}/{leaf}" if folder else leaf) + SUFFIX


def _form(stored: _Dense | _Sparse | _Inside) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    if isinstance(stored, _Inside):
        array = stored.pickle.arrays[stored.name]
        return array.shape, array.dtype
    header = stored.header if isinstance(stored, _Dense) else stored.parts[0].header
    assert header.dtype is not None
    return stored.shape if isinstance(stored, _Sparse) else header.shape, header.dtype.newbyteorder("=")
