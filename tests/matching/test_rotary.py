"""Queries and keys between code that rotates neighbours and code that rotates halves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import converter
from converter.errors import MatchError
from tests.parity.sides import Array

HEADS, SIZE, WIDTH, STEPS = 2, 8, 16, 5
META = {name: f"layers.0.attention.{name}" for name in ("wq", "wk")}
HF = {"wq": "layers.0.self_attn.q_proj", "wk": "layers.0.self_attn.k_proj"}
MAP = {META[name]: HF[name] for name in META}
X = np.random.default_rng(0).normal(size=(STEPS, WIDTH)).astype(np.float32)


def angles() -> Array:
    return np.outer(np.arange(STEPS), 10000.0 ** (-np.arange(SIZE // 2) / (SIZE // 2)))


def neighbours(x: Array) -> Array:
    """`apply_rotary_emb` of Meta's llama/model.py: features 2i and 2i + 1 are one complex number."""
    pairs = x.reshape(STEPS, HEADS, SIZE // 2, 2)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles())[:, None]
    return np.stack([turned.real, turned.imag], -1).reshape(STEPS, HEADS, SIZE)


def halves(x: Array) -> Array:
    """`apply_rotary_pos_emb` of transformers/models/llama/modeling_llama.py, with its `rotate_half`."""
    x, angle = x.reshape(STEPS, HEADS, SIZE), np.concatenate([angles(), angles()], -1)[:, None]
    first, second = np.split(x, 2, -1)
    return x * np.cos(angle) + np.concatenate([-second, first], -1) * np.sin(angle)


def scores(file: Path, names: dict[str, str], rotate: Any) -> Array:
    weights = load_file(file)
    query, key = (rotate(X @ weights[f"{names[name]}.weight"].T + weights[f"{names[name]}.bias"]) for name in names)
    return np.einsum("qhd,khd->hqk", query, key)


def saved(names: dict[str, str], path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    shapes = {
        f"{name}.{leaf}": shape for name in names.values() for leaf, shape in (("weight", (16, 16)), ("bias", 16))
    }
    save_file({name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}, path)
    return path


@pytest.mark.parametrize("like", [True, False], ids=["clone", "new file"])
def test_the_scores_are_the_same_there_and_back(tmp_path: Path, like: bool) -> None:
    source, clone = saved(META, tmp_path / "meta.safetensors", 1), saved(HF, tmp_path / "hf.safetensors", 2)
    expected = scores(source, META, neighbours)
    words: dict[str, Any] = {"map": MAP, "rotary": {"*.attention": f"{HEADS}:halves"}}
    converter.convert("torch->torch", source, tmp_path / "a.safetensors", like=clone if like else None, **words)
    np.testing.assert_allclose(scores(tmp_path / "a.safetensors", HF, halves), expected, rtol=1e-4, atol=1e-4)
    words = {"map": {new: old for old, new in MAP.items()}, "rotary": {"*.self_attn": f"{HEADS}:neighbours"}}
    back = tmp_path / "b.safetensors"
    converter.convert("torch->torch", tmp_path / "a.safetensors", back, like=source if like else None, **words)
    assert all(np.array_equal(value, load_file(source)[name]) for name, value in load_file(back).items())


def test_names_that_tell_of_it_are_a_line_to_check(tmp_path: Path) -> None:
    source, clone = saved(META, tmp_path / "meta.safetensors", 1), saved(HF, tmp_path / "hf.safetensors", 2)
    out = tmp_path / "a.safetensors"
    report = converter.convert("torch->torch", source, out, like=clone, map=MAP)
    assert "check: rotary positions of queries and keys" in str(report)
    words = {"map": MAP, "rotary": {"*.attention": f"{HEADS}:halves"}, "force": True}
    assert "rotary" not in str(converter.convert("torch->torch", source, out, like=clone, **words))


@pytest.mark.parametrize(
    ("rotary", "text"),
    [
        ({"layers.0.attention": "3:halves"}, "has no 3 heads of two halves"),
        ({"layers.0.attention": "2"}, "is no number of heads with what the clone rotates"),
        ({"layers.1.attention": "2:halves"}, "no layer|neither net has|has no layer"),
    ],
)
def test_what_it_cannot_mean(tmp_path: Path, rotary: dict[str, str], text: str) -> None:
    source, clone = saved(META, tmp_path / "meta.safetensors", 1), saved(HF, tmp_path / "hf.safetensors", 2)
    with pytest.raises(MatchError, match=text):
        converter.plan(source, like=clone, map=MAP, rotary=rotary)
