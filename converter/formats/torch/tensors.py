"""How PyTorch describes a tensor: a storage, a dtype, an offset, sizes and strides. Shared by all its files.

The storage classes and their dtypes are in ``torch/storage.py`` (_dtype_to_storage_type_map).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np

from converter.core.tensors import DTYPES, Array, DType
from converter.errors import FormatError
from converter.formats.io.budget import Budget, Loan, beyond
from converter.formats.pickle.load import Global, PickleError

__all__ = [
    "STORAGE_DTYPES",
    "TORCH_DTYPES",
    "FileTensor",
    "NotATensor",
    "Storage",
    "StridedTensor",
    "TorchFile",
    "sizes_of",
    "storage_of",
    "strided_array",
]

MAX_AXES = 32
MAX_SIZE = 2**62

#: Where `Contents.metadata` has the versions of the modules, as a JSON object.
VERSIONS = "torch_module_versions"

#: Names of PyTorch's dtypes -> ours, for those that can be read.
TORCH_DTYPES: Mapping[str, DType] = MappingProxyType(
    {
        name: dtype
        for name, dtype in DTYPES.items()
        if name in "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()
        or name in "complex64 complex128 bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz".split()
        or name == "float8_e8m0fnu"
    }
)
#: Name of a storage class -> dtype of its elements; the quantized ones hold plain integers.
STORAGE_DTYPES: Mapping[str, DType] = MappingProxyType(
    {
        f"{name}Storage": DTYPES[dtype]
        for name, dtype in {
            "Double": "float64",
            "Float": "float32",
            "Half": "float16",
            "BFloat16": "bfloat16",
            "Long": "int64",
            "Int": "int32",
            "Short": "int16",
            "Char": "int8",
            "Byte": "uint8",
            "Bool": "bool",
            "ComplexDouble": "complex128",
            "ComplexFloat": "complex64",
            "QInt8": "int8",
            "QInt32": "int32",
            "QUInt8": "uint8",
            "QUInt4x2": "uint8",
            "QUInt2x4": "uint8",
            "Untyped": "uint8",
        }.items()
    }
)


class TorchFile(ABC):
    """A file of PyTorch: what it describes, and the storages that hold the data."""

    path: Path
    budget: Budget
    big_endian = False
    #: the program and version that wrote it, where it says so; known after `load`
    writer = ""

    @abstractmethod
    def load(self, loan: Loan) -> object:
        """The object that the file describes; its tensors are `FileTensor` s. Raises FormatError.

        loan: what pays for the object, as long as it lives.
        """

    @abstractmethod
    def size(self, key: str) -> int:
        """Bytes of the storage in the file. Raises FormatError when there is no such storage."""

    @abstractmethod
    def raw(self, key: str, begin: int, length: int) -> Array:
        """That part of the storage: a flat array of uint8. Raises FormatError."""

    def close(self) -> None:  # noqa: B027  # most have nothing to release
        """Release the file; arrays that were returned stay valid."""


class NotATensor(msgspec.Struct, frozen=True):
    """Something in the position of a tensor, and why it is not read as one."""

    reason: str


class FileTensor(msgspec.Struct, frozen=True, eq=False):
    """A tensor as a file describes it. A subclass has all of this."""

    @property
    def shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    @property
    def dtype(self) -> DType:
        """Of its elements."""
        raise NotImplementedError

    @property
    def storages(self) -> tuple[Storage, ...]:
        """What holds its data."""
        raise NotImplementedError

    def check(self, file: TorchFile) -> None:
        """Raise PickleError or FormatError unless all of its data lie inside of the file."""
        raise NotImplementedError

    def read(self, file: TorchFile) -> Array:
        """The values, in C order. Raises PickleError or FormatError."""
        raise NotImplementedError

    @property
    def beyond(self) -> int:
        """What its memory is charged for, beyond that of what the file stores of it."""
        stored = {storage.key: storage.nbytes for storage in self.storages}
        return beyond(math.prod(self.shape) * self.dtype.itemsize, sum(stored.values()))

    def check_growth(self, file: TorchFile) -> None:
        """Raise PickleError when its memory costs more than is left of the budget."""
        try:
            file.budget.check(self.beyond, "the whole of it")
        except FormatError as error:
            raise PickleError(error.reason) from None

    def check_shape(self) -> None:
        """Raise PickleError for a shape that no array can have, not even an empty one."""
        size = self.dtype.itemsize
        for side in self.shape:
            size *= side or 1
            if size >= MAX_SIZE:
                raise PickleError(f"a tensor of shape {self.shape}")


class Storage(msgspec.Struct, frozen=True, eq=False):
    """The memory that tensors share. `begin`: the byte in the file's storage ``key`` where this one starts."""

    key: str
    dtype: DType
    count: int
    begin: int = 0

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


