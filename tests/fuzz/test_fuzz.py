"""Damaged files of every format end in data or in an error; `make fuzz` goes on for longer."""

from __future__ import annotations

import re

import pytest

from converter.formats import FORMATS
from tests.fuzz.harness import PAGE, PEAK_MB, fuzz

TRIES = 400


@pytest.mark.parametrize("row", [row.name for row in FORMATS])
def test_damage_ends_in_data_or_an_error(row: str) -> None:
    outcome = fuzz(row, seconds=0, tries=TRIES)
    assert outcome.other == 0, outcome.failure
    assert outcome.tried == outcome.data + outcome.errors == TRIES
    assert outcome.data > 5 and outcome.errors > 50
    assert outcome.peak_mb < PEAK_MB


def test_the_page_has_every_reader_and_its_sums_are_right() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    assert [name for name, *_ in rows] == [*(row.name for row in FORMATS), "all"]
    for _, tried, data, errors, other in rows:
        assert int(tried) == int(data) + int(errors) and int(other) == 0
