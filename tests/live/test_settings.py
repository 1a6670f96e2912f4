"""What live nets are set to, read by every adapter, and the warnings where clone and source differ."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import jax
import keras
import mxnet
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon
from mxnet.gluon import rnn as gluon_rnn

import converter
from converter.live import open_net

MOMENTUM = "BatchNorm momentum (for training)"
NORM = "LayerNorm, GroupNorm, InstanceNorm epsilon"
POOL = "average pooling with padding"


def torch_net(**bn: Any) -> torch.nn.Module:
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4, **bn),
        torch.nn.LeakyReLU(0.2),
        torch.nn.AvgPool2d(2, padding=1),
        torch.nn.GroupNorm(2, 4, eps=1e-4),
        torch.nn.GELU("tanh"),
    )
    net = torch.nn.Module()
    net.add_module("body", layers)
    net.add_module("norm", torch.nn.LayerNorm(4, eps=1e-7))
    net.add_module("rms", torch.nn.RMSNorm(4))
    net.add_module("rnn", torch.nn.RNN(4, 5, nonlinearity="relu", bidirectional=True))
    net.add_module("words", torch.nn.Embedding(7, 4, padding_idx=2))
    return net


def keras_layers(library: Any) -> dict[str, Any]:
    layers = library.layers
    slope = {"negative_slope" if library is keras else "alpha": 0.25}
    return {
        "bn": layers.BatchNormalization(epsilon=1e-4, momentum=0.8),
        "norm": layers.LayerNormalization(epsilon=1e-5),
        "group": layers.GroupNormalization(2, epsilon=1e-6),
        "act": layers.LeakyReLU(**slope),
        "dense": layers.Dense(4, activation="gelu"),
        "lstm": layers.LSTM(5, recurrent_activation="hard_sigmoid", return_sequences=True),
        "gru": layers.GRU(4, activation="relu", return_sequences=True),
        "rnn": layers.SimpleRNN(6, activation="relu"),
    }


def keras_net(library: Any) -> Any:
    """A model whose layers are its attributes."""
    made = keras_layers(library)

    def call(self: Any, x: Any) -> Any:
        for name in made:
            x = getattr(self, name)(x)
        return x

    def init(self: Any) -> None:
        library.Model.__init__(self)
        for name, layer in made.items():
            setattr(self, name, layer)

    net = type("Net", (library.Model,), {"__init__": init, "call": call})()
    net(tf.zeros((2, 3, 4)))
    return net


KERAS = {
    "bn": {"BatchNorm epsilon": 1e-4, MOMENTUM: 0.8},
    "norm": {NORM: 1e-5},
    "group": {NORM: 1e-6, "GroupNorm groups": 2},
    "act": {"LeakyReLU slope": 0.25},
    "dense": {"GELU": "exact"},
    "lstm": {"LSTM activation": "tanh", "LSTM recurrent activation": "hard_sigmoid"},
    "gru": {"GRU activation": "relu", "GRU recurrent activation": "sigmoid"},
    "rnn": {"RNN activation": "relu"},
}


class NnxNet(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.bn = nnx.BatchNorm(4, epsilon=1e-4, momentum=0.8, rngs=rngs)
        self.norm = nnx.LayerNorm(4, epsilon=1e-5, rngs=rngs)
        self.group = nnx.GroupNorm(4, 2, epsilon=1e-7, rngs=rngs)
        self.rms = nnx.RMSNorm(4, epsilon=1e-5, rngs=rngs)
        self.lstm = nnx.RNN(nnx.OptimizedLSTMCell(4, 5, activation_fn=jax.nn.relu, rngs=rngs))
        self.gru = nnx.RNN(nnx.GRUCell(4, 5, rngs=rngs))


class GluonNet(gluon.Block):
    def __init__(self) -> None:
        super().__init__()
        self.body = gluon.Sequential()
        self.body.add(gluon.BatchNorm(epsilon=1e-4, momentum=0.8, in_channels=4), gluon.LeakyReLU(0.3))
        self.body.add(gluon.AvgPool2D(padding=1, count_include_pad=False), gluon.GELU())
        self.norm = gluon.LayerNorm(epsilon=1e-6, in_channels=4)
        self.group = gluon.GroupNorm(2, epsilon=1e-3)
        self.rnn = gluon_rnn.RNN(5, activation="tanh", input_size=4)
        self.cell = gluon_rnn.LSTMCell(5, recurrent_activation="relu", input_size=4)


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (
            lambda: torch_net(eps=1e-3, momentum=0.01),
            {
                "body.1": {"BatchNorm epsilon": 1e-3, MOMENTUM: 0.99},
                "body.2": {"LeakyReLU slope": 0.2},
                "body.3": {POOL: True},
                "body.4": {NORM: 1e-4, "GroupNorm groups": 2},
                "body.5": {"GELU": "tanh"},
                "norm": {NORM: 1e-7},
                "rms": {"RMSNorm epsilon": 2.0**-23},
                "rnn.l0": {"RNN activation": "relu"},
                "rnn.l0_reverse": {"RNN activation": "relu"},
                "words": {"Embedding padding index": 2},
            },
        ),
        (lambda: keras_net(keras), KERAS),
        (lambda: keras_net(tf_keras), KERAS),
        (
            NnxNet,
            {
                "bn": {"BatchNorm epsilon": 1e-4, MOMENTUM: 0.8},
                "norm": {NORM: 1e-5},
                "group": {NORM: 1e-7, "GroupNorm groups": 2},
                "rms": {"RMSNorm epsilon": 1e-5},
                "lstm": {"LSTM activation": "relu", "LSTM recurrent activation": "sigmoid"},
                "gru": {"GRU activation": "tanh", "GRU recurrent activation": "sigmoid"},
            },
        ),
        (
            GluonNet,
            {
                "body.0": {"BatchNorm epsilon": 1e-4, MOMENTUM: 0.8},
                "body.1": {"LeakyReLU slope": 0.3},
                "body.2": {POOL: False},
                "body.3": {"GELU": "exact"},
                "norm": {NORM: 1e-6},
                "group": {NORM: 1e-3, "GroupNorm groups": 2},
                "rnn": {"RNN activation": "tanh"},
                "cell": {"LSTM activation": "tanh", "LSTM recurrent activation": "relu"},
            },
        ),
    ],
    ids=["torch", "keras", "tf_keras", "nnx", "gluon"],
)
def test_settings_are_those_of_the_net(net: Any, expected: dict[str, Any]) -> None:
    assert open_net(net()).settings() == expected


def test_a_params_tree_of_linen_tells_nothing() -> None:
    tree = linen.LayerNorm(epsilon=0.1).init(jax.random.PRNGKey(0), np.zeros((2, 3), np.float32))
    assert open_net(tree).settings() == {}


def bare(**settings: Any) -> torch.nn.Module:
    net = torch.nn.Module()
    net.add_module("bn", torch.nn.BatchNorm1d(4, **settings))
    return net


def keras_bn(**settings: Any) -> Any:
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.BatchNormalization(name="bn", **settings)(inputs))


def warned(net: Any, source: Any) -> dict[str, tuple[Any, Any]]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        converter.load_into(net, source)
    ours = [item.message for item in found if item.category is converter.CloneWarning]
    assert all(item.filename == __file__ for item in found if item.category is converter.CloneWarning)
    return {warning.property: (warning.source, warning.target) for warning in ours}


def test_a_file_counts_with_the_defaults_of_its_framework(tmp_path: Path) -> None:
    torch.save(bare().state_dict(), tmp_path / "net.pt")
    assert warned(keras_bn(), tmp_path / "net.pt") == {"BatchNorm epsilon": (1e-5, 1e-3), MOMENTUM: (0.9, 0.99)}
    assert warned(keras_bn(epsilon=1e-5, momentum=0.9), tmp_path / "net.pt") == {}
    assert warned(bare(eps=0.1), tmp_path / "net.pt") == {}  # whoever has the same class has the same net


def test_a_neutral_file_counts_with_those_of_where_it_came_from(tmp_path: Path) -> None:
    torch.save(bare().state_dict(), tmp_path / "net.pt")
    converter.convert("torch->neutral", tmp_path / "net.pt", tmp_path / "net.safetensors")
    assert warned(keras_bn(), tmp_path / "net.safetensors").keys() == {"BatchNorm epsilon", MOMENTUM}
    assert warned(bare(eps=0.1), tmp_path / "net.safetensors") == {}


def test_two_live_nets_are_compared_as_they_are() -> None:
    assert warned(keras_bn(), bare(eps=1e-3, momentum=0.01)) == {}
    assert warned(keras_bn(momentum=0.9), bare(eps=1e-4)) == {"BatchNorm epsilon": (1e-4, 1e-3)}
    assert warned(bare(eps=1e-4), bare()) == {"BatchNorm epsilon": (1e-5, 1e-4)}


def test_the_warning_says_layer_property_and_both_values(tmp_path: Path) -> None:
    torch.save(bare().state_dict(), tmp_path / "net.pt")
    with pytest.warns(converter.CloneWarning) as found:
        converter.load_into(keras_bn(momentum=0.9), tmp_path / "net.pt")
    (warning,) = [item.message for item in found if item.category is converter.CloneWarning]
    assert warning.layers == ("bn",)
    assert str(warning) == (
        "'bn': BatchNorm epsilon is 0.001 in the clone, and the default of PyTorch is 1e-05; "
        "weights do not carry it (in the clone: epsilon=1e-05)"
    )


def test_equal_differences_are_one_warning(tmp_path: Path) -> None:
    net = torch.nn.Sequential(*(torch.nn.BatchNorm1d(4) for _ in range(5)))
    clone = torch.nn.Sequential(*(torch.nn.BatchNorm1d(4, eps=0.1) for _ in range(5)))
    with pytest.warns(
        converter.CloneWarning, match=r"'0', '1', '2' \(and 2 more\): BatchNorm epsilon is 0.1 in"
    ) as all:
        converter.load_into(clone, net)
    assert [item.message.layers for item in all] == [("0", "1", "2", "3", "4")]


def test_a_warning_made_an_error_leaves_the_net_as_it_was() -> None:
    net = torch_net(eps=0.3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error", converter.CloneWarning)
        with pytest.raises(converter.CloneWarning):
            converter.load_into(net, torch_net())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_layers_without_weights_are_looked_for_in_the_whole_source() -> None:
    def net(slope: float) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LeakyReLU(slope))

    assert warned(net(0.2), net(0.2)) == {}
    assert warned(net(0.3), net(0.2)) == {"LeakyReLU slope": (0.2, 0.3)}


def test_a_fixed_activation_is_compared_with_a_chosen_one() -> None:
    def lstm(**settings: Any) -> Any:
        inputs = keras.Input((3, 4))
        return keras.Model(inputs, keras.layers.LSTM(5, name="lstm", **settings)(inputs))

    net = torch.nn.Module()
    net.add_module("lstm", torch.nn.LSTM(4, 5))
    hard = lstm(recurrent_activation="hard_sigmoid")
    assert warned(hard, net) == {"LSTM recurrent activation": ("sigmoid", "hard_sigmoid")}
    assert warned(net, hard) == {"LSTM recurrent activation": ("hard_sigmoid", "sigmoid")}
    assert warned(lstm(), net) == {}


#: One live net of each sort with the same layer.
LIVE = {
    "torch": lambda: torch.nn.Sequential(torch.nn.Linear(3, 4)),
    "keras": lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)]),
    "tf_keras": lambda: tf_keras.Sequential([tf_keras.Input((3,)), tf_keras.layers.Dense(4)]),
    "linen": lambda: linen.Dense(4).init(jax.random.PRNGKey(0), np.zeros((2, 3), np.float32)),
    "nnx": lambda: nnx.Linear(3, 4, rngs=nnx.Rngs(0)),
    "gluon": lambda: _seen(gluon.Dense(4)),
}


def _seen(block: Any) -> Any:
    block.initialize()
    block(mxnet.nd.zeros((2, 3)))
    return block


@pytest.mark.parametrize("source", LIVE)
@pytest.mark.parametrize("target", LIVE)
def test_any_live_net_into_any_other(source: str, target: str) -> None:
    given = LIVE[source]()
    rng = np.random.default_rng(1)
    adapter = open_net(given)
    values = [(spec.name, rng.normal(size=spec.shape).astype(np.float32)) for spec in adapter.contents().specs]
    given = adapter.fill(values)
    filled = open_net(converter.load_into(LIVE[target](), given))
    ours = sorted((value.T if value.shape == (4, 3) else value for _, value in values), key=np.ndim)
    theirs = sorted((filled.read(spec.name) for spec in filled.contents().specs), key=np.ndim)
    for mine, its in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(its.T if its.shape == (4, 3) else its, mine)


def test_what_is_read_of_a_live_net_is_a_copy() -> None:
    net = torch.nn.Linear(3, 4)
    tree = converter.load_into(LIVE["linen"](), net)
    before = np.array(tree["params"]["kernel"])
    with torch.no_grad():
        net.weight.add_(1)
    np.testing.assert_array_equal(tree["params"]["kernel"], before)


def test_every_dtype_of_a_live_torch_net_is_read_bit_for_bit() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn):
        net, clone = torch.nn.Linear(3, 4).to(dtype), torch.nn.Linear(3, 4).to(dtype)
        converter.load_into(clone, net)
        assert clone.weight.data.view(torch.uint8).equal(net.weight.data.view(torch.uint8))


def test_a_gluon_source_without_values_is_refused() -> None:
    with pytest.raises(converter.ConversionError, match="has no values yet"):
        converter.load_into(torch.nn.Linear(3, 4), gluon.Dense(4, in_units=3))
