"""--dtype: floats are cast to the nearest value, ties to even; nothing else is; what becomes inf or zero is counted."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

import converter
from converter.core.arithmetic import Cast
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
    zeros = int(((values != 0) & (values.to(TORCH[target]) == 0)).sum())
    assert report["underflow"] == ({"w": zeros} if zeros else {})
    assert zeros or source == target or (source, target) not in LOSING
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


# -- by tensor --------------------------------------------------------------------------------------------------------

BY_TENSOR = "bfloat16, *norm*=float32, lm_head=float64"


def net_file(path: Path) -> Path:
    shapes = {"layers.0.norm1.weight": (8,), "layers.0.up.weight": (16, 8), "layers.0.up.bias": (16,)}
    shapes |= {"lm_head.weight": (5, 8), "count": (3,)}
    torch.manual_seed(0)
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    torch.save({**tensors, "count": torch.arange(3)}, path)
    return path


def dtypes(path: Path) -> dict[str, str]:
    with converter.open(path) as found:
        return {spec.name: spec.dtype.name for spec in found.contents.specs}


WANTED = {"layers.0.norm1.weight": "float32", "layers.0.up.weight": "bfloat16", "layers.0.up.bias": "bfloat16"}
WANTED |= {"lm_head.weight": "float64", "count": "int64"}


@pytest.mark.parametrize("sharded", [False, True])
def test_each_tensor_has_the_dtype_of_the_longest_pattern(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sharded: bool
) -> None:
    source = net_file(tmp_path / "in.pt")
    words = ["torch->torch", source, "-o", tmp_path / "out.safetensors", "--dtype", BY_TENSOR]
    words += ["--max-shard-size", "500"] if sharded else []
    plan = json.loads(ok(capsys, *words, "--json", "--dry-run"))
    assert {one["target"]["name"]: one["target"]["dtype"] for one in plan["tensors"]} == WANTED
    ok(capsys, *words)
    assert dtypes(tmp_path / ("out.safetensors.index.json" if sharded else "out.safetensors")) == WANTED


def test_a_mapping_says_the_same_and_names_of_either_side_do(tmp_path: Path) -> None:
    source = net_file(tmp_path / "in.pt")
    mapping = {"": "bfloat16", "*norm*": "float32", "head": "float64"}
    told = {"map": {"lm_head": "head"}, "ignore": "count", "kind": {"*norm*": "norm", "lm_head": "linear"}}
    report = converter.convert("torch->flax", source, tmp_path / "x.msgpack", dtype=mapping, **told)
    found = {step.target.name: step.target.dtype.name for step in report.plan.steps}
    assert sorted(found.values()) == ["bfloat16", "bfloat16", "float32", "float64"]
    assert {name for name, dtype in found.items() if dtype == "float64"} == {"params/head/kernel"}


def test_without_a_default_the_rest_stays(tmp_path: Path) -> None:
    converter.convert(
        "torch->torch", net_file(tmp_path / "in.pt"), tmp_path / "out.pt", dtype={"*.up.weight": "float16"}
    )
    assert {name for name, dtype in dtypes(tmp_path / "out.pt").items() if dtype == "float16"} == {"layers.0.up.weight"}


def test_a_pattern_that_meets_no_float_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("torch->torch", net_file(tmp_path / "in.pt"), "-o", tmp_path / "out.pt", "--dtype")
    said = refused(capsys, *words, "bfloat16, lm_haed=float32")
    assert "--dtype lm_haed=float32: no float of the result is called 'lm_haed'. Did you mean 'lm_head'" in said
    assert "'count' is int64, and floats alone are cast" in refused(capsys, *words, "count=float16")
    assert "unknown dtype 'int8'" in refused(capsys, *words, "*norm*=int8", code=2)
    assert "two dtypes" in refused(capsys, *words, "float16, float32", code=2)


def test_reuse_casts_by_tensor_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(
        {"a.weight": torch.tensor([[1e9, 1e-20], [1.0, 0.0]]), "b.weight": torch.rand(2, 2)}, tmp_path / "old.pt"
    )
    torch.save({"a.weight": torch.rand(2, 2), "b.weight": torch.rand(2, 2)}, tmp_path / "new.pt")
    words = ("reuse", tmp_path / "old.pt", "--into", tmp_path / "new.pt", "--layers", "a", "-o", tmp_path / "out.pt")
    said = ok(capsys, *words, "--dtype", "a=float16")
    assert "overflow: 1 value of a.weight is too large for float16, and became inf" in said
    assert "underflow: 1 value of a.weight is too small for float16, and became zero" in said
    assert dtypes(tmp_path / "out.pt") == {"a.weight": "float16", "b.weight": "float32"}


def test_a_certificate_has_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = net_file(tmp_path / "in.pt")
    words = ("torch->torch", source, "-o", tmp_path / "out.pt", "--dtype", BY_TENSOR)
    ok(capsys, *words, "--certificate", tmp_path / "c.json")
    options = json.loads((tmp_path / "c.json").read_text())["options"]
    assert options["dtype"] == {"*": "bfloat16", "*norm*": "float32", "lm_head": "float64"}
    assert "holds" in ok(capsys, "verify", tmp_path / "c.json")


def test_views_are_counted_as_they_lie() -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 256, 4 * 60_000, dtype=np.uint8).view(np.float32).reshape(20, 30, 100)
    views = [values, values.T, values[::-1], values[:, ::3].transpose(1, 0, 2), values[0, 0, 0], values[:0]]
    for view in views:
        for name in ("float16", "bfloat16"):
            cast = Cast(DTYPES[name], DTYPES["float32"], to_inf=True)
            found, infinite, zero = cast.counted(view)
            wanted = nearest(view, DTYPES[name]).astype(np.float32)
            with np.errstate(invalid="ignore"):
                assert np.array_equal(found.astype(np.float32), wanted, equal_nan=True)
                assert infinite == np.count_nonzero(np.isfinite(view) & ~np.isfinite(wanted))
            assert zero == np.count_nonzero((view != 0) & (wanted == 0))


def test_an_unknown_dtype_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "float16" in refused(capsys, "torch->flax", tmp_path / "in.pt", "--dtype", "int8", code=2)
