"""What the tests of the book's nets ask of every conversion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

import converter
from tests.book.runs import ALL_PLAIN, FILE, FLAVOURS, LIVE, RING, WAYS, Runs, is_asked


def every_way(names: Iterable[str]) -> list[Any]:
    """The parameters (name, source, target, way) of a test: every framework into every one, itself too.

    Into live clones from one framework each, and where their files do not tell enough; `make schemas` does them all.
    """
    return [
        pytest.param(name, source, target, way, id=f"{name}-{source}-{target}-{way.replace(' ', '_')}")
        for name in names
        for source in FLAVOURS
        for target in FLAVOURS
        for way in WAYS
        if way != LIVE or (source, target) in RING or is_asked(name, source, target)
    ]


def check(runs: Runs, source: str, target: str, way: str) -> None:
    """Right; where neither file tells what a square kernel is, refused, and right with what the refusal asks for."""
    if way == FILE and is_asked(runs.case.name, source, target):
        with pytest.raises(
            converter.MatchError, match=r"(?s)could be conv or conv_transpose.* kind=\{'\*': 'conv'\} \(?settles"
        ):
            runs.converted(source, target, way)
        runs.converted(source, target, way, *ALL_PLAIN)
    else:
        runs.converted(source, target, way)
