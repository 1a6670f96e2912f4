"""Nets that apply named layers one after the other, in every flavour: how the cases of one layer kind are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon

from tests.parity.sides import (
    Array,
    Case,
    channels_last,
    gluon_net,
    keras_net,
    linen_net,
    tf_keras_net,
)


@dataclass(frozen=True)
class Link:
    """One layer: how each flavour makes it. A flavour without it cannot express the case.

    keras: from the module of its layers and the name. linen: from the name. nnx: from its rngs. The others: from
    nothing. kind: that of the schema (more in ``words``); None for what has no weights.
    """

    name: str
    kind: str | None
    torch: Callable[[], Any] | None = None
    keras: Callable[[Any, str], Any] | None = None
    linen: Callable[[str], Any] | None = None
    nnx: Callable[[nnx.Rngs], Any] | None = None
    gluon: Callable[[], Any] | None = None
    words: Mapping[str, Any] | None = None
    without: Sequence[str] = ()

    def made_by(self, flavour: str) -> Any:
        """What makes it in that flavour; tf_keras has the layers of Keras, but for those ``without``."""
        return None if flavour in self.without else getattr(self, flavour.removeprefix("tf_"))


class TorchChain(torch.nn.Module):
    def __init__(self, links: Sequence[Link]) -> None:
        super().__init__()
        self.names = [link.name for link in links]
        for link in links:
            assert link.torch is not None
            self.add_module(link.name, link.torch())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.names:
            x = getattr(self, name)(x)
        return x


class LinenChain(linen.Module):
    links: tuple[Link, ...]

    @linen.compact
    def __call__(self, x: Any) -> Any:
        for link in self.links:
            assert link.linen is not None
            x = link.linen(link.name)(x)
        return x


class NnxChain(nnx.Module):
    def __init__(self, links: Sequence[Link]) -> None:
        rngs = nnx.Rngs(0)
        self.order = tuple(link.name for link in links)
        for link in links:
            assert link.nnx is not None
            setattr(self, link.name, link.nnx(rngs))

    def __call__(self, x: Any) -> Any:
        for name in self.order:
            x = getattr(self, name)(x)
        return x


class GluonChain(gluon.HybridBlock):
    def __init__(self, links: Sequence[Link]) -> None:
        super().__init__()
        self.order = [link.name for link in links]
        for link in links:
            assert link.gluon is not None
            setattr(self, link.name, link.gluon())

    def hybrid_forward(self, functions: Any, x: Any) -> Any:
        for name in self.order:
            x = getattr(self, name)(x)
        return x


def chain(name: str, x: Array, *links: Link, spatial: bool = True, **more: Any) -> Case:
    """The case of a net of these layers. ``x``: the input, channels first where it is ``spatial``."""
    last = channels_last(x) if spatial else x

    def keras(layers: Any) -> Callable[[Any], Any]:
        def call(y: Any) -> Any:
            for link in links:
                assert link.keras is not None
                y = link.keras(layers, link.name)(y)
            return y

        return call

    nets: dict[str, Callable[[], Any]] = {
        "torch": lambda: TorchChain(links),
        "keras": keras_net(keras, last.shape[1:]),
        "tf_keras": tf_keras_net(keras, last.shape[1:]),
        "linen": linen_net(lambda: LinenChain(links), last),
        "nnx": lambda: NnxChain(links),
        "gluon": gluon_net(lambda: GluonChain(links), x),
    }
    expressed = {flavour: net for flavour, net in nets.items() if all(link.made_by(flavour) for link in links)}
    layers = tuple({"path": link.name, "kind": link.kind, **(link.words or {})} for link in links if link.kind)
    return Case(name, expressed, (x,), layers, spatial=spatial, **more)


def normal(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)
