"""A layer that PyTorch keeps in pieces (weight and spectral normalisation), and the plain one elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon
from torch.nn.utils import parametrizations

from tests.parity.chains import Link, chain, normal
from tests.parity.conv_cases import conv, transposed
from tests.parity.sides import Case

Wrap = Callable[[torch.nn.Module], torch.nn.Module]


def dense(name: str, given: int, made: int) -> Link:
    return Link(
        name,
        "linear",
        lambda: torch.nn.Linear(given, made),
        lambda layers, own: layers.Dense(made, name=own),
        lambda own: linen.Dense(made, name=own),
        lambda rngs: nnx.Linear(given, made, rngs=rngs),
        lambda: gluon.Dense(made, in_units=given),
    )


#: Name -> the layer, its kind, and what goes in. The last two are square: their shapes do not tell the output axis.
LAYERS = {
    "linear": (dense("layer", 3, 5), normal(4, 3)),
    "conv1d": (conv("layer", 2, 5, space=1), normal(2, 2, 11)),
    "conv2d": (conv("layer", 2, 5), normal(2, 2, 11, 9)),
    "transposed": (transposed("layer", 2, 5), normal(2, 2, 7, 5)),
    "square conv2d": (conv("layer", 4, 4), normal(2, 4, 11, 9)),
    "square transposed": (transposed("layer", 4, 4), normal(2, 4, 7, 5)),
}
WRAPS: dict[str, Wrap] = {
    "weight_norm": torch.nn.utils.weight_norm,
    "weight_norm of axis 1": lambda layer: torch.nn.utils.weight_norm(layer, dim=1),
    "weight_norm of all axes": lambda layer: torch.nn.utils.weight_norm(layer, dim=None),
    "parametrized weight_norm": parametrizations.weight_norm,
    "parametrized weight_norm of axis 1": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "spectral_norm": torch.nn.utils.spectral_norm,
    "parametrized spectral_norm": parametrizations.spectral_norm,
}


def plain(name: str) -> Case:
    link, x = LAYERS[name]
    return chain(name, x, link, spatial=x.ndim > 2)


def normalised(name: str, wrap: str) -> Case:
    """The same with its layer normalised, in PyTorch."""
    link, x = LAYERS[name]
    made = link.torch
    assert made is not None
    wrapped = replace(link, torch=lambda: WRAPS[wrap](made()), keras=None, linen=None, nnx=None, gluon=None)
    return chain(f"{wrap} of {name}", x, wrapped, spatial=x.ndim > 2)


def from_torch(name: str, wrap: str) -> Case:
    """Folded into the plain layers of the other flavours, and kept as it is in PyTorch."""
    ours, others = normalised(name, wrap), plain(name)
    return replace(others, name=ours.name, nets={**others.nets, **ours.nets}, givers=("torch",), layers=())


CASES = tuple(from_torch(name, wrap) for wrap in WRAPS for name in ("linear", "conv2d", "transposed"))
