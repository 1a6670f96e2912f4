"""The book's ResNet-18, and its AnyNet of ResNeXt blocks, with few channels.

Sizes of the image are one more than a power of two, so that `same` padding is on both sides and all four agree.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
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
    linen_flatten,
    linen_global,
    linen_same_pool,
)
from tests.parity.sides import Case

CLASSES = 10
#: Of each stage the blocks and their channels. The first has those of the stem, and keeps the size of the image.
Arch = Sequence[tuple[int, int]]
RESNET_18: Arch = ((2, 4), (2, 6), (2, 8), (2, 10))
RESNEXT: Arch = ((2, 8), (3, 12))
STEM, GROUP_WIDTH = 6, 4


# -- ResNet ---------------------------------------------------------------------------------------------------------


class TorchResidual(nn.Module):
    def __init__(self, channels: int, use_1x1conv: bool = False, strides: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.LazyConv2d(channels, 3, padding=1, stride=strides)
        self.conv2 = nn.LazyConv2d(channels, 3, padding=1)
        self.conv3 = nn.LazyConv2d(channels, 1, stride=strides) if use_1x1conv else None
        self.bn1 = nn.LazyBatchNorm2d()
        self.bn2 = nn.LazyBatchNorm2d()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (self.conv3(x) if self.conv3 is not None else x))


@functools.cache
def keras_residual(library: Any) -> Any:
    kl = library.layers

    class Residual(library.Model):  # type: ignore[misc]
        def __init__(self, channels: int, use_1x1conv: bool = False, strides: int = 1) -> None:
            super().__init__()
            self.conv1 = kl.Conv2D(channels, 3, padding="same", strides=strides)
            self.conv2 = kl.Conv2D(channels, 3, padding="same")
            self.conv3 = kl.Conv2D(channels, 1, strides=strides) if use_1x1conv else None
            self.bn1 = kl.BatchNormalization(epsilon=EPSILON)
            self.bn2 = kl.BatchNormalization(epsilon=EPSILON)

        def call(self, x: Any) -> Any:
            y = self.bn2(self.conv2(library.activations.relu(self.bn1(self.conv1(x)))))
            return library.activations.relu(y + (self.conv3(x) if self.conv3 is not None else x))

    return Residual


class LinenResidual(linen.Module):
    channels: int
    use_1x1conv: bool = False
    strides: int = 1

    def setup(self) -> None:
        self.conv1 = linen.Conv(self.channels, (3, 3), padding="SAME", strides=self.strides)
        self.conv2 = linen.Conv(self.channels, (3, 3), padding="SAME")
        self.conv3 = linen.Conv(self.channels, (1, 1), strides=self.strides) if self.use_1x1conv else None
        self.bn1 = linen.BatchNorm(True)
        self.bn2 = linen.BatchNorm(True)

    def __call__(self, x: Any) -> Any:
        y = self.bn2(self.conv2(linen.relu(self.bn1(self.conv1(x)))))
        return linen.relu(y + (self.conv3(x) if self.conv3 is not None else x))


class GluonResidual(gluon.Block):  # type: ignore[misc]
    def __init__(self, channels: int, use_1x1conv: bool = False, strides: int = 1) -> None:
        super().__init__()
        self.conv1 = gluon.Conv2D(channels, 3, padding=1, strides=strides)
        self.conv2 = gluon.Conv2D(channels, 3, padding=1)
        self.conv3 = gluon.Conv2D(channels, 1, strides=strides) if use_1x1conv else None
        self.bn1 = gluon.BatchNorm()
        self.bn2 = gluon.BatchNorm()

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (self.conv3(x) if self.conv3 is not None else x)).relu()


def stages(block: Callable[..., Any], arch: Arch) -> list[list[Any]]:
    """All blocks of ResNet; the first of a stage halves the image, but for that of the first stage."""
    return [
        [block(channels, True, 2) if i and not j else block(channels) for j in range(depth)]
        for i, (depth, channels) in enumerate(arch)
    ]


def torch_resnet(arch: Arch) -> torch.nn.Module:
    first = [nn.LazyConv2d(arch[0][1], 7, stride=2, padding=3), nn.LazyBatchNorm2d(), nn.ReLU()]
    net = nn.Sequential(nn.Sequential(*first, nn.MaxPool2d(3, 2, padding=1)))
    for i, blocks in enumerate(stages(TorchResidual, arch)):
        net.add_module(f"b{i + 2}", nn.Sequential(*blocks))
    net.add_module("last", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(CLASSES)))
    return net


def keras_resnet(library: Any, arch: Arch) -> Any:
    kl = library.layers
    first = [
        kl.Conv2D(arch[0][1], 7, strides=2, padding="same"),
        kl.BatchNormalization(epsilon=EPSILON),
        kl.Activation("relu"),
        kl.MaxPool2D(3, 2, padding="same"),
    ]
    middle = [library.Sequential(blocks) for blocks in stages(keras_residual(library), arch)]
    return library.Sequential([library.Sequential(first), *middle, keras_head(library)])


def linen_resnet(arch: Arch) -> Any:
    first = [linen.Conv(arch[0][1], (7, 7), (2, 2), padding="SAME"), linen.BatchNorm(True), linen.relu]
    middle = [linen.Sequential(blocks) for blocks in stages(LinenResidual, arch)]
    return linen.Sequential([linen.Sequential([*first, linen_same_pool]), *middle, linen_head()])


def gluon_resnet(arch: Arch) -> Any:
    first = [gluon.Conv2D(arch[0][1], 7, 2, 3), gluon.BatchNorm(), gluon.Activation("relu")]
    middle = [gluon_row(*blocks) for blocks in stages(GluonResidual, arch)]
    return gluon_row(gluon_row(*first, gluon.MaxPool2D(3, 2, 1)), *middle, *gluon_head())


def keras_head(library: Any) -> Any:
    return library.Sequential([library.layers.GlobalAvgPool2D(), library.layers.Dense(CLASSES)])


def linen_head() -> Any:
    return linen.Sequential([linen_global, linen_flatten, linen.Dense(CLASSES)])


def gluon_head() -> Sequence[Any]:
    return gluon.GlobalAvgPool2D(), gluon.Dense(CLASSES)


# -- ResNeXt --------------------------------------------------------------------------------------------------------


class TorchResNeXtBlock(nn.Module):
    def __init__(self, channels: int, use_1x1conv: bool = False, strides: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.LazyConv2d(channels, 1)
        self.conv2 = nn.LazyConv2d(channels, 3, stride=strides, padding=1, groups=channels // GROUP_WIDTH)
        self.conv3 = nn.LazyConv2d(channels, 1)
        self.bn1 = nn.LazyBatchNorm2d()
        self.bn2 = nn.LazyBatchNorm2d()
        self.bn3 = nn.LazyBatchNorm2d()
        self.conv4 = None
        if use_1x1conv:
            self.conv4 = nn.LazyConv2d(channels, 1, stride=strides)
            self.bn4 = nn.LazyBatchNorm2d()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return torch.relu(self.bn3(self.conv3(y)) + (self.bn4(self.conv4(x)) if self.conv4 is not None else x))


@functools.cache
def keras_resnext_block(library: Any) -> Any:
    kl = library.layers

    class ResNeXtBlock(library.Model):  # type: ignore[misc]
        def __init__(self, channels: int, use_1x1conv: bool = False, strides: int = 1) -> None:
            super().__init__()
            self.conv1 = kl.Conv2D(channels, 1)
            self.conv2 = kl.Conv2D(channels, 3, strides=strides, padding="same", groups=channels // GROUP_WIDTH)
            self.conv3 = kl.Conv2D(channels, 1)
            self.bn1 = kl.BatchNormalization(epsilon=EPSILON)
            self.bn2 = kl.BatchNormalization(epsilon=EPSILON)
            self.bn3 = kl.BatchNormalization(epsilon=EPSILON)
            self.conv4 = None
            if use_1x1conv:
                self.conv4 = kl.Conv2D(channels, 1, strides=strides)
                self.bn4 = kl.BatchNormalization(epsilon=EPSILON)

        def call(self, x: Any) -> Any:
            relu = library.activations.relu
            y = relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))))
            return relu(self.bn3(self.conv3(y)) + (self.bn4(self.conv4(x)) if self.conv4 is not None else x))

    return ResNeXtBlock


class LinenResNeXtBlock(linen.Module):
    channels: int
    use_1x1conv: bool = False
    strides: int = 1

    def setup(self) -> None:
        groups = self.channels // GROUP_WIDTH
        self.conv1 = linen.Conv(self.channels, (1, 1))
        self.conv2 = linen.Conv(self.channels, (3, 3), strides=self.strides, padding="SAME", feature_group_count=groups)
        self.conv3 = linen.Conv(self.channels, (1, 1))
        self.bn1 = linen.BatchNorm(True)
        self.bn2 = linen.BatchNorm(True)
        self.bn3 = linen.BatchNorm(True)
        if self.use_1x1conv:
            self.conv4 = linen.Conv(self.channels, (1, 1), strides=self.strides)
            self.bn4 = linen.BatchNorm(True)
        else:
            self.conv4 = None

    def __call__(self, x: Any) -> Any:
        y = linen.relu(self.bn2(self.conv2(linen.relu(self.bn1(self.conv1(x))))))
        return linen.relu(self.bn3(self.conv3(y)) + (self.bn4(self.conv4(x)) if self.conv4 is not None else x))


class GluonResNeXtBlock(gluon.Block):  # type: ignore[misc]
    def __init__(self, channels: int, use_1x1conv: bool = False, strides: int = 1) -> None:
        super().__init__()
        self.conv1 = gluon.Conv2D(channels, 1)
        self.conv2 = gluon.Conv2D(channels, 3, padding=1, strides=strides, groups=channels // GROUP_WIDTH)
        self.conv3 = gluon.Conv2D(channels, 1)
        self.bn1 = gluon.BatchNorm()
        self.bn2 = gluon.BatchNorm()
        self.bn3 = gluon.BatchNorm()
        if use_1x1conv:
            self.conv4 = gluon.Conv2D(channels, 1, strides=strides)
            self.bn4 = gluon.BatchNorm()
        else:
            self.conv4 = None

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        return (self.bn3(self.conv3(y)) + (self.bn4(self.conv4(x)) if self.conv4 is not None else x)).relu()


def resnext_stages(block: Callable[..., Any], arch: Arch) -> list[list[Any]]:
    """All blocks of the AnyNet; the first of every stage halves the image."""
    return [[block(channels) if j else block(channels, True, 2) for j in range(depth)] for depth, channels in arch]


def torch_resnext(arch: Arch) -> torch.nn.Module:
    stem = nn.Sequential(nn.LazyConv2d(STEM, 3, stride=2, padding=1), nn.LazyBatchNorm2d(), nn.ReLU())
    net = nn.Sequential(stem)
    for i, blocks in enumerate(resnext_stages(TorchResNeXtBlock, arch)):
        net.add_module(f"stage{i + 1}", nn.Sequential(*blocks))
    net.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(CLASSES)))
    return net


def keras_resnext(library: Any, arch: Arch) -> Any:
    kl = library.layers
    stem = [
        kl.Conv2D(STEM, 3, strides=2, padding="same"),
        kl.BatchNormalization(epsilon=EPSILON),
        kl.Activation("relu"),
    ]
    middle = [library.Sequential(blocks) for blocks in resnext_stages(keras_resnext_block(library), arch)]
    return library.Sequential([library.Sequential(stem), *middle, keras_head(library)])


def linen_resnext(arch: Arch) -> Any:
    stem = [linen.Conv(STEM, (3, 3), (2, 2), padding=(1, 1)), linen.BatchNorm(True), linen.relu]
    middle = [linen.Sequential(blocks) for blocks in resnext_stages(LinenResNeXtBlock, arch)]
    return linen.Sequential([linen.Sequential(stem), *middle, linen_head()])


def gluon_resnext(arch: Arch) -> Any:
    stem = gluon_row(gluon.Conv2D(STEM, 3, 2, 1), gluon.BatchNorm(), gluon.Activation("relu"))
    middle = [gluon_row(*blocks) for blocks in resnext_stages(GluonResNeXtBlock, arch)]
    return gluon_row(stem, *middle, *gluon_head())


def resnet(arch: Arch) -> Case:
    return classifier(
        "resnet",
        image(1, 65, 33),
        lambda: torch_resnet(arch),
        lambda library: keras_resnet(library, arch),
        lambda: linen_resnet(arch),
        lambda: gluon_resnet(arch),
    )


def resnext(arch: Arch) -> Case:
    return classifier(
        "resnext",
        image(1, 33, 17),
        lambda: torch_resnext(arch),
        lambda library: keras_resnext(library, arch),
        lambda: linen_resnext(arch),
        lambda: gluon_resnext(arch),
    )


CASES = (resnet(RESNET_18), resnext(RESNEXT))
OTHER_SIZES = (resnet(((1, 4), (3, 6))), resnext(((2, 8),)))
