"""The chapter's MLP, all 12 ordered pairs: a real framework writes, the command line converts, a real one loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.chapter import PAIRS, SIDES, Neutral, example_input, random_weights
from tests.command import ok

WAYS = {"like": (), "schema": ("--schema", "mlp"), "like and schema": ("--schema", "mlp")}


def check(source: str, target: str, weights: Neutral, path: Path) -> None:
    """The clone filled by the real loader has the same weights, bit for bit, and computes the same."""
    clone = SIDES[target].load(path)
    for name, array in SIDES[target].weights(clone).items():
        assert array.tobytes() == weights[name].tobytes(), name
    x = example_input()
    expected = SIDES[source].forward(SIDES[source].make(weights), x)
    np.testing.assert_allclose(SIDES[target].forward(clone, x), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def save(side: str, weights: Neutral, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / SIDES[side].file
    SIDES[side].save(SIDES[side].make(weights), path)
    return path


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, target: str, way: str) -> None:
    weights = random_weights(1)
    given = save(source, weights, tmp_path / "source")
    result = tmp_path / f"clone-{SIDES[target].file}"
    like = ("--like", save(target, random_weights(2), tmp_path / "clone")) if "like" in way else ()
    printed = ok(capsys, f"{source}->{target}", given, "-o", result, *WAYS[way], *like)
    assert "hidden" in printed and str(result) in printed
    check(source, target, weights, result)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_pair_by_way_of_neutral(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, target: str
) -> None:
    weights = random_weights(3)
    given = save(source, weights, tmp_path / "source")
    neutral, result = tmp_path / "mlp.safetensors", tmp_path / SIDES[target].file
    ok(capsys, f"{source}->neutral", given, "-o", neutral, "--schema", "mlp")
    ok(capsys, f"neutral->{target}", neutral, "-o", result, "--schema", "mlp")
    check(source, target, weights, result)


@pytest.mark.parametrize("target", [side for side in SIDES if side != "tensorflow"])
def test_map_into_and_out_of_tensorflow(tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str) -> None:
    weights = random_weights(4)
    given = save(target, weights, tmp_path / "source")
    h5, back = tmp_path / "mlp.weights.h5", tmp_path / f"back-{SIDES[target].file}"
    ok(capsys, f"{target}->tensorflow", given, "-o", h5, "--map", "output=out")
    check(target, "tensorflow", weights, h5)
    ok(capsys, f"tensorflow->{target}", h5, "-o", back, "--map", "out=output")
    check("tensorflow", target, weights, back)


@pytest.mark.parametrize("side", SIDES)
def test_within_one_framework_nothing_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str], side: str) -> None:
    weights = random_weights(5)
    given = save(side, weights, tmp_path / "source")
    result = tmp_path / f"copy-{SIDES[side].file}"
    ok(capsys, f"{side}->{side}", given, "-o", result)
    check(side, side, weights, result)
