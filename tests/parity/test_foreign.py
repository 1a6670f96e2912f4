"""Layers of other people's code, every ordered pair of flavours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import ok
from tests.parity.foreign_cases import CASES
from tests.parity.sides import Case, by_clone, every


@pytest.mark.parametrize(("case", "source", "target"), every(CASES, Case.pairs))
def test_into_a_clone_s_file(
    case: Case, source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_clone(case, source, target, tmp_path, lambda *words: ok(capsys, *words))
