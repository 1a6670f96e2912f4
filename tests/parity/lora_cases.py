"""Low-rank adapters beside a linear layer, and tensors that belong to no layer: class token, positions, scales."""

from __future__ import annotations

from collections.abc import Callable
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

from tests.parity.sides import SIDES, Case, gluon_net, linen_net

IN, RANK, OUT, STEPS = 5, 2, 4, 3
X = np.random.default_rng(0).normal(size=(2, IN)).astype(np.float32)
SEQUENCE = np.random.default_rng(0).normal(size=(2, STEPS, IN)).astype(np.float32)


# --- adapters


class TorchLora(torch.nn.Module):
    """As peft names it: ``fc.base_layer``, ``fc.lora_A.default``, ``fc.lora_B.default``."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Module()
        self.fc.base_layer = torch.nn.Linear(IN, OUT)
        self.fc.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(IN, RANK, bias=False)})
        self.fc.lora_B = torch.nn.ModuleDict({"default": torch.nn.Linear(RANK, OUT, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc.base_layer(x) + self.fc.lora_B["default"](self.fc.lora_A["default"](x))  # type: ignore


class NnxLora(nnx.Module):
    def __init__(self) -> None:
        self.fc = nnx.LoRALinear(IN, OUT, lora_rank=RANK, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        return self.fc(x)


class LinenLora(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        low = linen.Dense(RANK, use_bias=False, name="lora_A")(x)
        return linen.Dense(OUT, name="base_layer")(x) + linen.Dense(OUT, use_bias=False, name="lora_B")(low)


class GluonLora(gluon.Block):
    def __init__(self) -> None:
        super().__init__()
        self.base_layer = gluon.Dense(OUT, in_units=IN)
        self.lora_A = gluon.Dense(RANK, use_bias=False, in_units=IN)
        self.lora_B = gluon.Dense(OUT, use_bias=False, in_units=RANK)

    def forward(self, x: Any) -> Any:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


def keras_lora(library: Any) -> Callable[[], Any]:
    def build() -> Any:
        x, dense = library.Input((IN,)), library.layers.Dense
        low = dense(RANK, use_bias=False, name="lora_A")(x)
        high = dense(OUT, use_bias=False, name="lora_B")(low)
        return library.Model(x, library.layers.Add()([dense(OUT, name="base_layer")(x), high]))

    return build


#: Flavour -> what it calls the layer and its two adapters.
LORA_NAMES = {
    **dict.fromkeys(SIDES, ("base_layer", "lora_A", "lora_B")),
    "torch": ("fc.base_layer", "fc.lora_A.default", "fc.lora_B.default"),
    "nnx": ("fc", "fc.lora.lora_a", "fc.lora.lora_b"),
}
LORA = Case(
    "lora",
    {
        "torch": TorchLora,
        "keras": keras_lora(keras),
        "tf_keras": keras_lora(tf_keras),
        "linen": linen_net(LinenLora, X),
        "nnx": NnxLora,
        "gluon": gluon_net(GluonLora, X),
    },
    (X,),
    names=LORA_NAMES,
)


# --- bare tensors


class TorchBare(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = torch.nn.Parameter(torch.empty(1, 1, IN))
        self.positions = torch.nn.Parameter(torch.empty(1, STEPS, IN))
        self.scale = torch.nn.Parameter(torch.empty(IN))
        self.fc = torch.nn.Linear(IN, OUT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((x + self.positions) * self.scale + self.cls_token)


class LinenBare(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        zeros = linen.initializers.zeros
        token = self.param("cls_token", zeros, (1, 1, IN))
        positions, scale = self.param("positions", zeros, (1, STEPS, IN)), self.param("scale", zeros, (IN,))
        return linen.Dense(OUT, name="fc")((x + positions) * scale + token)


class NnxBare(nnx.Module):
    def __init__(self) -> None:
        self.cls_token = nnx.Param(jnp.zeros((1, 1, IN)))
        self.positions = nnx.Param(jnp.zeros((1, STEPS, IN)))
        self.scale = nnx.Param(jnp.zeros(IN))
        self.fc = nnx.Linear(IN, OUT, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        return self.fc((x + self.positions[...]) * self.scale[...] + self.cls_token[...])


class GluonBare(gluon.Block):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = self.params.get("cls_token", shape=(1, 1, IN))
        self.positions = self.params.get("positions", shape=(1, STEPS, IN))
        self.scale = self.params.get("scale", shape=(IN,))
        self.fc = gluon.Dense(OUT, flatten=False, in_units=IN)

    def forward(self, x: Any) -> Any:
        nd = mxnet.nd
        x = nd.broadcast_mul(nd.broadcast_add(x, self.positions.data()), self.scale.data())
        return self.fc(nd.broadcast_add(x, self.cls_token.data()))


def keras_bare(library: Any) -> Callable[[], Any]:
    class Bare(library.layers.Layer):  # type: ignore[misc,name-defined]
        """One tensor that is added or multiplied."""

        def __init__(self, shape: tuple[int, ...], multiplied: bool = False, **words: Any) -> None:
            super().__init__(**words)
            self.sizes, self.multiplied = shape, multiplied

        def build(self, _: Any) -> None:
            self.value = self.add_weight(shape=self.sizes, name=self.name)

        def call(self, x: Any) -> Any:
            value = tf.convert_to_tensor(self.value)
            return x * value if self.multiplied else x + value

    def build() -> Any:
        x = library.Input((STEPS, IN))
        y = Bare((1, STEPS, IN), name="positions")(x)
        y = Bare((1, 1, IN), name="cls_token")(Bare((IN,), True, name="scale")(y))
        return library.Model(x, library.layers.Dense(OUT, name="fc")(y))

    return build


BARE = Case(
    "bare tensors",
    {
        "torch": TorchBare,
        "keras": keras_bare(keras),
        "tf_keras": keras_bare(tf_keras),
        "linen": linen_net(LinenBare, SEQUENCE),
        "nnx": NnxBare,
        "gluon": gluon_net(GluonBare, SEQUENCE),
    },
    (SEQUENCE,),
)
CASES = (LORA, BARE)
