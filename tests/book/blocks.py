"""The book's nets of plain blocks one after the other: VGG and NiN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from flax import linen
from mxnet.gluon import nn as gluon
from torch import nn

from tests.book.classifier import classifier, gluon_row, image, linen_flatten, linen_global, linen_pool
from tests.parity.sides import Case

CLASSES, HIDDEN = 10, 12
#: Of each block of VGG the convolutions and their channels.
Arch = Sequence[tuple[int, int]]
VGG_11: Arch = ((1, 4), (1, 6), (2, 8), (2, 10), (2, 10))
#: Of each block of NiN: channels, and size, strides and padding of the first convolution.
NIN = ((4, 11, 4, 0), (6, 5, 1, 2), (8, 3, 1, 1), (CLASSES, 3, 1, 1))


def vgg(arch: Arch) -> Case:
    return classifier(
        "vgg",
        image(1, 64, 96),
        lambda: torch_vgg(arch),
        lambda library: keras_vgg(library, arch),
        lambda: linen_vgg(arch),
        lambda: gluon_vgg(arch),
    )


def torch_vgg(arch: Arch) -> torch.nn.Module:
    def block(convs: int, channels: int) -> torch.nn.Module:
        layers: list[torch.nn.Module] = []
        for _ in range(convs):
            layers += [nn.LazyConv2d(channels, 3, padding=1), nn.ReLU()]
        return nn.Sequential(*layers, nn.MaxPool2d(2, 2))

    return nn.Sequential(
        *(block(*row) for row in arch),
        nn.Flatten(),
        nn.LazyLinear(HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.LazyLinear(HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.LazyLinear(CLASSES),
    )


def keras_vgg(library: Any, arch: Arch) -> Any:
    kl = library.layers

    def block(convs: int, channels: int) -> Any:
        layers = [kl.Conv2D(channels, 3, padding="same", activation="relu") for _ in range(convs)]
        return library.Sequential([*layers, kl.MaxPool2D(2, 2)])

    head = [
        kl.Flatten(),
        kl.Dense(HIDDEN, activation="relu"),
        kl.Dropout(0.5),
        kl.Dense(HIDDEN, activation="relu"),
        kl.Dropout(0.5),
        kl.Dense(CLASSES),
    ]
    return library.Sequential([*(block(*row) for row in arch), library.Sequential(head)])


def linen_vgg(arch: Arch) -> Any:
    def block(convs: int, channels: int) -> Any:
        layers: list[Any] = []
        for _ in range(convs):
            layers += [linen.Conv(channels, (3, 3), padding=(1, 1)), linen.relu]
        return linen.Sequential([*layers, linen_pool(2, 2)])

    return linen.Sequential(
        [
            *(block(*row) for row in arch),
            linen_flatten,
            linen.Dense(HIDDEN),
            linen.relu,
            linen.Dropout(0.5, deterministic=True),
            linen.Dense(HIDDEN),
            linen.relu,
            linen.Dropout(0.5, deterministic=True),
            linen.Dense(CLASSES),
        ]
    )


def gluon_vgg(arch: Arch) -> Any:
    def block(convs: int, channels: int) -> Any:
        layers = [gluon.Conv2D(channels, 3, padding=1, activation="relu") for _ in range(convs)]
        return gluon_row(*layers, gluon.MaxPool2D(2, 2))

    return gluon_row(
        *(block(*row) for row in arch),
        gluon.Dense(HIDDEN, activation="relu"),
        gluon.Dropout(0.5),
        gluon.Dense(HIDDEN, activation="relu"),
        gluon.Dropout(0.5),
        gluon.Dense(CLASSES),
    )


def torch_nin() -> torch.nn.Module:
    def block(channels: int, size: int, strides: int, padding: int) -> torch.nn.Module:
        return nn.Sequential(
            nn.LazyConv2d(channels, size, strides, padding),
            nn.ReLU(),
            nn.LazyConv2d(channels, 1),
            nn.ReLU(),
            nn.LazyConv2d(channels, 1),
            nn.ReLU(),
        )

    a, b, c, d = (block(*row) for row in NIN)
    pool = nn.MaxPool2d(3, 2)
    return nn.Sequential(a, pool, b, pool, c, pool, nn.Dropout(0.5), d, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def keras_nin(library: Any) -> Any:
    kl = library.layers

    def block(channels: int, size: int, strides: int, padding: int) -> Any:
        return library.Sequential(
            [
                kl.Conv2D(channels, size, strides=strides, padding="same" if padding else "valid"),
                kl.Activation("relu"),
                kl.Conv2D(channels, 1),
                kl.Activation("relu"),
                kl.Conv2D(channels, 1),
                kl.Activation("relu"),
            ]
        )

    a, b, c, d = (block(*row) for row in NIN)
    layers = [a, kl.MaxPool2D(3, 2), b, kl.MaxPool2D(3, 2), c, kl.MaxPool2D(3, 2), kl.Dropout(0.5), d]
    return library.Sequential([*layers, kl.GlobalAvgPool2D(), kl.Flatten()])


def linen_nin() -> Any:
    def block(channels: int, size: int, strides: int, padding: int) -> Any:
        return linen.Sequential(
            [
                linen.Conv(channels, (size, size), (strides, strides), (padding, padding)),
                linen.relu,
                linen.Conv(channels, (1, 1)),
                linen.relu,
                linen.Conv(channels, (1, 1)),
                linen.relu,
            ]
        )

    a, b, c, d = (block(*row) for row in NIN)
    pool, dropout = linen_pool(3, 2), linen.Dropout(0.5, deterministic=True)
    return linen.Sequential([a, pool, b, pool, c, pool, dropout, d, linen_global, linen_flatten])


def gluon_nin() -> Any:
    def block(channels: int, size: int, strides: int, padding: int) -> Any:
        return gluon_row(
            gluon.Conv2D(channels, size, strides, padding, activation="relu"),
            gluon.Conv2D(channels, 1, activation="relu"),
            gluon.Conv2D(channels, 1, activation="relu"),
        )

    a, b, c, d = (block(*row) for row in NIN)
    layers = [a, gluon.MaxPool2D(3, 2), b, gluon.MaxPool2D(3, 2), c, gluon.MaxPool2D(3, 2), gluon.Dropout(0.5), d]
    return gluon_row(*layers, gluon.GlobalAvgPool2D(), gluon.Flatten())


CASES = (vgg(VGG_11), classifier("nin", image(1, 99, 83), torch_nin, keras_nin, linen_nin, gluon_nin))
OTHER_SIZES = (vgg(((2, 3), (1, 4), (3, 5))),)
