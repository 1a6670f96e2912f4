"""The MLP of the chapter as further sorts of net: nnx, tf_keras, Sequential, Functional."""

from __future__ import annotations

from typing import Any

import keras
import mxnet
import numpy as np
import tf_keras
from flax import nnx

from tests.chapter import HIDDEN, INPUTS, OUTPUTS, GluonMLP


class NnxMLP(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(INPUTS, HIDDEN, rngs=rngs)
        self.dropout = nnx.Dropout(0.0, rngs=rngs)
        self.output = nnx.Linear(HIDDEN, OUTPUTS, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.output(self.dropout(nnx.relu(self.hidden(x))))


class TfKerasMLP(tf_keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = tf_keras.layers.Dense(HIDDEN, activation="relu")
        self.out = tf_keras.layers.Dense(OUTPUTS)

    def call(self, inputs: Any) -> Any:
        return self.out(self.hidden(inputs))


def built(net: Any) -> Any:
    net(np.zeros((2, INPUTS), np.float32))
    return net


def keras_sequential() -> Any:
    dense = keras.layers.Dense
    return keras.Sequential([keras.Input((INPUTS,)), dense(HIDDEN, activation="relu"), dense(OUTPUTS)])


def keras_functional() -> Any:
    x = keras.Input((INPUTS,))
    hidden = keras.layers.Dense(HIDDEN, activation="relu", name="hidden")(x)
    return keras.Model(x, keras.layers.Dense(OUTPUTS, name="out")(hidden))


def seen_gluon() -> Any:
    net = GluonMLP()
    net.initialize()
    net(mxnet.nd.zeros((2, INPUTS)))
    return net
