"""Small transformers in all flavours: an encoder with its output layer tied to its embedding, and a ViT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import keras
import mxnet
import numpy as np
import tensorflow as tf
import tf_keras
import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon

from tests.parity.attention_cases import AttentionCase, key_biases
from tests.parity.chains import normal
from tests.parity.sides import Array, Case, channels_last, gluon_net, linen_net

EPS = 1e-5
WORDS, WIDTH, HEADS, HIDDEN, CLASSES = 9, 6, 2, 10, 7
HEAD = WIDTH // HEADS
CHANNELS, PATCH, PATCHES = 3, (2, 3), 4
TOKENS = np.array([[1, 5, 0, 8, 3], [7, 2, 2, 3, 6]], np.int32)
#: Two patches of 2 x 3 pixels each way.
IMAGES = normal(2, CHANNELS, 4, 6)


@dataclass(frozen=True)
class TransformerCase(AttentionCase):
    def run(self, flavour: str, net: Any) -> Array:
        """The output, and the biases of keys, of which it knows nothing."""
        return np.concatenate([Case.run(self, flavour, net).ravel(), *key_biases(flavour, net, self.key)])


def block(x: Any, attend: Callable[[Any], Any], relu: Callable[[Any], Any], layers: Any) -> Any:
    """One encoder block: attention and a feed-forward net, each with a way past and a norm behind."""
    x = layers.norm1(x + attend(x))
    return layers.norm2(x + layers.fc2(relu(layers.fc1(x))))


# --- PyTorch


class TorchBlock(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm1, self.norm2 = torch.nn.LayerNorm(WIDTH, EPS), torch.nn.LayerNorm(WIDTH, EPS)
        self.fc1, self.fc2 = torch.nn.Linear(WIDTH, HIDDEN), torch.nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: torch.Tensor) -> Any:
        return block(x, lambda y: self.attn(y, y, y, need_weights=False)[0], torch.relu, self)


class TorchEncoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.block1 = torch.nn.Embedding(WORDS, WIDTH), TorchBlock()
        self.out = torch.nn.Linear(WIDTH, WORDS, bias=False)
        self.out.weight = self.emb.weight

    def forward(self, x: torch.Tensor) -> Any:
        return self.out(self.block1(self.emb(x)))


class TorchViT(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = torch.nn.Conv2d(CHANNELS, WIDTH, PATCH, PATCH)
        self.cls = torch.nn.Parameter(torch.empty(1, 1, WIDTH))
        self.pos = torch.nn.Parameter(torch.empty(1, PATCHES + 1, WIDTH))
        self.block1, self.norm = TorchBlock(), torch.nn.LayerNorm(WIDTH, EPS)
        self.head = torch.nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.patch(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.cls.expand(len(x), -1, -1), y], 1) + self.pos
        return self.head(self.norm(self.block1(y))[:, 0])


# --- Keras


def keras_block(library: Any) -> Any:
    made = library.layers

    class Block(made.Layer):  # type: ignore[misc,name-defined]
        def __init__(self, **more: Any) -> None:
            super().__init__(**more)
            self.attn = made.MultiHeadAttention(HEADS, HEAD, name="attn")
            self.norm1, self.norm2 = (made.LayerNormalization(epsilon=EPS, name=name) for name in ("norm1", "norm2"))
            self.fc1, self.fc2 = made.Dense(HIDDEN, name="fc1"), made.Dense(WIDTH, name="fc2")

        def call(self, x: Any) -> Any:
            return block(x, lambda y: self.attn(y, y), tf.nn.relu, self)

    return Block(name="block1")


def keras_encoder(library: Any) -> Callable[[], Any]:
    def build() -> Any:
        emb = library.layers.Embedding(WORDS, WIDTH, name="emb")
        tokens = library.Input(TOKENS.shape[1:], dtype="int32")
        tied = library.layers.Lambda(lambda y: tf.matmul(y, tf.convert_to_tensor(emb.embeddings), transpose_b=True))
        return library.Model(tokens, tied(keras_block(library)(emb(tokens))))

    return build


def keras_vit(library: Any) -> Callable[[], Any]:
    made = library.layers

    class Held(made.Layer):  # type: ignore[misc,name-defined]
        """A parameter of its own, whose layer has the name that the parameter has elsewhere."""

        def __init__(self, length: int, use: Callable[[Any, Any], Any], **more: Any) -> None:
            super().__init__(**more)
            self.length, self.use = length, use

        def build(self, _: Any) -> None:
            self.value = self.add_weight(name="value", shape=(1, self.length, WIDTH))

        def call(self, x: Any) -> Any:
            return self.use(tf.convert_to_tensor(self.value), x)

    def build() -> Any:
        images = library.Input(channels_last(IMAGES).shape[1:])
        y = made.Conv2D(WIDTH, PATCH, PATCH, name="patch")(images)
        y = made.Reshape((PATCHES, WIDTH))(y)
        y = Held(1, lambda token, x: tf.concat([tf.repeat(token, tf.shape(x)[0], 0), x], 1), name="cls")(y)
        y = Held(PATCHES + 1, lambda places, x: x + places, name="pos")(y)
        y = made.LayerNormalization(epsilon=EPS, name="norm")(keras_block(library)(y))
        return library.Model(images, made.Dense(CLASSES, name="head")(y[:, 0]))

    return build


# --- Flax


class LinenBlock(linen.Module):
    def setup(self) -> None:
        self.attn = linen.MultiHeadDotProductAttention(HEADS)
        self.norm1, self.norm2 = linen.LayerNorm(epsilon=EPS), linen.LayerNorm(epsilon=EPS)
        self.fc1, self.fc2 = linen.Dense(HIDDEN), linen.Dense(WIDTH)

    def __call__(self, x: Any) -> Any:
        return block(x, self.attn, jax.nn.relu, self)


class LinenEncoder(linen.Module):
    def setup(self) -> None:
        self.emb, self.block1 = linen.Embed(WORDS, WIDTH), LinenBlock()

    def __call__(self, x: Any) -> Any:
        return self.emb.attend(self.block1(self.emb(x)))


def with_token(cls: Any, pos: Any, x: Any) -> Any:
    """(batch, height, width, features) -> (batch, 1 + height * width, features)."""
    patches = x.reshape(len(x), -1, WIDTH)
    return jnp.concatenate([jnp.repeat(cls, len(x), 0), patches], 1) + pos


class LinenViT(linen.Module):
    def setup(self) -> None:
        self.patch = linen.Conv(WIDTH, PATCH, PATCH, padding="VALID")
        zeros = linen.initializers.zeros
        self.cls, self.pos = self.param("cls", zeros, (1, 1, WIDTH)), self.param("pos", zeros, (1, PATCHES + 1, WIDTH))
        self.block1, self.norm, self.head = LinenBlock(), linen.LayerNorm(epsilon=EPS), linen.Dense(CLASSES)

    def __call__(self, x: Any) -> Any:
        return self.head(self.norm(self.block1(with_token(self.cls, self.pos, self.patch(x))))[:, 0])


class NnxBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.attn = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.norm1, self.norm2 = (nnx.LayerNorm(WIDTH, epsilon=EPS, rngs=rngs) for _ in range(2))
        self.fc1, self.fc2 = nnx.Linear(WIDTH, HIDDEN, rngs=rngs), nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return block(x, self.attn, jax.nn.relu, self)


class NnxEncoder(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.emb, self.block1 = nnx.Embed(WORDS, WIDTH, rngs=rngs), NnxBlock(rngs)

    def __call__(self, x: Any) -> Any:
        return self.emb.attend(self.block1(self.emb(x)))


class NnxViT(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.patch = nnx.Conv(CHANNELS, WIDTH, PATCH, PATCH, padding="VALID", rngs=rngs)
        self.cls, self.pos = nnx.Param(jnp.zeros((1, 1, WIDTH))), nnx.Param(jnp.zeros((1, PATCHES + 1, WIDTH)))
        self.block1, self.norm = NnxBlock(rngs), nnx.LayerNorm(WIDTH, epsilon=EPS, rngs=rngs)
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.head(self.norm(self.block1(with_token(self.cls[...], self.pos[...], self.patch(x))))[:, 0])


# --- Gluon


class GluonAttention(gluon.Block):  # type: ignore[misc]
    """Of four dense layers: Gluon has no attention of its own."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("query", "key", "value", "output"):
            setattr(self, name, gluon.Dense(WIDTH, flatten=False, in_units=WIDTH))

    def forward(self, x: Any) -> Any:
        nd = mxnet.nd
        q, k, v = (  # (batch, heads, length, size)
            layer(x).reshape((0, 0, HEADS, HEAD)).transpose((0, 2, 1, 3))
            for layer in (self.query, self.key, self.value)
        )
        weights = nd.softmax(nd.linalg.gemm2(q, k, transpose_b=True) / HEAD**0.5)
        return self.output(nd.linalg.gemm2(weights, v).transpose((0, 2, 1, 3)).reshape((0, 0, -1)))


