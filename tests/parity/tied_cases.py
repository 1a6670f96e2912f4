"""A net whose output layer is its embedding, in all flavours: with a bias of its own, and without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import keras
import mxnet
import numpy as np
import tensorflow as tf
import tf_keras
import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon

from tests.parity.sides import Case, gluon_net, linen_net

WORDS, WIDTH = 7, 5
TOKENS = np.array([[0, 3, 5], [2, 6, 1]], np.int32)


class TorchTied(torch.nn.Module):
    def __init__(self, tied: bool = True, bias: bool = False) -> None:
        super().__init__()
        self.emb = torch.nn.Embedding(WORDS, WIDTH)
        self.fc = torch.nn.Linear(WIDTH, WIDTH)
        self.out = torch.nn.Linear(WIDTH, WORDS, bias=bias)
        if tied:
            self.out.weight = self.emb.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.fc(self.emb(x))))


class GluonTied(gluon.Block):
    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.emb = gluon.Embedding(WORDS, WIDTH)
        self.fc = gluon.Dense(WIDTH, flatten=False, in_units=WIDTH)
        self.out = gluon.Dense(WORDS, flatten=False, use_bias=bias, in_units=WIDTH, params=self.emb.params)

    def forward(self, x: Any) -> Any:
        return self.out(mxnet.nd.tanh(self.fc(self.emb(x))))


class LinenBias(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        return x + self.param("bias", linen.initializers.zeros, (WORDS,))


class LinenTied(linen.Module):
    bias: bool = False

    @linen.compact
    def __call__(self, x: Any) -> Any:
        emb = linen.Embed(WORDS, WIDTH, name="emb")
        x = emb.attend(linen.tanh(linen.Dense(WIDTH, name="fc")(emb(x))))
        return LinenBias(name="out")(x) if self.bias else x


class NnxBias(nnx.Module):
    def __init__(self) -> None:
        self.bias = nnx.Param(jnp.zeros(WORDS))


class NnxTied(nnx.Module):
    def __init__(self, bias: bool = False) -> None:
        rngs = nnx.Rngs(0)
        self.emb = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.fc = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        if bias:
            self.out = NnxBias()

    def __call__(self, x: Any) -> Any:
        x = self.emb.attend(nnx.tanh(self.fc(self.emb(x))))
        return x + self.out.bias[...] if hasattr(self, "out") else x


def keras_tied(library: Any, bias: bool = False) -> Callable[[], Any]:
    class Attend(library.layers.Layer):  # type: ignore[misc,name-defined]
        """With no variable of its own but its bias."""

        def __init__(self, embed: Any, **words: Any) -> None:
            super().__init__(**words)
            self.__dict__["embed"] = embed

        def build(self, _: Any) -> None:
            self.bias = self.add_weight(name="bias", shape=(WORDS,)) if bias else 0.0

        def call(self, x: Any) -> Any:
            x = tf.matmul(x, tf.convert_to_tensor(self.embed.embeddings), transpose_b=True)
            return x + tf.convert_to_tensor(self.bias)

        def compute_output_shape(self, shape: Any) -> Any:
            return (*shape[:-1], WORDS)

    def build() -> Any:
        tokens = library.Input((3,), dtype="int32")
        emb = library.layers.Embedding(WORDS, WIDTH, name="emb")
        x = library.layers.Dense(WIDTH, activation="tanh", name="fc")(emb(tokens))
        return library.Model(tokens, Attend(emb, name="out" if bias else "attend")(x))

    return build


TIED = Case(
    "tied output",
    {
        "torch": TorchTied,
        "keras": keras_tied(keras),
        "tf_keras": keras_tied(tf_keras),
        "linen": linen_net(LinenTied, TOKENS),
        "nnx": NnxTied,
        "gluon": gluon_net(GluonTied, TOKENS),
    },
    (TOKENS,),
)
#: The bias of the output belongs to no tied layer: in Keras and Flax it is all that is left of the output.
WITH_BIAS = Case(
    "tied output with a bias",
    {
        "torch": lambda: TorchTied(bias=True),
        "keras": keras_tied(keras, bias=True),
        "tf_keras": keras_tied(tf_keras, bias=True),
        "linen": linen_net(lambda: LinenTied(bias=True), TOKENS),
        "nnx": lambda: NnxTied(bias=True),
        "gluon": gluon_net(lambda: GluonTied(bias=True), TOKENS),
    },
    (TOKENS,),
)


class TorchBias(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.empty(WORDS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.bias


class TorchAttending(torch.nn.Module):
    """As in Keras and Flax: the output is the embedding, and a bias in a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.fc = torch.nn.Embedding(WORDS, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.out = TorchBias()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.fc(self.emb(x))) @ self.emb.weight.T)


LONE_BIAS = replace(WITH_BIAS, name="output of a bias alone", nets={**WITH_BIAS.nets, "torch": TorchAttending})
CASES = (TIED, WITH_BIAS, LONE_BIAS)
