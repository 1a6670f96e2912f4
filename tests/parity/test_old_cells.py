"""Recurrent cells of TensorFlow 1 and of CuDNN: read from what the real layers save, and run by today's layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from tf_keras.src.layers.rnn import legacy_cells
from tf_keras.src.layers.rnn.cudnn_gru import CuDNNGRU
from tf_keras.src.layers.rnn.cudnn_lstm import CuDNNLSTM

import converter
from converter.errors import MatchError
from tests.parity.sides import Array

pytestmark = pytest.mark.filterwarnings("ignore:.*rnn_cell")  # deprecated, all of them
v1 = tf.compat.v1
INPUTS, HIDDEN, STEPS = 3, 5, 4
X = np.random.default_rng(0).normal(size=(2, STEPS, INPUTS)).astype(np.float32)


class Saved(NamedTuple):
    path: Path
    output: Array


def signed(shape: Any, seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def saved(folder: Path, make: Callable[[], Any], seed: int = 1) -> Saved:
    """A cell of TensorFlow 1 in ``rnn``, trained with Adam, saved by its `Saver`; and what it gives."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder("float32", X.shape)
        cell = make()
        state, outputs = cell.zero_state(len(X), "float32"), []
        with v1.variable_scope("rnn"):
            for step in range(STEPS):
                output, state = cell(x[:, step], state)
                outputs.append(output)
        result = tf.stack(outputs, 1)
        v1.train.AdamOptimizer().minimize(tf.reduce_sum(result))
        session.run(v1.global_variables_initializer())
        for number, variable in enumerate(v1.trainable_variables()):
            session.run(v1.assign(variable, signed(variable.shape, seed + number)))
        path = v1.train.Saver().save(session, str(folder / "old.ckpt"))
        return Saved(Path(path), session.run(result, {x: X}))


class Stack(torch.nn.Module):
    def __init__(self, *layers: torch.nn.Module) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)[0]
        return x


def of_torch(net: Any) -> Array:
    with torch.no_grad():
        return np.asarray(net(torch.tensor(X)))


def keras_net(layer: Any) -> Any:
    return keras.Sequential([keras.Input((STEPS, INPUTS)), layer])


def test_an_lstm_of_tensorflow_1_gets_its_forget_bias(tmp_path: Path) -> None:
    made = lambda: legacy_cells.MultiRNNCell([legacy_cells.BasicLSTMCell(HIDDEN), legacy_cells.LSTMCell(6)])  # noqa: E731
    old = saved(tmp_path, made)
    apart = Stack(torch.nn.LSTM(INPUTS, HIDDEN, batch_first=True), torch.nn.LSTM(HIDDEN, 6, batch_first=True))
    np.testing.assert_allclose(of_torch(converter.load_into(apart, old.path)), old.output, rtol=1e-5, atol=1e-6)
    with converter.plan(old.path, to="torch") as plan:
        done = {step.target.name: step.done for step in plan.tensors.steps}
    assert "forget_bias=1 added" in done["rnn.multi_rnn_cell.bias_ih_l0"]
    assert "rows 5 to 11 taken" in done["rnn.multi_rnn_cell.weight_hh_l1"]


def test_two_layers_become_two_layers_of_one_module(tmp_path: Path) -> None:
    old = saved(tmp_path, lambda: legacy_cells.MultiRNNCell([legacy_cells.LSTMCell(HIDDEN) for _ in range(2)]))
    net = Stack(torch.nn.LSTM(INPUTS, HIDDEN, 2, batch_first=True))
    np.testing.assert_allclose(of_torch(converter.load_into(net, old.path)), old.output, rtol=1e-5, atol=1e-6)


def test_a_plain_cell_of_tensorflow_1(tmp_path: Path) -> None:
    old = saved(tmp_path, lambda: legacy_cells.BasicRNNCell(HIDDEN))
    net = Stack(torch.nn.RNN(INPUTS, HIDDEN, batch_first=True))
    np.testing.assert_allclose(of_torch(converter.load_into(net, old.path)), old.output, rtol=1e-5, atol=1e-6)


def test_a_gru_of_tensorflow_1_resets_before_its_matrix(tmp_path: Path) -> None:
    old = saved(tmp_path, lambda: legacy_cells.GRUCell(HIDDEN))
    net = keras_net(keras.layers.GRU(HIDDEN, reset_after=False, return_sequences=True))
    found = converter.load_into(net, old.path)(X)
    np.testing.assert_allclose(np.asarray(found), old.output, rtol=1e-5, atol=1e-6)
    with pytest.raises(MatchError, match="applies its reset gate before"):
        converter.load_into(Stack(torch.nn.GRU(INPUTS, HIDDEN, batch_first=True)), old.path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: legacy_cells.LSTMCell(HIDDEN, use_peepholes=True),
        lambda: legacy_cells.LSTMCell(HIDDEN, num_proj=4),
    ],
    ids=["peepholes", "projection"],
)
def test_what_no_other_has_is_refused(tmp_path: Path, make: Callable[[], Any]) -> None:
    old = saved(tmp_path, make)
    with pytest.raises(MatchError, match="unknown kind"):
        converter.plan(old.path, to="torch")


def test_the_same_cell_takes_what_the_file_holds(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 20)):
        (tmp_path / name).mkdir()
        saved(tmp_path / name, lambda: legacy_cells.BasicLSTMCell(HIDDEN), seed)
    source, clone = tmp_path / "a" / "old.ckpt", tmp_path / "b" / "old.ckpt"
    converter.convert("tensorflow->tensorflow", source, tmp_path / "m.npz", like=clone)
    with converter.open(source) as given, converter.open(tmp_path / "m.npz") as made:
        assert made
        for name, array in made.items():
            np.testing.assert_array_equal(array, given[name])
    torch.save(torch.nn.LSTM(INPUTS, HIDDEN).state_dict(), tmp_path / "lstm.pt")
    with pytest.raises(MatchError, match="is a cell of TensorFlow 1"):
        converter.plan(tmp_path / "lstm.pt", like=clone)


