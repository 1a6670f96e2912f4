"""What the reports share: columns of text for people, a tensor for programs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from converter.core.tensors import DType, TensorSpec
from converter.errors import printable

#: Of a column of a table, in characters.
WIDEST = 300


def shape_dict(spec: TensorSpec) -> dict[str, Any]:
    """A spec for JSON."""
    return {"name": spec.name, "shape": list(spec.shape), "dtype": _name(spec.dtype)}


@cache  # NumPy takes two microseconds to say it
def _name(dtype: DType) -> str:
    return str(dtype.name)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines in columns, two spaces apart. A cell wider than `WIDEST` does not widen the others."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [min(WIDEST, max(map(len, column))) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