class GluonBlock(gluon.Block):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.attn = GluonAttention()
        self.norm1, self.norm2 = (gluon.LayerNorm(epsilon=EPS, in_channels=WIDTH) for _ in range(2))
        self.fc1, self.fc2 = gluon.Dense(HIDDEN, flatten=False), gluon.Dense(WIDTH, flatten=False)

    def forward(self, x: Any) -> Any:
        return block(x, self.attn, mxnet.nd.relu, self)


class GluonEncoder(gluon.Block):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.block1 = gluon.Embedding(WORDS, WIDTH), GluonBlock()
        self.out = gluon.Dense(WORDS, flatten=False, use_bias=False, in_units=WIDTH, params=self.emb.params)

    def forward(self, x: Any) -> Any:
        return self.out(self.block1(self.emb(x)))


class GluonViT(gluon.Block):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.patch = gluon.Conv2D(WIDTH, PATCH, PATCH, in_channels=CHANNELS)
        self.cls = self.params.get("cls", shape=(1, 1, WIDTH))
        self.pos = self.params.get("pos", shape=(1, PATCHES + 1, WIDTH))
        self.block1, self.norm = GluonBlock(), gluon.LayerNorm(epsilon=EPS, in_channels=WIDTH)
        self.head = gluon.Dense(CLASSES, in_units=WIDTH)

    def forward(self, x: Any) -> Any:
        y = self.patch(x).reshape((0, 0, -1)).transpose((0, 2, 1))
        y = mxnet.nd.concat(self.cls.data().repeat(len(x), 0), y, dim=1)
        return self.head(self.norm(self.block1(mxnet.nd.broadcast_add(y, self.pos.data())))[:, 0])


# --- the cases

ENCODER = TransformerCase(
    "transformer encoder",
    {
        "torch": TorchEncoder,
        "keras": keras_encoder(keras),
        "tf_keras": keras_encoder(tf_keras),
        "linen": linen_net(LinenEncoder, TOKENS),
        "nnx": NnxEncoder,
        "gluon": gluon_net(GluonEncoder, TOKENS),
    },
    (TOKENS,),
)
VIT = TransformerCase(
    "ViT",
    {
        "torch": TorchViT,
        "keras": keras_vit(keras),
        "tf_keras": keras_vit(tf_keras),
        "linen": linen_net(LinenViT, channels_last(IMAGES)),
        "nnx": NnxViT,
        "gluon": gluon_net(GluonViT, IMAGES),
    },
    (IMAGES,),
    spatial=True,
)
CASES = (ENCODER, VIT)
