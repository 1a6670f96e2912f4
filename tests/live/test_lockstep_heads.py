"""Queries, keys and values that a layer holds head by head, where no shape tells the number of heads: a run does."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch

import converter
from tests.live.test_example_input import forward
from tests.live.test_lockstep import assert_same, randomised

HEADS, SIZE, WIDTH = 3, 4, 12
X = np.random.default_rng(0).normal(size=(5, 7, WIDTH)).astype(np.float32)


class Joined(torch.nn.Module):
    """As BLOOM has them."""

    def __init__(self) -> None:
        super().__init__()
        self.query_key_value, self.dense = torch.nn.Linear(WIDTH, 3 * WIDTH, bias=False), torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Any) -> Any:
        joined = self.query_key_value(x).view(*x.shape[:2], HEADS, 3, SIZE)
        query, key, value = (joined[..., part, :].transpose(1, 2) for part in range(3))
        given = torch.softmax(query @ key.transpose(2, 3), -1) @ value
        return self.dense(given.transpose(1, 2).reshape(x.shape))


class Apart(keras.Model):
    """With a matrix for each, which does not show the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (keras.layers.Dense(WIDTH, use_bias=False) for _ in range(3))
        self.dense = keras.layers.Dense(WIDTH)

    def call(self, x: Any) -> Any:
        shape = (-1, x.shape[1], HEADS, SIZE)
        query, key, value = (keras.ops.reshape(layer(x), shape) for layer in (self.query, self.key, self.value))
        scores = keras.ops.softmax(keras.ops.einsum("bqhd,bkhd->bhqk", query, key))
        return self.dense(keras.ops.reshape(keras.ops.einsum("bhqk,bkhd->bqhd", scores, value), (-1, *x.shape[1:])))


class Shown(keras.Model):
    """With matrices whose shapes show the heads, and another one that fits each part of the joined matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (keras.layers.EinsumDense("btm,mnh->btnh", (None, HEADS, SIZE)) for _ in range(3))
        self.d = keras.layers.Dense(WIDTH)

    def call(self, x: Any) -> Any:
        scores = keras.ops.softmax(keras.ops.einsum("bqhd,bkhd->bhqk", self.b(x), self.a(x)))
        return self.d(keras.ops.reshape(keras.ops.einsum("bhqk,bkhd->bqhd", scores, self.c(x)), (-1, *x.shape[1:])))


def built(net: Any) -> Any:
    net(X)
    return net


def apart() -> Any:
    return built(Apart())


@pytest.mark.parametrize("other", [Apart, Shown])
def test_the_number_with_which_both_give_the_same(other: Any) -> None:
    net = randomised(Joined())
    clone = converter.load_into(built(other()), net, example_input=X)
    assert_same(forward(clone, 1 - X), forward(net, 1 - X))
    back = converter.load_into(Joined(), clone, example_input=X)
    assert_same(forward(back, 1 - X), forward(net, 1 - X))


def test_several_numbers_that_give_the_same_are_asked_for() -> None:
    clone = apart()
    former = clone.get_weights()
    with pytest.raises(converter.MatchError, match="the number of heads is unknown"):
        converter.load_into(clone, randomised(Joined()), example_input=0 * X)
    assert all(map(np.array_equal, clone.get_weights(), former))


class OfOther(Joined):
    def forward(self, x: Any) -> Any:
        return super().forward(torch.tanh(x))


def test_no_number_that_gives_the_same() -> None:
    clone = apart()
    former = clone.get_weights()
    with pytest.raises(converter.MatchError, match="the number of heads is unknown"):
        converter.load_into(clone, randomised(OfOther()), example_input=X)
    assert all(map(np.array_equal, clone.get_weights(), former))
