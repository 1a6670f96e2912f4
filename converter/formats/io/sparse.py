"""Sparse arrays of MXNet and SciPy, made dense: ``csr`` (row starts, columns) and ``row_sparse`` (rows)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from converter.core.tensors import Array
from converter.errors import FormatError
from converter.formats.io.budget import Budget, beyond
from converter.formats.io.source import check_shape, frozen

#: Bytes that the positions of a value take while it is moved.
COUNTED = 48


def to_dense(budget: Budget, what: str, kind: str, shape: tuple[int, ...], arrays: Sequence[Array]) -> Array:
    """The dense read-only array of that shape.

    arrays: the values, then for ``row_sparse`` the rising numbers of the rows that they are, for ``csr``
        where each row starts among the values, and their columns, rising in each row.
    budget: of the file. Raises FormatError when they do not fit together, or when it cannot pay for the dense array.
    """
    data, *index = arrays
    path = budget.path
    size = math.prod(check_shape(path, shape, data.dtype, what)) * data.dtype.itemsize
    charged = beyond(size, sum(array.nbytes for array in arrays)) + COUNTED * sum(array.size for array in index)
    with budget.lent(charged, f"{what} as a dense array of {size} bytes"):
        return _dense(path, what, kind, shape, data, index)


def _dense(path: Path, what: str, kind: str, shape: tuple[int, ...], data: Array, index: Sequence[Array]) -> Array:
    if any(array.ndim != 1 or array.dtype.kind not in "iu" for array in index):
        raise FormatError(path, f"{what} is not a valid sparse array: its index arrays must be lists of integers")
    index = [array.astype(np.int64) for array in index]
    if problem := _PROBLEMS[kind](shape, data, *index):
        raise FormatError(path, f"{what} is not a valid sparse array: {problem}")
    dense = np.zeros(shape, data.dtype)
    if data.size and kind == "row_sparse":
        dense[index[0]] = data
    elif data.size:
        dense[np.repeat(np.arange(shape[0]), np.diff(index[0])), index[1]] = data
    return frozen(dense)


def _rows_problem(shape: tuple[int, ...], data: Array, rows: Array) -> str:
    if data.shape != (rows.size, *shape[1:]) and (data.size or rows.size):
        return f"{rows.size} rows and values of shape {data.shape}"
    return _range_problem(rows, shape[:1]) or ("its rows do not rise" if (np.diff(rows) <= 0).any() else "")


def _csr_problem(shape: tuple[int, ...], data: Array, starts: Array, columns: Array) -> str:
    if len(shape) != 2 or data.shape != columns.shape:
        return f"{columns.size} columns and values of shape {data.shape}"
    if starts.size != shape[0] + 1 or starts[0] != 0 or starts[-1] != data.size or (np.diff(starts) < 0).any():
        return "its row starts do not rise from 0 to the number of values"
    falls = np.diff(columns) <= 0  # allowed only between the last column of a row and the first of another
    falls[starts[(starts > 0) & (starts < columns.size)] - 1] = False
    return _range_problem(columns, shape[1:]) or ("the columns of a row do not rise" if falls.any() else "")


def _range_problem(indices: Array, limit: tuple[int, ...]) -> str:
    if indices.size and (not limit or indices.min() < 0 or indices.max() >= limit[0]):
        return f"an index is not below {limit[0] if limit else 0}"
    return ""


_PROBLEMS: Mapping[str, Callable[..., str]] = {"row_sparse": _rows_problem, "csr": _csr_problem}
