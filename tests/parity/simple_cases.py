"""Linear, embedding and normalisation layers in all flavours."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon

from tests.parity.sides import Case, gluon_net, keras_net, linen_net, tf_keras_net

X = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)


class LinearLinen(linen.Module):
    bias: bool

    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.Dense(5, use_bias=self.bias, name="second")(linen.Dense(5, name="first")(x))


class LinearNnx(nnx.Module):
    def __init__(self, bias: bool) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(5, 5, rngs=rngs)
        self.second = nnx.Linear(5, 5, use_bias=bias, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.second(self.first(x))


class LinearTorch(torch.nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(5, 5), torch.nn.Linear(5, 5, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


class LinearGluon(gluon.Block):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first, self.second = gluon.Dense(5), gluon.Dense(5, use_bias=bias)

    def forward(self, x: Any) -> Any:
        return self.second(self.first(x))


def linear(bias: bool) -> Case:
    """Two square matrices: nothing but the names and the axis order tells what goes where."""

    def keras(layers: Any) -> Any:
        return lambda x: layers.Dense(5, use_bias=bias, name="second")(layers.Dense(5, name="first")(x))

    return Case(
        f"linear{'' if bias else ' without bias'}",
        {
            "torch": lambda: LinearTorch(bias),
            "keras": keras_net(keras, (5,)),
            "tf_keras": tf_keras_net(keras, (5,)),
            "linen": linen_net(lambda: LinearLinen(bias), X),
            "nnx": lambda: LinearNnx(bias),
            "gluon": gluon_net(lambda: LinearGluon(bias), X),
        },
        (X,),
        ({"path": "first", "kind": "linear"}, {"path": "second", "kind": "linear"}),
    )


CASES = (linear(True), linear(False))
