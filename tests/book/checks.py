"""What the tests of the book's nets ask of every conversion."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from typing import Any

import pytest

from tests.book.runs import RING, WAYS, Runs


def every_way(names: Iterable[str]) -> list[Any]:
    """The parameters (name, source, target, way) of a test: each framework once as the source and once as the target,
    and each way at least once.

    `make schemas` converts every one into every other in every way.
    """
    ways = cycle(WAYS)
    return [
        pytest.param(name, source, target, way, id=f"{name}-{source}-{target}-{way.replace(' ', '_')}")
        for name in names
        for (source, target), way in zip(RING, ways, strict=False)
    ]


def check(runs: Runs, source: str, target: str, way: str) -> None:
    runs.converted(source, target, way)
