"""Activations of two nets: whether they hold the same values, and in which order either has its features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, combinations, permutations
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from converter.core.tensors import Array

_Floats: TypeAlias = NDArray[np.float64]
#: By so much, of the largest, may values differ that come out of the same weights in two frameworks.
TOLERANCE = 1e-3
#: So many values of an array are compared one by one.
_LARGEST = 64


class Fingerprint(msgspec.Struct, frozen=True, eq=False):
    """The same for the same values in another order of axes, and with zeros around them.

    sums: of the values, of their sizes, and of their squares, the latter under a root. largest: sizes, in order.
    """

    sums: _Floats
    largest: _Floats

    def is_like(self, other: Fingerprint) -> bool:
        with np.errstate(invalid="ignore"):  # of infinities, which are like nothing
            alike = np.abs(self.sums - other.sums) <= TOLERANCE * self.sums[[1, 1, 2]]
            return bool(alike.all() and np.abs(self.largest - other.largest).max() <= TOLERANCE * self.largest[-1])


def fingerprint(array: Array) -> Fingerprint:
    values = array.astype(np.float64).reshape(-1)
    sizes = np.abs(values)
    with np.errstate(invalid="ignore", over="ignore"):
        sums = np.array([values.sum(), sizes.sum(), np.sqrt(np.square(values).sum())])
    largest = np.zeros(max(_LARGEST, sizes.size))
    largest[: sizes.size] = sizes
    return Fingerprint(sums, np.sort(np.partition(largest, -_LARGEST)[-_LARGEST:]))


def order_between(ours: Array, theirs: Array, shapes: Iterable[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The places among our features (of arrays (examples, features)) at which theirs stand, one after the other.

    shapes: those that the features may have had before they were flattened. Their axes may be permuted and reversed;
    else the values themselves have to tell. None where there is no order, or more than one.
    """
    size = ours.shape[1]
    tried = (order for shape in dict.fromkeys(shapes) for order in _of_axes(np.arange(size).reshape(shape)))
    fitting = {order.tobytes(): order for order in tried if _are_close(ours[:, order], theirs)}
    if not fitting:
        return _by_values(ours, theirs)
    return tuple(next(iter(fitting.values())).tolist()) if len(fitting) == 1 else None


def _of_axes(places: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    axes = range(places.ndim)
    for turned in chain.from_iterable(combinations(axes, count) for count in range(places.ndim + 1)):
        for order in permutations(axes):
            yield np.flip(places, turned).transpose(order).reshape(-1)


def _by_values(ours: Array, theirs: Array) -> tuple[int, ...] | None:
    """The order in which each feature has the values of one of ours, and could be no other."""
    mixed = np.random.default_rng(0).normal(size=len(ours))
    keys = [mixed @ array.astype(np.float64) for array in (ours, theirs)]
    order = np.empty(ours.shape[1], np.int64)
    order[np.argsort(keys[1])] = np.argsort(keys[0])
    apart = np.diff(np.sort(keys[0])).min(initial=np.inf)
    clear = apart > 4 * np.abs(keys[0][order] - keys[1]).max(initial=0)
    return tuple(order.tolist()) if clear and _are_close(ours[:, order], theirs) else None


def _are_close(ours: Array, theirs: Array) -> bool:
    allowed = TOLERANCE * np.abs(theirs[0]).max(initial=0)
    first = np.abs(ours[0] - theirs[0]).max(initial=0) <= allowed  # one row tells most of them apart
    return bool(first and np.abs(ours - theirs).max(initial=0) <= TOLERANCE * np.abs(theirs).max(initial=0))
