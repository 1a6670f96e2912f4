import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.layers import KINDS, axis_sizes, join_path, natural_key, permutation, split_path


@given(st.lists(st.text(min_size=1), min_size=1))
def test_a_path_comes_apart_as_it_was_joined(parts: list[str]) -> None:
    assert split_path(join_path(parts)) == tuple(parts)


@given(st.permutations(["a", "b", "c", "*"]), st.permutations(["a", "b", "c", "*"]), st.integers(3, 6))
def test_a_permutation_puts_every_axis_where_its_name_says(given_axes: list[str], wanted: list[str], ndim: int) -> None:
    have, want = " ".join(given_axes), " ".join(wanted)
    array = np.zeros(range(2, 2 + ndim))
    moved = array.transpose(permutation(have, want, ndim))
    assert axis_sizes(have, array.shape) == axis_sizes(want, moved.shape)


def test_axis_sizes_refuses_other_numbers_of_axes() -> None:
    assert axis_sizes("out in", (3,)) is None
    assert axis_sizes("out in", (3, 4, 5)) is None
    assert axis_sizes("out in *", (3,)) is None
    assert axis_sizes("*", ()) == {}


def test_names_with_numbers_sort_as_people_count() -> None:
    names = [f"Dense_{i}" for i in range(12)]
    shuffled = random.Random(0).sample(names, len(names))
    assert sorted(shuffled, key=natural_key) == names


@pytest.mark.parametrize("kind", KINDS)
def test_optional_roles_are_roles(kind: str) -> None:
    assert KINDS[kind].optional < KINDS[kind].roles.keys()
