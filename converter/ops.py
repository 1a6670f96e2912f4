"""What can be done to tensors on their way: small frozen values that say it, do it and undo it.

Exact: values are moved, never recomputed, unless the op says so (`Cast`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from converter.errors import ConversionError
from converter.tensors import Array, DType, TensorSpec


class Op(ABC):
    """One operation on a group of tensors. ``infer`` tells shapes and dtypes without any data."""

    @abstractmethod
    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]: ...

    @abstractmethod
    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]: ...

    @abstractmethod
    def inverse(self) -> Op: ...

    @abstractmethod
    def __str__(self) -> str:
        """What was done, as the report says it."""


@dataclass(frozen=True)
class Transpose(Op):
    """Axis i of the result is axis ``axes[i]`` of the source. A view: no data is moved yet."""

    axes: tuple[int, ...]

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, shape=tuple(spec.shape[axis] for axis in self.axes)) for spec in specs)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(array.transpose(self.axes) for array in arrays)

    def inverse(self) -> Transpose:
        return Transpose(tuple(self.axes.index(i) for i in range(len(self.axes))))

    def __str__(self) -> str:
        return "transposed"


@dataclass(frozen=True)
class Cast(Op):
    """To the dtype that the clone has; nearest value, ties to even. Raises when a value overflows."""

    dtype: DType
    source: DType

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, dtype=self.dtype) for spec in specs)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(self._cast(array) for array in arrays)

    def _cast(self, array: Array) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            result = array.astype(self.dtype)
        # Types without an infinity (float8_e4m3fn) overflow to NaN: "finite before, not after" covers both.
        lost = np.count_nonzero(np.isfinite(array) & ~np.isfinite(result))
        if lost:
            raise ConversionError(f"{lost} of {array.size} values are too large for {self.dtype.name}")
        return result

    def inverse(self) -> Cast:
        return Cast(self.source, self.dtype)

    def __str__(self) -> str:
        return f"cast {self.source.name} to {self.dtype.name}"
