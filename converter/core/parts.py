"""Parts that lie along one axis of a tensor: queries, keys and values, gate and up; taken out, and put together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import msgspec
import numpy as np
from msgspec.structs import replace

from converter.core.ops import Each, Op, Shape
from converter.core.tensors import Array, TensorSpec


class Runs(msgspec.Struct, frozen=True):
    """``count`` runs, each with so many elements of every part, one part after the other.

    One run is [queries | keys | values]; as many as there are heads is head by head; of two parts with one element each
    they take turns.
    """

    sizes: tuple[int, ...]
    count: int = 1

    @property
    def total(self) -> int:
        """Elements along the axis."""
        return self.count * sum(self.sizes)

    def __str__(self) -> str:
        sizes = ":".join(map(str, self.sizes))
        return f"{self.count}x{sizes}" if self.count > 1 else sizes


class Part(Each, frozen=True):
    """One of the parts along an axis. A view where there is one run."""

    axis: int
    runs: Runs
    place: int

    def shaped(self, shape: Shape) -> Shape:
        size = self.runs.count * self.runs.sizes[self.place]
        return (*shape[: self.axis], size, *shape[self.axis + 1 :])

    def made(self, array: Array) -> Array:
        front, back = array.shape[: self.axis], array.shape[self.axis + 1 :]
        start = sum(self.runs.sizes[: self.place])
        own = slice(start, start + self.runs.sizes[self.place])
        runs = array.reshape(*front, self.runs.count, sum(self.runs.sizes), *back)
        return runs[(slice(None),) * (self.axis + 1) + (own,)].reshape(self.shaped(array.shape))

    def __str__(self) -> str:
        return f"part {self.place + 1} of {self.runs} taken"


class Join(Op, frozen=True):
    """The parts, in the order of their places, become one again."""

    done = "joined as {0.runs}"
    axis: int
    runs: Runs

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        shape = specs[0].shape
        return (replace(specs[0], shape=(*shape[: self.axis], self.runs.total, *shape[self.axis + 1 :])),)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        front, back = arrays[0].shape[: self.axis], arrays[0].shape[self.axis + 1 :]
        runs = [
            array.reshape(*front, self.runs.count, size, *back)
            for array, size in zip(arrays, self.runs.sizes, strict=True)
        ]
        return (np.concatenate(runs, self.axis + 1).reshape(*front, self.runs.total, *back),)


class Branch(msgspec.Struct, frozen=True):
    """Ops for some of the arrays, by their places among all."""

    places: tuple[int, ...]
    ops: tuple[Op, ...]


class Severally(Op, frozen=True):
    """Each branch does its own to its own arrays; the results of all, one after the other."""

    branches: tuple[Branch, ...]

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(chain.from_iterable(self._inferred(branch, specs) for branch in self.branches))

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(chain.from_iterable(self._applied(branch, arrays) for branch in self.branches))

    @staticmethod
    def _inferred(branch: Branch, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        own = tuple(specs[place] for place in branch.places)
        for op in branch.ops:
            own = op.infer(own)
        return own

    @staticmethod
    def _applied(branch: Branch, arrays: Sequence[Array]) -> tuple[Array, ...]:
        own = tuple(arrays[place] for place in branch.places)
        for op in branch.ops:
            own = op.apply(own)
        return own

    def __str__(self) -> str:
        return ", ".join(dict.fromkeys(str(op) for branch in self.branches for op in branch.ops))
