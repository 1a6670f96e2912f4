"""Linear layers, embeddings and bare parameters in all flavours."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import keras
import numpy as np
import tf_keras
import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon

from tests.parity.chains import Link, chain
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


TOKENS = np.array([[0, 3, 5], [2, 1, 4]], np.int32)


def embedding(rows: int, width: int) -> Case:
    """With as many rows as columns its shape tells nothing."""
    return chain(
        f"embedding {rows} x {width}",
        TOKENS,
        Link(
            "words",
            "embedding",
            lambda: torch.nn.Embedding(rows, width),
            lambda layers, own: layers.Embedding(rows, width, name=own),
            lambda own: linen.Embed(rows, width, name=own),
            lambda rngs: nnx.Embed(rows, width, rngs=rngs),
            lambda: gluon.Embedding(rows, width),
        ),
        spatial=False,
    )


def heads() -> Case:
    """A dense layer into two axes and one out of them, which Keras and Flax store apart and others as one."""

    def into(layers: Any, own: str) -> Any:
        return layers.EinsumDense("bi,ihd->bhd", (2, 3), bias_axes="hd", name=own)

    def out_of(layers: Any, own: str) -> Any:
        return layers.EinsumDense("bhd,hdo->bo", 4, bias_axes="o", name=own)

    return chain(
        "dense over several axes",
        X,
        Link(
            "into",
            "to_heads",
            lambda: torch.nn.Linear(5, 6),
            into,
            lambda own: linen.DenseGeneral((2, 3), name=own),
            lambda rngs: nnx.LinearGeneral(5, (2, 3), rngs=rngs),
            lambda: gluon.Dense(6),
            words={"heads": 2},
        ),
        Link(
            "out",
            "from_heads",
            lambda: torch.nn.Linear(6, 4),
            out_of,
            lambda own: linen.DenseGeneral(4, axis=(-2, -1), name=own),
            lambda rngs: nnx.LinearGeneral((2, 3), 4, axis=(-2, -1), rngs=rngs),
            lambda: gluon.Dense(4),
            words={"heads": 2},
        ),
        spatial=False,
    )


class FlatTorch(torch.nn.Module):
    """One layer on all axes but the first, into two."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = torch.nn.Linear(24, 6), torch.nn.Linear(6, 12, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layer(x.flatten(1))).reshape(-1, 2, 3, 2)


class FlatGluon(gluon.Block):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = gluon.Dense(6), gluon.Dense(12, use_bias=False)

    def forward(self, x: Any) -> Any:
        return self.last(self.layer(x)).reshape((-1, 2, 3, 2))


