"""Every case along the hub, in real frameworks: each flavour into the neutral file, and the neutral file into each.

One conversion by way of the neutral file tests one way in and one way out, so that six flavours need six of them and
not 36. Beside them a sample, always the same one, of the direct pairs, of new files by schema and of live nets, which
use the same tables; `make parity` runs all pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import pytest

from tests.command import ok
from tests.parity.every_case import CASES
from tests.parity.sides import Case, Pair, by_clone, by_hand_over, by_neutral, by_schema, every, one_of

#: Cases whose live nets tell less than the options say.
NOT_LIVE = ("foreign_cases", "folded_cases")


def over_all(pairs: Callable[[Case], list[Pair]], without: Container[str] = ()) -> list[Any]:
    """The parameters of all cases; those of one module stay in one process, which compiles its layers once."""
    return [
        pytest.param(*parameters.values, id=parameters.id, marks=pytest.mark.xdist_group(module))
        for module, cases in CASES.items()
        if module not in without
        for parameters in every(cases, pairs)
    ]


def live_pairs(case: Case) -> list[Pair]:
    return [] if case.options or case.names else case.live_pairs()


@pytest.mark.always  # what the other pairs are made of
@pytest.mark.parametrize(("case", "source", "target"), over_all(Case.edges))
def test_by_way_of_the_neutral_file(
    case: Case, source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_neutral(case, source, target, tmp_path, lambda *words: ok(capsys, *words))


@pytest.mark.parametrize(("case", "source", "target"), one_of(10, over_all(Case.pairs)))
def test_into_a_clone_s_file(
    case: Case, source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_clone(case, source, target, tmp_path, lambda *words: ok(capsys, *words))


@pytest.mark.parametrize(("case", "source", "target"), one_of(3, over_all(Case.schema_edges)))
def test_a_new_file_by_schema(
    case: Case, source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_schema(case, source, target, tmp_path, lambda *words: ok(capsys, *words))


@pytest.mark.parametrize(("case", "source", "target"), one_of(4, over_all(live_pairs, NOT_LIVE)))
def test_into_a_live_net(case: Case, source: str, target: str, tmp_path: Path) -> None:
    by_hand_over(case, source, target, tmp_path)
