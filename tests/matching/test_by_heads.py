"""Queries, keys and values that one layer holds head by head, as GPT-NeoX, BLOOM and Falcon do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import converter
from converter.errors import MatchError

HEADS, SIZE, WIDTH = 2, 4, 8
NAMES = ("query", "key", "value")
MAP = {"attention.query_key_value": "+".join(f"attention.{name}" for name in NAMES)}
X = np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)


class Joined(torch.nn.Module):
    """``_split_heads`` of transformers/models/bloom/modeling_bloom.py, and the reshape of gpt_neox."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.ModuleDict({"query_key_value": torch.nn.Linear(WIDTH, 3 * WIDTH)})

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        fused = self.attention["query_key_value"](x).view(len(x), HEADS, 3, SIZE)
        return [fused[:, :, part].reshape(len(x), WIDTH) for part in range(3)]


class Apart(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.ModuleDict({name: torch.nn.Linear(WIDTH, WIDTH) for name in NAMES})

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [layer(x) for layer in self.attention.values()]


def saved(net: torch.nn.Module, path: Path) -> Path:
    torch.save(net.state_dict(), path)
    return path


def outputs(net: torch.nn.Module, path: Path) -> Any:
    net.load_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        return np.asarray(torch.stack(net(torch.tensor(X))))


@pytest.mark.parametrize("pattern", ["attention", "*.query_key_value", "attention.query_key_value"])
@pytest.mark.parametrize("mapped", [True, False], ids=["by map", "by evidence"])
def test_heads_take_them_apart_and_put_them_together(tmp_path: Path, pattern: str, mapped: bool) -> None:
    joined, apart = saved(Joined(), tmp_path / "joined.pt"), saved(Apart(), tmp_path / "apart.pt")
    heads, words = {pattern: HEADS}, {"map": MAP} if mapped else {}
    converter.convert("torch->torch", joined, tmp_path / "a.pt", like=apart, heads=heads, **words)
    np.testing.assert_array_equal(outputs(Apart(), tmp_path / "a.pt"), outputs(Joined(), joined))
    words = {"map": {new: old for old, new in MAP.items()}} if mapped else {}
    converter.convert("torch->torch", tmp_path / "a.pt", tmp_path / "b.pt", like=joined, heads=heads, **words)
    np.testing.assert_array_equal(outputs(Joined(), tmp_path / "b.pt"), outputs(Joined(), joined))


def test_without_a_clone(tmp_path: Path) -> None:
    joined = saved(Joined(), tmp_path / "joined.pt")
    converter.convert("torch->torch", joined, tmp_path / "a.pt", map=MAP, heads={"attention": HEADS})
    np.testing.assert_array_equal(outputs(Apart(), tmp_path / "a.pt"), outputs(Joined(), joined))
    back = {new: old for old, new in MAP.items()}
    converter.convert("torch->torch", tmp_path / "a.pt", tmp_path / "b.pt", map=back, heads={"attention": HEADS})
    np.testing.assert_array_equal(outputs(Joined(), tmp_path / "b.pt"), outputs(Joined(), joined))
    with pytest.raises(MatchError, match="holds its parts head by head"):
        converter.plan(tmp_path / "a.pt", to="torch", map=back)


@pytest.mark.parametrize("words", [{"map": MAP}, {}], ids=["by map", "by evidence"])
def test_their_number_is_asked(tmp_path: Path, words: Any) -> None:
    joined, apart = saved(Joined(), tmp_path / "joined.pt"), saved(Apart(), tmp_path / "apart.pt")
    with pytest.raises(MatchError, match="number of heads is unknown") as error:
        converter.plan(joined, like=apart, **words)
    assert "heads={'attention.query_key_value': N}" in str(error.value)
    with pytest.raises(MatchError, match="no linear layer of 3 equal parts"):
        converter.plan(joined, to="torch", map=MAP, heads={"attention": 5})


def test_one_head_is_one_after_the_other(tmp_path: Path) -> None:
    joined = saved(Joined(), tmp_path / "joined.pt")
    with converter.plan(joined, to="torch", map=MAP, heads={"attention": 1}) as plan:
        plan.write(tmp_path / "a.pt")
    with converter.open(joined) as given, converter.open(tmp_path / "a.pt") as made:
        parts = [made[f"attention.{name}.weight"] for name in NAMES]
        np.testing.assert_array_equal(np.concatenate(parts), given["attention.query_key_value.weight"])
