"""What the pickles of PyTorch name: our own functions that describe tensors in place of PyTorch's that make them.

Upstream: ``torch/_utils.py`` (_rebuild_tensor_v2 and its kin), ``torch/_tensor.py``, ``torch/serialization.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from msgspec.structs import replace

from converter.core.tensors import DTYPES, DType
from converter.formats.pickle.load import COLLECTION_GLOBALS, Global, Opaque, PickleError
from converter.formats.pickle.numpy import NUMPY_GLOBALS
from converter.formats.torch.quantized import quantized
from converter.formats.torch.sparse import SparseTensor
from converter.formats.torch.tensors import (
    STORAGE_DTYPES,
    TORCH_DTYPES,
    FileTensor,
    NotATensor,
    Storage,
    StridedTensor,
    sizes_of,
)

__all__ = ["TENSOR_GLOBALS"]

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


def _strided(
    storage: object, offset: object, size: object, stride: object, dtype: DType | None = None
) -> StridedTensor:
    if not isinstance(storage, Storage) or not isinstance(offset, int) or not 0 <= offset < 2**62:
        raise PickleError("a tensor without its storage")
    shape, steps = sizes_of(size), sizes_of(stride)
    if len(shape) != len(steps):
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


def _quantized(storage: object, offset: object, size: object, stride: object, scheme: object, *_: object) -> FileTensor:
    return quantized(_strided(storage, offset, size, stride), scheme)


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


def _graph_module(body: object, *_: object) -> Opaque:
    """A module of ``torch.fx``: its attributes, as of other modules. The code among them is never run."""
    module = Opaque("torch.fx.graph_module GraphModule")
    module.state = body
    return module


def _layout(name: object = "") -> str:
    return str(name).removeprefix("torch.")


def _without_data(*_: object) -> NotATensor:
    return NotATensor("a tensor without data (device meta)")


_REBUILD: Mapping[str, Callable[..., object] | None] = {
    "torch._utils _rebuild_tensor": _tensor_v2,
    "torch._utils _rebuild_tensor_v2": _tensor_v2,
    "torch._utils _rebuild_tensor_v3": _tensor_v3,
    "torch._utils _rebuild_qtensor": _quantized,
    "torch._utils _rebuild_sparse_tensor": _sparse,
    "torch._utils _rebuild_sparse_csr_tensor": _sparse,  # PyTorch 1.8 to 1.12
    "torch._utils _rebuild_parameter": _first,
    "torch._utils _rebuild_parameter_with_state": _first,
    "torch._utils _rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils _rebuild_device_tensor_from_numpy": _first,
    "torch._utils _rebuild_xla_tensor": _first,
    "torch._utils _rebuild_meta_tensor_no_storage": _without_data,
    "torch._utils _rebuild_wrapper_subclass": lambda *_: NotATensor("a tensor of a class that only wraps others"),
    "torch._utils _rebuild_nested_tensor": lambda *_: NotATensor("a nested tensor"),
    "torch._tensor _rebuild_from_type_v2": _from_type,
    "torch._tensor _rebuild_from_type": _from_type,
    "torch.fx.graph_module reduce_graph_module": _graph_module,
    "torch.nn.parameter Parameter": _first,
    "torch.nn.parameter Buffer": _first,
    "torch.serialization _get_layout": _layout,
    "torch Size": COLLECTION_GLOBALS["builtins tuple"],
    "torch device": lambda *args: Opaque("torch device", args),
}
_STORAGE_MODULES = ("torch", "torch.storage", "torch.cuda")
_SCHEMES = "per_tensor_affine per_tensor_symmetric per_channel_affine per_channel_symmetric".split()

#: For `known` of `load`, in files of PyTorch: containers, NumPy, storages, dtypes and tensors.
#: Tensors become `StridedTensor`, `SparseTensor` or `QuantizedTensor`.
TENSOR_GLOBALS: Mapping[str, Callable[..., object] | None] = MappingProxyType(
    {**COLLECTION_GLOBALS, **NUMPY_GLOBALS, **_REBUILD}
    | {f"{module} {name}": None for module in _STORAGE_MODULES for name in STORAGE_DTYPES}
    | {f"torch {name}": None for name in (*TORCH_DTYPES, *_FOREIGN_DTYPES)}
    | {f"torch {name}": None for name in (*_SCHEMES, "per_channel_affine_float_qparams", "quint8", "qint8", "qint32")}
    | {"torch Tensor": None, "torch._C _TensorBase": None}
)
