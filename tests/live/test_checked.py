"""Where both nets are live, what was loaded is tried on the example input: wrong is refused, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from flax import linen

import converter

RANDOM = np.random.default_rng(4)
IMAGE = RANDOM.normal(size=(3, 6, 4, 2)).astype(np.float32)
SERIES = RANDOM.normal(size=(3, 6, 2)).astype(np.float32)
Turn = Callable[[torch.Tensor], torch.Tensor]


class Pooled(torch.nn.Module):
    """turn: what happens between the pool, which is a function, and the flatten."""

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(2, 5, 1), torch.nn.Linear(30, 3)
        self.turn = turn
        for weight in self.parameters():
            torch.nn.init.normal_(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.turn(torch.nn.functional.max_pool2d(self.conv(x), 2)).flatten(1))


class Series(torch.nn.Module):
    """One spatial axis."""

    def __init__(self, turn: Turn) -> None:
        super().__init__()
        self.conv, self.fc = torch.nn.Conv1d(2, 5, 1), torch.nn.Linear(30, 3)
        self.turn = turn
        for weight in self.parameters():
            torch.nn.init.normal_(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.turn(self.conv(x)).flatten(1))


def pooled() -> Any:
    layers = [keras.layers.Conv2D(5, 1, name="conv"), keras.layers.MaxPooling2D(), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((6, 4, 2)), *layers, keras.layers.Dense(3, name="fc")])


def series() -> Any:
    layers = [keras.layers.Conv1D(5, 1, name="conv"), keras.layers.Flatten(), keras.layers.Dense(3, name="fc")]
    return keras.Sequential([keras.Input((6, 2)), *layers])


class LinenPooled(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.Conv(5, (1, 1), name="conv")(x)
        x = linen.max_pool(x, (2, 2), (2, 2))
        return linen.Dense(3, name="fc")(x.reshape(len(x), -1))


def unchanged(x: torch.Tensor) -> torch.Tensor:
    return x


def given(net: Any, x: Any) -> Any:
    with torch.no_grad():
        return net(torch.tensor(x)).numpy() if isinstance(net, torch.nn.Module) else np.asarray(net(x))


def doubled(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def planned(clone: Any, source: Any, **inputs: Any) -> Any:
    with converter.plan(source, like=clone, **inputs) as plan:
        return plan.load_into(clone)


#: The two ways to fill a net.
WAYS = {"load_into": converter.load_into, "plan": planned}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("turn", "right"),
    [
        (unchanged, True),
        (lambda x: x.flip(2), True),
        (lambda x: x.transpose(2, 3).contiguous(), True),
        (doubled, False),
    ],
    ids=["as usual", "flipped", "transposed", "doubled"],
)
def test_what_happens_behind_a_functional_pool(turn: Turn, right: bool, way: str) -> None:
    source, clone = Pooled(turn), pooled()
    former = [np.array(weight) for weight in clone.get_weights()]
    if right:
        WAYS[way](clone, source, example_input=IMAGE)
        np.testing.assert_allclose(given(clone, IMAGE), given(source, np.moveaxis(IMAGE, -1, 1)), rtol=1e-4, atol=1e-4)
        return
    with pytest.raises(converter.ConversionError, match=r"up to 'conv' they compute the same.* part at 'fc'"):
        WAYS[way](clone, source, example_input=IMAGE)
    assert all(map(np.array_equal, clone.get_weights(), former))


def test_an_order_of_one_spatial_axis() -> None:
    """A tensor of three axes may be a sequence, whose channels are last in every framework."""
    for turn in (unchanged, lambda x: x.flip(2), lambda x: x.flip(1)):
        source, clone = Series(turn), series()
        former = [np.array(weight) for weight in clone.get_weights()]
        with pytest.raises(converter.ConversionError, match="net does not run"):  # without its channels first
            converter.load_into(clone, source, example_input=SERIES)
        assert all(map(np.array_equal, clone.get_weights(), former))


@pytest.mark.parametrize("way", WAYS)
def test_a_tree_of_linen_is_checked_too(way: str) -> None:
    source, net = Pooled(doubled), LinenPooled()
    with pytest.raises(converter.ConversionError, match="does not give what the source gives"):
        WAYS[way](net, source, example_input=IMAGE)


def test_what_follows_all_layers_is_not_of_the_weights() -> None:
    """A softmax at the end is the affair of the net."""
    source = Pooled(unchanged)
    clone = keras.Sequential([pooled(), keras.layers.Softmax()])
    clone.build((None, 6, 4, 2))
    converter.load_into(clone, source, example_input=IMAGE)
    assert np.allclose(given(clone, IMAGE).sum(axis=1), 1)


def test_without_an_example_nothing_is_run() -> None:
    converter.load_into(pooled(), Pooled(lambda x: x.flip(2)))
