"""Layers of other people's code, with names and shapes that no framework gives them (Hugging Face's T5 and GPT-2)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import keras
import numpy as np
import tensorflow as tf
import tf_keras
import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon

from tests.parity.sides import Case, gluon_net, keras_net, linen_net
from tests.parity.simple_cases import Conv1D

WORDS, WIDTH, HIDDEN = 7, 6, 9
TOKENS = np.array([[0, 3, 5], [2, 1, 4]], np.int32)
EPS = 1e-6


class TorchNorm(torch.nn.Module):
    """The root mean square norm of T5: one tensor, called ``weight``."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS)


class TorchNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = torch.nn.Embedding(WORDS, WIDTH), TorchNorm()
        self.up, self.down = Conv1D(WIDTH, HIDDEN), Conv1D(HIDDEN, WIDTH)
        self.temperature = torch.nn.Parameter(torch.empty(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(self.norm(self.words(x)))) * self.temperature


def keras_foreign(library: Any) -> Any:
    layer: Any = library.layers.Layer

    class Words(layer):  # type: ignore[misc]
        def build(self, _: Any) -> None:
            self.weight = self.add_weight(name="weight", shape=(WORDS, WIDTH))

        def call(self, x: Any) -> Any:
            return tf.gather(tf.convert_to_tensor(self.weight), tf.cast(x, tf.int32))

        def compute_output_shape(self, shape: Any) -> Any:
            return (*shape, WIDTH)

    class Norm(layer):  # type: ignore[misc]
        def build(self, _: Any) -> None:
            self.weight = self.add_weight(name="weight", shape=(WIDTH,))

        def call(self, x: Any) -> Any:
            mean = tf.reduce_mean(tf.square(x), -1, keepdims=True)
            return tf.convert_to_tensor(self.weight) * x * tf.math.rsqrt(mean + EPS)

    class Conv(layer):  # type: ignore[misc]
        def __init__(self, given: int, made: int, **more: Any) -> None:
            super().__init__(**more)
            self.sizes = given, made

        def build(self, _: Any) -> None:
            self.weight = self.add_weight(name="weight", shape=self.sizes)
            self.bias = self.add_weight(name="bias", shape=(1, self.sizes[1]))

        def call(self, x: Any) -> Any:
            return tf.matmul(x, tf.convert_to_tensor(self.weight)) + tf.convert_to_tensor(self.bias)

        def compute_output_shape(self, shape: Any) -> Any:
            return (*shape[:-1], self.sizes[1])

    class Scale(layer):  # type: ignore[misc]
        def build(self, _: Any) -> None:
            self.value = self.add_weight(name="value", shape=(1,))

        def call(self, x: Any) -> Any:
            return x * tf.convert_to_tensor(self.value)

    def net(layers: Any) -> Any:
        def call(x: Any) -> Any:
            y = Conv(WIDTH, HIDDEN, name="up")(Norm(name="norm")(Words(name="words")(x)))
            return Scale(name="temperature")(Conv(HIDDEN, WIDTH, name="down")(y))

        return call

    return keras_net(net, TOKENS.shape[1:], library=library)


class LinenNorm(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        weight = self.param("weight", linen.initializers.ones, (WIDTH,))
        return weight * x * jnp.reciprocal(jnp.sqrt((x * x).mean(-1, keepdims=True) + EPS))


class LinenConv(linen.Module):
    """The kernel stored the other way round than in `linen.Dense`."""

    made: int

    @linen.compact
    def __call__(self, x: Any) -> Any:
        kernel = self.param("kernel", linen.initializers.ones, (self.made, x.shape[-1]))
        return x @ kernel.T + self.param("bias", linen.initializers.ones, (self.made,))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = LinenNorm(name="norm")(linen.Embed(WORDS, WIDTH, name="words")(x))
        x = LinenConv(WIDTH, name="down")(LinenConv(HIDDEN, name="up")(x))
        return x * self.param("temperature", linen.initializers.ones, ())


class NnxNorm(nnx.Module):
    def __init__(self) -> None:
        self.weight = nnx.Param(jnp.ones(WIDTH))

    def __call__(self, x: Any) -> Any:
        return self.weight[...] * x / jnp.sqrt((x * x).mean(-1, keepdims=True) + EPS)


class NnxNet(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.words, self.norm = nnx.Embed(WORDS, WIDTH, rngs=rngs), NnxNorm()
        self.up, self.down = nnx.Linear(WIDTH, HIDDEN, rngs=rngs), nnx.Linear(HIDDEN, WIDTH, rngs=rngs)
        self.temperature = nnx.Param(jnp.ones((1, 1)))

    def __call__(self, x: Any) -> Any:
        return self.down(self.up(self.norm(self.words(x)))) * self.temperature[...]


class GluonNorm(gluon.HybridBlock):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.weight = self.params.get("weight", shape=(WIDTH,))

    def hybrid_forward(self, functions: Any, x: Any, weight: Any) -> Any:
        mean = functions.mean(functions.square(x), axis=-1, keepdims=True)
        return functions.broadcast_mul(functions.broadcast_div(x, functions.sqrt(mean + EPS)), weight)


class GluonNet(gluon.HybridBlock):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = gluon.Embedding(WORDS, WIDTH), GluonNorm()
        self.up, self.down = (gluon.Dense(made, flatten=False) for made in (HIDDEN, WIDTH))
        self.temperature = self.params.get("temperature", shape=(1,))

    def hybrid_forward(self, functions: Any, x: Any, temperature: Any) -> Any:
        return functions.broadcast_mul(self.down(self.up(self.norm(self.words(x)))), temperature)


CASES = (
    Case(
        "layers of other code",
        {
            "torch": TorchNet,
            "keras": keras_foreign(keras),
            "tf_keras": keras_foreign(tf_keras),
            "linen": linen_net(LinenNet, TOKENS),
            "nnx": NnxNet,
            "gluon": gluon_net(GluonNet, TOKENS),
        },
        (TOKENS,),
    ),
)
