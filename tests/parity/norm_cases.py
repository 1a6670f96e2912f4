"""Normalisations and PReLU in all flavours, with and without the scales, offsets and slopes that may be missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon

from tests.parity.chains import Link, chain, normal
from tests.parity.conv_cases import conv
from tests.parity.sides import Case

EPS = 1e-5
CHANNELS = 6


def batch_norm(name: str, *, gluon_scale: bool = True) -> Link:
    """With all four tensors. ``gluon_scale=False``: gluon has a gamma that it does not use."""
    return Link(
        name,
        "batch_norm",
        lambda: torch.nn.BatchNorm2d(CHANNELS, EPS),
        lambda layers, own: layers.BatchNormalization(epsilon=EPS, name=own),
        lambda own: linen.BatchNorm(use_running_average=True, epsilon=EPS, name=own),
        lambda rngs: nnx.BatchNorm(CHANNELS, use_running_average=True, epsilon=EPS, rngs=rngs),
        lambda: gluon.BatchNorm(epsilon=EPS, in_channels=CHANNELS, scale=gluon_scale),
    )


def bare_batch_norm(name: str, *, scale: bool, offset: bool) -> Link:
    """Without a scale or an offset, where the framework can do without it."""
    neither = not scale and not offset
    missing = "_and_".join(role for role, there in (("scale", scale), ("offset", offset)) if not there)
    return Link(
        name,
        f"batch_norm_without_{missing}",
        (lambda: torch.nn.BatchNorm2d(CHANNELS, EPS, affine=False)) if neither else None,
        lambda layers, own: layers.BatchNormalization(epsilon=EPS, scale=scale, center=offset, name=own),
        lambda own: linen.BatchNorm(True, epsilon=EPS, use_scale=scale, use_bias=offset, name=own),
        lambda rngs: nnx.BatchNorm(
            CHANNELS, use_running_average=True, epsilon=EPS, use_scale=scale, use_bias=offset, rngs=rngs
        ),
    )


def layer_norm(name: str, *, scale: bool = True, offset: bool = True) -> Link:
    """Over the last axis of (batch, features)."""
    whole = scale and offset
    return Link(
        name,
        "norm" if scale else "norm_without_scale",
        (lambda: torch.nn.LayerNorm(CHANNELS, EPS, bias=offset)) if scale else None,
        lambda layers, own: layers.LayerNormalization(epsilon=EPS, scale=scale, center=offset, name=own),
        lambda own: linen.LayerNorm(epsilon=EPS, use_scale=scale, use_bias=offset, name=own),
        lambda rngs: nnx.LayerNorm(CHANNELS, epsilon=EPS, use_scale=scale, use_bias=offset, rngs=rngs),
        (lambda: gluon.LayerNorm(epsilon=EPS, in_channels=CHANNELS)) if whole else None,
    )


def group_norm(name: str, groups: int = 3) -> Link:
    """A scale for each channel; gluon has one for each group (see test_norm)."""
    return Link(
        name,
        "group_norm",
        lambda: torch.nn.GroupNorm(groups, CHANNELS, EPS),
        lambda layers, own: layers.GroupNormalization(groups, epsilon=EPS, name=own),
        lambda own: linen.GroupNorm(groups, epsilon=EPS, name=own),
        lambda rngs: nnx.GroupNorm(CHANNELS, groups, epsilon=EPS, rngs=rngs),
    )


def instance_norm(name: str) -> Link:
    return Link(
        name,
        "instance_norm",
        lambda: torch.nn.InstanceNorm2d(CHANNELS, EPS, affine=True),
        lambda layers, own: layers.GroupNormalization(-1, epsilon=EPS, name=own),
        lambda own: linen.InstanceNorm(epsilon=EPS, name=own),
        lambda rngs: nnx.InstanceNorm(CHANNELS, epsilon=EPS, rngs=rngs),
        lambda: gluon.InstanceNorm(epsilon=EPS, in_channels=CHANNELS),
    )


def rms_norm(name: str) -> Link:
    """Neither tf_keras nor gluon has it."""
    return Link(
        name,
        "rms_norm",
        lambda: torch.nn.RMSNorm(CHANNELS, EPS),
        lambda layers, own: layers.RMSNormalization(epsilon=EPS, name=own),
        lambda own: linen.RMSNorm(epsilon=EPS, name=own),
        lambda rngs: nnx.RMSNorm(CHANNELS, epsilon=EPS, rngs=rngs),
        without=("tf_keras",),
    )


def prelu_of_one(name: str) -> Link:
    """One slope for all; Keras has one for each channel at the least."""
    return Link(
        name,
        "prelu",
        torch.nn.PReLU,
        None,
        lambda own: linen.PReLU(name=own),
        lambda rngs: nnx.PReLU(),
        gluon.PReLU,
    )


def prelu_per_channel(name: str) -> Link:
    """Flax has one slope only."""

    def keras(layers: Any, own: str) -> Any:
        return layers.PReLU(shared_axes=(1, 2), name=own)

    return Link(name, "prelu", lambda: torch.nn.PReLU(CHANNELS), keras, gluon=lambda: gluon.PReLU(in_channels=CHANNELS))


def after_conv(name: str, *links: Link) -> Case:
    return chain(name, normal(2, 2, 5, 4), conv("conv", 2, CHANNELS), *links)


CASES = (
    after_conv("batch norm", batch_norm("norm")),
    after_conv("batch norm without scale", bare_batch_norm("norm", scale=False, offset=True)),
    after_conv("batch norm without offset", bare_batch_norm("norm", scale=True, offset=False)),
    after_conv("batch norm without both", bare_batch_norm("norm", scale=False, offset=False)),
    chain("layer norm", normal(4, CHANNELS), layer_norm("norm"), layer_norm("again"), spatial=False),
    chain("layer norm without offset", normal(4, CHANNELS), layer_norm("norm", offset=False), spatial=False),
    chain("layer norm without scale", normal(4, CHANNELS), layer_norm("norm", scale=False), spatial=False),
    chain("rms norm", normal(4, CHANNELS), rms_norm("norm"), spatial=False),
    after_conv("group norm", group_norm("norm")),
    after_conv("instance norm", instance_norm("norm")),
    after_conv("prelu of one slope", prelu_of_one("act")),
    # How many axes of size one Keras puts before the slopes, no other framework tells: only a clone does.
    replace(
        after_conv("prelu per channel", prelu_per_channel("act")),
        layers=(),
        kinds=("--kind", "conv=conv", "--kind", "act=prelu"),
    ),
)
