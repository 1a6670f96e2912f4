"""Layers of a user's own class, whose numbered variables have the shapes of a layer of Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import converter


class Mixing(keras.layers.Layer):
    """A matrix that is used as ``x @ w.T``: a copy as a kernel of Keras would be wrong."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.w, self.b = self.add_weight(shape=(4, 4)), self.add_weight(shape=(4,))

    def call(self, x: Any) -> Any:
        return x @ keras.ops.transpose(self.w) + self.b


@keras.saving.register_keras_serializable("tests")
class Dense(Mixing):
    """Called as one of Keras."""


class Stencil(keras.layers.Layer):
    """As ``x[..., None]`` would be convolved, with its channels first."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self.w, self.b = self.add_weight(shape=(2, 2, 3, 3)), self.add_weight(shape=(3,))

    def call(self, x: Any) -> Any:
        return x + self.b + keras.ops.sum(self.w)


class Net(keras.Model):
    """Layers by attributes: of the class of one only its name tells."""

    def __init__(self, own: keras.layers.Layer) -> None:
        super().__init__()
        self.first, self.own = keras.layers.Dense(4), own

    def call(self, x: Any) -> Any:
        return self.own(self.first(x))


def sequential(own: keras.layers.Layer) -> Any:
    shape = own.w.shape[-1]
    return keras.Sequential([keras.Input((shape,)), keras.layers.Dense(shape, name="mine"), own])


def saved(net: Any, path: Path) -> Path:
    net.build((None, 4)) if not net.built else None
    (net.save if path.suffix == ".keras" else net.save_weights)(path)
    return path


@pytest.mark.parametrize("own", [Mixing, Stencil])
@pytest.mark.parametrize("name", [None, "dressed"])
def test_a_class_that_the_file_tells_is_no_layer_of_keras(tmp_path: Path, own: type, name: str | None) -> None:
    path = saved(sequential(own(name=name) if name else own()), tmp_path / "net.weights.h5")
    with pytest.raises(converter.MatchError, match="a layer of an unknown kind"):
        converter.convert("tensorflow->torch", path, tmp_path / "net.pt")
    assert converter.convert("tensorflow->tensorflow", path, tmp_path / "copy.weights.h5").written


def test_a_class_of_the_same_name_is_told_by_the_config(tmp_path: Path) -> None:
    path = saved(sequential(Dense()), tmp_path / "net.keras")
    with pytest.raises(converter.MatchError, match="a layer of an unknown kind"):
        converter.convert("tensorflow->torch", path, tmp_path / "net.pt")


def test_what_an_attribute_holds_is_taken_as_a_layer_of_keras(tmp_path: Path) -> None:
    """Its class is told nowhere: the usual case, which --kind overrules."""
    net = Net(keras.layers.Dense(4, name="own"))
    net(np.zeros((1, 4)))
    path = saved(net, tmp_path / "net.weights.h5")
    converter.convert("tensorflow->torch", path, tmp_path / "net.pt")
    with converter.open(tmp_path / "net.pt") as weights:
        assert {layer.kind for layer in weights.net.layers} == {"linear"}


def test_what_is_written_tells_the_classes(tmp_path: Path) -> None:
    """Names of nested layers say no class, and Keras writes none; we do."""
    random = np.random.default_rng(1)
    shapes = {
        "block.proj.weight": (4, 4),
        "block.proj.bias": (4,),
        "block.conv.weight": (3, 2, 5, 5),
        "block.conv.bias": (3,),
    }
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez(tmp_path / "net.npz", **arrays)
    converter.convert("torch->tensorflow", tmp_path / "net.npz", tmp_path / "net.weights.h5")
    converter.convert("tensorflow->torch", tmp_path / "net.weights.h5", tmp_path / "back.npz")
    back = np.load(tmp_path / "back.npz")
    assert {name: back[name].tobytes() for name in back} == {name: array.tobytes() for name, array in arrays.items()}
