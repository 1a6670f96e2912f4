"""One NDArray as MXNet stores it: in ``.params`` files, and in the state of a pickled NDArray.

Format: ``NDArray::Save``, ``Load`` and ``LegacyLoad`` in ``src/ndarray/ndarray.cc`` of MXNet, and
``TypeFlag`` in mshadow's ``base.h``. A record is, little-endian:

    u32 magic, i32 storage type, [shape of the stored part,] shape, i32 device, i32 device id,
    i32 dtype, [{i32 dtype, shape} of each index array,] data, [data of each index array]

where a shape is {i32 axes, i64 sizes}. Files of 0.10 and 0.11 have no storage type; older ones no magic
either, and u32 sizes. What stands in brackets belongs to sparse arrays.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping

import msgspec

from converter.core.tensors import DTYPES, Array, DType
from converter.errors import FormatError
from converter.formats.io.source import MAX_AXES, Source, check_shape
from converter.formats.io.sparse import to_dense

V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA

#: magic -> who writes such records.
WRITERS: Mapping[int, str] = {
    V1: "MXNet 0.10 to 0.11",
    V2: "MXNet 0.12 or later",
    V3: "MXNet 1.6 or later (NumPy arrays)",
}
OLDEST = "MXNet before 0.10"

FLAGS: Mapping[int, str] = {
    0: "float32",
    1: "float64",
    2: "float16",
    3: "uint8",
    4: "int32",
    5: "int8",
    6: "int64",
    7: "bool",
    8: "int16",
    9: "uint16",
    10: "uint32",
    11: "uint64",
    12: "bfloat16",
}

DENSE, ROW_SPARSE, CSR = 0, 1, 2
#: storage type -> kind of sparse array.
KINDS: Mapping[int, str] = {ROW_SPARSE: "row_sparse", CSR: "csr"}
#: storage type -> number of its index arrays (row_sparse: rows; csr: row starts, columns).
INDEX_ARRAYS: Mapping[int, int] = {DENSE: 0, ROW_SPARSE: 1, CSR: 2}


class DenseArray(msgspec.Struct, frozen=True):
    """A dense array inside of the record."""

    offset: int
    shape: tuple[int, ...]
    dtype: DType

    @property
    def end(self) -> int:
        return self.offset + math.prod(self.shape) * self.dtype.itemsize


class Record(msgspec.Struct, frozen=True):
    """parts: the data, then the index arrays; none for an array that never got a shape. end: where the
    next record starts."""

    writer: str
    storage: int
    shape: tuple[int, ...]
    parts: tuple[DenseArray, ...]
    end: int

    @property
    def dtype(self) -> DType:
        return self.parts[0].dtype


def parse(source: Source, offset: int, what: str) -> Record:
    """The record at ``offset``, all of whose parts lie inside of the file. Raises FormatError."""
    fields = _Fields(source, offset, what)
    magic = fields.number("I")
    storage = fields.number("i") if magic in (V2, V3) else DENSE
    if storage not in INDEX_ARRAYS:
        raise FormatError(source.path, f"{what} has the storage type {storage}; known are {list(INDEX_ARRAYS)}")
    noted = fields.sizes("i", "q") if storage else None
    shape = fields.sizes("i", "q") if magic in WRITERS else fields.sizes("I", "I", axes=magic)
    writer = WRITERS.get(magic, OLDEST)
    if shape is None or (magic == V3 and -1 in shape) or (magic != V3 and not shape):
        return Record(writer, storage, (), (), fields.offset)
    fields.number("q")  # the device and its number
    main = fields.dtype()
    indices = [(fields.dtype(), fields.sizes("i", "q")) for _ in range(INDEX_ARRAYS[storage])]
    dims_of_main = _stored_shape(storage, noted, shape, indices[-1][1]) if storage else shape
    parts, end = [], fields.offset
    for dtype, dims in [(main, dims_of_main), *indices]:
        parts.append(DenseArray(end, check_shape(source.path, dims or (), dtype, what), dtype))
        source.check(end, parts[-1].end - end, what)
        end = parts[-1].end
    return Record(writer, storage, check_shape(source.path, shape, parts[0].dtype, what), tuple(parts), end)


def _stored_shape(
    storage: int, noted: tuple[int, ...] | None, shape: tuple[int, ...], last_index: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Of the data of a sparse array. MXNet may note it before the array is computed, with too many rows or none; the
    last index array tells their number, as it does to MXNet's own loader (``set_aux_shape`` and the constructor in
    ``ndarray.h``)."""
    if noted is None or 0 in noted:
        noted = shape if storage == ROW_SPARSE else (0,)
    return (*(last_index or (0,))[:1], *noted[1:])


def read(source: Source, record: Record, what: str) -> Array:
    """The array of a record that has one, made dense; a view where the record is dense. Raises FormatError."""
    arrays = [source.array(part.offset, part.shape, part.dtype, what) for part in record.parts]
    if record.storage == DENSE:
        return arrays[0]
    return to_dense(source.budget, what, KINDS[record.storage], record.shape, arrays)


def header(shape: tuple[int, ...], dtype: DType, magic: int) -> bytes:
    """What stands before the data of a dense array on the CPU. Raises KeyError for a dtype without a flag."""
    flag = next(flag for flag, name in FLAGS.items() if name == dtype.name)
    return struct.pack(f"<Iii{len(shape)}qiii", magic, DENSE, len(shape), *shape, 1, 0, flag)


class _Fields:
    """The numbers of a header, one after the other."""

    def __init__(self, source: Source, offset: int, what: str) -> None:
        self.source = source
        self.offset = offset
        self.what = what

    def number(self, code: str) -> int:
        return self._unpack(f"<{code}")[0]

    def sizes(self, axes_code: str, code: str, axes: int | None = None) -> tuple[int, ...] | None:
        """A shape; None for one that is not known. ``axes``: their number, where it was read before."""
        axes = self.number(axes_code) if axes is None else axes
        if axes == -1:
            return None
        if not 0 <= axes <= MAX_AXES:
            raise FormatError(
                self.source.path, f"{self.what} is not an NDArray: it claims {axes} axes (byte {self.offset})"
            )
        return self._unpack(f"<{axes}{code}")

    def dtype(self) -> DType:
        flag = self.number("i")
        if flag not in FLAGS:
            raise FormatError(self.source.path, f"{self.what} has the dtype flag {flag}; known are 0 to {max(FLAGS)}")
        return DTYPES[FLAGS[flag]]

    def _unpack(self, code: str) -> tuple[int, ...]:
        size = struct.calcsize(code)
        data = self.source.take(self.offset, size, f"the header of {self.what}")
        self.offset += size
        return struct.unpack(code, data)
