"""A norm without a scale or an offset into a net that has both: ones and zeros are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

import converter
from tests.parity.sides import random_values

#: A layer norm without both has no tensor, and so is no layer of a file.
CASES = [
    ("batch_norm", ("scale",)),
    ("batch_norm", ("offset",)),
    ("batch_norm", ("scale", "offset")),
    ("norm", ("scale",)),
    ("norm", ("offset",)),
]


def of_keras(kind: str, without: tuple[str, ...]) -> Any:
    norm = {"batch_norm": keras.layers.BatchNormalization, "norm": keras.layers.LayerNormalization}[kind]
    layer = norm(epsilon=1e-5, scale="scale" not in without, center="offset" not in without, name="norm")
    net = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, name="fc"), layer])
    rng = np.random.default_rng(5)
    net.set_weights([random_values(weight.shape, rng, weight.dtype) for weight in net.get_weights()])
    return net


class InTorch(torch.nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(6, 4)
        self.norm = torch.nn.BatchNorm1d(4) if kind == "batch_norm" else torch.nn.LayerNorm(4)
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.fc(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "without"), CASES)
def test_ones_and_zeros_for_what_is_absent(tmp_path: Path, kind: str, without: tuple[str, ...]) -> None:
    source, clone = of_keras(kind, without), InTorch(kind).eval()
    x = np.random.default_rng(6).normal(size=(3, 6)).astype(np.float32)
    expected = np.asarray(source(x))
    source.save_weights(tmp_path / "source.weights.h5")
    torch.save(clone.state_dict(), tmp_path / "clone.pt")
    converter.load_into(clone, source)
    np.testing.assert_allclose(clone(torch.tensor(x)).detach(), expected, rtol=1e-5, atol=1e-5)
    kinds = {"norm": kind if (kind, without) == ("norm", ("offset",)) else f"{kind}_without_{'_and_'.join(without)}"}
    converter.convert(
        "keras->torch",
        tmp_path / "source.weights.h5",
        tmp_path / "made.pt",
        like=tmp_path / "clone.pt",
        kind=kinds,
    )
    clone.load_state_dict(torch.load(tmp_path / "made.pt"), strict=True)
    np.testing.assert_allclose(clone(torch.tensor(x)).detach(), expected, rtol=1e-5, atol=1e-5)
