"""Axis orders as text, and the operations that lead from one to another."""

from __future__ import annotations

import einops
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.core.axes import groups, rearrangement, solve
from converter.core.ops import Op

SIZES = {"a": 2, "b": 3, "c": 4, "d": 5, "e": 7}


@st.composite
def orders(draw: st.DrawFn) -> tuple[str, str]:
    """Two orders of the same axes, taken together in other ways."""
    axes = draw(st.lists(st.sampled_from(sorted(SIZES)), min_size=1, unique=True))
    return _written(draw, draw(st.permutations(axes))), _written(draw, draw(st.permutations(axes)))


def _written(draw: st.DrawFn, axes: list[str]) -> str:
    tokens: list[str] = []
    rest = list(axes)
    while rest:
        count = draw(st.integers(1, len(rest)))
        tokens.append(rest[0] if count == 1 else f"({' '.join(rest[:count])})")
        del rest[:count]
    return " ".join(tokens)


def applied(ops: tuple[Op, ...], array: np.ndarray) -> np.ndarray:
    arrays: tuple[np.ndarray, ...] = (array,)
    for op in ops:
        arrays = op.apply(arrays)
    return arrays[0]


@given(orders())
def test_a_rearrangement_is_that_of_einops_and_its_inverse_leads_back(pair: tuple[str, str]) -> None:
    given_order, wanted = pair
    have = groups(given_order, given_order.replace("(", "").count(" ") + 1) if "(" not in given_order else None
    shape = tuple(
        int(np.prod([SIZES[axis] for axis in group]))
        for group in (have or groups(given_order, len(_tokens(given_order))) or ())
    )
    array = np.random.default_rng(0).normal(size=shape)
    ops = rearrangement(given_order, wanted, shape, tuple(SIZES.items()))
    assert ops is not None
    named = {axis: SIZES[axis] for axis in given_order.replace("(", " ").replace(")", " ").split()}
    moved = applied(ops, array)
    assert np.array_equal(moved, einops.rearrange(array, f"{given_order} -> {wanted}", **named))
    assert np.array_equal(applied(tuple(op.inverse() for op in reversed(ops)), moved), array)


def _tokens(axes: str) -> list[str]:
    found, depth = [""], 0
    for letter in axes:
        depth += (letter == "(") - (letter == ")")
        if letter == " " and not depth:
            found.append("")
        else:
            found[-1] += letter
    return found


def test_wildcards_keep_their_order_and_may_run_backwards() -> None:
    kernel = np.random.default_rng(0).normal(size=(2, 3, 5, 4))  # height, width, in, out
    ops = rearrangement("~+ in out", "in out +", kernel.shape, ())
    assert ops is not None and np.array_equal(applied(ops, kernel), kernel[::-1, ::-1].transpose(2, 3, 0, 1))
    assert rearrangement("+ in out", "out in +", (3, 4), ()) is None
    slope = np.random.default_rng(0).normal(size=(1, 1, 6))
    ops = rearrangement("1* c", "c", slope.shape, ())
    assert ops is not None and np.array_equal(applied(ops, slope), slope[0, 0])


def test_what_stays_as_it_is_takes_no_operation() -> None:
    assert rearrangement("(g h) in", "(g h) in", (8, 3), ()) == ()
    assert rearrangement("out in", "out in", (8, 3), ()) == ()
    assert rearrangement("(heads d) in", "heads d in", (8, 3), ()) is None, "nobody said how many heads"


@pytest.mark.parametrize(
    ("constraints", "known", "expected"),
    [
        ([(("g", "h"), 12), (("h",), 4)], {}, {"g": 3, "h": 4}),
        ([(("g", "h"), 12)], {"g": 5}, None),
        ([(("h",), 4), (("h",), 5)], {}, None),
        ([(("g", "h"), 12)], {}, {}),
        ([(("h",), -1)], {}, {}),
        ([((), 1)], {}, {}),
        ([((), 2)], {}, None),
    ],
)
def test_sizes_follow_from_products(constraints: list, known: dict, expected: dict | None) -> None:
    assert solve(constraints, known) == expected
