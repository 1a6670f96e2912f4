"""What partial reuse does to tensors beside moving them: an overlap laid over another tensor, a kernel inflated."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from converter.core.ops import Op
from converter.core.tensors import Array, TensorSpec
from converter.errors import ConversionError


class Overlay(Op, frozen=True):
    """All arrays but the last become one (``old``), and its values replace those of the last (``new``) as far as
    both reach on every axis, counted from the start; beyond that the last one keeps its own.

    old, new: the operations that bring either to the neutral axes, on which they are laid over each other.
    overlap: the neutral shape of what is replaced.
    """

    old: tuple[Op, ...]
    new: tuple[Op, ...]
    overlap: tuple[int, ...]

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return (specs[-1],)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        (over,) = _through(self.old, arrays[:-1])
        (under,) = _through(self.new, arrays[-1:])
        result = under.copy()
        part = tuple(slice(size) for size in self.overlap)
        result[part] = over[part]
        return _through(tuple(op.inverse() for op in reversed(self.new)), (result,))

    def inverse(self) -> Op:
        raise ConversionError("a tensor that was laid over another does not tell what was below")

    def __str__(self) -> str:
        return f"the part {self.overlap} that overlaps"


def _through(ops: Sequence[Op], arrays: Sequence[Array]) -> tuple[Array, ...]:
    result = tuple(arrays)
    for op in ops:
        result = op.apply(result)
    return result


class Inflate(Op, frozen=True):
    """A 2-d kernel becomes a 3-d one: repeated so many times along a new axis, and divided by that number.

    On frames that do not change it answers as the 2-d kernel does (I3D; Carreira and Zisserman, 2017). Computed,
    in the precision of the kernel.
    """

    axis: int
    times: int

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(
            replace(spec, shape=(*spec.shape[: self.axis], self.times, *spec.shape[self.axis :])) for spec in specs
        )

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(self._inflated(array) for array in arrays)

    def _inflated(self, array: Array) -> Array:
        share = (array / array.dtype.type(self.times))[(slice(None),) * self.axis + (None,)]
        result: Array = share.repeat(self.times, self.axis)
        return result

    def inverse(self) -> Op:
        raise ConversionError("an inflated kernel is not deflated")

    def __str__(self) -> str:
        return f"inflated {self.times} times"
