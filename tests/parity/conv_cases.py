"""Convolutions in all flavours: plain, grouped, dilated, depthwise, separable, transposed, one to three dimensions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon

from tests.parity.chains import GluonChain, Link, NnxChain, TorchChain, chain, normal
from tests.parity.sides import Case

KERNELS = {1: (3,), 2: (3, 2), 3: (2, 3, 4)}
SIZES = {1: (11,), 2: (11, 9), 3: (9, 15, 25)}


def conv(
    name: str,
    given: int,
    taken: int,
    *,
    space: int = 2,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
    kernel: tuple[int, ...] = (),
) -> Link:
    """A convolution without padding; ``given`` channels in, ``taken`` out."""
    kernel = kernel or KERNELS[space]
    torch_class = getattr(torch.nn, f"Conv{space}d")
    gluon_class = getattr(gluon, f"Conv{space}D")
    words = {"strides": (stride,) * space, "feature_group_count": groups, "kernel_dilation": (dilation,) * space}
    return Link(
        name,
        "conv",
        lambda: torch_class(given, taken, kernel, stride, dilation=dilation, groups=groups, bias=bias),
        lambda layers, own: getattr(layers, f"Conv{space}D")(
            taken, kernel, stride, dilation_rate=dilation, groups=groups, use_bias=bias, name=own
        ),
        lambda own: linen.Conv(taken, kernel, padding="VALID", use_bias=bias, name=own, **words),
        lambda rngs: nnx.Conv(given, taken, kernel, padding="VALID", use_bias=bias, rngs=rngs, **words),
        lambda: gluon_class(
            taken, kernel, (stride,) * space, 0, (dilation,) * space, groups, use_bias=bias, in_channels=given
        ),
    )


def depthwise(name: str, channels: int, multiplier: int, *, space: int = 2, bias: bool = True) -> Link:
    """Every channel alone makes ``multiplier`` others: a convolution of as many groups as channels."""
    plain = conv(name, channels, channels * multiplier, space=space, groups=channels, bias=bias)

    def keras(layers: Any, own: str) -> Any:
        made = getattr(layers, f"DepthwiseConv{space}D")
        return made(KERNELS[space], depth_multiplier=multiplier, use_bias=bias, name=own)

    return Link(
        name, "depthwise", plain.torch, keras, plain.linen, plain.nnx, plain.gluon, words={"multiplier": multiplier}
    )


class SeparableLinen(linen.Module):
    parts: tuple[Link, Link]

    @linen.compact
    def __call__(self, x: Any) -> Any:
        for part in self.parts:
            assert part.linen is not None
            x = part.linen(part.name)(x)
        return x


def separable(name: str, given: int, taken: int, multiplier: int, *, space: int) -> Link:
    """A depthwise convolution and one without extent: one layer in Keras, a module of two elsewhere."""
    first = depthwise("depthwise", given, multiplier, space=space, bias=False)
    second = conv("pointwise", given * multiplier, taken, space=space, kernel=(1,) * space)

    def keras(layers: Any, own: str) -> Any:
        made = getattr(layers, f"SeparableConv{space}D")
        return made(taken, KERNELS[space], depth_multiplier=multiplier, name=own)

    return Link(
        name,
        "conv",
        lambda: TorchChain((first, second)),
        keras,
        lambda own: SeparableLinen((first, second), name=own),
        lambda rngs: NnxChain((first, second)),
        lambda: GluonChain((first, second)),
    )


def transposed(
    name: str,
    given: int,
    taken: int,
    *,
    space: int = 2,
    stride: int = 1,
    groups: int = 1,
    bias: bool = True,
    flipped: bool = True,
) -> Link:
    """A transposed convolution; ``flipped`` as Flax does it by itself, or with transpose_kernel=True."""
    kernel = KERNELS[space]
    torch_class = getattr(torch.nn, f"ConvTranspose{space}d")
    gluon_class = getattr(gluon, f"Conv{space}DTranspose")
    words = {"strides": (stride,) * space, "padding": "VALID", "transpose_kernel": not flipped}
    return Link(
        name,
        "conv_transpose" if flipped else "transpose_kernel",
        lambda: torch_class(given, taken, kernel, stride, groups=groups, bias=bias),
        None
        if groups > 1
        else lambda layers, own: getattr(layers, f"Conv{space}DTranspose")(
            taken, kernel, stride, use_bias=bias, name=own
        ),
        None if groups > 1 else lambda own: linen.ConvTranspose(taken, kernel, use_bias=bias, name=own, **words),
        None if groups > 1 else lambda rngs: nnx.ConvTranspose(given, taken, kernel, use_bias=bias, rngs=rngs, **words),
        lambda: gluon_class(taken, kernel, (stride,) * space, groups=groups, use_bias=bias, in_channels=given),
    )


def plain(space: int) -> Case:
    return chain(
        f"conv{space}d",
        normal(2, 2, *SIZES[space]),
        conv("first", 2, 6, space=space, stride=2),
        conv("second", 6, 4, space=space, groups=2) if space < 3 else conv("second", 6, 4, space=space),
        conv("third", 4, 3, space=space, bias=False),
    )


def deep(space: int, multiplier: int) -> Case:
    return chain(
        f"depthwise{space}d of {multiplier}",
        normal(2, 3, *SIZES[space]),
        depthwise("first", 3, multiplier, space=space),
        depthwise("second", 3 * multiplier, multiplier, space=space, bias=False),
    )


def up(space: int, flipped: bool) -> Case:
    return chain(
        f"conv{space}d transposed{'' if flipped else ' with transpose_kernel'}",
        normal(2, 4, *(size // 3 for size in SIZES[space])),
        transposed("first", 4, 3, space=space, stride=2, flipped=flipped),
        transposed("second", 3, 5, space=space, bias=False, flipped=flipped),
    )


CASES = (
    plain(1),
    plain(2),
    plain(3),
    chain("conv2d dilated", normal(2, 2, 11, 9), conv("first", 2, 5, dilation=2), conv("second", 5, 3)),
    chain(
        "conv1d in groups, dilated",
        normal(2, 4, 30),
        conv("first", 4, 6, space=1, groups=2, dilation=2),
        conv("second", 6, 6, space=1, groups=3, stride=2, bias=False),
    ),
    # TensorFlow has no groups in three dimensions.
    chain(
        "conv3d in groups, dilated",
        normal(2, 4, 6, 9, 13),
        replace(conv("first", 4, 6, space=3, groups=2, dilation=2), keras=None),
        replace(conv("second", 6, 6, space=3, groups=3, bias=False), keras=None),
    ),
    deep(1, 1),
    deep(1, 2),
    deep(2, 1),
    deep(2, 2),
    # Without a clone nothing tells that Keras keeps both in one layer.
    *(
        replace(
            chain(f"separable{space}d", normal(2, 3, *SIZES[space]), separable("both", 3, 5, 2, space=space)),
            layers=(),
            kinds=("--kind", "both*=conv"),
        )
        for space in (1, 2)
    ),
    *(up(space, flipped) for space in (1, 2, 3) for flipped in (True, False)),
    chain(
        "conv2d transposed in groups",
        normal(2, 4, 5, 4),
        transposed("first", 4, 6, groups=2, stride=2),
        transposed("second", 6, 9, groups=3, bias=False),
    ),
)
