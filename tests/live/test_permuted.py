"""Axes that a net permutes before it flattens them: seen in a forward and taken, or refused where one net is a file."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

import converter
from converter.core.tensors import Array

X = np.random.default_rng(0).normal(size=(2, 2, 3, 4)).astype(np.float32)
USUAL = (1, 2, 3)


class Permute(torch.nn.Module):
    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, *self.axes)


class Torch(torch.nn.Module):
    """modules: whether the ReLU and the permutation are modules, which are seen, or functions, which are not."""

    def __init__(self, axes: tuple[int, ...], modules: bool, early: bool = False) -> None:
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(2, 5, 1), torch.nn.Linear(60, 3)
        self.permute = Permute(axes)
        self.relu = torch.nn.ReLU()
        self.modules_, self.early = modules, early
        for weight in self.parameters():
            torch.nn.init.normal_(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if self.early:
            return self.fc(self.relu(self.permute(x)).flatten(1))
        x = self.permute(self.relu(x)) if self.modules_ else torch.relu(x).permute(0, *self.permute.axes)
        return self.fc(x.flatten(1))


def keras_net(axes: tuple[int, ...]) -> Any:
    layers = [keras.layers.Conv2D(5, 1, activation="relu", name="conv")]
    layers += [keras.layers.Permute(axes)] if axes != USUAL else []
    layers += [keras.layers.Flatten(), keras.layers.Dense(3, name="fc")]
    return keras.Sequential([keras.Input((3, 4, 2)), *layers])


def outputs(net: Any, x: Array) -> Array:
    if isinstance(net, torch.nn.Module):
        with torch.no_grad():
            return net(torch.tensor(x)).numpy()
    return np.asarray(net(x))


LAST = np.ascontiguousarray(np.moveaxis(X, 1, -1))
#: The orders in which either flattens what the other's usual flatten gives.
AS_THERE = {"torch": (2, 3, 1), "keras": (3, 1, 2)}


@pytest.mark.parametrize("kind", ["modules", "functions", "early"])
def test_a_permutation_of_the_source_is_taken(kind: str) -> None:
    for axes in permutations(USUAL):
        net = Torch(axes, kind == "modules", kind == "early")
        clone = converter.load_into(keras_net(USUAL), net, example_input=LAST)
        np.testing.assert_allclose(outputs(clone, LAST), outputs(net, X), rtol=1e-4, atol=1e-5)


def test_a_permutation_of_the_clone_is_taken() -> None:
    net = Torch(USUAL, modules=True)
    for axes in permutations(USUAL):
        clone = converter.load_into(keras_net(axes), net, example_input=LAST)
        np.testing.assert_allclose(outputs(clone, LAST), outputs(net, X), rtol=1e-4, atol=1e-5)


def test_a_file_that_is_to_have_one_is_refused(tmp_path: Path) -> None:
    """No forward of the clone is seen, so nothing tells the order there."""
    net = Torch((3, 2, 1), modules=True)
    with pytest.raises(converter.MatchError, match=r"axes of the 60 inputs of 'fc' are permuted"):
        converter.save(net, tmp_path / "net.weights.h5", example_input=X)


def test_within_one_order_of_channels_the_same_permutation_is_none() -> None:
    net, same, other = (Torch(axes, modules=True) for axes in ((3, 1, 2), (3, 1, 2), USUAL))
    converter.load_into(same, net, example_input=X)
    assert np.array_equal(outputs(same, X), outputs(net, X))
    converter.load_into(other, net, example_input=X)
    np.testing.assert_allclose(outputs(other, X), outputs(net, X), rtol=1e-4, atol=1e-5)
    converter.load_into(other, net, example_input=X, flatten={"fc": 0})
    assert not np.allclose(outputs(other, X), outputs(net, X), atol=1e-2)
