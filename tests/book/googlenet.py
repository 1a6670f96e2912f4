"""The book's GoogLeNet, in full depth with an eighth of the channels.

Sizes of the image are one more than a power of two, so that `same` padding is on both sides and all four agree.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from flax import linen
from mxnet.gluon import nn as gluon
from torch import nn

from tests.book.classifier import (
    classifier,
    gluon_row,
    image,
    jax_concat,
    linen_flatten,
    linen_global,
    linen_same_pool,
    mxnet_concat,
)
from tests.parity.sides import Case

CLASSES = 10
#: Channels of the first three convolutions, then of the four branches of every Inception in each of three stages.
FIRST = (8, 8, 24)
Pair = tuple[int, int]
Stages = Sequence[Sequence[tuple[int, Pair, Pair, int]]]
STAGES: Stages = (
    ((8, (12, 16), (2, 4), 4), (16, (16, 24), (4, 12), 8)),
    (
        (24, (12, 26), (2, 6), 8),
        (20, (14, 28), (3, 8), 8),
        (16, (16, 32), (3, 8), 8),
        (14, (18, 36), (4, 8), 8),
        (32, (20, 40), (4, 16), 16),
    ),
    ((32, (20, 40), (4, 16), 16), (48, (24, 48), (6, 16), 16)),
)


class TorchInception(nn.Module):
    def __init__(self, c1: int, c2: Pair, c3: Pair, c4: int) -> None:
        super().__init__()
        self.b1_1 = nn.LazyConv2d(c1, 1)
        self.b2_1 = nn.LazyConv2d(c2[0], 1)
        self.b2_2 = nn.LazyConv2d(c2[1], 3, padding=1)
        self.b3_1 = nn.LazyConv2d(c3[0], 1)
        self.b3_2 = nn.LazyConv2d(c3[1], 5, padding=2)
        self.b4_1 = nn.MaxPool2d(3, 1, padding=1)
        self.b4_2 = nn.LazyConv2d(c4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        relu = torch.relu
        b2, b3 = self.b2_2(relu(self.b2_1(x))), self.b3_2(relu(self.b3_1(x)))
        return relu(torch.cat((self.b1_1(x), b2, b3, self.b4_2(self.b4_1(x))), dim=1))


@functools.cache
def keras_inception(library: Any) -> Any:
    kl = library.layers

    class Inception(library.Model):  # type: ignore[misc]
        def __init__(self, c1: int, c2: Pair, c3: Pair, c4: int) -> None:
            super().__init__()
            self.b1_1 = kl.Conv2D(c1, 1, activation="relu")
            self.b2_1 = kl.Conv2D(c2[0], 1, activation="relu")
            self.b2_2 = kl.Conv2D(c2[1], 3, padding="same", activation="relu")
            self.b3_1 = kl.Conv2D(c3[0], 1, activation="relu")
            self.b3_2 = kl.Conv2D(c3[1], 5, padding="same", activation="relu")
            self.b4_1 = kl.MaxPool2D(3, 1, padding="same")
            self.b4_2 = kl.Conv2D(c4, 1, activation="relu")

        def call(self, x: Any) -> Any:
            branches = [self.b1_1(x), self.b2_2(self.b2_1(x)), self.b3_2(self.b3_1(x)), self.b4_2(self.b4_1(x))]
            return kl.Concatenate()(branches)

    return Inception


class LinenInception(linen.Module):
    c1: int
    c2: Pair
    c3: Pair
    c4: int

    def setup(self) -> None:
        self.b1_1 = linen.Conv(self.c1, (1, 1))
        self.b2_1 = linen.Conv(self.c2[0], (1, 1))
        self.b2_2 = linen.Conv(self.c2[1], (3, 3), padding="SAME")
        self.b3_1 = linen.Conv(self.c3[0], (1, 1))
        self.b3_2 = linen.Conv(self.c3[1], (5, 5), padding="SAME")
        self.b4_1 = lambda x: linen.max_pool(x, (3, 3), strides=(1, 1), padding="SAME")
        self.b4_2 = linen.Conv(self.c4, (1, 1))

    def __call__(self, x: Any) -> Any:
        b2, b3 = self.b2_2(linen.relu(self.b2_1(x))), self.b3_2(linen.relu(self.b3_1(x)))
        return linen.relu(jax_concat(self.b1_1(x), b2, b3, self.b4_2(self.b4_1(x))))


class GluonInception(gluon.Block):  # type: ignore[misc]
    def __init__(self, c1: int, c2: Pair, c3: Pair, c4: int) -> None:
        super().__init__()
        self.b1_1 = gluon.Conv2D(c1, 1, activation="relu")
        self.b2_1 = gluon.Conv2D(c2[0], 1, activation="relu")
        self.b2_2 = gluon.Conv2D(c2[1], 3, padding=1, activation="relu")
        self.b3_1 = gluon.Conv2D(c3[0], 1, activation="relu")
        self.b3_2 = gluon.Conv2D(c3[1], 5, padding=2, activation="relu")
        self.b4_1 = gluon.MaxPool2D(3, 1, 1)
        self.b4_2 = gluon.Conv2D(c4, 1, activation="relu")

    def forward(self, x: Any) -> Any:
        b2, b3 = self.b2_2(self.b2_1(x)), self.b3_2(self.b3_1(x))
        return mxnet_concat(self.b1_1(x), b2, b3, self.b4_2(self.b4_1(x)))


def torch_googlenet(stages: Stages) -> torch.nn.Module:
    a, b, c = FIRST
    third, fourth, fifth = ([TorchInception(*row) for row in stage] for stage in stages)
    pool = nn.MaxPool2d(3, 2, padding=1)
    return nn.Sequential(
        nn.Sequential(nn.LazyConv2d(a, 7, stride=2, padding=3), nn.ReLU(), pool),
        nn.Sequential(nn.LazyConv2d(b, 1), nn.ReLU(), nn.LazyConv2d(c, 3, padding=1), nn.ReLU(), pool),
        nn.Sequential(*third, pool),
        nn.Sequential(*fourth, pool),
        nn.Sequential(*fifth, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.LazyLinear(CLASSES),
    )


def keras_googlenet(library: Any, stages: Stages) -> Any:
    kl, inception = library.layers, keras_inception(library)
    a, b, c = FIRST
    third, fourth, fifth = ([inception(*row) for row in stage] for stage in stages)

    def pool() -> Any:
        return kl.MaxPool2D(3, 2, padding="same")

    second = [kl.Conv2D(b, 1, activation="relu"), kl.Conv2D(c, 3, padding="same", activation="relu")]
    return library.Sequential(
        [
            library.Sequential([kl.Conv2D(a, 7, strides=2, padding="same", activation="relu"), pool()]),
            library.Sequential([*second, pool()]),
            library.Sequential([*third, pool()]),
            library.Sequential([*fourth, pool()]),
            library.Sequential([*fifth, kl.GlobalAvgPool2D(), kl.Flatten()]),
            kl.Dense(CLASSES),
        ]
    )


def linen_googlenet(stages: Stages) -> Any:
    a, b, c = FIRST
    third, fourth, fifth = ([LinenInception(*row) for row in stage] for stage in stages)
    second = [linen.Conv(b, (1, 1)), linen.relu, linen.Conv(c, (3, 3), padding="SAME"), linen.relu]
    return linen.Sequential(
        [
            linen.Sequential([linen.Conv(a, (7, 7), (2, 2), padding="SAME"), linen.relu, linen_same_pool]),
            linen.Sequential([*second, linen_same_pool]),
            linen.Sequential([*third, linen_same_pool]),
            linen.Sequential([*fourth, linen_same_pool]),
            linen.Sequential([*fifth, linen_global, linen_flatten]),
            linen.Dense(CLASSES),
        ]
    )


def gluon_googlenet(stages: Stages) -> Any:
    a, b, c = FIRST
    third, fourth, fifth = ([GluonInception(*row) for row in stage] for stage in stages)
    second = [gluon.Conv2D(b, 1, activation="relu"), gluon.Conv2D(c, 3, padding=1, activation="relu")]
    return gluon_row(
        gluon_row(gluon.Conv2D(a, 7, 2, 3, activation="relu"), gluon.MaxPool2D(3, 2, 1)),
        gluon_row(*second, gluon.MaxPool2D(3, 2, 1)),
        gluon_row(*third, gluon.MaxPool2D(3, 2, 1)),
        gluon_row(*fourth, gluon.MaxPool2D(3, 2, 1)),
        gluon_row(*fifth, gluon.GlobalAvgPool2D()),
        gluon.Dense(CLASSES),
    )


def googlenet(stages: Stages) -> Case:
    return classifier(
        "googlenet",
        image(1, 65, 33),
        lambda: torch_googlenet(stages),
        lambda library: keras_googlenet(library, stages),
        lambda: linen_googlenet(stages),
        lambda: gluon_googlenet(stages),
    )


CASES = (googlenet(STAGES),)
