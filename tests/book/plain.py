"""The book's nets whose layers stand in one row: MLPs, softmax regression, LeNet and AlexNet."""

from __future__ import annotations

from typing import Any

import torch
from flax import linen
from mxnet.gluon import nn as gluon
from torch import nn

from tests.book.classifier import (
    GluonClassifier,
    TorchClassifier,
    case,
    classifier,
    gluon_row,
    image,
    keras_classifier,
    linen_average,
    linen_flatten,
    linen_pool,
)
from tests.chapter import HIDDEN as WIDTH
from tests.chapter import FlaxMLP, GluonMLP, TorchMLP, example_input
from tests.parity.sides import Case

CLASSES = 10
HIDDEN = 12
#: Channels of AlexNet's convolutions; two follow each other that are alike, as in the book.
WIDE = (4, 6, 8, 8, 7)


def keras_chapter_mlp(library: Any) -> Any:
    class MLP(library.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.flatten = library.layers.Flatten()
            self.hidden = library.layers.Dense(WIDTH, activation="relu")
            self.out = library.layers.Dense(CLASSES)

        def call(self, x: Any) -> Any:
            return self.out(self.hidden(self.flatten(x)))

    return MLP()


def mlp() -> Case:
    """That of the chapter "File I/O"."""
    return case("mlp", example_input(), TorchMLP, keras_chapter_mlp, FlaxMLP, GluonMLP)


class LinenMLP(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.relu(linen.Dense(HIDDEN)(linen_flatten(x)))
        return linen.Dense(CLASSES)(x)


def keras_mlp(library: Any) -> Any:
    kl = library.layers
    return library.Sequential([kl.Flatten(), kl.Dense(HIDDEN, activation="relu"), kl.Dense(CLASSES)])


def mlp_concise() -> Case:
    """That of the chapter "Multilayer Perceptrons"."""
    return case(
        "mlp_concise",
        image(1, 6, 5),
        lambda: TorchClassifier(
            nn.Sequential(nn.Flatten(), nn.LazyLinear(HIDDEN), nn.ReLU(), nn.LazyLinear(CLASSES)),
        ),
        lambda library: keras_classifier(library)(keras_mlp(library)),
        LinenMLP,
        lambda: GluonClassifier(gluon_row(gluon.Dense(HIDDEN, activation="relu"), gluon.Dense(CLASSES))),
    )


class LinenSoftmax(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.Dense(CLASSES)(linen_flatten(x))


def keras_softmax(library: Any) -> Any:
    return library.Sequential([library.layers.Flatten(), library.layers.Dense(CLASSES)])


def softmax_regression() -> Case:
    return case(
        "softmax_regression",
        image(1, 6, 5),
        lambda: TorchClassifier(nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES))),
        lambda library: keras_classifier(library)(keras_softmax(library)),
        LinenSoftmax,
        lambda: GluonClassifier(gluon.Dense(CLASSES)),
    )


def torch_lenet() -> torch.nn.Module:
    return nn.Sequential(
        nn.LazyConv2d(6, 5, padding=2),
        nn.Sigmoid(),
        nn.AvgPool2d(2, 2),
        nn.LazyConv2d(16, 5),
        nn.Sigmoid(),
        nn.AvgPool2d(2, 2),
        nn.Flatten(),
        nn.LazyLinear(120),
        nn.Sigmoid(),
        nn.LazyLinear(84),
        nn.Sigmoid(),
        nn.LazyLinear(CLASSES),
    )


def keras_lenet(library: Any) -> Any:
    kl = library.layers
    return library.Sequential(
        [
            kl.Conv2D(6, 5, activation="sigmoid", padding="same"),
            kl.AvgPool2D(2, 2),
            kl.Conv2D(16, 5, activation="sigmoid"),
            kl.AvgPool2D(2, 2),
            kl.Flatten(),
            kl.Dense(120, activation="sigmoid"),
            kl.Dense(84, activation="sigmoid"),
            kl.Dense(CLASSES),
        ]
    )


def linen_lenet() -> Any:
    return linen.Sequential(
        [
            linen.Conv(6, (5, 5), padding="SAME"),
            linen.sigmoid,
            linen_average,
            linen.Conv(16, (5, 5), padding="VALID"),
            linen.sigmoid,
            linen_average,
            linen_flatten,
            linen.Dense(120),
            linen.sigmoid,
            linen.Dense(84),
            linen.sigmoid,
            linen.Dense(CLASSES),
        ]
    )


def gluon_lenet() -> Any:
    return gluon_row(
        gluon.Conv2D(6, 5, padding=2, activation="sigmoid"),
        gluon.AvgPool2D(2, 2),
        gluon.Conv2D(16, 5, activation="sigmoid"),
        gluon.AvgPool2D(2, 2),
        gluon.Dense(120, activation="sigmoid"),
        gluon.Dense(84, activation="sigmoid"),
        gluon.Dense(CLASSES),
    )


def torch_alexnet() -> torch.nn.Module:
    a, b, c, d, e = WIDE
    return nn.Sequential(
        nn.LazyConv2d(a, 11, stride=4, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.LazyConv2d(b, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.LazyConv2d(c, 3, padding=1),
        nn.ReLU(),
        nn.LazyConv2d(d, 3, padding=1),
        nn.ReLU(),
        nn.LazyConv2d(e, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        nn.LazyLinear(HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.LazyLinear(HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.LazyLinear(CLASSES),
    )


def keras_alexnet(library: Any) -> Any:
    """With the padding of 1 at the start that the book's PyTorch and Flax nets have."""
    kl = library.layers
    a, b, c, d, e = WIDE
    return library.Sequential(
        [
            kl.ZeroPadding2D(1),
            kl.Conv2D(a, 11, strides=4, activation="relu"),
            kl.MaxPool2D(3, 2),
            kl.Conv2D(b, 5, padding="same", activation="relu"),
            kl.MaxPool2D(3, 2),
            kl.Conv2D(c, 3, padding="same", activation="relu"),
            kl.Conv2D(d, 3, padding="same", activation="relu"),
            kl.Conv2D(e, 3, padding="same", activation="relu"),
            kl.MaxPool2D(3, 2),
            kl.Flatten(),
            kl.Dense(HIDDEN, activation="relu"),
            kl.Dropout(0.5),
            kl.Dense(HIDDEN, activation="relu"),
            kl.Dropout(0.5),
            kl.Dense(CLASSES),
        ]
    )


def linen_alexnet() -> Any:
    a, b, c, d, e = WIDE
    return linen.Sequential(
        [
            linen.Conv(a, (11, 11), strides=4, padding=1),
            linen.relu,
            linen_pool(3, 2),
            linen.Conv(b, (5, 5)),
            linen.relu,
            linen_pool(3, 2),
            linen.Conv(c, (3, 3)),
            linen.relu,
            linen.Conv(d, (3, 3)),
            linen.relu,
            linen.Conv(e, (3, 3)),
            linen.relu,
            linen_pool(3, 2),
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


def gluon_alexnet() -> Any:
    a, b, c, d, e = WIDE
    return gluon_row(
        gluon.Conv2D(a, 11, 4, 1, activation="relu"),
        gluon.MaxPool2D(3, 2),
        gluon.Conv2D(b, 5, padding=2, activation="relu"),
        gluon.MaxPool2D(3, 2),
        gluon.Conv2D(c, 3, padding=1, activation="relu"),
        gluon.Conv2D(d, 3, padding=1, activation="relu"),
        gluon.Conv2D(e, 3, padding=1, activation="relu"),
        gluon.MaxPool2D(3, 2),
        gluon.Dense(HIDDEN, activation="relu"),
        gluon.Dropout(0.5),
        gluon.Dense(HIDDEN, activation="relu"),
        gluon.Dropout(0.5),
        gluon.Dense(CLASSES),
    )


CASES = (
    mlp(),
    mlp_concise(),
    softmax_regression(),
    classifier("lenet", image(1, 28, 24), torch_lenet, keras_lenet, linen_lenet, gluon_lenet),
    classifier("alexnet", image(1, 129, 97), torch_alexnet, keras_alexnet, linen_alexnet, gluon_alexnet),
)
