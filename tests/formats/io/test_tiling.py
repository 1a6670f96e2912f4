"""Parts of arrays: exactly those that make up the whole are accepted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.formats.io.tiling import Slice, check_tiling


@given(st.data())
def test_what_covers_every_element_once_is_accepted_and_nothing_else(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=3)))
    parts = []
    for _ in range(data.draw(st.integers(0, 4))):
        starts = tuple(data.draw(st.integers(0, side + 1)) for side in shape)
        lengths = tuple(data.draw(st.integers(0, side + 1)) for side in shape)
        parts.append(Slice(starts, lengths))
    counts = np.zeros(shape, int)
    inside = all(end <= side for part in parts for end, side in zip(part.ends, shape, strict=True))
    for part in parts:
        counts[part.region] += 1
    expected = inside and bool((counts == 1).all())
    try:
        check_tiling(shape, parts)
        assert expected
    except ValueError:
        assert not expected


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.lists(st.integers(1, 3), min_size=1, max_size=5))
def test_every_grid_of_blocks_is_accepted(rows: list[int], columns: list[int]) -> None:
    parts = [
        Slice((sum(rows[:i]), sum(columns[:j])), (rows[i], columns[j]))
        for i in range(len(rows))
        for j in range(len(columns))
    ]
    shape = (sum(rows), sum(columns))
    check_tiling(shape, parts)
    with pytest.raises(ValueError, match="do not make up"):
        check_tiling(shape, parts[1:])
    if len(parts) > 1 and parts[0].lengths == parts[1].lengths:
        with pytest.raises(ValueError, match="overlaps"):
            check_tiling(shape, [parts[0], parts[0], *parts[2:]])


def test_large_shapes_cost_nothing() -> None:
    side = 1 << 30
    check_tiling((side, side), [Slice((0, 0), (side, 7)), Slice((0, 7), (side, side - 7))])
    with pytest.raises(ValueError, match="lies outside"):
        check_tiling((side,), [Slice((1,), (side,))])
    # rows cut at other places in every column
    parts = [part for i in range(5000) for part in (Slice((0, i), (i + 1, 1)), Slice((i + 1, i), (5000 - i, 1)))]
    with pytest.raises(ValueError, match="too many different borders"):
        check_tiling((5001, 5000), parts)
