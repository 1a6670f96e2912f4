"""What the book puts around a net, in the four frameworks: a module whose attribute ``net`` is called.

(`d2l.Classifier`; its further attributes hold no weights.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras
import mxnet
import numpy as np
import tensorflow as tf
import tf_keras
import torch
from flax import linen
from mxnet.gluon import nn as gluon

from tests.parity.sides import SIDES, Array, Case, channels_last, gluon_net, linen_net

FLAVOURS = ("torch", "keras", "linen", "gluon")
#: PyTorch's, Flax's and gluon's own; Keras has another one.
EPSILON = 1e-5


class Gentle(np.random.Generator):
    """Vectors are positive; kernels have both signs and keep the size of what passes: nothing saturates or drowns."""

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        if len(size) < 2:
            return super().uniform(low, high, size)
        inputs, outputs = sorted(size)[-2:]  # of a convolution, too: the kernels are smaller than the channels
        return self.normal(0, np.sqrt(np.sqrt(inputs * outputs) / np.prod(size)), size)


class BookCase(Case):
    """A case with one net of each flavour, that is made once: random anew, it is another net."""

    def anew(self, flavour: str, net: Any, seed: int) -> Any:
        return SIDES[flavour].randomise(net, Gentle(np.random.PCG64(seed)))

    def random(self, flavour: str, seed: int, target: str = "") -> Any:
        return self.anew(flavour, self.fresh(flavour), seed)

    def run(self, flavour: str, net: Any) -> Array:
        """A linen net is compiled as a whole, which takes a fraction of the time for its operations one by one."""
        if flavour != "linen":
            return super().run(flavour, net)
        x = self.inputs[0]
        return np.asarray(_compiled(net.module)(net.variables, channels_last(x) if self.spatial else x))


@functools.cache
def _compiled(module: Any) -> Any:
    return jax.jit(module.apply, compiler_options={"xla_backend_optimization_level": 0})


class TorchClassifier(torch.nn.Module):
    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x)


@functools.cache
def keras_classifier(library: Any) -> Any:
    """The class, of Keras 3 or tf_keras. It keeps its arguments, as the book's does."""

    class Classifier(library.Model):  # type: ignore[misc]
        def __init__(self, net: Any, **hparams: Any) -> None:
            super().__init__()
            self.hparams = hparams
            self.net = net

        def call(self, x: Any) -> Any:
            return self.net(x)

    return Classifier


class LinenClassifier(linen.Module):
    make: Callable[[], Any]

    def setup(self) -> None:
        self.net = self.make()

    def __call__(self, x: Any) -> Any:
        return self.net(x)


class GluonClassifier(gluon.Block):  # type: ignore[misc]
    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Any) -> Any:
        return self.net(x)


def classifier(
    name: str,
    x: Array,
    torch_net: Callable[[], torch.nn.Module],
    keras_net: Callable[[Any], Any],
    linen_net_: Callable[[], Any],
    gluon_net_: Callable[[], Any],
) -> Case:
    """The case of a net that is the attribute ``net`` of a classifier. ``x``: the input, channels first.

    keras_net: from the library, Keras 3 or tf_keras.
    """
    return case(
        name,
        x,
        lambda: TorchClassifier(torch_net()),
        lambda library: keras_classifier(library)(keras_net(library), lr=0.1, num_classes=10),
        lambda: LinenClassifier(linen_net_),
        lambda: GluonClassifier(gluon_net_()),
    )


def case(
    name: str,
    x: Array,
    torch_net: Callable[[], torch.nn.Module],
    keras_net: Callable[[Any], Any],
    linen_module: Callable[[], Any],
    gluon_block: Callable[[], Any],
) -> Case:
    """The case of nets that are yet to see an input, which is given channels first."""
    last = channels_last(x)

    def built(library: Any) -> Any:
        net = keras_net(library)
        net(tf.constant(last))
        return net

    nets: dict[str, Callable[[], Any]] = {
        "torch": lambda: _seen(torch_net(), x),
        "keras": lambda: built(keras),
        "tf_keras": lambda: built(tf_keras),
        "linen": linen_net(linen_module, last),
        "gluon": gluon_net(gluon_block, x),
    }
    return BookCase(name, {flavour: functools.cache(make) for flavour, make in nets.items()}, (x,), spatial=x.ndim > 2)


def _seen(net: torch.nn.Module, x: Array) -> torch.nn.Module:
    """The net with its lazy layers made for this input."""
    with torch.no_grad():
        net.eval()(torch.tensor(x))
    return net


def image(*shape: int) -> Array:
    """A batch of random images, channels first; none is square, so that no axis is taken for another."""
    return np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)


def linen_pool(size: int, strides: int) -> Callable[[Any], Any]:
    return lambda x: linen.max_pool(x, (size, size), strides=(strides, strides))


def linen_same_pool(x: Any) -> Any:
    """3 x 3, strides 2, padded on both sides: of odd sizes, the same as padding 1 in the other frameworks."""
    return linen.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")


def linen_average(x: Any) -> Any:
    return linen.avg_pool(x, (2, 2), strides=(2, 2))


def linen_global(x: Any) -> Any:
    """The mean over all of space; Flax has no layer for it."""
    return linen.avg_pool(x, x.shape[1:3], strides=x.shape[1:3])


def linen_flatten(x: Any) -> Any:
    return x.reshape(len(x), -1)


def jax_concat(*xs: Any) -> Any:
    return jnp.concatenate(xs, -1)


def gluon_row(*layers: Any) -> Any:
    net = gluon.Sequential()
    net.add(*layers)
    return net


def mxnet_concat(*xs: Any) -> Any:
    return mxnet.nd.concat(*xs, dim=1)
