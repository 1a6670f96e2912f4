"""Nets of two authors who take a layer for something else: what lockstep has to see of them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from mxnet.gluon import nn as gluon

import converter
from tests.live.test_example_input import forward
from tests.live.test_lockstep import assert_same, randomised

SIZE = 6


def randomised_norm(net: Any) -> Any:
    rng = np.random.default_rng(2)
    for variable in net.weights:
        variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return net


# -- layer scales ---------------------------------------------------------------------------------------------------


class Scaled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, SIZE, 1)
        self.scales = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(SIZE, 1, 1)) for _ in range(2)])

    def forward(self, x: Any) -> Any:
        x = torch.tanh(self.scales[0] * self.conv(x))
        return x + self.scales[1] * torch.tanh(x)


class LayerScale(keras.layers.Layer):
    def build(self, shape: Any) -> None:
        self.gamma = self.add_weight(shape=(shape[-1],), name="gamma")

    def call(self, x: Any) -> Any:
        return x * self.gamma


def keras_scaled() -> Any:
    image = keras.Input((4, 5, 3))
    x = keras.ops.tanh(LayerScale()(keras.layers.Conv2D(SIZE, 1)(image)))
    return keras.Model(image, x + LayerScale()(keras.ops.tanh(x)))


def test_a_layer_scale_that_is_called_as_norms_call_theirs() -> None:
    last = np.random.default_rng(6).normal(size=(3, 4, 5, 3)).astype(np.float32)
    first = np.ascontiguousarray(np.moveaxis(last, -1, 1))
    net = randomised(Scaled())
    clone = converter.load_into(keras_scaled(), net, example_input=last)
    assert_same(np.moveaxis(np.asarray(forward(clone, last)), -1, 1), forward(net, first))
    back = converter.load_into(Scaled(), clone, example_input=first)
    assert_same(forward(back, first), forward(net, first))


# -- activations ----------------------------------------------------------------------------------------------------


class NormAct(torch.nn.BatchNorm1d):
    """As that of timm: an activation is part of it, and changes what it takes in place."""

    def __init__(self) -> None:
        super().__init__(SIZE)
        self.act = torch.nn.SiLU(inplace=True)

    def forward(self, x: Any) -> Any:
        return self.act(super().forward(x))


class Activating(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.b, self.a = torch.nn.Linear(SIZE, SIZE), torch.nn.Linear(SIZE, SIZE)
        self.n, self.m = NormAct(), NormAct()

    def forward(self, x: Any) -> Any:
        return self.m(self.a(x)) - 2 * self.n(self.b(x))


def keras_activating() -> Any:
    """The branches are called in the other order; exchanged, each of their layers gives the same all the same."""
    x = keras.Input((SIZE,))
    norms = [keras.layers.BatchNormalization(epsilon=1e-5)(keras.layers.Dense(SIZE)(x)) for _ in range(2)]
    second, first = map(keras.layers.Activation("silu"), norms)
    return keras.Model(x, first - 2 * second)


def test_a_norm_that_ends_in_an_activation() -> None:
    x = np.random.default_rng(6).normal(size=(7, SIZE)).astype(np.float32)
    source = randomised_norm(keras_activating())
    net = converter.load_into(Activating().eval(), source, example_input=x)
    assert_same(forward(net, x), forward(source, x))
    clone = converter.load_into(keras_activating(), net, example_input=x)
    assert_same(forward(clone, x), forward(source, x))


# -- a linear layer that is a convolution elsewhere -----------------------------------------------------------------


def gluon_headed() -> Any:
    net = gluon.HybridSequential()
    net.add(gluon.Conv2D(7, 3, in_channels=3, activation="relu"), gluon.GlobalAvgPool2D(), gluon.Dense(4, in_units=7))
    net.initialize()
    return net


def keras_headed() -> Any:
    image = keras.Input((9, 8, 3))
    x = keras.layers.GlobalAveragePooling2D(keepdims=True)(keras.layers.Conv2D(7, 3, activation="relu")(image))
    return keras.Model(image, keras.layers.Flatten()(keras.layers.Conv2D(4, 1)(x)))


def test_a_flatten_of_one_position_before_a_convolution_elsewhere() -> None:
    last = np.random.default_rng(6).normal(size=(3, 9, 8, 3)).astype(np.float32)
    first = np.ascontiguousarray(np.moveaxis(last, -1, 1))
    net = randomised(gluon_headed())
    clone = converter.load_into(keras_headed(), net, example_input=last)
    assert_same(forward(clone, last), forward(net, first))
    assert_same(forward(converter.load_into(gluon_headed(), clone, example_input=first), first), forward(net, first))


# -- numbers that one framework has in one layer, and another one by one --------------------------------------------


class Affine(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.bias = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))

    def forward(self, x: Any) -> Any:
        return self.scale * x + self.bias


class WithAffine(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(SIZE, SIZE), torch.nn.Linear(SIZE, SIZE)
        self.p, self.q = Affine(), Affine()

    def forward(self, x: Any) -> Any:
        return self.q(self.b(torch.tanh(self.p(self.a(x)))))


class KerasAffine(keras.layers.Layer):
    def build(self, shape: Any) -> None:
        self.scale, self.bias = (self.add_weight(shape=(), name=name) for name in ("scale", "bias"))

    def call(self, x: Any) -> Any:
        return self.scale * x + self.bias


def keras_with_affine() -> Any:
    x = keras.Input((SIZE,))
    y = keras.ops.tanh(KerasAffine()(keras.layers.Dense(SIZE)(x)))
    return keras.Model(x, KerasAffine()(keras.layers.Dense(SIZE)(y)))


def test_a_layer_of_two_numbers() -> None:
    x = np.random.default_rng(6).normal(size=(7, SIZE)).astype(np.float32)
    net = randomised(WithAffine())
    clone = converter.load_into(keras_with_affine(), net, example_input=x)
    assert_same(forward(clone, x), forward(net, x))
    assert_same(forward(converter.load_into(WithAffine(), clone, example_input=x), x), forward(net, x))