def test_a_clone_of_tensorflow_1_keeps_its_names(tmp_path: Path) -> None:
    """And is restored by the program that it is of."""
    rng = np.random.default_rng(0)
    shapes = {"net/logits/kernel": (3, 4), "net/logits/bias": (4,)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    with tf.Graph().as_default(), v1.Session() as session:
        variables = [v1.get_variable(name, shape) for name, shape in shapes.items()]
        v1.train.AdamOptimizer().minimize(tf.add_n([tf.reduce_sum(variable) for variable in variables]))
        session.run(v1.global_variables_initializer())
        clone = v1.train.Saver().save(session, str(tmp_path / "clone.ckpt"))
        torch.save(
            {
                "fc.weight": torch.tensor(weights["net/logits/kernel"].T),
                "fc.bias": torch.tensor(weights["net/logits/bias"]),
            },
            tmp_path / "fc.pt",
        )
        converter.convert("torch->tensorflow", tmp_path / "fc.pt", tmp_path / "m.ckpt", like=clone)
        v1.train.Saver(variables).restore(session, str(tmp_path / "m.ckpt"))
        for variable, name in zip(variables, shapes, strict=True):
            np.testing.assert_array_equal(session.run(variable), weights[name])


@pytest.mark.parametrize(
    ("around", "paths"),
    [
        ("bidirectional_rnn/{}/lstm_cell", ["bidirectional_rnn.l0", "bidirectional_rnn.l0_reverse"]),
        ("net/cell_1/bidirectional_rnn/{}/basic_lstm_cell", ["net.l1", "net.l1_reverse"]),
        # each direction is a net of its own here, not a layer of a bidirectional one
        ("rnn/{}/multi_rnn_cell/cell_0/lstm_cell", ["rnn.bw.multi_rnn_cell.l0", "rnn.fw.multi_rnn_cell.l0"]),
    ],
)
def test_directions_and_layers_are_found(tmp_path: Path, around: str, paths: list[str]) -> None:
    names = [f"{around.format(side)}/{leaf}" for side in ("fw", "bw") for leaf in ("kernel", "bias")]
    np.savez(tmp_path / "m.npz", **{name: signed((8, 20) if "kernel" in name else 20, 0) for name in names})
    with converter.open(tmp_path / "m.npz", framework="tensorflow") as source:
        assert sorted(layer.path for layer in source.layers) == paths
        assert {layer.kind for layer in source.layers} == {"lstm"}


def test_the_averages_of_a_checkpoint(tmp_path: Path) -> None:
    """Of `tf.train.ExponentialMovingAverage`; what has no average (a moving mean) is taken as it is."""
    with tf.Graph().as_default(), v1.Session() as session:
        kernel, mean = v1.get_variable("fc/kernel", (3, 4)), v1.get_variable("bn/moving_mean", (4,))
        moving = tf.train.ExponentialMovingAverage(0.9)
        averaged = moving.apply([kernel])
        session.run(v1.global_variables_initializer())
        session.run(v1.assign(kernel, kernel + 1))
        session.run(averaged)
        average = session.run(moving.average(kernel))
        values = session.run([kernel, mean])
        path = v1.train.Saver().save(session, str(tmp_path / "net.ckpt"))
    with converter.open(path) as plain, converter.open(path, key="ExponentialMovingAverage") as averages:
        assert list(plain) == list(averages) == ["bn/moving_mean", "fc/kernel"]
        np.testing.assert_array_equal(plain["fc/kernel"], values[0])
        np.testing.assert_array_equal(averages["fc/kernel"], average)
        np.testing.assert_array_equal(averages["bn/moving_mean"], values[1])
        assert not np.array_equal(average, values[0])
        assert "--key ExponentialMovingAverage" in plain.contents.left_out[0].reason
    with pytest.raises(converter.FormatError, match="no variable has an average 'ema'"):
        converter.open(path, key="ema")


# --- CuDNN: its layers save on any machine, and run on none without a GPU; so Keras 2 turns their files, too


CUDNN = {"lstm": (CuDNNLSTM, tf_keras.layers.LSTM), "gru": (CuDNNGRU, tf_keras.layers.GRU)}


@pytest.mark.parametrize("ending", ["h5", "weights.h5"])
@pytest.mark.parametrize("kind", CUDNN)
def test_cells_of_cudnn(tmp_path: Path, kind: str, ending: str) -> None:
    cudnn, today = CUDNN[kind]
    old, new = (
        tf_keras.Sequential([tf_keras.Input((STEPS, INPUTS)), layer(HIDDEN, return_sequences=True)])
        for layer in (cudnn, today)
    )
    old.set_weights([signed(value.shape, number) for number, value in enumerate(old.get_weights())])
    old.save_weights(tmp_path / "old.h5")
    new.load_weights(tmp_path / "old.h5")
    old.save_weights(tmp_path / f"net.{ending}")
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](INPUTS, HIDDEN, batch_first=True)
    found = of_torch(converter.load_into(Stack(layer), tmp_path / f"net.{ending}"))
    np.testing.assert_allclose(found, np.asarray(new(X)), rtol=1e-5, atol=1e-6)
    fresh = keras_net(getattr(keras.layers, kind.upper())(HIDDEN, return_sequences=True))
    found = converter.load_into(fresh, tmp_path / f"net.{ending}")(X)
    np.testing.assert_allclose(np.asarray(found), np.asarray(new(X)), rtol=1e-5, atol=1e-6)
