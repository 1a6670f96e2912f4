import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.core.kinds import KINDS
from converter.core.layers import join_path, split_path
from converter.core.natural_order import natural_key


@given(st.lists(st.text(min_size=1), min_size=1))
def test_a_path_comes_apart_as_it_was_joined(parts: list[str]) -> None:
    assert split_path(join_path(parts)) == tuple(parts)


def test_names_with_numbers_sort_as_people_count() -> None:
    names = [f"Dense_{i}" for i in range(12)]
    shuffled = random.Random(0).sample(names, len(names))
    assert sorted(shuffled, key=natural_key) == names


@pytest.mark.parametrize("kind", KINDS)
def test_optional_roles_are_roles(kind: str) -> None:
    assert KINDS[kind].optional <= KINDS[kind].roles.keys()
    assert KINDS[kind].absent.keys() <= KINDS[kind].optional
