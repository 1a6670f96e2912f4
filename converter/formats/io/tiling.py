"""Arrays that are stored in pieces: the position of each piece, and whether together they make up the array."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

__all__ = ["Slice", "check_tiling"]

#: Cells of the finest grid of all pieces. Where devices hold the blocks of a grid, there are as many as pieces.
MAX_CELLS = 1 << 24


class Slice(msgspec.Struct, frozen=True):
    """A part of a tensor: where it starts and how many elements it has, along every axis."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def region(self) -> tuple[slice, ...]:
        return tuple(slice(start, start + length) for start, length in zip(self.starts, self.lengths, strict=True))

    @property
    def size(self) -> int:
        return math.prod(self.lengths)

    @property
    def ends(self) -> tuple[int, ...]:
        return tuple(start + length for start, length in zip(self.starts, self.lengths, strict=True))


def check_tiling(shape: Sequence[int], parts: Sequence[Slice]) -> None:
    """Raise ValueError unless every element of the shape is in exactly one part."""
    for part in parts:
        lies_inside = len(part.starts) == len(part.lengths) == len(shape) and all(
            start >= 0 and length >= 0 and start + length <= side
            for start, length, side in zip(part.starts, part.lengths, shape, strict=True)
        )
        if not lies_inside:
            raise ValueError(f"a part at {part.starts} of shape {part.lengths} lies outside of {tuple(shape)}")
    if sum(part.size for part in parts) != math.prod(shape):
        raise ValueError(f"the parts do not make up the shape {tuple(shape)}")
    filled = [part for part in parts if part.size]
    if len(filled) > 1:
        _refuse_overlaps(filled)


def _refuse_overlaps(parts: Sequence[Slice]) -> None:
    """On the grid of all their borders, where a part is a block of whole cells."""
    axes = range(len(parts[0].starts))
    borders = [sorted({side for part in parts for side in (part.starts[axis], part.ends[axis])}) for axis in axes]
    if math.prod(map(len, borders)) > MAX_CELLS:
        raise ValueError("the parts have too many different borders")
    number = [{border: cell for cell, border in enumerate(axis)} for axis in borders]
    taken = np.zeros([len(axis) for axis in borders], bool)
    for part in parts:
        block = tuple(
            slice(cells[start], cells[end]) for cells, start, end in zip(number, part.starts, part.ends, strict=True)
        )
        if taken[block].any():
            raise ValueError(f"the part at {part.starts} overlaps with another")
        taken[block] = True
