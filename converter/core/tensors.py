"""What a tensor is here: a name, a shape, a dtype; and the one table of dtypes.

bfloat16 and the float8 types come from ``ml_dtypes``; every other is NumPy's own. A format maps its
own type codes to the names of this table and to nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import ml_dtypes
import msgspec
import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
DType: TypeAlias = "np.dtype[Any]"

_NUMPY = ("bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128").split()
_ML_DTYPES = (
    "bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e4m3b11fnuz "
    "float8_e8m0fnu float8_e4m3 float8_e3m4 float6_e2m3fn float6_e3m2fn float4_e2m1fn int4 uint4"
).split()

#: name -> dtype, for every dtype that some framework stores. Those of 4 and 6 bits take one byte
#: an element in memory, as in ml_dtypes.
DTYPES: Mapping[str, DType] = MappingProxyType(
    {name: np.dtype(name) for name in _NUMPY}
    | {name: np.dtype(getattr(ml_dtypes, name)) for name in _ML_DTYPES if hasattr(ml_dtypes, name)}
)


def is_float(dtype: DType) -> bool:
    """Whether it is a float of any width, those of ``ml_dtypes`` among them."""
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def nearest(array: Array, dtype: DType) -> Array:
    """Floats in another dtype: the nearest value, ties to even; an infinity (where there is one) for an overflow.

    ml_dtypes takes float64 to bfloat16 by way of float32, which rounds twice: 1 + 2**-8 + 2**-40 would become 1.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if array.dtype == np.float64 and dtype == DTYPES["bfloat16"]:
            array = _to_odd(array)
        return array.astype(dtype)


def _to_odd(array: Array) -> Array:
    """float64 as float32, towards zero, and with the last bit set where that was not exact: never on a tie by chance
    (Boldo and Melquiond, "When double rounding is odd", 2005).
    """
    result = array.astype(np.float32, order="C")
    inexact = np.isfinite(array) & (result != array)
    away = inexact & (np.abs(result) > np.abs(array))
    bits = (result.view(np.uint32) - away.astype(np.uint32)) | inexact.astype(np.uint32)
    return np.asarray(bits).view(np.float32)


class TensorSpec(msgspec.Struct, frozen=True, gc=False):
    """What is known of a tensor without reading it.

    ``shape`` holds -1 only in the template of a live net whose layer has not seen its input yet.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the data in memory."""
        return self.size * self.dtype.itemsize
