"""Several tensors side by side before one layer: ``64x49+4`` is 64 channels in 49 places, flattened, and 4 features.

So it is where a net flattens two branches and joins them, or sets other inputs beside what it flattened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np

from converter.core.ops import Op
from converter.core.tensors import Array, TensorSpec
from converter.errors import ConversionError

#: Channels and places of each tensor, in their order.
Parts = tuple[tuple[int, int], ...]


def parse_channels(text: str) -> int | Parts:
    """``64`` -> 64 channels; ``64x49+4`` -> ((64, 49), (4, 1)). Raises ConversionError for anything else."""
    if re.fullmatch(r"\d+", text):
        return int(text)
    terms = [re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", term) for term in text.split("+")]
    if not all(terms):
        raise ConversionError(f"'{text}' is neither a number of channels nor a sum such as 64x49+4")
    return tuple((int(term[1]), int(term[2] or 1)) for term in terms if term)


def parsed(flatten: Mapping[str, int | str] | None) -> dict[str, int | Parts]:
    """What a user says of layers. Raises ConversionError as `parse_channels` does."""
    return {pattern: parse_channels(str(channels)) for pattern, channels in (flatten or {}).items()}


def written(parts: Parts) -> str:
    """As `parse_channels` reads it."""
    return "+".join(f"{channels}x{places}" if places > 1 else str(channels) for channels, places in parts)


class Turn(Op, frozen=True):
    """Along one axis each part, of (outer, inner) sizes, gets its inner one outside: (C, places) -> (places, C)."""

    axis: int
    parts: Parts

    def infer(self, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(specs)

    def apply(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(self._turned(array) for array in arrays)

    def _turned(self, array: Array) -> Array:
        ends = list(accumulate(map(math.prod, self.parts)))
        pieces = np.split(array, ends[:-1], self.axis)
        before, behind = array.shape[: self.axis], array.shape[self.axis + 1 :]
        turned = [
            piece.reshape(*before, *sizes, *behind).swapaxes(self.axis, self.axis + 1).reshape(piece.shape)
            for piece, sizes in zip(pieces, self.parts, strict=True)
        ]
        result: Array = np.concatenate(turned, self.axis)
        return result

    def inverse(self) -> Turn:
        return Turn(self.axis, tuple((inner, outer) for outer, inner in self.parts))

    def __str__(self) -> str:
        return "each part reordered"
