"""Nets with a flatten, every ordered pair of flavours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import ok
from tests.parity.flatten_cases import CASES
from tests.parity.sides import Case, by_clone, by_hand_over, by_schema, every


@pytest.mark.parametrize(("case", "source", "target"), every(CASES, Case.pairs))
def test_into_a_clone_s_file(
    case: Case, source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_clone(case, source, target, tmp_path, lambda *words: ok(capsys, *words))


@pytest.mark.parametrize(("case", "source", "target"), every(CASES, Case.schema_pairs))
def test_by_schema(case: Case, source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_schema(case, source, target, tmp_path, lambda *words: ok(capsys, *words))


@pytest.mark.parametrize(
    ("case", "source", "target"), every([case for case in CASES if not case.options], Case.live_pairs)
)
def test_into_a_live_net(case: Case, source: str, target: str, tmp_path: Path) -> None:
    by_hand_over(case, source, target, tmp_path)
