"""The further files of the chapter's frameworks: other formats, other sorts of net, other names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import keras
import mxnet
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorflow as tf
import tf_keras
import torch
from flax.training import checkpoints

import converter
from tests.chapter import (
    HIDDEN,
    INPUTS,
    OUTPUTS,
    SIDES,
    Neutral,
    example_input,
    flax_net,
    flax_template,
    gluon_net,
    keras_net,
    keras_weights,
    random_weights,
    torch_forward,
    torch_net,
)
from tests.command import ok, refused
from tests.live.nets import TfKerasMLP, built, keras_functional, keras_sequential


def source_file(folder: Path, weights: Neutral) -> Path:
    torch.save(torch_net(weights).state_dict(), folder / "mlp.params")
    return folder / "mlp.params"


def same_function(found: Any, weights: Neutral, x: np.ndarray[Any, Any]) -> None:
    expected = torch_forward(torch_net(weights), x)
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


# --- one Keras file and one checkpoint, made without a template, for every sort of net


@pytest.mark.parametrize("make", [keras_sequential, keras_functional], ids=["sequential", "functional"])
def test_keras_h5_loads_into_every_sort_of_net(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[], Any]
) -> None:
    weights, x = random_weights(1), example_input()
    ok(capsys, "torch->tensorflow", source_file(tmp_path, weights), "-o", tmp_path / "m.weights.h5", "--schema", "mlp")
    net = make()
    net.load_weights(tmp_path / "m.weights.h5")
    assert all(array.tobytes() == weights[name].tobytes() for name, array in keras_weights(net).items())
    same_function(net(x), weights, x)


def tf_keras_sequential() -> Any:
    dense = tf_keras.layers.Dense
    return tf_keras.Sequential([tf_keras.Input((INPUTS,)), dense(HIDDEN, activation="relu"), dense(OUTPUTS)])


@pytest.mark.parametrize("make", [lambda: built(TfKerasMLP()), tf_keras_sequential], ids=["subclassed", "sequential"])
def test_a_checkpoint_loads_into_tf_keras(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[], Any]
) -> None:
    weights, x = random_weights(2), example_input()
    ok(capsys, "torch->tensorflow", source_file(tmp_path, weights), "-o", tmp_path / "m.ckpt", "--schema", "mlp")
    net = make()
    net.load_weights(tmp_path / "m.ckpt").assert_existing_objects_matched()
    assert all(array.tobytes() == weights[name].tobytes() for name, array in keras_weights(net).items())
    same_function(net(x), weights, x)


@pytest.mark.parametrize("make", [lambda: built(TfKerasMLP()), tf_keras_sequential], ids=["subclassed", "sequential"])
def test_keras_2_h5_loads_into_tf_keras_and_is_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[], Any]
) -> None:
    weights = random_weights(12)
    ok(capsys, "torch->tensorflow", source_file(tmp_path, weights), "-o", tmp_path / "m.h5", "--schema", "mlp")
    net = make()
    net.load_weights(tmp_path / "m.h5")
    assert all(array.tobytes() == weights[name].tobytes() for name, array in keras_weights(net).items())
    net.save_weights(tmp_path / "saved.h5")
    ok(capsys, "tf->torch", tmp_path / "saved.h5", "-o", tmp_path / "m.pt", "--like", tmp_path / "mlp.params")
    found = SIDES["torch"].weights(SIDES["torch"].load(tmp_path / "m.pt"))
    assert all(array.tobytes() == weights[name].tobytes() for name, array in found.items())


@pytest.mark.parametrize("make", [keras_sequential, keras_functional], ids=["sequential", "functional"])
def test_a_whole_keras_model_takes_new_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[], Any]
) -> None:
    weights, x = random_weights(13), example_input()
    make().save(tmp_path / "clone.keras")
    ok(capsys, "torch->tensorflow", source_file(tmp_path, weights), "--like", tmp_path / "clone.keras")
    net = keras.models.load_model(tmp_path / "mlp.keras")
    assert all(array.tobytes() == weights[name].tobytes() for name, array in keras_weights(net).items())
    same_function(net(x), weights, x)
    first = (tmp_path / "mlp.keras").read_bytes()
    ok(capsys, "tf->torch", tmp_path / "mlp.keras", "-o", tmp_path / "back.pt", "--like", tmp_path / "mlp.params")
    found = SIDES["torch"].weights(SIDES["torch"].load(tmp_path / "back.pt"))
    assert all(array.tobytes() == weights[name].tobytes() for name, array in found.items())
    ok(capsys, "torch->tf", tmp_path / "mlp.params", "--like", tmp_path / "clone.keras", "--force")
    assert (tmp_path / "mlp.keras").read_bytes() == first
    message = refused(capsys, "torch->tf", tmp_path / "mlp.params", "-o", tmp_path / "alone.keras")
    assert "Give the clone with --like clone.keras" in message
    assert not [file.name for file in tmp_path.iterdir() if "partial" in file.name]


@pytest.mark.parametrize("how", ["model=", "root"])
@pytest.mark.parametrize("make", [lambda: built(TfKerasMLP()), lambda: keras_net(random_weights(9))], ids=["2", "3"])
def test_a_checkpoint_restores_through_tf_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[], Any], how: str
) -> None:
    weights, x = random_weights(3), example_input()
    ok(capsys, "torch->tensorflow", source_file(tmp_path, weights), "-o", tmp_path / "m.ckpt", "--schema", "mlp")
    net = make()
    checkpoint = tf.train.Checkpoint(model=net) if how == "model=" else tf.train.Checkpoint(net)
    checkpoint.read(str(tmp_path / "m.ckpt")).assert_existing_objects_matched()
    same_function(net(x), weights, x)


def test_a_checkpoint_of_a_clone_made_by_tf_train_is_a_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, x = random_weights(4), example_input()
    clone = tf.train.Checkpoint(model=keras_net(random_weights(8))).write(str(tmp_path / "clone.ckpt"))
    ok(capsys, "torch->tf", source_file(tmp_path, weights), "--like", clone, "--map", "output=model.out",
       "-o", tmp_path / "m.ckpt")  # fmt: skip
    net = keras_net(random_weights(9))
    tf.train.Checkpoint(model=net).restore(str(tmp_path / "m.ckpt")).assert_existing_objects_matched()
    same_function(net(x), weights, x)


@pytest.mark.parametrize("named", ["prefix", "index", "folder"])
def test_what_tf_keras_saved_under_the_chapter_s_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], named: str
) -> None:
    weights, x = random_weights(5), example_input()
    keras_net(weights, TfKerasMLP()).save_weights(tmp_path / "mlp.params")
    path = {"prefix": tmp_path / "mlp.params", "index": tmp_path / "mlp.params.index", "folder": tmp_path}[named]
    ok(capsys, "tf->torch", path, "-o", tmp_path / "m.pt", "--schema", "mlp")
    same_function(torch_forward(SIDES["torch"].load(tmp_path / "m.pt"), x), weights, x)


# --- Flax


def test_orbax_is_restored_by_orbax_and_by_flax(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = random_weights(6)
    ok(capsys, "torch->flax", source_file(tmp_path, weights), "-o", tmp_path / "m.orbax")
    expected = flax_net(weights)
    with ocp.StandardCheckpointer() as checkpointer:
        for found in (
            checkpointer.restore(tmp_path / "m.orbax"),
            checkpointer.restore(tmp_path / "m.orbax", flax_template()),
        ):
            assert jax.tree.structure(found) == jax.tree.structure(expected)
            assert all(jax.tree.leaves(jax.tree.map(np.array_equal, found, expected)))


@pytest.mark.parametrize("step", [None, 5, 10])
@pytest.mark.parametrize("form", ["orbax", "msgpack"])
def test_save_checkpoint_folders_and_their_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, step: int | None
) -> None:
    steps = {5: random_weights(5), 10: random_weights(10)}
    flax_config = __import__("flax").config
    flax_config.update("flax_use_orbax_checkpointing", form == "orbax")
    for number, weights in steps.items():
        checkpoints.save_checkpoint(tmp_path / "ckpt", flax_net(weights), step=number, keep=5)
    words = ("--step", step) if step else ()
    ok(capsys, "flax->torch", tmp_path / "ckpt", "-o", tmp_path / "m.pt", *words)
    found = SIDES["torch"].weights(SIDES["torch"].load(tmp_path / "m.pt"))
    assert all(array.tobytes() == steps[step or 10][name].tobytes() for name, array in found.items())
    message = refused(capsys, "flax->torch", tmp_path / "ckpt", "-o", tmp_path / "n.pt", "--step", 7)
    assert "7" in message and "5" in message and "10" in message


def test_standard_checkpointer_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = random_weights(7)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "ckpt", flax_net(weights))
    ok(capsys, "jax->mxnet", tmp_path / "ckpt", "-o", tmp_path / "m.params")
    found = SIDES["mxnet"].weights(SIDES["mxnet"].load(tmp_path / "m.params"))
    assert all(array.tobytes() == weights[name].tobytes() for name, array in found.items())


# --- PyTorch, MXNet, safetensors


def test_the_legacy_form_of_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = random_weights(8)
    torch.save(torch_net(weights).state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    ok(capsys, "torch->flax", tmp_path / "old.pt")
    found = SIDES["flax"].weights(SIDES["flax"].load(tmp_path / "old.msgpack"))
    assert all(array.tobytes() == weights[name].tobytes() for name, array in found.items())


def test_the_older_nd_save_and_prefixed_names_of_mxnet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = random_weights(9)
    net = gluon_net(weights)
    net.collect_params().save(str(tmp_path / "prefixed.params"))
    mxnet.nd.save(str(tmp_path / "nd.params"), {name: mxnet.nd.array(a) for name, a in weights.items()})
    ok(capsys, "mxnet->torch", tmp_path / "nd.params", "-o", tmp_path / "a.pt")
    with converter.read(tmp_path / "prefixed.params") as prefixed:
        first, second = (layer.path for layer in prefixed.layers)
    ok(capsys, "mxnet->torch", tmp_path / "prefixed.params", "-o", tmp_path / "b.pt",
       "--map", f"{first}=hidden", "--map", f"{second}=output")  # fmt: skip
    for result in ("a.pt", "b.pt"):
        found = SIDES["torch"].weights(SIDES["torch"].load(tmp_path / result))
        assert all(array.tobytes() == weights[name].tobytes() for name, array in found.items())


def test_safetensors_named_as_torch_or_flax_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.flax import save_file as save_flax
    from safetensors.torch import load_file, save_file

    weights = random_weights(10)
    save_file(torch_net(weights).state_dict(), tmp_path / "torch.safetensors")
    tree = flax.serialization.to_state_dict(flax_net(weights))
    save_flax(
        {f"params/{k}/{n}": a for k, v in tree["params"].items() for n, a in v.items()}, tmp_path / "f.safetensors"
    )
    ok(capsys, "flax->torch", tmp_path / "f.safetensors", "-o", tmp_path / "back.safetensors")
    found = load_file(tmp_path / "back.safetensors")
    assert all(value.numpy().tobytes() == weights[name].tobytes() for name, value in found.items())
    ok(capsys, "torch->flax", tmp_path / "torch.safetensors", "-o", tmp_path / "m.msgpack")
    flax_found = SIDES["flax"].weights(SIDES["flax"].load(tmp_path / "m.msgpack"))
    assert all(array.tobytes() == weights[name].tobytes() for name, array in flax_found.items())


# --- templates of other forms


def test_the_format_of_the_template_is_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = random_weights(11)
    keras_net(
        random_weights(1), keras.Sequential([keras.layers.Dense(HIDDEN), keras.layers.Dense(OUTPUTS)])
    ).save_weights(tmp_path / "clone.weights.h5")
    assert "mlp.weights.h5" in ok(
        capsys, "torch->tf", source_file(tmp_path, weights), "--like", tmp_path / "clone.weights.h5"
    )
    assert "mlp.ckpt" in ok(
        capsys,
        "torch->tf",
        tmp_path / "mlp.params",
        "--like",
        tmp_path / "clone.weights.h5",
        "-o",
        tmp_path / "mlp.ckpt",
    )
    with converter.read(tmp_path / "mlp.ckpt") as spelled:
        assert [layer.path for layer in spelled.layers] == ["dense", "dense_1"]
