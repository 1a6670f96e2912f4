"""Quantized tensors of PyTorch, read as the floats that they stand for, where those are float32 exactly.

An element stands for (integer - zero point) x scale. With a scale of few bits (a power of two, say) that is a
float32 without rounding; with most scales it is not, and then nothing is computed. Upstream: ``torch/_utils.py``
(_rebuild_qtensor), ``aten/src/ATen/native/quantized/AffineQuantizerBase.cpp`` (dequantize_val).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from msgspec.structs import replace

from converter.core.tensors import DTYPES, Array, DType
from converter.formats.pickle.load import Global, PickleError
from converter.formats.torch.tensors import MAX_SIZE, FileTensor, Storage, StridedTensor, TorchFile

__all__ = ["QuantizedTensor", "quantized"]

_ADVICE = "make it a plain tensor in PyTorch first (dequantize())"
Values: TypeAlias = "StridedTensor | float | tuple[float, ...]"
#: Times a scale of 24 bits this is exact in float64.
_MOST_STEPS = 1 << 29
#: Bytes for each element.
_ON_THE_WAY = 28


class QuantizedTensor(FileTensor, frozen=True, eq=False):
    """scales, zero_points: one for the tensor, or one for each index of ``axis``."""

    steps: StridedTensor
    scales: Values
    zero_points: Values
    axis: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.steps.shape

    @property
    def dtype(self) -> DType:
        return DTYPES["float32"]

    @property
    def beyond(self) -> int:
        """Its elements are integers and floats of 64 bits on the way."""
        return super().beyond + _ON_THE_WAY * self.steps.nbytes

    @property
    def parts(self) -> tuple[StridedTensor, ...]:
        return tuple(part for part in (self.steps, self.scales, self.zero_points) if isinstance(part, StridedTensor))

    @property
    def storages(self) -> tuple[Storage, ...]:
        return tuple(part.storage for part in self.parts)

    def check(self, file: TorchFile) -> None:
        self.check_shape()
        for part in self.parts:
            part.check(file)
        self.check_growth(file)

    def read(self, file: TorchFile) -> Array:
        steps = self.steps.read(file).astype(np.int64) - self._along_axis(self.zero_points, file).astype(np.int64)
        scales = self._along_axis(self.scales, file).astype(np.float64)
        exact = np.isfinite(scales).all() and (scales.astype(np.float32) == scales).all()
        if exact and (np.abs(steps) <= _MOST_STEPS).all():
            wide = steps * scales
            with np.errstate(over="ignore"):
                plain = wide.astype(np.float32)
            if (plain == wide).all():
                return np.asarray(plain, order="C")
        raise PickleError(f"it is quantized, and not all of its values are exact in float32; {_ADVICE}")

    def _along_axis(self, values: Values, file: TorchFile) -> Array:
        """With as many axes as the tensor."""
        along = values.read(file) if isinstance(values, StridedTensor) else np.asarray(values)
        if self.axis is None:
            return along.reshape((1,) * len(self.shape))
        if along.shape != (self.shape[self.axis],):
            raise PickleError(f"it is quantized, with scales or zero points that do not fit its axis {self.axis}")
        return along.reshape([-1 if axis == self.axis else 1 for axis in range(len(self.shape))])


def quantized(steps: StridedTensor, scheme: object) -> FileTensor:
    """scheme: (its name, scale, zero point), or (its name, scales, zero points, axis); of any other only the storage
    is known. PyTorch gives ``per_channel_affine_float_qparams`` the name of ``per_channel_affine``; the type of the
    zero points tells."""
    name, *values = scheme if isinstance(scheme, tuple) and scheme else (None,)
    kind = name.name.split()[-1] if isinstance(name, Global) else ""
    if kind == "per_tensor_affine" and len(values) == 2 and _are("f", values[0]) and _are("i", values[1]):
        return QuantizedTensor(steps, values[0], values[1], None)
    if kind == "per_channel_affine" and len(values) == 3 and _are("f", values[0]) and _are("i", values[1]):
        axis = values[2]
        if isinstance(axis, int) and 0 <= axis < len(steps.shape):
            return QuantizedTensor(steps, _frozen(values[0]), _frozen(values[1]), axis)
    return replace(steps, problem=f"it is quantized ({kind or 'in an unknown way'}, packed or by floats); {_ADVICE}")


def _are(kind: str, values: object) -> bool:
    """Whether one or many numbers are floats ("f") or integers ("i")."""
    if isinstance(values, StridedTensor):
        return values.dtype.kind == kind
    many = values if isinstance(values, list) else [values]
    if kind == "f":
        return all(isinstance(value, float) for value in many)
    return all(isinstance(value, int) and abs(value) < MAX_SIZE for value in many)


def _frozen(values: Any) -> Values:
    return tuple(values) if isinstance(values, list) else values
