"""Nets over sequences of words: a tagger with an LSTM in both directions, an encoder with two layers of GRU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon
from mxnet.gluon import rnn as gluon_rnn

from tests.parity.recurrent_cases import WITHOUT_CANDIDATE_BIAS, Signed
from tests.parity.sides import SIDES, Array, Case, gluon_net, keras_net, linen_net, tf_keras_net

WORDS, WIDTH, HIDDEN, TAGS = 9, 4, 3, 5
TOKENS = np.array([[1, 5, 0, 8], [7, 2, 2, 3]], np.int32)


@dataclass(frozen=True)
class SequenceCase(Case):
    def random(self, flavour: str, seed: int, target: str = "") -> Any:
        """Weights of both signs; into an `nnx.GRUCell` without the bias that it does not have."""
        net = SIDES[flavour].randomise(self.fresh(flavour), Signed(np.random.PCG64(seed)))
        lacks = target == "nnx" and flavour != "nnx" and "GRU" in self.name
        return WITHOUT_CANDIDATE_BIAS[flavour](net) if lacks else net


class TorchTagger(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = torch.nn.Embedding(WORDS, WIDTH)
        self.rnn = torch.nn.LSTM(WIDTH, HIDDEN, batch_first=True, bidirectional=True)
        self.out = torch.nn.Linear(2 * HIDDEN, TAGS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(self.emb(x))[0])


class TorchEncoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = torch.nn.Embedding(WORDS, WIDTH)
        self.rnn = torch.nn.GRU(WIDTH, HIDDEN, 2, batch_first=True)
        self.out = torch.nn.Linear(HIDDEN, TAGS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(self.emb(x))[0][:, -1])


def keras_tagger(layers: Any) -> Any:
    def net(x: Any) -> Any:
        y = layers.Embedding(WORDS, WIDTH, name="emb")(x)
        y = layers.Bidirectional(layers.LSTM(HIDDEN, return_sequences=True), name="rnn")(y)
        return layers.Dense(TAGS, name="out")(y)

    return net


def keras_encoder(layers: Any) -> Any:
    def net(x: Any) -> Any:
        y = layers.Embedding(WORDS, WIDTH, name="emb")(x)
        y = layers.GRU(HIDDEN, return_sequences=True, name="l0")(y)
        return layers.Dense(TAGS, name="out")(layers.GRU(HIDDEN, name="l1")(y))

    return net


class LinenTagger(linen.Module):
    def setup(self) -> None:
        self.emb = linen.Embed(WORDS, WIDTH)
        one, other = linen.RNN(linen.OptimizedLSTMCell(HIDDEN)), linen.RNN(linen.OptimizedLSTMCell(HIDDEN))
        self.rnn = linen.Bidirectional(one, other)
        self.out = linen.Dense(TAGS)

    def __call__(self, x: Any) -> Any:
        return self.out(self.rnn(self.emb(x)))


class LinenEncoder(linen.Module):
    def setup(self) -> None:
        self.emb = linen.Embed(WORDS, WIDTH)
        self.l0, self.l1 = linen.RNN(linen.GRUCell(HIDDEN)), linen.RNN(linen.GRUCell(HIDDEN))
        self.out = linen.Dense(TAGS)

    def __call__(self, x: Any) -> Any:
        return self.out(self.l1(self.l0(self.emb(x)))[:, -1])


class NnxTagger(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.emb = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        cells = [nnx.OptimizedLSTMCell(WIDTH, HIDDEN, rngs=rngs) for _ in range(2)]
        self.rnn = nnx.Bidirectional(nnx.RNN(cells[0], rngs=rngs), nnx.RNN(cells[1], rngs=rngs), rngs=rngs)
        self.out = nnx.Linear(2 * HIDDEN, TAGS, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.out(self.rnn(self.emb(x)))


class NnxEncoder(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.emb = nnx.Embed(WORDS, WIDTH, rngs=rngs)
        self.l0 = nnx.RNN(nnx.GRUCell(WIDTH, HIDDEN, rngs=rngs), rngs=rngs)
        self.l1 = nnx.RNN(nnx.GRUCell(HIDDEN, HIDDEN, rngs=rngs), rngs=rngs)
        self.out = nnx.Linear(HIDDEN, TAGS, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.out(self.l1(self.l0(self.emb(x)))[:, -1])


class GluonTagger(gluon.Block):
    def __init__(self) -> None:
        super().__init__()
        self.emb = gluon.Embedding(WORDS, WIDTH)
        self.rnn = gluon_rnn.LSTM(HIDDEN, layout="NTC", bidirectional=True)
        self.out = gluon.Dense(TAGS, flatten=False)

    def forward(self, x: Any) -> Any:
        return self.out(self.rnn(self.emb(x)))


class GluonEncoder(gluon.Block):
    def __init__(self) -> None:
        super().__init__()
        self.emb = gluon.Embedding(WORDS, WIDTH)
        self.rnn = gluon_rnn.GRU(HIDDEN, 2, layout="NTC")
        self.out = gluon.Dense(TAGS)

    def forward(self, x: Any) -> Any:
        return self.out(self.rnn(self.emb(x))[:, -1])


def _case(name: str, torch_net: Any, keras: Any, linen_module: Any, nnx_net: Any, block: Any) -> Case:
    tokens: Array = TOKENS
    nets = {
        "torch": torch_net,
        "keras": keras_net(keras, (TOKENS.shape[1],)),
        "tf_keras": tf_keras_net(keras, (TOKENS.shape[1],)),
        "linen": linen_net(linen_module, jnp.asarray(tokens)),
        "nnx": nnx_net,
        "gluon": gluon_net(block, tokens),
    }
    return SequenceCase(name, nets, (tokens,))


CASES = (
    _case("BiLSTM tagger", TorchTagger, keras_tagger, LinenTagger, NnxTagger, GluonTagger),
    _case("GRU encoder", TorchEncoder, keras_encoder, LinenEncoder, NnxEncoder, GluonEncoder),
)
