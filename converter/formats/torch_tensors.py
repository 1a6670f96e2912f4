"""How PyTorch describes a tensor: a storage, a dtype, an offset, sizes and strides. Shared by all its files.

The functions that a pickle names are in ``torch/_utils.py`` (_rebuild_tensor_v2 and its kin); the storage
classes and their dtypes in ``torch/storage.py`` (_dtype_to_storage_type_map).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from converter.formats.pickled_numpy import NUMPY_GLOBALS
from converter.formats.pickles import COLLECTION_GLOBALS, Global, Opaque, PickleError
from converter.tensors import DTYPES, Array, DType

__all__ = [
    "EXPAND_FACTOR",
    "STORAGE_DTYPES",
    "TENSOR_GLOBALS",
    "TORCH_DTYPES",
    "Aside",
    "Leaf",
    "SparseTensor",
    "Storage",
    "StridedTensor",
    "TorchFile",
    "sizes_of",
    "storage_of",
    "strided_array",
]

MAX_AXES = 32
#: An expanded or sparse tensor may take more bytes than the file holds of it: this many times more, or this many.
EXPAND_FACTOR = 16
EXPAND_FLOOR = 64 << 20

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
#: Other dtypes of PyTorch, which have no counterpart here -> bytes of an element.
_FOREIGN_DTYPES: Mapping[str, int] = {
    "complex32": 4,
    "float4_e2m1fn_x2": 1,
    "bits8": 1,
    "bits16": 2,
    "bits1x8": 1,
    "bits2x4": 1,
    "bits4x2": 1,
} | {f"{sign}int{bits}": 1 for sign in ("", "u") for bits in range(1, 8)}

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
    big_endian = False
    #: the program and version that wrote it, where it says so; known after `load`
    writer = ""

    @abstractmethod
    def load(self) -> object:
        """The object that the file describes; its tensors are `Leaf` s. Raises FormatError."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Bytes of the storage in the file. Raises FormatError when there is no such storage."""

    @abstractmethod
    def raw(self, key: str, begin: int, length: int) -> Array:
        """That part of the storage: a flat array of uint8. Raises FormatError."""

    def close(self) -> None:  # noqa: B027  # most have nothing to release
        """Release the file; arrays that were handed out stay valid."""


@dataclass(frozen=True)
class Aside:
    """Something that is found where a tensor could be, and why it is not one to hand on."""

    reason: str


class Leaf(ABC):
    """A tensor as a file describes it."""

    shape: tuple[int, ...]

    @property
    @abstractmethod
    def dtype(self) -> DType:
        """Of its elements."""

    @property
    @abstractmethod
    def storages(self) -> tuple[Storage, ...]:
        """What holds its data."""

    @abstractmethod
    def check(self, file: TorchFile) -> None:
        """Raise PickleError or FormatError unless all of its data lie inside of the file."""

    @abstractmethod
    def read(self, file: TorchFile) -> Array:
        """The values, in C order. Raises PickleError or FormatError."""


