"""In which order a net hands on the axes of its tensors: a permutation before a flatten changes the features behind it.

The arrays of a forward are known again by their values, in whatever order of axes they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import msgspec
import numpy as np

from converter.core.tensors import Array

#: The axes after the first, as those of the tensor that a layer made: ``(1, 2, 3)`` unless they were permuted.
Order = tuple[int, ...]


class Seen(msgspec.Struct, frozen=True):
    """An array of a forward. order: of its axes, as the net's own layers have them; () where that is unknown."""

    array: Array
    order: Order


class Arrays:
    """Those of a forward that have spatial axes, in the order in which they were made."""

    def __init__(self) -> None:
        self._by_values: dict[object, list[Seen]] = {}
        self._by_largest: dict[object, list[Seen]] = {}

    def add(self, inputs: Sequence[Array], output: Array, convolves: bool) -> None:
        """What a module took and gave. convolves: whether it takes channels where its framework has them."""
        took = [self._added(array, _usual(array)) for array in inputs if array.ndim > 3]
        if output.ndim > 3:
            self._added(output, _usual(output) if convolves else _handed_on(took, output))

    def _added(self, array: Array, order: Order) -> Seen:
        known = self.find(array)
        if known is not None:
            return Seen(array, known)
        seen = Seen(array, order)
        self._by_values.setdefault(_values(array), []).append(seen)
        self._by_largest.setdefault(_values(array)[:3], []).append(seen)
        return seen

    def find(self, array: Array) -> Order | None:
        """The order in which an array has the axes of one before it; None where it has the values of none.

        Of one whose axes were flattened, or that went through a ReLU which is no module, too.
        """
        if not array.size or array.min() == array.max():
            return None
        for seen in self._by_values.get(_values(array), ()):
            if (order := _order(seen, seen.array, array)) is not None:
                return order
        for seen in self._by_largest.get(_values(array)[:3], ()) if not array.min() else ():
            if (order := _order(seen, np.maximum(seen.array, 0), array)) is not None:
                return order
        return None


def _values(array: Array) -> tuple[int, int, object, object]:
    """The same for arrays of the same values in another order."""
    return len(array), array.size, array.max(initial=0), array.min(initial=0)


def _usual(array: Array) -> Order:
    return tuple(range(1, array.ndim))


def _handed_on(took: Sequence[Seen], output: Array) -> Order:
    """The order after a module that permutes nothing itself."""
    permuted = [seen for seen in took if seen.order != _usual(seen.array)]
    if not permuted:
        return _usual(output)
    return permuted[0].order if permuted[0].array.shape == output.shape else ()


def _order(seen: Seen, before: Array, after: Array) -> Order | None:
    """The order of the axes in ``after``; None where it is another array."""
    for axes in permutations(range(1, before.ndim)):
        moved = before.transpose(0, *axes)
        flat = after.ndim == 2
        if (flat or moved.shape == after.shape) and np.array_equal(moved.reshape(after.shape), after):
            return tuple(seen.order[axis - 1] for axis in axes) if seen.order else ()
    return None
