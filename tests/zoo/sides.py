"""The frameworks of the zoo: how a net is made random, saved, loaded strictly and run."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
#: Tables that a net computes with and never learns: other values would make it another function.
#: So would those of Keras' Normalization, which a net in memory takes from a file alone.
CONSTANT = re.compile(
    r"inv_freq|attn_mask|relative_coords|coords_table|causal_mask|masked_bias|(^|/)normalization/(mean|variance)$"
)
VARIANCE = re.compile(r"(^|_)var(iance)?$")
GAIN = re.compile(r"^(weight|gamma|scale|g)$")


def random_value(path: str, shape: tuple[int, ...], fan_in: int, rng: np.random.Generator) -> Array:
    """Of a size that keeps the activations of a deep net near one."""
    name = re.split(r"[./]", path)[-1]
    if VARIANCE.search(name):
        value = rng.uniform(0.6, 1.6, shape)
    elif len(shape) < 2:
        value = rng.uniform(0.6, 1.4, shape) if GAIN.search(name.rsplit("_", 1)[-1]) else rng.normal(0, 0.2, shape)
    else:
        value = rng.normal(0, 1.2 / math.sqrt(fan_in), shape)
    return np.asarray(value, np.float32)


def fan_first(shape: tuple[int, ...]) -> int:
    """Inputs of one output, where outputs come first (PyTorch, gluon)."""
    return math.prod(shape[1:])


def fan_last(shape: tuple[int, ...]) -> int:
    """The same where outputs come last (Keras, Flax); in Keras a depthwise kernel has one input a channel."""
    return math.prod(shape[:-2] if len(shape) == 4 and shape[-1] == 1 else shape[:-1])


@dataclass(frozen=True)
class Linen:
    """A linen module with its variables, so that it is one object as in the other frameworks.

    apply: the module as one compiled program for all values.
    """

    module: Any
    variables: Any
    apply: Callable[..., Any]


@dataclass(frozen=True)
class Side:
    """A framework. ``name`` is that of the command line, ``ending`` that of its files.

    last: whether channels are the last axis of images. live: what `converter.load_into` takes, and back: how what it
    gave becomes a net again.
    """

    name: str
    ending: str
    randomise: Callable[[Any, np.random.Generator], Any]
    epsilon: Callable[[Any, float], None]
    save: Callable[[Any, Path], object]
    load: Callable[[Any, Path], Any]
    run: Callable[[Any, Any], Any]
    last: bool = False
    live: Callable[[Any], Any] = lambda net: net
    back: Callable[[Any, Any], Any] = lambda net, filled: filled


# -- PyTorch -----------------------------------------------------------------------------------------------------------


def _torch_random(net: Any, rng: np.random.Generator) -> Any:
    import torch

    with torch.no_grad():
        for path, value in net.state_dict().items():
            shape = tuple(value.shape)
            if value.is_floating_point() and not CONSTANT.search(path):
                value.copy_(torch.tensor(random_value(path, shape, fan_first(shape), rng)))
    return net.eval()


def _torch_epsilon(net: Any, epsilon: float) -> None:
    for module in net.modules():
        for name in ("eps", "layer_norm_eps", "variance_epsilon"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, epsilon)


def _torch_save(net: Any, path: Path) -> None:
    import torch

    torch.save(net.state_dict(), path)


def _torch_load(net: Any, path: Path) -> Any:
    import torch

    net.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return net.eval()


def _torch_run(net: Any, inputs: Any) -> Any:
    import torch

    with torch.no_grad():
        return _called(net, inputs, torch.tensor)


def _called(net: Any, inputs: Any, tensor: Callable[[Array], Any]) -> Any:
    """A dict is of keywords, a tuple of arguments."""

    def made(value: Any) -> Any:
        return tensor(value) if isinstance(value, np.ndarray) else value

    if isinstance(inputs, Mapping):
        return net(**{name: made(value) for name, value in inputs.items()})
    return net(*map(made, inputs)) if isinstance(inputs, tuple) else net(made(inputs))


# -- Keras -------------------------------------------------------------------------------------------------------------


def _keras_random(net: Any, rng: np.random.Generator) -> Any:
    for value in net.weights:
        shape = tuple(value.shape)
        if "float" in str(value.dtype) and not CONSTANT.search(value.path):
            value.assign(random_value(value.path, shape, fan_last(shape), rng))
    return net


def _keras_epsilon(net: Any, epsilon: float) -> None:
    for layer in net._flatten_layers():
        if isinstance(getattr(layer, "epsilon", None), float):
            layer.epsilon = epsilon


def _keras_load(net: Any, path: Path) -> Any:
    net.load_weights(str(path))
    return net


def _keras_run(net: Any, inputs: Any) -> Any:
    return net(inputs, training=False)  # of several inputs Keras takes the list or the dict as they are


# -- Flax --------------------------------------------------------------------------------------------------------------


def linen(module: Any, *xs: Any, **keywords: Any) -> Linen:
    """Of zeros: to compile the initializers takes a minute for some nets. keywords: such as ``train=False``."""
    import jax

    shapes = jax.eval_shape(lambda *xs: module.init(jax.random.key(0), *xs, **keywords), *xs)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return Linen(module, zeros, jax.jit(functools.partial(module.apply, **keywords)))


def _linen_random(net: Linen, rng: np.random.Generator) -> Linen:
    import jax

    def made(path: Any, value: Array) -> Array:
        name = "/".join(str(getattr(key, "key", key)) for key in path)
        return random_value(name, value.shape, fan_last(value.shape), rng)

    return replace(net, variables=jax.tree_util.tree_map_with_path(made, net.variables))


def _linen_save(net: Linen, path: Path) -> None:
    import flax.serialization

    path.write_bytes(flax.serialization.to_bytes(net.variables))


def _linen_load(net: Linen, path: Path) -> Linen:
    """Strictly: ``from_bytes`` checks the names only."""
    import flax.serialization
    import jax

    variables = flax.serialization.from_bytes(net.variables, path.read_bytes())
    same = jax.tree.map(lambda new, old: np.shape(new) == np.shape(old), variables, net.variables)
    assert all(jax.tree.leaves(same)), "a loaded array has another shape"
    return replace(net, variables=variables)


def _linen_run(net: Linen, inputs: Any) -> Any:
    return net.apply(net.variables, *(inputs if isinstance(inputs, tuple) else (inputs,)))


# -- gluon -------------------------------------------------------------------------------------------------------------


def _gluon_random(net: Any, rng: np.random.Generator) -> Any:
    import mxnet

    for path, parameter in net._collect_params_with_prefix().items():
        if not CONSTANT.search(path):
            value = random_value(path, parameter.shape, fan_first(parameter.shape), rng)
            parameter.set_data(mxnet.nd.array(value))
    return net


def _gluon_epsilon(net: Any, epsilon: float) -> None:
    def change(block: Any) -> None:
        if hasattr(block, "_kwargs") and "eps" in block._kwargs:
            block._kwargs["eps"] = epsilon

    net.apply(change)


def _gluon_load(net: Any, path: Path) -> Any:
    net.load_parameters(str(path))
    return net


def _gluon_run(net: Any, inputs: Any) -> Any:
    import mxnet

    return _called(net, inputs, mxnet.nd.array)


SIDES: Mapping[str, Side] = {
    "torch": Side("torch", ".pt", _torch_random, _torch_epsilon, _torch_save, _torch_load, _torch_run),
    "keras": Side(
        "tensorflow",
        ".weights.h5",
        _keras_random,
        _keras_epsilon,
        lambda net, path: net.save_weights(str(path)),
        _keras_load,
        _keras_run,
        last=True,
    ),
    "linen": Side(
        "flax",
        ".msgpack",
        _linen_random,
        lambda net, epsilon: None,  # a module cannot be changed: it is built with it
        _linen_save,
        _linen_load,
        _linen_run,
        last=True,
        live=lambda net: (net.module, net.variables),
        back=lambda net, filled: replace(net, variables=filled[1]),
    ),
    "gluon": Side(
        "mxnet",
        ".params",
        _gluon_random,
        _gluon_epsilon,
        lambda net, path: net.save_parameters(str(path)),
        _gluon_load,
        _gluon_run,
    ),
}


def to_numpy(value: Any) -> Array:
    if isinstance(value, np.ndarray):
        return value
    return value.asnumpy() if hasattr(value, "asnumpy") else np.asarray(value)
