"""HDF5 files of the plain layout, read without libhdf5: every size and position is checked before it is used."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from converter.core.contents import LeftOut
from converter.core.tensors import DTYPES, Array, DType, TensorSpec
from converter.errors import FormatError
from converter.formats.io.source import Source, frozen
from converter.formats.keras.hdf5_data import Place, find_place
from converter.formats.keras.hdf5_structures import KIND, SPACE, Child, Header, Structures
from converter.formats.keras.hdf5_text import Attribute, Heaps
from converter.formats.keras.hdf5_tree import Content, Dataset, Tree, Unusual, in_order
from converter.formats.keras.hdf5_types import Opaque, Text, read_shape, read_type

__all__ = ["PlainFile"]


class _Stored(msgspec.Struct, frozen=True):
    """dtype: as it is stored; the spec has what it is read as."""

    dtype: DType
    place: Place


class PlainFile(Content):
    """Raises Unusual where the library has to read the file, at the start or with the first question."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._file = Structures(source)
        self._heaps = Heaps(self._file.take, lambda nbytes: source.budget.charge(nbytes, "the texts in it"))
        self._stored: dict[str, _Stored] = {}

    def close(self) -> None:
        """The source is closed by whoever opened it."""

    def tree(self) -> Tree:
        tree = Tree()
        seen: dict[int, str] = {}
        addresses: dict[str, int] = {}  # of the groups
        stack = [("", Child("", self._file.root))]
        while stack:
            path, child = stack.pop()
            if child.soft is not None:
                tree.left_out.append(LeftOut(path, f"a soft link to '{child.soft}'"))
                continue
            if child.address in seen:
                tree.links[path] = seen[child.address]
                continue
            seen[child.address] = path
            header = self._file.header(child.address)
            if header.is_group:
                addresses[path] = child.address
                tree.groups.append(path)
                stack.extend(reversed(self._below(path, child.address)))
            elif header.is_dataset:
                parent = path.rpartition("/")[0]
                above = max(addresses[parent], addresses[parent.rpartition("/")[0]], child.address)
                self._add(tree, path, header, above)
            else:
                tree.left_out.append(LeftOut(path, "a datatype, not an array"))
        return tree

    def read(self, spec: TensorSpec) -> Array:
        stored = self._stored[spec.name]
        array = stored.place.read(self._source, spec.shape, stored.dtype, f"'{spec.name}'")
        if stored.dtype == spec.dtype:
            return frozen(array)
        if spec.dtype == np.bool_:
            return frozen(array != 0)
        return frozen(array.view(spec.dtype) if stored.dtype.kind == "V" else array.astype(spec.dtype))

    def texts(self, path: str, attribute: str) -> list[str]:
        address = self._find(path)
        return [] if address is None else self._texts(self._file.header(address), attribute)

    def has(self, path: str) -> bool:
        return self._find(path) is not None

    def attributes(self, path: str) -> list[str]:
        address = self._find(path)
        return [] if address is None else list(self._file.header(address).attributes)

    def _find(self, path: str) -> int | None:
        """The address of a group or dataset."""
        address: int | None = self._file.root
        for name in path.split("/") if path else ():
            if address is None or not self._file.header(address).is_group:
                return None
            address = self._file.names(address).get(name)
        return address

    def _below(self, path: str, address: int) -> list[tuple[str, Child]]:
        children = {child.name: child for child in self._file.children(address)}
        found = []
        for name in in_order(list(children)):
            below = f"{path}/{name}" if path else name
            self._source.budget.charge_name(below)
            found.append((below, children[name]))
        return found

    def _add(self, tree: Tree, path: str, header: Header, age: int) -> None:
        shape, kind = read_shape(header.messages[SPACE]), read_type(header.messages[KIND])
        if shape is None or isinstance(kind, Text):
            tree.left_out.append(LeftOut(path, "holds text or nothing, not numbers"))
            return
        if isinstance(kind, Opaque):
            dtype, stored = self._named(path, header, kind), np.dtype(f"V{kind.length}")
        else:
            dtype, stored = DTYPES[kind.newbyteorder("=").name], np.dtype(np.uint8) if kind.kind == "b" else kind
        place = find_place(self._file, header, shape, stored, f"'{path}'")
        self._stored[path] = _Stored(stored, place)
        tree.datasets.append(Dataset(TensorSpec(path, shape, dtype), max(age, place.offset or 0)))

    def _named(self, path: str, header: Header, kind: Opaque) -> DType:
        """Keras: HDF5 has no bfloat16, so the bytes are opaque and an attribute says what they are."""
        name = next(iter(self._texts(header, "dtype")), "")
        if name not in DTYPES or DTYPES[name].itemsize != kind.length:
            raise FormatError(self._source.path, f"'{path}' has the type |V{kind.length}, expected numeric values")
        return DTYPES[name]

    def _texts(self, header: Header, name: str) -> list[str]:
        attribute = header.attributes.get(name)
        if attribute is None:
            return []
        if attribute.is_shared:
            raise Unusual
        shape = read_shape(attribute.space)
        count = 0 if shape is None else math.prod(shape)
        if count == 0:  # an empty list has the type of no text: Keras 2 writes it as float64
            return []
        kind = read_type(attribute.kind)
        if not isinstance(kind, Text):
            raise ValueError("not a text")
        return self._heaps.texts(attribute.value, count) if kind.length is None else _fixed(attribute, kind, count)


def _fixed(attribute: Attribute, kind: Text, count: int) -> list[str]:
    length = kind.length or 0
    if count * max(length, 1) > len(attribute.value):
        raise ValueError("the texts are larger than the attribute")
    values = (attribute.value[i * length : (i + 1) * length] for i in range(count))
    return [(value.split(b"\0")[0] if kind.ends else value.rstrip(b"\0")).decode("utf-8") for value in values]
