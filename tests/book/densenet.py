"""The book's DenseNet, with fewer blocks and an eighth of the channels.

Sizes of the image are one more than a power of two, so that `same` padding is on both sides and all four agree.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from flax import linen
from mxnet.gluon import nn as gluon
from torch import nn

from tests.book.classifier import (
    EPSILON,
    classifier,
    gluon_row,
    image,
    jax_concat,
    linen_average,
    linen_flatten,
    linen_global,
    linen_same_pool,
    mxnet_concat,
)
from tests.parity.sides import Case

CLASSES = 10
STEM, GROWTH = 8, 4
#: Of each dense block the convolutions.
Arch = Sequence[int]
DENSENET: Arch = (3, 2, 3)


def halves(arch: Arch) -> list[int]:
    """The channels behind each transition: half of what the dense block before it gives."""
    channels, found = STEM, []
    for convs in arch[:-1]:
        channels = (channels + convs * GROWTH) // 2
        found.append(channels)
    return found


class TorchDenseBlock(nn.Module):
    def __init__(self, convs: int) -> None:
        super().__init__()
        blocks = [(nn.LazyBatchNorm2d(), nn.ReLU(), nn.LazyConv2d(GROWTH, 3, padding=1)) for _ in range(convs)]
        self.net = nn.Sequential(*(nn.Sequential(*block) for block in blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.net:
            x = torch.cat((x, block(x)), dim=1)
        return x


def torch_densenet(arch: Arch) -> torch.nn.Module:
    first = [nn.LazyConv2d(STEM, 7, stride=2, padding=3), nn.LazyBatchNorm2d(), nn.ReLU()]
    net = nn.Sequential(nn.Sequential(*first, nn.MaxPool2d(3, 2, padding=1)))
    for i, convs in enumerate(arch):
        net.add_module(f"dense_blk{i + 1}", TorchDenseBlock(convs))
        if i < len(arch) - 1:
            transition = [nn.LazyBatchNorm2d(), nn.ReLU(), nn.LazyConv2d(halves(arch)[i], 1), nn.AvgPool2d(2, 2)]
            net.add_module(f"tran_blk{i + 1}", nn.Sequential(*transition))
    last = [nn.LazyBatchNorm2d(), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(CLASSES)]
    net.add_module("last", nn.Sequential(*last))
    return net


@functools.cache
def keras_blocks(library: Any) -> SimpleNamespace:
    """The classes of the blocks."""
    kl = library.layers

    class ConvBlock(kl.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.bn = kl.BatchNormalization(epsilon=EPSILON)
            self.relu = kl.ReLU()
            self.conv = kl.Conv2D(GROWTH, (3, 3), padding="same")
            self.listLayers = [self.bn, self.relu, self.conv]

        def call(self, x: Any) -> Any:
            y = x
            for layer in self.listLayers:
                y = layer(y)
            return kl.Concatenate()([x, y])

    class DenseBlock(kl.Layer):  # type: ignore[misc]
        def __init__(self, convs: int) -> None:
            super().__init__()
            self.listLayers = []
            for _ in range(convs):
                self.listLayers.append(ConvBlock())

        def call(self, x: Any) -> Any:
            for layer in self.listLayers:
                x = layer(x)
            return x

    class TransitionBlock(kl.Layer):  # type: ignore[misc]
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.batch_norm = kl.BatchNormalization(epsilon=EPSILON)
            self.relu = kl.ReLU()
            self.conv = kl.Conv2D(channels, 1)
            self.avg_pool = kl.AvgPool2D(2, 2)

        def call(self, x: Any) -> Any:
            return self.avg_pool(self.conv(self.relu(self.batch_norm(x))))

    return SimpleNamespace(DenseBlock=DenseBlock, TransitionBlock=TransitionBlock)


def keras_densenet(library: Any, arch: Arch) -> Any:
    kl, blocks = library.layers, keras_blocks(library)
    first = [
        kl.Conv2D(STEM, 7, strides=2, padding="same"),
        kl.BatchNormalization(epsilon=EPSILON),
        kl.ReLU(),
        kl.MaxPool2D(3, 2, padding="same"),
    ]
    net = library.Sequential([library.Sequential(first)])
    for i, convs in enumerate(arch):
        net.add(blocks.DenseBlock(convs))
        if i < len(arch) - 1:
            net.add(blocks.TransitionBlock(halves(arch)[i]))
    last = [kl.ReLU(), kl.GlobalAvgPool2D(), kl.Flatten(), kl.Dense(CLASSES)]
    net.add(library.Sequential([kl.BatchNormalization(epsilon=EPSILON), *last]))
    return net


class LinenConvBlock(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        y = linen.relu(linen.BatchNorm(True)(x))
        return jax_concat(x, linen.Conv(GROWTH, (3, 3), padding=(1, 1))(y))


class LinenDenseBlock(linen.Module):
    convs: int

    def setup(self) -> None:
        self.net = linen.Sequential([LinenConvBlock() for _ in range(self.convs)])

    def __call__(self, x: Any) -> Any:
        return self.net(x)


class LinenTransition(linen.Module):
    channels: int

    @linen.compact
    def __call__(self, x: Any) -> Any:
        y = linen.relu(linen.BatchNorm(True)(x))
        return linen_average(linen.Conv(self.channels, (1, 1))(y))


def linen_densenet(arch: Arch) -> Any:
    """All in one Sequential, that of the first block, which the book makes longer."""
    first = linen.Conv(STEM, (7, 7), (2, 2), padding="SAME")
    net = linen.Sequential([first, linen.BatchNorm(True), linen.relu, linen_same_pool])
    for i, convs in enumerate(arch):
        net.layers.append(LinenDenseBlock(convs))
        if i < len(arch) - 1:
            net.layers.append(LinenTransition(halves(arch)[i]))
    net.layers.extend([linen.BatchNorm(True), linen.relu, linen_global, linen_flatten, linen.Dense(CLASSES)])
    return net


class GluonDenseBlock(gluon.Block):  # type: ignore[misc]
    def __init__(self, convs: int) -> None:
        super().__init__()
        blocks = [
            (gluon.BatchNorm(), gluon.Activation("relu"), gluon.Conv2D(GROWTH, 3, padding=1)) for _ in range(convs)
        ]
        self.net = gluon_row(*(gluon_row(*block) for block in blocks))

    def forward(self, x: Any) -> Any:
        for block in self.net:
            x = mxnet_concat(x, block(x))
        return x


def gluon_densenet(arch: Arch) -> Any:
    first = [gluon.Conv2D(STEM, 7, 2, 3), gluon.BatchNorm(), gluon.Activation("relu"), gluon.MaxPool2D(3, 2, 1)]
    net = gluon_row(gluon_row(*first))
    for i, convs in enumerate(arch):
        net.add(GluonDenseBlock(convs))
        if i < len(arch) - 1:
            transition = [gluon.BatchNorm(), gluon.Activation("relu"), gluon.Conv2D(halves(arch)[i], 1)]
            net.add(gluon_row(*transition, gluon.AvgPool2D(2, 2)))
    net.add(gluon.BatchNorm(), gluon.Activation("relu"), gluon.GlobalAvgPool2D(), gluon.Dense(CLASSES))
    return net


def densenet(arch: Arch) -> Case:
    return classifier(
        "densenet",
        image(1, 65, 33),
        lambda: torch_densenet(arch),
        lambda library: keras_densenet(library, arch),
        lambda: linen_densenet(arch),
        lambda: gluon_densenet(arch),
    )


CASES = (densenet(DENSENET),)
OTHER_SIZES = (densenet((2, 1)), densenet((2,)))
