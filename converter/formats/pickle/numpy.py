"""NumPy's arrays, dtypes and scalars inside pickles: our own reconstructors, for `load`.

What NumPy writes is in ``numpy/_core/src/multiarray/methods.c`` (array_reduce_ex, array_setstate),
``descriptor.c`` (arraydescr_reduce) and ``numpy/_core/numeric.py`` (_frombuffer).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from converter.core.tensors import DTYPES, Array, DType
from converter.formats.pickle.load import Global, Opaque, PickleError, Shell

__all__ = ["NUMPY_GLOBALS", "array_of", "dtype_of"]

#: The codes of ``dtype.str`` without the byte order -> our dtype.
_CODES: Mapping[str, DType] = MappingProxyType(
    {dtype.str[1:]: dtype for name, dtype in DTYPES.items() if dtype.kind in "biufc" and dtype.isbuiltin == 1}
    | {"b1": DTYPES["bool"], "?": DTYPES["bool"]}
)
_OBJECT = np.dtype(object)
_MAX_DIMENSIONS = 32


class _DTypeShell(Shell):
    """``numpy.dtype(code, align, copy)``, waiting for its byte order.

    `base` is None for a dtype that is not a number: text, dates, records.
    """

    def __init__(self, code: object, *_: object) -> None:
        if isinstance(code, Global):  # the class itself: ml_dtypes.bfloat16, numpy.float32
            base = DTYPES.get(_DTYPE_CLASSES.get(code.name, ""))
        elif isinstance(code, str):
            base = _OBJECT if code in ("O8", "O4", "O") else _CODES.get(code.lstrip("<>|=")) or DTYPES.get(code)
        else:
            raise PickleError("a dtype without a name")
        self.base = base
        self.code = code if isinstance(code, str) else ""

    def finish(self, state: object) -> object:
        if not isinstance(state, tuple) or len(state) < 2:
            raise PickleError("a dtype with an unknown state")
        if self.base is None:
            return Opaque(f"numpy dtype {self.code[:20]}")
        return self.base.newbyteorder(">") if state[1] == ">" else self.base


class _ArrayShell(Shell):
    """``_reconstruct(ndarray, (0,), b'b')``, waiting for its shape, dtype and data."""

    def __init__(self, *_: object) -> None:
        pass

    def finish(self, state: object) -> object:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise PickleError("an array with an unknown state")
        shape, dtype, fortran, raw = state[-4:]
        if dtype_of(dtype) is _OBJECT:
            return _object_array(raw, shape)
        return array_of(raw, dtype, shape, "F" if fortran else "C")


def dtype_of(value: object) -> DType | None:
    """The dtype that the pickle made; None for one that is not a number. Raises PickleError."""
    if isinstance(value, _DTypeShell):
        return value.base
    if isinstance(value, np.dtype):
        return value
    if isinstance(value, Opaque):
        return None
    raise PickleError("an array without a dtype")


def array_of(raw: object, dtype: object, shape: object, order: object = "C") -> Array | Opaque:
    """An array over the raw bytes, not copied where they are in native order; checks their number.

    raw: bytes, a view of them, or Latin-1 text (Python 2). `Opaque` when the dtype is not a number.
    Raises PickleError.
    """
    base = dtype_of(dtype)
    if base is None:
        return Opaque("numpy ndarray")
    sizes = _shape(shape)
    data = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(data, (bytes, memoryview)):
        raise PickleError(f"an array whose data is a {type(raw).__name__}")
    if base.hasobject or math.prod(sizes) * base.itemsize != len(data):
        raise PickleError(f"an array of shape {sizes} and dtype {base} with {len(data)} bytes")
    flat = np.frombuffer(data, base) if data else np.empty(0, base)
    array = np.asarray(flat.reshape(sizes, order="F" if order == "F" else "C"), base.newbyteorder("="), order="C")
    if data is not raw and array.base is not None:  # its memory is its own, which is how it is counted
        array = array.copy()
    array.flags.writeable = False
    return array


def _shape(shape: object) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    if len(sizes) > _MAX_DIMENSIONS or not all(isinstance(size, int) and 0 <= size < 2**63 for size in sizes):
        raise PickleError("an array with an invalid shape")
    if math.prod(size or 1 for size in sizes) >= 2**63:
        raise PickleError("an array with an invalid shape")
    return sizes


def _object_array(items: object, shape: object) -> Array:
    """The container of an ``.npy`` that holds a dict or a list of unequal arrays."""
    sizes = _shape(shape)
    if not isinstance(items, list) or math.prod(sizes) != len(items):
        raise PickleError("an array of objects whose number does not fit its shape")
    return np.fromiter(items, object, len(items)).reshape(sizes)


def _scalar(dtype: object, raw: object = b"") -> object:
    if dtype_of(dtype) is _OBJECT:
        return Opaque("numpy object")
    return array_of(raw, dtype, ())


_ML_DTYPES = tuple(name for name, dtype in DTYPES.items() if dtype.isbuiltin != 1)
#: The class of a scalar -> name of its dtype.
_DTYPE_CLASSES: Mapping[str, str] = MappingProxyType(
    {f"ml_dtypes {name}": name for name in _ML_DTYPES}
    | {f"ml_dtypes._ml_dtypes_ext {name}": name for name in _ML_DTYPES}
    | {f"numpy {name}": name for name in DTYPES if name not in _ML_DTYPES}
    | {"numpy bool_": "bool"}
)

_FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "multiarray _reconstruct": _ArrayShell,
    "multiarray scalar": _scalar,
    "numeric _frombuffer": array_of,
}

#: For `known` of `load`. The results are read-only arrays in native order; scalars are 0-d arrays;
#: arrays of objects (the container of an ``.npy``) are NumPy arrays of dtype object.
NUMPY_GLOBALS: Mapping[str, Callable[..., object] | None] = MappingProxyType(
    {f"{package}.{name}": make for package in ("numpy.core", "numpy._core") for name, make in _FUNCTIONS.items()}
    | {"numpy ndarray": None, "numpy dtype": _DTypeShell}
    | dict.fromkeys(_DTYPE_CLASSES)
)
