"""Partial reuse takes the options of a whole conversion: schema, strip, ignore, flatten, unflatten, key and step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import converter
from converter.reports.reuse import ReuseReport


def save(path: Path, seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray[Any, Any]]:
    """A file of PyTorch: ``fc`` is a linear layer with a bias. Two underscores stand for a dot."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes.items():
        path_of = name.replace("__", ".")
        state[f"{path_of}.weight"] = rng.random(shape, dtype=np.float32)
        state[f"{path_of}.bias"] = rng.random(shape[0], dtype=np.float32)
    safetensors.numpy.save_file(state, path)
    return state


def reused(old: Path, new: Path, **keywords: Any) -> tuple[ReuseReport, dict[str, np.ndarray[Any, Any]]]:
    """The report, and the merged file as PyTorch names it."""
    output = old.with_name("merged.safetensors")
    report = converter.reuse(old, new, output=output, old_framework="torch", new_framework="torch", **keywords)
    return report, safetensors.numpy.load_file(output)


def test_strip_and_ignore(tmp_path: Path) -> None:
    ours = save(tmp_path / "old.safetensors", 1, module__body=(5, 4), module__head=(9, 5))
    theirs = save(tmp_path / "new.safetensors", 2, body=(5, 4), head=(6, 5))
    words: dict[str, Any] = {"layers": "*", "strip": "module"}
    with pytest.raises(converter.ConversionError, match=r"'module.head.weight' has shape \(9, 5\)"):
        reused(tmp_path / "old.safetensors", tmp_path / "new.safetensors", **words)
    report, merged = reused(tmp_path / "old.safetensors", tmp_path / "new.safetensors", ignore="head", **words)
    assert [one.taking.source.path for one in report.reused] == ["body"]
    for leaf in ("weight", "bias"):
        np.testing.assert_array_equal(merged[f"body.{leaf}"], ours[f"module.body.{leaf}"])
        np.testing.assert_array_equal(merged[f"head.{leaf}"], theirs[f"head.{leaf}"])


@pytest.mark.parametrize("keywords", [{"strip": "modul"}, {"ignore": "haed"}, {"flatten": {"haed": 0}}])
def test_an_option_that_meets_nothing_is_refused(tmp_path: Path, keywords: dict[str, Any]) -> None:
    save(tmp_path / "old.safetensors", 1, body=(5, 4), head=(9, 5))
    save(tmp_path / "new.safetensors", 2, body=(5, 4), head=(9, 5))
    with pytest.raises(converter.MatchError) as error:
        reused(tmp_path / "old.safetensors", tmp_path / "new.safetensors", layers="*", **keywords)
    (problem,) = error.value.problems
    assert problem.about is not None and problem.about.option in keywords
    assert not (tmp_path / "merged.safetensors").exists()


def flax_file(path: Path, **shapes: tuple[int, ...]) -> None:
    save(path.with_suffix(".safetensors"), 2, **shapes)
    converter.convert("torch->flax", path.with_suffix(".safetensors"), path, flatten_fix=False)


def into_flax(old: Path, new: Path, **keywords: Any) -> dict[str, np.ndarray[Any, Any]]:
    output = new.with_name("merged.npz")
    converter.reuse(old, new, output=output, old_framework="torch", new_framework="flax", **keywords)
    with np.load(output) as arrays:
        return dict(arrays)


def kernel(arrays: dict[str, np.ndarray[Any, Any]], layer: str) -> np.ndarray[Any, Any]:
    (value,) = (value for name, value in arrays.items() if layer in name and name.endswith("kernel"))
    return value


def test_a_schema_pairs_what_names_do_not(tmp_path: Path) -> None:
    """Two layers of one shape, called otherwise on either side."""
    ours = save(tmp_path / "old.safetensors", 1, first=(4, 4), second=(4, 4))
    flax_file(tmp_path / "new.npz", one=(4, 4), two=(4, 4))
    (tmp_path / "net.yaml").write_text(
        "name: net\nlayers:\n"
        "  - {path: a, kind: linear, names: {torch: [first], flax: [two]}}\n"
        "  - {path: b, kind: linear, names: {torch: [second], flax: [one]}}\n"
    )
    merged = into_flax(tmp_path / "old.safetensors", tmp_path / "new.npz", layers="*", schema=tmp_path / "net.yaml")
    np.testing.assert_array_equal(kernel(merged, "two"), ours["first.weight"].T)
    np.testing.assert_array_equal(kernel(merged, "one"), ours["second.weight"].T)


def test_tensors_side_by_side_before_a_flatten(tmp_path: Path) -> None:
    """``3x8+2x2+2``: 3 channels in 8 positions, 2 in 2, and 2 features: each takes the order of the other framework."""
    ours = save(tmp_path / "old.safetensors", 1, fc=(4, 30))
    flax_file(tmp_path / "new.npz", fc=(4, 30))
    words: dict[str, Any] = {"layers": "fc", "flatten": {"fc": "3x8+2x2+2"}}
    merged = into_flax(tmp_path / "old.safetensors", tmp_path / "new.npz", **words)
    given = ours["fc.weight"].T
    parts = given[:24].reshape(3, 8, 4), given[24:28].reshape(2, 2, 4), given[28:].reshape(2, 1, 4)
    expected = np.concatenate([part.transpose(1, 0, 2).reshape(-1, 4) for part in parts])
    np.testing.assert_array_equal(kernel(merged, "fc"), expected)


def test_outputs_that_become_channels(tmp_path: Path) -> None:
    ours = save(tmp_path / "old.safetensors", 1, fc=(12, 5))
    flax_file(tmp_path / "new.npz", fc=(12, 5))
    merged = into_flax(tmp_path / "old.safetensors", tmp_path / "new.npz", layers="fc", unflatten={"fc": 4})
    expected = ours["fc.weight"].reshape(4, 3, 5).transpose(2, 1, 0).reshape(5, 12)
    np.testing.assert_array_equal(kernel(merged, "fc"), expected)


def test_the_place_in_a_training_checkpoint(tmp_path: Path) -> None:
    import torch

    weights = {name: {"fc.weight": torch.rand(3, 4), "fc.bias": torch.rand(3)} for name in ("model", "ema")}
    torch.save({**weights, "epoch": 3}, tmp_path / "old.pt")
    save(tmp_path / "new.safetensors", 2, fc=(3, 4))
    _, merged = reused(tmp_path / "old.pt", tmp_path / "new.safetensors", layers="fc", key="ema")
    np.testing.assert_array_equal(merged["fc.weight"], weights["ema"]["fc.weight"].numpy())


@pytest.mark.parametrize("keywords", [{"step": 3}, {"key": "ema"}])
def test_a_file_without_steps_or_places(tmp_path: Path, keywords: dict[str, Any]) -> None:
    """What the old file does not have cannot be chosen there, and is not ignored."""
    save(tmp_path / "old.safetensors", 1, fc=(3, 4))
    save(tmp_path / "new.safetensors", 2, fc=(3, 4))
    with pytest.raises(converter.ConversionError, match=r"step|key"):
        reused(tmp_path / "old.safetensors", tmp_path / "new.safetensors", layers="fc", **keywords)
