"""--dtype: floats are cast to the nearest value, ties to even; nothing else is; what overflows is counted."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from converter.core.tensors import DTYPES, nearest
from tests.command import ok, refused

TORCH = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def awkward(dtype: str) -> torch.Tensor:
    """Random bits as floats of that dtype: subnormals, ties and overflows of narrower ones among them; no NaN."""
    rng = np.random.default_rng(0)
    wide = np.ldexp(rng.uniform(-1, 1, 4000), rng.integers(-160, 130, 4000))
    ties = np.ldexp(rng.integers(2**8, 2**13, 4000).astype(np.float64), rng.integers(-30, 10, 4000))
    return torch.tensor(np.concatenate([wide, ties, [65519.996, 65520.0, -65520.0, np.inf]])).to(TORCH[dtype])


@pytest.mark.parametrize("target", TORCH)
@pytest.mark.parametrize("source", TORCH)
def test_bit_for_bit_as_torch_casts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, target: str
) -> None:
    values = awkward(source)
    torch.save({"w": values, "n": torch.arange(5), "b": torch.tensor([True, False])}, tmp_path / "in.pt")
    report = json.loads(
        ok(capsys, "torch->torch", tmp_path / "in.pt", "-o", tmp_path / "out.pt", "--dtype", target, "--json")
    )
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert found["w"].dtype == TORCH[target]
    assert (found["n"].dtype, found["b"].dtype) == (torch.int64, torch.bool)
    assert torch.equal(found["n"], torch.arange(5)) and torch.equal(found["b"], torch.tensor([True, False]))
    if (source, target) != ("float64", "bfloat16"):  # torch rounds that twice; see the test of exact values
        assert torch.equal(found["w"], values.to(TORCH[target]))
    lost = int((torch.isfinite(values) & ~torch.isfinite(values.to(TORCH[target]))).sum())
    assert report["overflow"] == ({"w": lost} if lost else {})
    assert bool(lost) == ((source, target) in LOSING)


LOSING = {*((s, "float16") for s in TORCH if s != "float16"), ("float64", "bfloat16"), ("float64", "float32")}


@pytest.mark.parametrize("target", ["float16", "bfloat16", "float32"])
def test_float64_goes_to_the_nearest_value_in_exact_arithmetic(target: str) -> None:
    rng = np.random.default_rng(1)
    dtype = DTYPES[target]
    bits = ml_dtypes.finfo(dtype).nmant
    ties = (1 + rng.integers(0, 2**bits, 300) / 2**bits) + 2.0 ** -(bits + 1)
    values = np.concatenate([ties, np.nextafter(ties, 0), np.nextafter(ties, 9), -ties])
    for value, found in zip(values, nearest(values, dtype), strict=True):
        steps = Fraction(float(value)) * 2**bits
        assert Fraction(float(found)) * 2**bits == round(steps), value  # Python rounds ties to even


def test_a_double_rounding_that_ml_dtypes_does_is_avoided() -> None:
    value = np.array(1 + 2**-8 + 2**-40)
    assert float(value.astype(ml_dtypes.bfloat16)) == 1
    assert float(nearest(value, DTYPES["bfloat16"])) == 1 + 2**-7
    ends = np.array([np.inf, -np.inf, 1e300, -1e300, 3.4028235e38, -0.0, 5e-324])
    assert [float(x) for x in nearest(ends, DTYPES["bfloat16"])] == [np.inf, -np.inf, np.inf, -np.inf, np.inf, 0, 0]
    assert np.isnan(float(nearest(np.array(np.nan), DTYPES["bfloat16"])))


def test_overflow_is_reported_in_words_and_the_clone_s_dtype_gives_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"w.weight": torch.tensor([[1e5, 2.0], [-1e6, 3.0]])}, tmp_path / "in.pt")
    torch.save({"w.weight": torch.rand(2, 2).half()}, tmp_path / "like.pt")
    words = ("torch->torch", tmp_path / "in.pt", "--like", tmp_path / "like.pt", "-o", tmp_path / "out.pt")
    assert "2 of 4 values are too large for float16" in refused(capsys, *words)
    said = ok(capsys, *words, "--dtype", "float16")
    assert "overflow: 2 values of w.weight are too large for float16, and became inf" in said
    found = torch.load(tmp_path / "out.pt", weights_only=True)["w.weight"]
    assert found.tolist() == [[float("inf"), 2.0], [float("-inf"), 3.0]]
    ok(capsys, *words, "--dtype", "float64", "--force")
    assert torch.load(tmp_path / "out.pt", weights_only=True)["w.weight"].tolist() == [[1e5, 2.0], [-1e6, 3.0]]


def test_integers_take_the_clone_s_width_where_every_value_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Indices are int64 in PyTorch, and int32 nearly everywhere else."""
    torch.save({"index": torch.tensor([[5, -7], [2**31 - 1, 0]])}, tmp_path / "in.pt")
    torch.save({"index": torch.zeros(2, 2, dtype=torch.int32)}, tmp_path / "like.pt")
    words = ("torch->torch", tmp_path / "in.pt", "--like", tmp_path / "like.pt", "-o", tmp_path / "out.pt")
    ok(capsys, *words)
    found = torch.load(tmp_path / "out.pt", weights_only=True)["index"]
    assert (found.dtype, found.tolist()) == (torch.int32, [[5, -7], [2**31 - 1, 0]])
    torch.save({"index": torch.tensor([[5, -(2**31) - 1], [2**31, 0]])}, tmp_path / "in.pt")
    assert "2 of 4 values are too large for int32" in refused(capsys, *words, "--force")
    torch.save({"index": torch.zeros(2, 2, dtype=torch.bool)}, tmp_path / "like.pt")
    assert "only floats are cast to floats, and integers to integers" in refused(capsys, *words, "--force")


def test_an_unknown_dtype_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "float16" in refused(capsys, "torch->flax", tmp_path / "in.pt", "--dtype", "int8", code=2)
