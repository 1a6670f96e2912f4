"""Nets whose layers are wired freely, in every flavour: one wiring, written once, in the words of each framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import mxnet
import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon

from tests.parity.chains import Link
from tests.parity.sides import Array, Case, channels_last, gluon_net, keras_net, linen_net, tf_keras_net

EPS = 1e-4

#: What a wiring may do without weights. ``unflatten``: features become so many channels of that space.
TORCH = SimpleNamespace(
    flatten=lambda x: x.flatten(1),
    unflatten=lambda x, channels, *space: x.reshape(len(x), channels, *space),
    pool=lambda x: x.flatten(2).mean(2),
    relu=torch.relu,
    add=lambda a, b: a + b,
    concat=lambda *xs: torch.cat(xs, 1),
)
JAX = SimpleNamespace(
    flatten=lambda x: x.reshape(len(x), -1),
    unflatten=lambda x, channels, *space: x.reshape(len(x), *space, channels),
    pool=lambda x: x.mean(tuple(range(1, x.ndim - 1))),
    relu=jax.nn.relu,
    add=lambda a, b: a + b,
    concat=lambda *xs: jnp.concatenate(xs, -1),
)
MXNET = SimpleNamespace(
    flatten=lambda x: x.flatten(),
    unflatten=lambda x, channels, *space: x.reshape((0, channels, *space)),
    pool=lambda x: x.reshape((0, 0, -1)).mean(2),
    relu=lambda x: x.relu(),
    add=lambda a, b: a + b,
    concat=lambda *xs: mxnet.nd.concat(*xs, dim=1),
)


def keras_words(layers: Any) -> SimpleNamespace:
    def applied(name: str, *given: Any, **words: Any) -> Any:
        return getattr(layers, name)(**words)(*given)

    return SimpleNamespace(
        flatten=lambda x: applied("Flatten", x),
        unflatten=lambda x, channels, *space: applied("Reshape", x, target_shape=(*space, channels)),
        pool=lambda x: applied(f"GlobalAveragePooling{len(x.shape) - 2}D", x),
        relu=lambda x: applied("ReLU", x),
        add=lambda a, b: applied("Add", [a, b]),
        concat=lambda *xs: applied("Concatenate", list(xs)),
    )


#: (words, call a layer by name, input) -> output
Wiring = Callable[[Any, Callable[[str, Any], Any], Any], Any]


@dataclass(frozen=True)
class Plan:
    """The layers in the order of their definition, and how they are wired."""

    links: Sequence[Link]
    wiring: Wiring

    @property
    def by_name(self) -> Mapping[str, Link]:
        return {link.name: link for link in self.links}


class TorchGraph(torch.nn.Module):
    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        for link in plan.links:
            assert link.torch is not None
            self.add_module(link.name, link.torch())

    def forward(self, x: torch.Tensor) -> Any:
        return self.plan.wiring(TORCH, lambda name, y: getattr(self, name)(y), x)


class LinenGraph(linen.Module):
    plan: Plan

    @linen.compact
    def __call__(self, x: Any) -> Any:
        made = {name: link.linen(name) for name, link in self.plan.by_name.items() if link.linen}
        return self.plan.wiring(JAX, lambda name, y: made[name](y), x)


class NnxGraph(nnx.Module):
    def __init__(self, plan: Plan) -> None:
        rngs = nnx.Rngs(0)
        self.wiring = plan.wiring
        for link in plan.links:
            assert link.nnx is not None
            setattr(self, link.name, link.nnx(rngs))

    def __call__(self, x: Any) -> Any:
        return self.wiring(JAX, lambda name, y: getattr(self, name)(y), x)


class GluonGraph(gluon.Block):  # type: ignore[misc]
    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        for link in plan.links:
            assert link.gluon is not None
            setattr(self, link.name, link.gluon())

    def forward(self, x: Any) -> Any:
        return self.plan.wiring(MXNET, lambda name, y: getattr(self, name)(y), x)


def graph(name: str, x: Array, links: Sequence[Link], wiring: Wiring, **more: Any) -> Case:
    """The case of a net of one input, channels first."""
    plan = Plan(tuple(links), wiring)
    last = channels_last(x)

    def keras(layers: Any) -> Callable[[Any], Any]:
        def call(y: Any) -> Any:
            made = {n: link.keras(layers, n) for n, link in plan.by_name.items() if link.keras}
            return wiring(keras_words(layers), lambda n, z: made[n](z), y)

        return call

    nets: dict[str, Callable[[], Any]] = {
        "torch": lambda: TorchGraph(plan),
        "keras": keras_net(keras, last.shape[1:]),
        "tf_keras": tf_keras_net(keras, last.shape[1:]),
        "linen": linen_net(lambda: LinenGraph(plan), last),
        "nnx": lambda: NnxGraph(plan),
        "gluon": gluon_net(lambda: GluonGraph(plan), x),
    }
    expressed = {flavour: net for flavour, net in nets.items() if all(link.made_by(flavour) for link in links)}
    layers = tuple({"path": link.name, "kind": link.kind, **(link.words or {})} for link in links)
    return Case(name, expressed, (x,), layers, spatial=True, **more)


def linear(name: str, given: int, taken: int, **words: Any) -> Link:
    """``words``: further keys of its schema entry (flatten, unflatten)."""
    return Link(
        name,
        "linear",
        lambda: torch.nn.Linear(given, taken),
        lambda layers, own: layers.Dense(taken, name=own),
        lambda own: linen.Dense(taken, name=own),
        lambda rngs: nnx.Linear(given, taken, rngs=rngs),
        lambda: gluon.Dense(taken, in_units=given),
        words,
    )


def norm(name: str, size: int, space: int = 2, **words: Any) -> Link:
    """A batch norm; ``space`` 0: of features."""
    return Link(
        name,
        "batch_norm",
        lambda: getattr(torch.nn, f"BatchNorm{max(space, 1)}d")(size, EPS),
        lambda layers, own: layers.BatchNormalization(epsilon=EPS, name=own),
        lambda own: linen.BatchNorm(use_running_average=True, epsilon=EPS, name=own),
        lambda rngs: nnx.BatchNorm(size, use_running_average=True, epsilon=EPS, rngs=rngs),
        lambda: gluon.BatchNorm(epsilon=EPS, in_channels=size),
        words,
    )
