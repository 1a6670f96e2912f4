"""Two lists of operations have one effect just when they take the same array to the same array."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from converter.core.equivalence import effect
from converter.core.ops import Flip, Op, Reshape, Transpose
from converter.core.tensors import DTYPES

SIZES = (1, 2, 3, 4, 6)


@st.composite
def chains(draw: st.DrawFn, shape: tuple[int, ...]) -> list[Op]:
    ops: list[Op] = []
    for _ in range(draw(st.integers(0, 5))):
        match draw(st.sampled_from(("transpose", "flip", "reshape"))):
            case "transpose":
                op: Op = Transpose(tuple(draw(st.permutations(range(len(shape))))))
                shape = tuple(shape[axis] for axis in op.axes)  # type: ignore[attr-defined]
            case "flip":
                op = Flip(tuple(sorted(draw(st.sets(st.integers(0, len(shape) - 1))))))
            case _:
                new = draw(st.sampled_from(factorised(math.prod(shape))))
                op, shape = Reshape(new, shape), new
        ops.append(op)
    return ops


def factorised(size: int) -> list[tuple[int, ...]]:
    found = [shape for count in (1, 2, 3) for shape in itertools.product(range(1, size + 1), repeat=count)]
    return [shape for shape in found if math.prod(shape) == size]


def result(ops: Sequence[Op], shape: tuple[int, ...]) -> list[int]:
    arrays: tuple[np.ndarray, ...] = (np.arange(math.prod(shape), dtype=DTYPES["int32"]).reshape(shape),)
    for op in ops:
        arrays = op.apply(arrays)
    return [int(value) for value in arrays[0].ravel()]


@given(st.data())
def test_strides_tell_what_moves(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(2, 3), (4, 1, 3), (2, 2, 3), (6, 2), (1, 4), (3, 1, 1, 2)]))
    one, other = (data.draw(chains(shape)) for _ in range(2))
    (first, rest), (second, more) = effect(one, shape), effect(other, shape)
    if first is None or second is None:
        assert rest == tuple(one) or more == tuple(other)
        return
    assert (rest, more) == ((), ())
    assert (first == second) == (result(one, shape) == result(other, shape))


def test_an_axis_of_size_one_moves_nothing() -> None:
    transposed = effect([Transpose((2, 3, 1, 0))], (8, 1, 7, 7))
    assert transposed == effect([Reshape((1, 8, 7, 7), (8, 1, 7, 7)), Transpose((2, 3, 0, 1))], (8, 1, 7, 7))
    assert transposed != effect([Transpose((3, 2, 1, 0))], (8, 1, 7, 7))
