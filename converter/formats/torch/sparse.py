"""Sparse tensors of PyTorch, read as the dense ones that they stand for: values are moved, never computed."""

from __future__ import annotations

import math

import numpy as np

from converter.core.tensors import Array, DType
from converter.formats.pickle.load import PickleError
from converter.formats.torch.tensors import FileTensor, Storage, StridedTensor, TorchFile

__all__ = ["SparseTensor"]


#: Bytes that the positions of a value take while it is moved.
COUNTED = 48
_COMPRESSED = ("sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc")


class SparseTensor(FileTensor, frozen=True, eq=False):
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
        self.check_shape()
        for part in self.parts:
            part.check(file)
        self.check_growth(file)

    @property
    def beyond(self) -> int:
        """That of the dense tensor, and of the numbers of the rows on the way to it."""
        return super().beyond + COUNTED * max(part.shape[-1] if part.shape else 0 for part in self.parts[:-1])

    def read(self, file: TorchFile) -> Array:
        *indices, values = (part.read(file) for part in self.parts)
        if self.layout == "sparse_coo":
            return _dense(indices[0], values, self.shape)
        if self.layout not in _COMPRESSED or len(self.shape) != 2:
            raise PickleError(f"its layout is torch.{self.layout}; make it dense in PyTorch first (to_dense())")
        where = _coordinates(indices[0], indices[1], by_column=self.layout in ("sparse_csc", "sparse_bsc"))
        if self.layout in ("sparse_csr", "sparse_csc"):
            return _dense(where, values, self.shape)
        return _dense_blocks(where, values, self.shape)


def _coordinates(pointers: Array, plain: Array, by_column: bool) -> Array:
    fits = pointers.ndim == plain.ndim == 1 and pointers.size and pointers.dtype.kind == plain.dtype.kind == "i"
    if not fits or pointers[0] != 0 or pointers[-1] != plain.size or (pointers[1:] < pointers[:-1]).any():
        raise PickleError("a compressed sparse tensor whose pointers do not fit its indices")
    counts = np.diff(pointers)
    lines = np.repeat(np.arange(counts.size), counts)
    return np.stack([plain, lines] if by_column else [lines, plain])


def _dense(where: Array, values: Array, shape: tuple[int, ...]) -> Array:
    axes = where.shape[0] if where.ndim == 2 else -1
    if not 0 <= axes <= len(shape) or values.shape != (where.shape[1], *shape[axes:]) or where.dtype.kind not in "iu":
        raise PickleError("a sparse tensor whose indices do not fit its values and its shape")
    if not values.size:
        return np.zeros(shape, values.dtype)
    sides = shape[:axes]
    if where.size and ((where < 0).any() or (where >= np.array(sides, np.int64)[:, None]).any()):
        raise PickleError("a sparse tensor with an index outside of its shape")
    rows = np.ravel_multi_index(tuple(where), sides) if axes and where.size else np.zeros(where.shape[1], np.int64)
    if np.unique(rows).size != rows.size:
        raise PickleError("a sparse tensor that names one position twice; call coalesce() in PyTorch first")
    dense = np.zeros((math.prod(sides), *shape[axes:]), values.dtype)
    dense[rows] = values
    return dense.reshape(shape)


def _dense_blocks(where: Array, values: Array, shape: tuple[int, ...]) -> Array:
    """values: (blocks, rows of a block, columns of a block)."""
    rows, columns = values.shape[1:] if values.ndim == 3 else (0, 0)
    if not rows or not columns or shape[0] % rows or shape[1] % columns:
        raise PickleError("a sparse tensor whose blocks do not fit its shape")
    grid = _dense(where, values, (shape[0] // rows, shape[1] // columns, rows, columns))
    return grid.transpose(0, 2, 1, 3).reshape(shape)