class DeepLinen(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.DenseGeneral((2, 3), axis=(-3, -2, -1), name="layer")(x)
        return linen.DenseGeneral((2, 3, 2), axis=(-2, -1), use_bias=False, name="last")(x)


class DeepNnx(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.layer = nnx.LinearGeneral((2, 3, 4), (2, 3), axis=(-3, -2, -1), rngs=rngs)
        self.last = nnx.LinearGeneral((2, 3), (2, 3, 2), axis=(-2, -1), use_bias=False, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.last(self.layer(x))


def deep() -> Case:
    """Dense layers from three axes into two, and from two into three without a bias."""
    x = np.random.default_rng(0).normal(size=(4, 2, 3, 4)).astype(np.float32)

    def keras(layers: Any) -> Any:
        first = layers.EinsumDense("bijk,ijkmn->bmn", (2, 3), bias_axes="mn", name="layer")
        last = layers.EinsumDense("bmn,mnxyz->bxyz", (2, 3, 2), name="last")
        return lambda x: last(first(x))

    return Case(
        "dense over three axes",
        {
            "torch": FlatTorch,
            "keras": keras_net(keras, (2, 3, 4)),
            "tf_keras": tf_keras_net(keras, (2, 3, 4)),
            "linen": linen_net(DeepLinen, x),
            "nnx": DeepNnx,
            "gluon": gluon_net(FlatGluon, x),
        },
        (x,),
        options={"": ("--kind", "last=linear")},  # without a bias five axes are rather a convolution's
        kinds=("--kind", "last=dense_2_to_3"),
    )


class Conv1D(torch.nn.Module):
    """The linear layer of the GPT-2 code, which is stored (in, out)."""

    def __init__(self, given: int, taken: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(given, taken))
        self.bias = torch.nn.Parameter(torch.empty(taken))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


def dense(name: str, given: int, taken: int, torch_layer: Any = torch.nn.Linear, kind: str = "linear") -> Link:
    return Link(
        name,
        kind,
        lambda: torch_layer(given, taken),
        lambda layers, own: layers.Dense(taken, name=own),
        lambda own: linen.Dense(taken, name=own),
        lambda rngs: nnx.Linear(given, taken, rngs=rngs),
        lambda: gluon.Dense(taken),
    )


class Scaled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.token = torch.nn.Linear(5, 4), torch.nn.Parameter(torch.empty(1, 4))
        self.layer_scale = torch.nn.Parameter(torch.empty(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.first(x) + self.token) * self.layer_scale


class ScaledLinen(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        zeros = linen.initializers.zeros
        x = linen.Dense(4, name="first")(x) + self.param("token", zeros, (1, 4))
        return x * self.param("layer_scale", zeros, (4,))


class ScaledNnx(nnx.Module):
    def __init__(self) -> None:
        self.first = nnx.Linear(5, 4, rngs=nnx.Rngs(0))
        self.token, self.layer_scale = nnx.Param(jnp.zeros((1, 4))), nnx.Param(jnp.zeros(4))

    def __call__(self, x: Any) -> Any:
        return (self.first(x) + self.token[...]) * self.layer_scale[...]


class ScaledGluon(gluon.HybridBlock):
    def __init__(self) -> None:
        super().__init__()
        self.first = gluon.Dense(4)
        self.token = self.params.get("token", shape=(1, 4))
        self.layer_scale = self.params.get("layer_scale", shape=(4,))

    def hybrid_forward(self, functions: Any, x: Any, token: Any, layer_scale: Any) -> Any:
        return functions.broadcast_mul(
            functions.broadcast_add(self.first(x), token), functions.reshape(layer_scale, (1, 4))
        )


def scaled(library: Any) -> Any:
    class Token(library.layers.Layer):  # type: ignore[misc, name-defined]
        """A parameter of its own, whose layer has the name that the parameter has elsewhere."""

        def __init__(self, shape: tuple[int, ...], product: bool, **more: Any) -> None:
            super().__init__(**more)
            self.kept, self.product = shape, product

        def build(self, _: Any) -> None:
            self.value = self.add_weight(name="value", shape=self.kept)

        def call(self, x: Any) -> Any:
            return x * self.value if self.product else x + self.value

    def net(layers: Any) -> Any:
        return lambda x: Token((4,), True, name="layer_scale")(
            Token((1, 4), False, name="token")(layers.Dense(4, name="first")(x))
        )

    return keras_net(net, (5,), library=library)


def parameters() -> Case:
    """A class token and a scale, which belong to no layer."""
    return Case(
        "bare parameters",
        {
            "torch": Scaled,
            "keras": scaled(keras),
            "tf_keras": scaled(tf_keras),
            "linen": linen_net(ScaledLinen, X),
            "nnx": ScaledNnx,
            "gluon": gluon_net(ScaledGluon, X),
        },
        (X,),
        kinds=("--kind", "token=parameter", "--kind", "layer_scale=parameter"),
    )


CASES = (
    linear(True),
    linear(False),
    embedding(6, 6),
    embedding(7, 4),
    heads(),
    deep(),
    chain("conv1d of gpt-2", X, dense("up", 5, 8, Conv1D, "linear_in_out"), spatial=False),
    chain(
        "square conv1d of gpt-2",
        X,
        dense("first", 5, 5, Conv1D, "linear_in_out"),
        spatial=False,
        options={"": ("--kind", "first=linear_in_out")},
    ),
    parameters(),
)
