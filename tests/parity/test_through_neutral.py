"""Bit for bit, for a tenth of the cases: a file by way of the neutral form, and a file into its own framework."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

import converter
from tests.command import ok
from tests.parity import conv_cases, norm_cases, simple_cases
from tests.parity.sides import SIDES, Case, Pair, every, one_of, schema_of

CASES = (*simple_cases.CASES, *conv_cases.CASES, *norm_cases.CASES)


def itself(case: Case) -> list[Pair]:
    return [(flavour, flavour) for flavour in case.nets]


def saved(flavour: str, case: Case, path: Path, seed: int) -> Path:
    side = SIDES[flavour]
    side.save(side.randomise(case.fresh(flavour), np.random.default_rng(seed)), path)
    return path


def tensors(path: Path) -> Mapping[str, tuple[object, ...]]:
    with converter.read(path) as weights:
        arrays = {name: array for name, array in weights.items() if not name.endswith("num_batches_tracked")}
        return {name: (array.shape, array.dtype, array.tobytes()) for name, array in arrays.items()}


@pytest.mark.parametrize(("case", "source", "target"), one_of(10, every(CASES, Case.edges)))
def test_by_way_of_neutral_nothing_changes(
    case: Case, source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = SIDES[source], SIDES[target]
    given = saved(source, case, tmp_path / f"source{ours.ending}", 1)
    like = saved(target, case, tmp_path / f"like{theirs.ending}", 2)
    words = schema_of(case, tmp_path) or case.kinds
    half, direct = tmp_path / "half.safetensors", tmp_path / f"direct{theirs.ending}"
    ok(capsys, f"{ours.framework}->{theirs.framework}", given, "--like", like, "-o", direct, *words)
    ok(capsys, f"{ours.framework}->neutral", given, "-o", half, *words)
    result = tmp_path / f"result{theirs.ending}"
    ok(capsys, f"neutral->{theirs.framework}", half, "--like", like, "-o", result, *words)
    assert tensors(result) == tensors(direct)
    assert tensors(result) != tensors(like)


@pytest.mark.parametrize(("case", "source", "target"), one_of(10, every(CASES, itself)))
def test_within_a_framework_every_bit_stays(
    case: Case, source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    side = SIDES[source]
    given = saved(source, case, tmp_path / f"source{side.ending}", 1)
    like = saved(target, case, tmp_path / f"like{side.ending}", 2)
    result = tmp_path / f"result{side.ending}"
    ok(capsys, f"{side.framework}->{side.framework}", given, "--like", like, "-o", result, *case.words(source, target))
    assert tensors(result) == tensors(given)
    assert tensors(result) != tensors(like)
