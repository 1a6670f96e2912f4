"""The MLP of the chapter "File I/O" in the four frameworks: made at random, saved, cloned and run by the real ones.

Importing this imports all four.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen
import flax.serialization
import jax
import jax.numpy as jnp
import keras
import mxnet
import numpy as np
import torch
from mxnet.gluon import nn as gluon_nn

INPUTS, HIDDEN, OUTPUTS = 20, 256, 10


class TorchMLP(torch.nn.Module):
    def __init__(self, inputs: int = INPUTS) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(inputs, HIDDEN)
        self.output = torch.nn.Linear(HIDDEN, OUTPUTS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(torch.relu(self.hidden(x)))


class KerasMLP(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.flatten = keras.layers.Flatten()
        self.hidden = keras.layers.Dense(HIDDEN, activation="relu")
        self.out = keras.layers.Dense(OUTPUTS)

    def call(self, inputs: Any) -> Any:
        return self.out(self.hidden(self.flatten(inputs)))


class FlaxMLP(flax.linen.Module):
    def setup(self) -> None:
        self.hidden = flax.linen.Dense(HIDDEN)
        self.output = flax.linen.Dense(OUTPUTS)

    def __call__(self, x: Any) -> Any:
        return self.output(flax.linen.relu(self.hidden(x)))


class GluonMLP(gluon_nn.Block):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = gluon_nn.Dense(HIDDEN, activation="relu")
        self.output = gluon_nn.Dense(OUTPUTS)

    def forward(self, x: Any) -> Any:
        return self.output(self.hidden(x))


#: A net's parameters in the neutral names and axes.
Neutral = dict[str, np.ndarray[Any, Any]]


def random_weights(seed: int, inputs: int = INPUTS) -> Neutral:
    """Every weight and bias random, none zero."""
    rng = np.random.default_rng(seed)
    shapes = {
        "hidden.weight": (HIDDEN, inputs),
        "hidden.bias": (HIDDEN,),
        "output.weight": (OUTPUTS, HIDDEN),
        "output.bias": (OUTPUTS,),
    }
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def example_input(seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(4, INPUTS)).astype(np.float32)


# --- PyTorch


def torch_net(weights: Neutral) -> TorchMLP:
    net = TorchMLP()
    net.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    return net


def torch_load(path: Path) -> TorchMLP:
    net = TorchMLP()
    net.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return net.eval()


def torch_forward(net: TorchMLP, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return net(torch.tensor(x)).numpy()


def torch_weights(net: TorchMLP) -> Neutral:
    return {name: value.numpy() for name, value in net.state_dict().items()}


# --- TensorFlow


def keras_net(weights: Neutral, net: Any = None) -> Any:
    net = net or KerasMLP()
    net(np.zeros((2, INPUTS), np.float32))
    net.set_weights([weights[n].T for n in ("hidden.weight", "hidden.bias", "output.weight", "output.bias")])
    return net


def keras_load(path: Path) -> Any:
    net = KerasMLP()
    net(np.zeros((2, INPUTS), np.float32))
    net.load_weights(path)
    return net


def keras_forward(net: Any, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(net(x))


def keras_weights(net: Any) -> Neutral:
    names = ("hidden.weight", "hidden.bias", "output.weight", "output.bias")
    return {name: np.asarray(value).T for name, value in zip(names, net.get_weights(), strict=True)}


# --- JAX


def flax_net(weights: Neutral) -> Any:
    return {
        "params": {
            layer: {"kernel": jnp.asarray(weights[f"{layer}.weight"].T), "bias": jnp.asarray(weights[f"{layer}.bias"])}
            for layer in ("hidden", "output")
        }
    }


def flax_template() -> Any:
    return FlaxMLP().init(jax.random.PRNGKey(1), jnp.zeros((2, INPUTS)))


def flax_load(path: Path) -> Any:
    template = flax_template()
    found = flax.serialization.from_bytes(template, path.read_bytes())
    shapes = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, template, found)
    assert all(jax.tree.leaves(shapes))  # from_bytes checks the names only
    return found


def flax_forward(net: Any, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(FlaxMLP().apply(net, x))


def flax_weights(net: Any) -> Neutral:
    params = net["params"]
    return {
        f"{layer}.{role}": np.asarray(params[layer][leaf]).T
        for layer in ("hidden", "output")
        for role, leaf in (("weight", "kernel"), ("bias", "bias"))
    }


# --- MXNet


def gluon_net(weights: Neutral) -> GluonMLP:
    net = GluonMLP()
    net.initialize()
    net(mxnet.nd.zeros((2, INPUTS)))
    for name, parameter in net._collect_params_with_prefix().items():
        parameter.set_data(mxnet.nd.array(weights[name]))
    return net


def gluon_load(path: Path) -> GluonMLP:
    net = GluonMLP()
    net.load_parameters(str(path))
    return net


def gluon_forward(net: GluonMLP, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return net(mxnet.nd.array(x)).asnumpy()


def gluon_weights(net: GluonMLP) -> Neutral:
    return {name: value.data().asnumpy() for name, value in net._collect_params_with_prefix().items()}


@dataclass(frozen=True)
class Side:
    """One framework's part of the chapter.

    file: the chapter's name for what it saves, with the ending that the framework insists on.
    """

    name: str
    file: str
    make: Callable[[Neutral], Any]
    save: Callable[[Any, Path], None]
    load: Callable[[Path], Any]
    forward: Callable[[Any, np.ndarray[Any, Any]], np.ndarray[Any, Any]]
    weights: Callable[[Any], Neutral]


SIDES = {
    side.name: side
    for side in (
        Side(
            "torch",
            "mlp.params",
            torch_net,
            lambda net, path: torch.save(net.state_dict(), path),
            torch_load,
            torch_forward,
            torch_weights,
        ),
        Side(
            "tensorflow",
            "mlp.weights.h5",
            keras_net,
            lambda net, path: net.save_weights(path),
            keras_load,
            keras_forward,
            keras_weights,
        ),
        Side(
            "flax",
            "mlp.msgpack",
            flax_net,
            lambda net, path: path.write_bytes(flax.serialization.to_bytes(net)) and None,
            flax_load,
            flax_forward,
            flax_weights,
        ),
        Side(
            "mxnet",
            "mlp.params",
            gluon_net,
            lambda net, path: net.save_parameters(str(path)),
            gluon_load,
            gluon_forward,
            gluon_weights,
        ),
    )
}
PAIRS = [(a, b) for a in SIDES for b in SIDES if a != b]
