"""Recurrent layers under other names, in other files, and where one side cannot say what the other says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import mxnet
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from flax import linen, nnx
from safetensors.numpy import load_file

import converter
from tests.command import ok, refused
from tests.parity.recurrent_cases import (
    GluonStack,
    LinenCompact,
    LinenLayers,
    NnxLayers,
    RecurrentCase,
    Shape,
    keras_cells,
    keras_layers,
    layers,
)
from tests.parity.sides import SIDES, assert_same, gluon_net, linen_net

Capture = pytest.CaptureFixture[str]


def saved(case: RecurrentCase, flavour: str, path: Path, target: str = "another") -> Any:
    """A random net, and its file."""
    net = case.random(flavour, 1, target)
    SIDES[flavour].save(net, path)
    return net


def into_clone(case: RecurrentCase, source: str, target: str, folder: Path, capsys: Capture, *words: object) -> None:
    """Convert with a clone as template, load, compare outputs and states."""
    ours, theirs = SIDES[source], SIDES[target]
    given, like, result = folder / f"a{ours.ending}", folder / f"like{theirs.ending}", folder / f"b{theirs.ending}"
    net = saved(case, source, given, target)
    theirs.save(case.random(target, 2), like)
    ok(capsys, f"{ours.framework}->{theirs.framework}", given, "--like", like, "-o", result, *words)
    assert_same(case.run(target, theirs.load(case.fresh(target), result)), case.run(source, net))


def with_net(case: RecurrentCase, flavour: str, make: Callable[[], Any]) -> RecurrentCase:
    return replace(case, nets={**case.nets, flavour: make}, sources={})


# --- other layers and cells of the same function

LSTM = layers(Shape("lstm", layers=2, both=True), "two")
STACK = layers(Shape("lstm", layers=2), "stack")
MAPS = {  # how the layers of PyTorch are called where they do not name themselves so
    "linen": ["LSTMCell_0", "LSTMCell_1", "LSTMCell_2", "LSTMCell_3"],
    "gluon": ["rnn.0.l_cell", "rnn.0.r_cell", "rnn.1.l_cell", "rnn.1.r_cell"],
}
PATHS = ["rnn.l0", "rnn.l0_reverse", "rnn.l1", "rnn.l1_reverse"]


def maps(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    return [word for pair in zip(ours, theirs, strict=True) for word in ("--map", "=".join(pair))]


OTHER = {
    "linen": linen_net(lambda: LinenCompact(Shape("lstm", layers=2, both=True), linen.LSTMCell), *LSTM.inputs),
    "gluon": gluon_net(lambda: GluonStack(Shape("lstm", layers=2, both=True)), *LSTM.inputs),
}


@pytest.mark.parametrize("flavour", MAPS)
def test_cells_that_name_themselves_are_mapped(tmp_path: Path, capsys: Capture, flavour: str) -> None:
    case = with_net(LSTM, flavour, OTHER[flavour])
    into_clone(case, "torch", flavour, tmp_path, capsys, *maps(PATHS, MAPS[flavour]))
    (tmp_path / "back").mkdir()
    into_clone(case, flavour, "torch", tmp_path / "back", capsys, *maps(MAPS[flavour], PATHS))


@pytest.mark.parametrize("kind", ["rnn", "gru"])
def test_a_compact_module_of_one_cell_is_found_by_its_shape(tmp_path: Path, capsys: Capture, kind: str) -> None:
    cell = {"rnn": linen.SimpleCell, "gru": linen.GRUCell}[kind]
    case = layers(Shape(kind), "one")
    case = with_net(case, "linen", linen_net(lambda: LinenCompact(Shape(kind), cell), *case.inputs))
    into_clone(case, "keras", "linen", tmp_path, capsys)
    (tmp_path / "back").mkdir()
    into_clone(case, "linen", "gluon", tmp_path / "back", capsys)


UNOPTIMISED = {
    "linen": linen_net(lambda: LinenLayers(Shape("lstm", layers=2), linen.LSTMCell), *STACK.inputs),
    "nnx": lambda: NnxLayers(Shape("lstm", layers=2), nnx.LSTMCell),
    "keras": lambda: keras_cells(keras, Shape("lstm", layers=2)),
    "tf_keras": lambda: keras_cells(tf_keras, Shape("lstm", layers=2)),
}


@pytest.mark.parametrize("flavour", UNOPTIMISED)
def test_other_classes_of_the_same_function(tmp_path: Path, capsys: Capture, flavour: str) -> None:
    """Flax's `LSTMCell` (nnx calls a matrix ``if_``), and Keras' `RNN` around a stack of cells."""
    case = with_net(STACK, flavour, UNOPTIMISED[flavour])
    into_clone(case, "torch", flavour, tmp_path, capsys)
    (tmp_path / "back").mkdir()
    into_clone(case, flavour, "gluon", tmp_path / "back", capsys)


def test_the_fused_names_of_gluon(tmp_path: Path, capsys: Capture) -> None:
    """``collect_params().save`` says ``lstm0_l0_i2h_weight``."""
    net = LSTM.random("gluon", 1)
    net.collect_params().save(str(tmp_path / "fused.params"))
    with converter.read(tmp_path / "fused.params") as read:
        names = [layer.path for layer in read.layers]
    assert all(re.fullmatch(r".*lstm\d+\.l[01](_reverse)?", name) for name in names)
    SIDES["torch"].save(LSTM.random("torch", 2), tmp_path / "like.pt")
    ok(capsys, "mxnet->torch", tmp_path / "fused.params", "--like", tmp_path / "like.pt", "-o", tmp_path / "m.pt")
    result = SIDES["torch"].load(LSTM.fresh("torch"), tmp_path / "m.pt")
    assert_same(LSTM.run("torch", result), LSTM.run("gluon", net))


# --- other files


def test_a_whole_keras_model_is_a_source(tmp_path: Path, capsys: Capture) -> None:
    net = LSTM.random("keras", 1)
    net.save(tmp_path / "m.keras")
    SIDES["linen"].save(LSTM.random("linen", 2), tmp_path / "like.msgpack")
    ok(capsys, "tf->flax", tmp_path / "m.keras", "--like", tmp_path / "like.msgpack", "-o", tmp_path / "m.msgpack")
    result = SIDES["linen"].load(LSTM.fresh("linen"), tmp_path / "m.msgpack")
    assert_same(LSTM.run("linen", result), LSTM.run("keras", net))


def test_checkpoints_of_tf_keras(tmp_path: Path, capsys: Capture) -> None:
    """As a source, and as a target that a live net restores with `load_weights`."""
    net = LSTM.random("tf_keras", 1)
    net.save_weights(str(tmp_path / "m.ckpt"))
    like = tmp_path / "like.pt"
    SIDES["torch"].save(LSTM.random("torch", 2), like)
    words = ("--map", "layer_with_weights-0=rnn", "--map", "layer_with_weights-1=rnn")
    with converter.read(tmp_path / "m.ckpt") as read:
        found = {layer.path for layer in read.layers}
    assert {path.rpartition(".")[2] for path in found} == {"l0", "l0_reverse"}, found
    words = tuple(maps(sorted(found), PATHS))
    ok(capsys, "tf->torch", tmp_path / "m.ckpt", "--like", like, "-o", tmp_path / "m.pt", *words)
    torch_net = SIDES["torch"].load(LSTM.fresh("torch"), tmp_path / "m.pt")
    assert_same(LSTM.run("torch", torch_net), LSTM.run("tf_keras", net))
    clone = LSTM.random("tf_keras", 3)
    clone.save_weights(str(tmp_path / "clone.ckpt"))
    words = tuple(maps(PATHS, sorted(found)))
    ok(capsys, "torch->tf", tmp_path / "m.pt", "--like", tmp_path / "clone.ckpt", "-o", tmp_path / "n.ckpt", *words)
    fresh = LSTM.fresh("tf_keras")
    fresh.load_weights(str(tmp_path / "n.ckpt")).assert_existing_objects_matched()
    assert_same(LSTM.run("tf_keras", fresh), LSTM.run("tf_keras", net))


class TfKerasTagger(tf_keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = tf_keras.layers.Bidirectional(tf_keras.layers.LSTM(5, return_sequences=True))

    def call(self, x: Any) -> Any:
        return self.rnn(x)


def test_a_checkpoint_made_without_a_template_restores_into_tf_keras(tmp_path: Path, capsys: Capture) -> None:
    case = layers(Shape("lstm", both=True), "two ways")
    net = saved(case, "torch", tmp_path / "m.pt")
    ok(capsys, "torch->tf", tmp_path / "m.pt", "-o", tmp_path / "m.ckpt")
    clone = TfKerasTagger()
    clone(tf.constant(case.inputs[0]))
    clone.load_weights(str(tmp_path / "m.ckpt")).assert_existing_objects_matched()
    assert_same(
        np.asarray(clone(tf.constant(case.inputs[0]))), net.rnn(torch.tensor(case.inputs[0]))[0].detach().numpy()
    )


# --- neutral, and back into the same framework


def tensors(path: Path) -> Mapping[str, bytes]:
    with converter.read(path) as read:
        return {spec.name: read.reader.read(spec.name).tobytes() for spec in read.contents.specs}


@pytest.mark.parametrize("target", ["torch", "keras", "linen", "gluon"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_by_way_of_neutral_is_the_same_to_the_bit(tmp_path: Path, capsys: Capture, kind: str, target: str) -> None:
    case = layers(Shape(kind, layers=2, both=True), "two")
    theirs = SIDES[target]
    saved(case, "torch", tmp_path / "m.pt", target)
    like = tmp_path / f"like{theirs.ending}"
    theirs.save(case.random(target, 2), like)
    direct, around = tmp_path / f"direct{theirs.ending}", tmp_path / f"around{theirs.ending}"
    ok(capsys, f"torch->{theirs.framework}", tmp_path / "m.pt", "--like", like, "-o", direct)
    ok(capsys, "torch->neutral", tmp_path / "m.pt", "-o", tmp_path / "n.safetensors")
    ok(capsys, f"neutral->{theirs.framework}", tmp_path / "n.safetensors", "--like", like, "-o", around)
    assert tensors(direct) == tensors(around)


@pytest.mark.parametrize("flavour", SIDES)
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_within_a_flavour_nothing_changes(tmp_path: Path, capsys: Capture, kind: str, flavour: str) -> None:
    case = layers(Shape(kind, layers=2, both=True), "two")
    side = SIDES[flavour]
    given, like, result = (tmp_path / f"{name}{side.ending}" for name in ("a", "like", "b"))
    saved(case, flavour, given)
    side.save(case.random(flavour, 2), like)
    ok(capsys, f"{side.framework}->{side.framework}", given, "--like", like, "-o", result)
    # a name may hold a counter of the program that wrote it; the order is that of the net
    assert list(tensors(result).values()) == list(tensors(given).values()) != list(tensors(like).values())


# --- biases


def test_two_biases_become_their_sum_and_the_sum_goes_into_the_first(tmp_path: Path, capsys: Capture) -> None:
    case = layers(Shape("lstm"), "one")
    net = saved(case, "torch", tmp_path / "m.pt")
    SIDES["linen"].save(case.random("linen", 2), tmp_path / "like.msgpack")
    report = ok(
        capsys, "torch->flax", tmp_path / "m.pt", "--like", tmp_path / "like.msgpack", "-o", tmp_path / "m.msgpack"
    )
    line = next(line for line in report.splitlines() if "params/rnn/cell/hf/bias" in line)
    assert "rnn.bias_ih_l0 (20,) + rnn.bias_hh_l0 (20,)" in line and "biases added up" in line
    SIDES["torch"].save(case.random("torch", 2), tmp_path / "like.pt")
    report = ok(capsys, "flax->torch", tmp_path / "m.msgpack", "--like", tmp_path / "like.pt", "-o", tmp_path / "n.pt")
    assert re.search(r"rnn\.bias_hh_l0 \(20,\)\s+filled with 0", report)
    found, given = torch.load(tmp_path / "n.pt"), net.state_dict()
    torch.testing.assert_close(
        found["rnn.bias_ih_l0"], given["rnn.bias_ih_l0"] + given["rnn.bias_hh_l0"], rtol=0, atol=0
    )
    assert not found["rnn.bias_hh_l0"].any()


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("target", ["torch", "linen", "nnx", "gluon"])
def test_a_net_without_biases_goes_into_one_that_always_has_them(
    tmp_path: Path, capsys: Capture, kind: str, target: str
) -> None:
    case = layers(Shape(kind), "one")
    given = with_net(case, "torch", layers(Shape(kind, bias=False), "no bias").nets["torch"])
    into_clone(given, "torch", target, tmp_path, capsys)
    if target != "nnx":
        theirs, result = SIDES[target], tmp_path / f"new{SIDES[target].ending}"
        ok(capsys, f"torch->{theirs.framework}", tmp_path / "a.pt", "-o", result)
        found = theirs.load(given.fresh(target), result)
        assert_same(given.run(target, found), given.run("torch", given.random("torch", 1, target)))


def test_biases_are_left_behind_only_where_they_are_zero(tmp_path: Path, capsys: Capture) -> None:
    case = layers(Shape("lstm"), "one")
    bare = layers(Shape("lstm", bias=False), "no bias")
    net = saved(case, "gluon", tmp_path / "m.params")
    SIDES["torch"].save(bare.random("torch", 2), tmp_path / "like.pt")
    words = ("mxnet->torch", tmp_path / "m.params", "--like", tmp_path / "like.pt", "-o", tmp_path / "m.pt")
    message = refused(capsys, *words)
    assert "no place for" in message and "bias" in message and "of its values are not 0" in message
    for name, parameter in net.collect_params().items():
        if name.endswith("bias"):
            parameter.set_data(mxnet.nd.zeros(parameter.shape))
    SIDES["gluon"].save(net, tmp_path / "m.params")
    ok(capsys, *words)
    found = SIDES["torch"].load(bare.fresh("torch"), tmp_path / "m.pt")
    expected = SIDES["gluon"].run(net, *case.inputs)[0].asnumpy()
    np.testing.assert_allclose(found.rnn(torch.tensor(case.inputs[0]))[0].detach(), expected, rtol=1e-5, atol=1e-6)


def test_a_gru_with_a_candidate_bias_does_not_go_into_nnx(tmp_path: Path, capsys: Capture) -> None:
    case = layers(Shape("gru"), "one")
    saved(case, "torch", tmp_path / "m.pt", "linen")
    SIDES["nnx"].save(case.random("nnx", 2), tmp_path / "like.msgpack")
    words = ("torch->flax", tmp_path / "m.pt", "--like", tmp_path / "like.msgpack", "-o", tmp_path / "m.msgpack")
    message = refused(capsys, *words)
    assert "'recurrent_bias_n' of 'rnn.bias_hh_l0'" in message and "5 of its values are not 0" in message
    assert "flax.linen.GRUCell has it" in message
    assert not (tmp_path / "m.msgpack").exists()


# --- what cannot be said elsewhere


@pytest.mark.parametrize("target", ["keras", "linen", "nnx"])
def test_a_projection_is_refused_where_there_is_none(tmp_path: Path, capsys: Capture, target: str) -> None:
    case = layers(Shape("lstm", projection=2), "projected")
    theirs = SIDES[target]
    saved(case, "torch", tmp_path / "m.pt")
    theirs.save(layers(Shape("lstm"), "one").random(target, 2), tmp_path / f"like{theirs.ending}")
    message = refused(
        capsys, f"torch->{theirs.framework}", tmp_path / "m.pt", "--like", tmp_path / f"like{theirs.ending}"
    )
    assert "projection" in message and "PyTorch and MXNet" in message
    message = refused(capsys, f"torch->{theirs.framework}", tmp_path / "m.pt")
    assert "projection" in message and "PyTorch and MXNet" in message


@pytest.mark.parametrize("target", ["torch", "keras", "gluon"])
def test_a_minimal_gated_unit_is_refused(tmp_path: Path, capsys: Capture, target: str) -> None:
    case = layers(Shape("gru"), "one")
    mgu = with_net(case, "linen", linen_net(lambda: LinenLayers(Shape("gru"), linen.MGUCell), *case.inputs))
    theirs = SIDES[target]
    saved(mgu, "linen", tmp_path / "m.msgpack")
    theirs.save(case.random(target, 2), tmp_path / f"like{theirs.ending}")
    for words in ((), ("--like", tmp_path / f"like{theirs.ending}")):
        message = refused(capsys, f"flax->{theirs.framework}", tmp_path / "m.msgpack", *words)
        assert "is mgu" in message and "MGUCell of Flax is a minimal gated unit" in message
    (tmp_path / "back").mkdir()
    into_clone(mgu, "linen", "linen", tmp_path / "back", capsys)


def before(library: Any, bias: bool = True) -> Any:
    return keras_layers(library, Shape("gru", bias=bias), reset_after=False)


RESET_KIND = "rnn=gru_reset_before"
RESET_BEFORE = RecurrentCase(
    "reset before gru",
    {"keras": lambda: before(keras), "tf_keras": lambda: before(tf_keras)},
    layers(Shape("gru"), "one").inputs,
)


@pytest.mark.parametrize("target", ["keras", "tf_keras"])
@pytest.mark.parametrize("source", ["keras", "tf_keras"])
def test_reset_before_goes_between_the_two_keras(tmp_path: Path, capsys: Capture, source: str, target: str) -> None:
    into_clone(RESET_BEFORE, source, target, tmp_path, capsys)


def test_reset_before_in_the_neutral_file(tmp_path: Path, capsys: Capture) -> None:
    """Its gates by their names there: no other framework has this layer, so that two mistakes could make a right."""
    net = keras.Sequential([keras.Input((4, 3)), keras.layers.GRU(5, reset_after=False, name="rnn")])
    SIDES["keras"].randomise(net, np.random.default_rng(3)).save_weights(tmp_path / "m.weights.h5")
    ok(capsys, "tf->neutral", tmp_path / "m.weights.h5", "-o", tmp_path / "m.safetensors", "--kind", RESET_KIND)
    file = load_file(tmp_path / "m.safetensors")
    reset, update, new = (
        (file["rnn.input_weight"][rows], file["rnn.recurrent_weight"][rows], file["rnn.input_bias"][rows])
        for rows in (slice(0, 5), slice(5, 10), slice(10, 15))
    )
    xs, state = np.random.default_rng(4).normal(size=(2, 4, 3)).astype(np.float32), np.zeros((2, 5), np.float32)
    for x in xs.transpose(1, 0, 2):
        r, z = (1 / (1 + np.exp(-(x @ w.T + state @ u.T + b))) for w, u, b in (reset, update))
        state = z * state + (1 - z) * np.tanh(x @ new[0].T + (r * state) @ new[1].T + new[2])
    assert not file["rnn.recurrent_bias"].any()
    np.testing.assert_allclose(state, np.asarray(net(xs)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", ["torch", "linen", "nnx", "gluon", "keras"])
def test_reset_before_goes_nowhere_else(tmp_path: Path, capsys: Capture, target: str) -> None:
    saved(RESET_BEFORE, "keras", tmp_path / "m.weights.h5")
    theirs = SIDES[target]
    like = tmp_path / f"like{theirs.ending}"
    theirs.save(layers(Shape("gru"), "one").random(target, 2), like)
    words = (f"tf->{theirs.framework}", tmp_path / "m.weights.h5", "-o", tmp_path / f"b{theirs.ending}")
    for message in [refused(capsys, *words, *more) for more in ((), ("--like", like))[target == "keras" :]]:
        assert "reset_after=False" in message and "Train it with reset_after=True" in message


def test_no_other_gru_goes_into_a_clone_that_resets_before(tmp_path: Path, capsys: Capture) -> None:
    saved(layers(Shape("gru"), "one"), "torch", tmp_path / "m.pt")
    SIDES["keras"].save(RESET_BEFORE.random("keras", 2), tmp_path / "like.weights.h5")
    message = refused(capsys, "torch->tf", tmp_path / "m.pt", "--like", tmp_path / "like.weights.h5")
    assert "'rnn' of the clone is gru_reset_before" in message and "reset_after=True" in message


# --- a Keras GRU without biases does not show in its weights when it resets

BARE = layers(Shape("gru", bias=False), "no bias")


def test_a_keras_gru_without_biases_has_to_be_named(tmp_path: Path, capsys: Capture) -> None:
    net = saved(BARE, "keras", tmp_path / "m.weights.h5")
    words = ("tf->torch", tmp_path / "m.weights.h5", "-o", tmp_path / "m.pt")
    SIDES["torch"].save(BARE.random("torch", 2), tmp_path / "like.pt")
    for more in ((), ("--like", tmp_path / "like.pt")):
        message = refused(capsys, *words, *more)
        assert "--kind rnn=gru or --kind rnn=gru_reset_before" in message
    ok(capsys, *words, "--kind", "rnn=gru")
    assert_same(BARE.run("torch", SIDES["torch"].load(BARE.fresh("torch"), tmp_path / "m.pt")), BARE.run("keras", net))
    assert "reset_after" in refused(capsys, *words, "--kind", "rnn=gru_reset_before", "--force")
    message = refused(
        capsys, "torch->tf", tmp_path / "m.pt", "--like", tmp_path / "m.weights.h5", "-o", tmp_path / "n.weights.h5"
    )
    assert "--kind rnn=gru" in message
    into_clone(BARE, "torch", "keras", tmp_path, capsys, "--kind", "rnn=gru")
    into_clone(BARE, "keras", "tf_keras", tmp_path, capsys, "--force")


def test_a_whole_keras_model_says_when_it_resets(tmp_path: Path, capsys: Capture) -> None:
    net = BARE.random("keras", 1)
    net.save(tmp_path / "after.keras")
    before(keras, bias=False).save(tmp_path / "before.keras")
    words = ("-o", tmp_path / "m.pt", "--force")
    ok(capsys, "tf->torch", tmp_path / "after.keras", *words)
    assert_same(BARE.run("torch", SIDES["torch"].load(BARE.fresh("torch"), tmp_path / "m.pt")), BARE.run("keras", net))
    assert "reset_after" in refused(capsys, "tf->torch", tmp_path / "before.keras", *words)
    assert "reset_after" in refused(capsys, "torch->tf", tmp_path / "m.pt", "--like", tmp_path / "before.keras")


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_a_live_keras_net_says_when_it_resets(tmp_path: Path, library: Any) -> None:
    net = saved(BARE, "torch", tmp_path / "m.pt")
    flavour = library.__name__
    filled = converter.load_into(BARE.random(flavour, 2), tmp_path / "m.pt")
    assert_same(BARE.run(flavour, filled), BARE.run("torch", net))
    with pytest.raises(converter.ConversionError, match="reset_after"):
        converter.load_into(before(library, bias=False), tmp_path / "m.pt")
