"""The old and the new nets of partial reuse: an MLP with user's names, a LeNet with numbers, in four frameworks.

Old and new begin alike; the new ones have another middle or head. Every size differs from every other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon

from tests.parity.sides import SIDES, Array, Linen, gluon_net, linen_net

FLAVOURS = ("torch", "keras", "linen", "gluon")
PAIRS = [(old, new) for old in FLAVOURS for new in FLAVOURS]

#: The widths of the MLPs: the last layer of both is (256 -> 10), so that a name and a shape agree on it.
MLP = {"old": (20, 256, 10), "new": (20, 256, 256, 10)}
NAMES = {2: ("hidden", "output"), 3: ("hidden", "mid", "output")}
KERAS_NAMES = {"output": "out"}  # `output` is taken in Keras


def _torch_mlp(widths: Sequence[int]) -> Any:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, size, out in zip(NAMES[len(widths) - 1], widths, widths[1:], strict=False):
                setattr(self, name, torch.nn.Linear(size, out))

        def forward(self, x: Any) -> Any:
            for layer in self.children():
                x = torch.tanh(layer(x))
            return x

    return Net()


def _keras_mlp(widths: Sequence[int]) -> Any:
    class Net(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.names = [KERAS_NAMES.get(name, name) for name in NAMES[len(widths) - 1]]
            for name, out in zip(self.names, widths[1:], strict=True):
                setattr(self, name, keras.layers.Dense(out, activation="tanh"))

        def call(self, x: Any) -> Any:
            for name in self.names:
                x = getattr(self, name)(x)
            return x

    net = Net()
    net(np.zeros((2, widths[0]), np.float32))
    return net


class LinenMLP(linen.Module):
    widths: Sequence[int]

    @linen.compact
    def __call__(self, x: Any) -> Any:
        for name, out in zip(NAMES[len(self.widths) - 1], self.widths[1:], strict=True):
            x = linen.tanh(linen.Dense(out, name=name)(x))
        return x


class NnxMLP(nnx.Module):
    def __init__(self, widths: Sequence[int]) -> None:
        self.names = nnx.static(NAMES[len(widths) - 1])
        for name, size, out in zip(self.names, widths, widths[1:], strict=False):
            setattr(self, name, nnx.Linear(size, out, rngs=nnx.Rngs(0)))

    def __call__(self, x: Any) -> Any:
        for name in self.names:
            x = nnx.tanh(getattr(self, name)(x))
        return x


class _GluonMLP(gluon.Block):
    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        for name, out in zip(NAMES[len(widths) - 1], widths[1:], strict=True):
            setattr(self, name, gluon.Dense(out, activation="tanh"))

    def forward(self, x: Any) -> Any:
        for layer in self._children.values():
            x = layer(x)
        return x


#: The outputs of the linear layers behind the two convolutions of the LeNets: 1 -> 3 -> 4 channels, 4 x 2 x 3 features.
HEADS = {"old": (7, 6, 5), "new": (7, 11, 9, 8)}
IMAGE = np.random.default_rng(0).normal(size=(2, 1, 12, 16)).astype(np.float32)


def _torch_lenet(heads: Sequence[int]) -> Any:
    nn = torch.nn
    convs = [(nn.Conv2d(*sizes), nn.Tanh(), nn.AvgPool2d(2)) for sizes in ((1, 3, 3), (3, 4, 2))]
    layers = [*convs[0], *convs[1], nn.Flatten()]
    for size, out in zip((24, *heads), heads, strict=False):
        layers += [nn.Linear(size, out), nn.Tanh()]
    return nn.Sequential(*layers)


def _keras_lenet(heads: Sequence[int]) -> Any:
    of = keras.layers
    convs = [of.Conv2D(3, 3, activation="tanh"), of.AvgPool2D(2), of.Conv2D(4, 2, activation="tanh"), of.AvgPool2D(2)]
    dense = [of.Dense(out, activation="tanh") for out in heads]
    return keras.Sequential([keras.Input((12, 16, 1)), *convs, of.Flatten(), *dense])


class LinenLeNet(linen.Module):
    heads: Sequence[int]

    @linen.compact
    def __call__(self, x: Any) -> Any:
        for channels, size in ((3, 3), (4, 2)):
            x = linen.tanh(linen.Conv(channels, (size, size), padding="VALID")(x))
            x = linen.avg_pool(x, (2, 2), (2, 2))
        x = x.reshape((len(x), -1))
        for out in self.heads:
            x = linen.tanh(linen.Dense(out)(x))
        return x


def _gluon_lenet(heads: Sequence[int]) -> Any:
    net = gluon.Sequential()
    for channels, size in ((3, 3), (4, 2)):
        net.add(gluon.Conv2D(channels, size, activation="tanh"), gluon.AvgPool2D(2))
    net.add(*(gluon.Dense(out, activation="tanh") for out in heads))
    return net


@dataclass(frozen=True)
class Family:
    """nets: "old" or "new" -> flavour -> a fresh net. first: how many layers to take, and where each goes.

    input: channels first. flat: channels before the flatten, by the place of the layer behind it.
    """

    name: str
    nets: Mapping[str, Mapping[str, Callable[[], Any]]]
    first: Mapping[int, Mapping[int, int]]
    input: Array
    flat: Mapping[int, int]

    def random(self, age: str, flavour: str, seed: int) -> Any:
        return SIDES[flavour].randomise(SIDES[flavour].fresh(self.nets[age][flavour]), np.random.default_rng(seed))

    def weights(self, flavour: str, net: Any) -> list[Array]:
        """Kernels and biases in the order of calls, laid out as PyTorch does."""
        found = [neutral(array) if flavour in LAST else array for array in arrays(flavour, net)]
        for place, channels in self.flat.items() if flavour in LAST else ():
            kernel = found[2 * place]
            turned = kernel.reshape(len(kernel), -1, channels).swapaxes(1, 2)
            found[2 * place] = turned.reshape(kernel.shape)
        return found

    def run(self, flavour: str, net: Any) -> Array:
        x = np.moveaxis(self.input, 1, -1) if flavour in LAST and self.input.ndim > 2 else self.input
        found = SIDES[flavour].run(net, x)
        return found.asnumpy() if flavour == "gluon" else np.asarray(found)


LAST = ("keras", "linen", "nnx")


def neutral(array: Array) -> Array:
    """A kernel of Keras or Flax as PyTorch lays it out."""
    return np.moveaxis(array, (-1, -2), (0, 1)) if array.ndim > 1 else array


def arrays(flavour: str, net: Any) -> list[Array]:
    """Kernel, bias, kernel, bias ... as the framework itself gives them."""
    if flavour == "torch":
        return [value.detach().numpy().copy() for value in net.parameters()]
    if flavour == "keras":
        return [np.array(value) for layer in net.layers for value in layer.get_weights()]
    if flavour == "gluon":
        return [value.data().asnumpy() for value in net.collect_params().values()]
    tree = net.variables["params"] if isinstance(net, Linen) else nnx.to_pure_dict(nnx.state(net, nnx.Param))
    return [np.array(tree[name][leaf]) for name in sorted(tree) for leaf in ("kernel", "bias")]


def _mlps(widths: Sequence[int]) -> Mapping[str, Callable[[], Any]]:
    x = np.zeros((2, widths[0]), np.float32)
    return {
        "torch": functools.partial(_torch_mlp, widths),
        "keras": functools.partial(_keras_mlp, widths),
        "linen": linen_net(lambda: LinenMLP(widths), x),
        "gluon": gluon_net(lambda: _GluonMLP(widths), x),
        "nnx": lambda: NnxMLP(widths),
    }


def _lenets(heads: Sequence[int]) -> Mapping[str, Callable[[], Any]]:
    return {
        "torch": functools.partial(_torch_lenet, heads),
        "keras": functools.partial(_keras_lenet, heads),
        "linen": linen_net(lambda: LinenLeNet(heads), np.moveaxis(IMAGE, 1, -1)),
        "gluon": gluon_net(lambda: _gluon_lenet(heads), IMAGE),
    }


FAMILIES = {
    "mlp": Family(
        "mlp",
        {age: _mlps(widths) for age, widths in MLP.items()},
        {1: {0: 0}, 2: {0: 0, 1: 2}},
        np.random.default_rng(1).normal(size=(3, 20)).astype(np.float32),
        {},
    ),
    "lenet": Family(
        "lenet",
        {age: _lenets(heads) for age, heads in HEADS.items()},
        {2: {0: 0, 1: 1}, 3: {0: 0, 1: 1, 2: 2}},
        IMAGE,
        {2: 4},
    ),
}


def save(tmp_path: Path, name: str, **layers: torch.nn.Module) -> tuple[Path, dict[str, torch.Tensor]]:
    """A PyTorch file of these layers, all values random."""
    net = torch.nn.ModuleDict({key.replace("__", "-"): layer for key, layer in layers.items()})
    state = {key.replace("-", "."): torch.rand_like(value.float()) + 0.1 for key, value in net.state_dict().items()}
    torch.save(state, tmp_path / name)
    return tmp_path / name, state


def load(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


Linear, Embedding = torch.nn.Linear, torch.nn.Embedding