class StridedTensor(FileTensor, frozen=True, eq=False):
    """Elements of a storage: `offset` and `stride` count elements.

    problem: why it cannot be read as plain values, although its storage is known; its elements may be packed there.
    """

    storage: Storage
    dtype: DType
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    conjugated: bool = False
    negated: bool = False
    problem: str = ""

    @property
    def storages(self) -> tuple[Storage, ...]:
        return (self.storage,)

    @property
    def extent(self) -> int:
        """Elements from `offset` to the last one that is used."""
        if 0 in self.shape:
            return 0
        last = 0
        for size, step in zip(self.shape, self.stride, strict=True):
            last += (size - 1) * step
        return 1 + last

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Whether its elements follow each other in the storage, in C order."""
        expected = 1
        for size, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size > 1 and step != expected:
                return False
            expected *= size
        return True

    def check(self, file: TorchFile) -> None:
        self.check_shape()
        available = file.size(self.storage.key) - self.storage.begin
        if self.storage.nbytes > available:
            raise PickleError(f"its storage has {self.storage.nbytes} bytes, the file {available}")
        if (self.offset + self.extent) * self.dtype.itemsize > self.storage.nbytes and not self.problem:
            raise PickleError(f"shape {self.shape} does not fit into its storage of {self.storage.nbytes} bytes")
        self.check_growth(file)

    def read(self, file: TorchFile) -> Array:
        if self.problem:
            raise PickleError(self.problem)
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        begin = self.storage.begin + self.offset * self.dtype.itemsize
        raw = file.raw(self.storage.key, begin, self.extent * self.dtype.itemsize)
        if self.is_contiguous and not file.big_endian:
            array = raw.view(self.dtype).reshape(self.shape)
        else:
            array = strided_array(raw, self.dtype, self.shape, self.stride, file.big_endian)
        if self.conjugated:
            array = np.conj(array)
        return np.negative(array) if self.negated else array


def strided_array(raw: Array, dtype: DType, shape: tuple[int, ...], stride: tuple[int, ...], swap: bool) -> Array:
    """The elements of a flat array of bytes that the strides (in elements) pick; copied only where it must be."""
    steps = tuple(step * dtype.itemsize if side > 1 else 0 for side, step in zip(shape, stride, strict=True))
    array = np.asarray(np.ndarray(shape, dtype, raw.data, 0, steps), order="C")
    width = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    if not swap or width == 1:
        return array
    halves = 2 if dtype.kind == "c" else 1
    words = array.reshape(-1).view(f"u{width}")
    assert words.size == array.size * halves
    return words.byteswap().view(dtype).reshape(shape)


def storage_of(kind: object, key: object, count: object) -> Storage:
    """The storage that a persistent id describes. Raises PickleError."""
    name = kind.name.split()[-1] if isinstance(kind, Global) else str(getattr(kind, "name", ""))
    if name not in STORAGE_DTYPES or not isinstance(count, int) or not 0 <= count < MAX_SIZE:
        raise PickleError(f"a storage of the unknown kind '{name}'")
    return Storage(str(key), STORAGE_DTYPES[name], count)


def sizes_of(values: object) -> tuple[int, ...]:
    """A shape, strides or offsets, if they are such. Raises PickleError."""
    if not isinstance(values, (tuple, list)) or len(values) > MAX_AXES:
        raise PickleError("a tensor with an invalid shape")
    for value in values:
        if not isinstance(value, int) or not 0 <= value < MAX_SIZE:
            raise PickleError("a tensor with an invalid size or stride")
    return tuple(values)
