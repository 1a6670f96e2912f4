"""How much two arrays differ, in whatever order either has its axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

import msgspec
import numpy as np

from converter.core.tensors import Array
from converter.errors import ConversionError

Orders: TypeAlias = Callable[[Array], Iterator[Array]]
#: Bytes of an array that are looked at together when two differ.
_CHUNK_BYTES = 16 << 20
#: Relative error up to which outputs of the less precise of two dtypes count as equal, where the caller says nothing.
TOLERANCES: Mapping[str, float] = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 3e-2}


class Difference(msgspec.Struct, frozen=True):
    """What an output or a layer gives in the two nets.

    a, b: what it is called there. shapes: in either net (the axes of b in its own order).
    absolute: max |a - b|. relative: that over max |a|. Both are infinite where shapes do not agree. ok: relative is
    within the tolerance.
    """

    a: str
    b: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    absolute: float
    relative: float
    ok: bool


def compared_outputs(
    a: Mapping[str, Array], b: Mapping[str, Array], other_axes: bool, rtol: float | None
) -> tuple[Difference, ...]:
    """What two nets gave. other_axes: whether one has its channels at the other end.

    Each by its key; where the keys are others, every output of the net that gives fewer has the one of the other net
    that is closest (a net may give what it keeps for the next word, too).
    """
    orders = channel_orders if other_axes else lambda array: iter((array,))
    if a and set(a) == set(b):
        return tuple(compared((key, key), a[key], b[key], orders, rtol) for key in a)
    of_a, of_b = ({key: array for key, array in of.items() if array.ndim} for of in (a, b))
    if not of_a or not of_b:
        raise ConversionError(f"a gives {len(a)} arrays and b {len(b)}; they cannot be compared")

    def closest(pairs: Iterable[tuple[str, str]]) -> Difference:
        found = (compared(pair, of_a[pair[0]], of_b[pair[1]], orders, rtol) for pair in pairs)
        return min(found, key=lambda difference: difference.relative)

    if len(of_a) <= len(of_b):
        return tuple(closest((key, other) for other in of_b) for key in of_a)
    return tuple(closest((other, key) for other in of_a) for key in of_b)


def compared(names: tuple[str, str], a: Array, b: Array, orders: Orders, rtol: float | None) -> Difference:
    """What a layer or a net called so gives; of all orders of the axes of b the closest counts."""
    allowed = rtol if rtol is not None else max(TOLERANCES.get(array.dtype.name, 0.0) for array in (a, b))
    measured = [errors(a, fitted) for turned in orders(b) if (fitted := _fitted(turned, a.shape)) is not None]
    absolute, relative = min(measured, default=(float("inf"), float("inf")))
    return Difference(*names, (a.shape, b.shape), absolute, relative, relative <= allowed)


def channel_orders(array: Array) -> Iterator[Array]:
    """The array as it is, and with its channels moved to the other end."""
    yield array
    if array.ndim > 2:
        yield np.moveaxis(array, -1, 1)
        yield np.moveaxis(array, 1, -1)


def any_order(array: Array) -> Iterator[Array]:
    """Every order of axes in which frameworks and nets keep activations: channels, time and heads move."""
    yield from channel_orders(array)
    if array.ndim > 2:
        yield np.swapaxes(array, 0, 1)
    if array.ndim > 3:
        yield np.swapaxes(array, 1, 2)


def _fitted(array: Array, shape: tuple[int, ...]) -> Array | None:
    """The array in this shape, where the last axis of either may be two in the other (heads, size of a head)."""
    longer, shorter = sorted((array.shape, shape), key=len, reverse=True)
    if array.shape == shape:
        return array
    if len(longer) == len(shorter) + 1 and longer[:-2] == shorter[:-1] and longer[-2] * longer[-1] == shorter[-1]:
        return array.reshape(shape)
    return None


def errors(a: Array, b: Array) -> tuple[float, float]:
    """max |a - b|, and that over max |a|, for arrays of one shape, a few MB at a time.

    Where both are NaN, or the same infinity, there is no difference; where only one is, it is infinite.
    """
    absolute = scale = 0.0
    for x, y in _chunks(a, b):
        absolute = max(absolute, _largest(x, y))
        scale = max(scale, float(np.abs(x[np.isfinite(x)]).max(initial=0.0)))
    if not absolute:
        return 0.0, 0.0
    return absolute, absolute / scale if scale else math.inf


def _largest(x: Array, y: Array) -> float:
    equal = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.where(equal, 0.0, np.abs(x - y))
    return float(np.nan_to_num(difference, nan=math.inf, posinf=math.inf).max(initial=0.0))


def _chunks(a: Array, b: Array) -> Iterator[tuple[Array, Array]]:
    """Runs of rows of both, in double precision."""
    wide = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    x, y = (array.reshape(1) if array.ndim == 0 else array for array in (a, b))
    rows = max(1, _CHUNK_BYTES // max(1, x.nbytes // max(1, len(x))))
    for start in range(0, len(x), rows):
        yield x[start : start + rows].astype(wide), y[start : start + rows].astype(wide)