@dataclass(frozen=True, eq=False)
class Storage:
    """The memory behind tensors. `begin`: the byte in the file's storage ``key`` where this one starts."""

    key: str
    dtype: DType
    count: int
    begin: int = 0

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class StridedTensor(Leaf):
    """Elements of a storage: `offset` and `stride` count elements, of the dtype `kind`.

    problem: why it cannot be read as plain numbers, although its place is known (quantized).
    """

    storage: Storage
    kind: DType
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    conjugated: bool = False
    negated: bool = False
    problem: str = ""

    @property
    def dtype(self) -> DType:
        return self.kind

    @property
    def storages(self) -> tuple[Storage, ...]:
        return (self.storage,)

    @property
    def extent(self) -> int:
        """Elements from `offset` to the last one that is used."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def check(self, file: TorchFile) -> None:
        available = file.size(self.storage.key) - self.storage.begin
        if self.storage.nbytes > available:
            raise PickleError(f"its storage has {self.storage.nbytes} bytes, the file {available}")
        if (self.offset + self.extent) * self.dtype.itemsize > self.storage.nbytes:
            raise PickleError(f"shape {self.shape} does not fit into its storage of {self.storage.nbytes} bytes")
        _check_growth(self.nbytes, self.storage.nbytes)

    def read(self, file: TorchFile) -> Array:
        if self.problem:
            raise PickleError(self.problem)
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        begin = self.storage.begin + self.offset * self.dtype.itemsize
        raw = file.raw(self.storage.key, begin, self.extent * self.dtype.itemsize)
        array = strided_array(raw, self.dtype, self.shape, self.stride, file.big_endian)
        if self.conjugated:
            array = np.conj(array)
        return np.negative(array) if self.negated else array


@dataclass(frozen=True, eq=False)
class SparseTensor(Leaf):
    """Indices and values; read as the dense tensor that they stand for, where no value is computed."""

    layout: str
    parts: tuple[StridedTensor, ...]  # indices, values; or pointers, indices, values
    shape: tuple[int, ...]

    @property
    def dtype(self) -> DType:
        return self.parts[-1].dtype

    @property
    def storages(self) -> tuple[Storage, ...]:
        return tuple(part.storage for part in self.parts)

    def check(self, file: TorchFile) -> None:
        for part in self.parts:
            part.check(file)
        dense = math.prod(self.shape) * self.dtype.itemsize
        _check_growth(dense, sum(part.storage.nbytes for part in self.parts))

    def read(self, file: TorchFile) -> Array:
        *indices, values = (part.read(file) for part in self.parts)
        if self.layout == "sparse_coo":
            (where,) = indices
        elif self.layout in ("sparse_csr", "sparse_csc") and len(self.shape) == 2:
            where = _coordinates(indices[0], indices[1], self.layout == "sparse_csc")
        else:
            raise PickleError(f"its layout is torch.{self.layout}; make it dense in PyTorch first (to_dense())")
        return _dense(where, values, self.shape)


def strided_array(raw: Array, dtype: DType, shape: tuple[int, ...], stride: tuple[int, ...], swap: bool) -> Array:
    """The elements of a flat array of bytes that the strides (in elements) pick; copied only where it must be."""
    steps = tuple(step * dtype.itemsize for step in stride)
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
    if name not in STORAGE_DTYPES or not isinstance(count, int) or count < 0:
        raise PickleError(f"a storage of the unknown kind '{name}'")
    return Storage(str(key), STORAGE_DTYPES[name], count)


# -- the functions that pickles name ------------------------------------------------------------------------------


def sizes_of(values: object) -> tuple[int, ...]:
    """A shape, strides or offsets, if they are such. Raises PickleError."""
    if not isinstance(values, (tuple, list)) or len(values) > MAX_AXES:
        raise PickleError("a tensor with an unfit shape")
    if not all(isinstance(value, int) and 0 <= value < 2**62 for value in values):
        raise PickleError("a tensor with a negative or absurd size or stride")
    return tuple(values)


def _strided(
    storage: object, offset: object, size: object, stride: object, dtype: DType | None = None
) -> StridedTensor:
    if not isinstance(storage, Storage) or not isinstance(offset, int) or not 0 <= offset < 2**62:
        raise PickleError("a tensor without its storage")
    shape, steps = sizes_of(size), sizes_of(stride)
    if len(shape) != len(steps) or math.prod(side or 1 for side in shape) >= 2**60:
        raise PickleError(f"a tensor of shape {shape} with strides {steps}")
    return StridedTensor(storage, dtype or storage.dtype, offset, shape, steps)


def _with_flags(tensor: StridedTensor, flags: object) -> StridedTensor:
    if not isinstance(flags, dict) or not flags:
        return tensor
    return replace(tensor, conjugated=bool(flags.get("conj")), negated=bool(flags.get("neg")))


def _tensor_v2(
    storage: object, offset: object, size: object, stride: object, grad: object = False, hooks: object = None,
    flags: object = None,
) -> StridedTensor:  # fmt: skip
    return _with_flags(_strided(storage, offset, size, stride), flags)


def _tensor_v3(
    storage: object, offset: object, size: object, stride: object, grad: object, hooks: object, dtype: object,
    flags: object = None,
) -> StridedTensor:  # fmt: skip
    name = _dtype_name(dtype)
    if name in TORCH_DTYPES:
        return _with_flags(_strided(storage, offset, size, stride, TORCH_DTYPES[name]), flags)
    if name not in _FOREIGN_DTYPES:
        raise PickleError(f"a tensor of the unknown dtype '{name}'")
    raw = DTYPES[f"uint{8 * _FOREIGN_DTYPES[name]}"]
    problem = f"its dtype is torch.{name}; convert it in PyTorch first"
    return replace(_strided(storage, offset, size, stride, raw), problem=problem)


def _quantized(
    storage: object, offset: object, size: object, stride: object, scheme: object, *_: object
) -> StridedTensor:
    problem = "it is quantized; make it plain numbers in PyTorch first (dequantize())"
    return replace(_strided(storage, offset, size, stride), problem=problem)


def _sparse(layout: object, data: object) -> SparseTensor:
    if not isinstance(layout, str) or not isinstance(data, tuple):
        raise PickleError("a sparse tensor without its layout")
    count = 2 if layout == "sparse_coo" else 3
    parts, shape = data[:count], data[count] if len(data) > count else None
    if len(parts) != count or not all(isinstance(part, StridedTensor) for part in parts):
        raise PickleError("a sparse tensor without its parts")
    return SparseTensor(layout, parts, sizes_of(shape))


def _dtype_name(dtype: object) -> str:
    return dtype.name.split()[-1] if isinstance(dtype, Global) else ""


def _first(value: object, *_: object) -> object:
    """A parameter is its data."""
    return value


def _from_type(function: object, kind: object, args: object, *_: object) -> object:
    """``torch/_tensor.py`` _rebuild_from_type_v2: a tensor of a subclass, or one with attributes."""
    if not isinstance(function, Global) or function.make is None or not isinstance(args, tuple):
        raise PickleError("a tensor of a subclass without its function")
    return function.make(*args)


def _layout(name: object = "") -> str:
    return str(name).removeprefix("torch.")


def _without_data(*_: object) -> Aside:
    return Aside("a tensor without data (device meta)")


def _check_growth(size: int, stored: int) -> None:
    if size > max(EXPAND_FLOOR, EXPAND_FACTOR * stored):
        raise PickleError(f"it would take {size} bytes of memory, but the file holds only {stored} bytes of it")


def _coordinates(pointers: Array, plain: Array, by_column: bool) -> Array:
    counts = np.diff(pointers)
    if pointers.ndim != 1 or plain.ndim != 1 or (counts < 0).any() or counts.sum() != plain.size:
        raise PickleError("a compressed sparse tensor whose pointers do not fit its indices")
    lines = np.repeat(np.arange(counts.size), counts)
    return np.stack([plain, lines] if by_column else [lines, plain])


def _dense(where: Array, values: Array, shape: tuple[int, ...]) -> Array:
    axes = where.shape[0] if where.ndim == 2 else -1
    if not 0 <= axes <= len(shape) or values.shape != (where.shape[1], *shape[axes:]) or where.dtype.kind not in "iu":
        raise PickleError("a sparse tensor whose indices do not fit its values and its shape")
    sides = shape[:axes]
    if where.size and ((where < 0).any() or (where >= np.array(sides, np.int64)[:, None]).any()):
        raise PickleError("a sparse tensor with an index outside of its shape")
    rows = np.ravel_multi_index(tuple(where), sides) if axes and where.size else np.zeros(where.shape[1], np.int64)
    if np.unique(rows).size != rows.size:
        raise PickleError("a sparse tensor that names one place twice; call coalesce() in PyTorch first")
    dense = np.zeros((math.prod(sides), *shape[axes:]), values.dtype)
    dense[rows] = values
    return dense.reshape(shape)


_REBUILD: Mapping[str, Callable[..., object]] = {
    "torch._utils _rebuild_tensor": _tensor_v2,
    "torch._utils _rebuild_tensor_v2": _tensor_v2,
    "torch._utils _rebuild_tensor_v3": _tensor_v3,
    "torch._utils _rebuild_qtensor": _quantized,
    "torch._utils _rebuild_sparse_tensor": _sparse,
    "torch._utils _rebuild_parameter": _first,
    "torch._utils _rebuild_parameter_with_state": _first,
    "torch._utils _rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils _rebuild_device_tensor_from_numpy": _first,
    "torch._utils _rebuild_xla_tensor": _first,
    "torch._utils _rebuild_meta_tensor_no_storage": _without_data,
    "torch._utils _rebuild_wrapper_subclass": lambda *_: Aside("a tensor of a class that only wraps others"),
    "torch._utils _rebuild_nested_tensor": lambda *_: Aside("a nested tensor"),
    "torch._tensor _rebuild_from_type_v2": _from_type,
    "torch._tensor _rebuild_from_type": _from_type,
    "torch.nn.parameter Parameter": _first,
    "torch.nn.parameter Buffer": _first,
    "torch.serialization _get_layout": _layout,
    "torch Size": lambda sizes=(): tuple(sizes),
    "torch device": lambda *args: Opaque("torch device", args),
}
_STORAGE_MODULES = ("torch", "torch.storage", "torch.cuda")
_SCHEMES = "per_tensor_affine per_tensor_symmetric per_channel_affine per_channel_symmetric".split()

#: For `known` of `pickles.load`, in files of PyTorch: containers, NumPy, storages, dtypes and tensors.
#: Tensors become `StridedTensor` or `SparseTensor`.
TENSOR_GLOBALS: Mapping[str, Callable[..., object] | None] = MappingProxyType(
    {**COLLECTION_GLOBALS, **NUMPY_GLOBALS, **_REBUILD}
    | {f"{module} {name}": None for module in _STORAGE_MODULES for name in STORAGE_DTYPES}
    | {f"torch {name}": None for name in (*TORCH_DTYPES, *_FOREIGN_DTYPES)}
    | {f"torch {name}": None for name in (*_SCHEMES, "per_channel_affine_float_qparams", "quint8", "qint8", "qint32")}
    | {"torch Tensor": None, "torch._C _TensorBase": None}
)
