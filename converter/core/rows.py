"""Rows at the front of a table that count for nothing: left out, or kept as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from converter.core.ops import Each, Op, Shape
from converter.core.tensors import Array, TensorSpec


class DropRows(Each, frozen=True):
    """Without the first ``count`` rows. A view."""

    done = "without its first {0.count} rows"
    count: int

    def shaped(self, shape: Shape) -> Shape:
        return (shape[0] - self.count, *shape[1:])

    def made(self, array: Array) -> Array:
        return array[self.count :]


class KeepRows(Op, frozen=True):
    """The first of two tables behind the first ``count`` rows of the other, which is the clone's own."""

    done = "behind the first {0.count} rows of the clone"
    count: int

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return (specs[-1],)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        rows, own = arrays
        return (np.concatenate((own[: self.count].astype(rows.dtype, copy=False), rows)),)
