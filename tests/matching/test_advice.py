"""The advice of an error leads on: each option that it names is one that settles it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import flax.serialization
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import converter
from tests.command import ok, refused, run

Shapes = dict[str, tuple[int, ...]]


def random(shapes: Shapes) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


NET: Shapes = {"hidden.weight": (5, 4), "hidden.bias": (5,), "out.weight": (3, 5), "out.bias": (3,)}
COMMAND = ["torch->torch", "source.safetensors", "--like", "clone.safetensors", "-o", "made.safetensors"]


@pytest.mark.usefixtures("here")
def test_tensors_without_names_get_them_from_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("source.npz", *random(NET).values())
    save_file(random(NET), "clone.safetensors")
    command = ["torch->torch", "source.npz", "--like", "clone.safetensors", "-o", "made.safetensors"]
    said = refused(capsys, *command)
    assert "--names-from FILE names the tensors" in said and "--map" not in said
    np.savez("names.npz", **random(NET))  # which keeps their order
    ok(capsys, *command, "--names-from", "names.npz")


@pytest.mark.usefixtures("here")
def test_a_layer_that_nothing_fits_is_not_mapped(capsys: pytest.CaptureFixture[str]) -> None:
    save_file(random({"stack.weight": (2, 5, 4), "head.weight": (3, 5), "head.bias": (3,)}), "source.safetensors")
    save_file(random({**NET, "head.weight": (3, 5), "head.bias": (3,)}), "clone.safetensors")
    said = refused(capsys, *COMMAND)
    assert "Left in the source: 'stack'" in said and "--map SOURCE" not in said
    assert "--map head=out gives it one that is paired with another" in said
    ok(capsys, *COMMAND, "--allow-missing", "hidden", "--allow-missing", "out", "--ignore", "stack")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("strip", [["model._orig_mod"], ["model", "_orig_mod"], ["_orig_mod", "model"]])
def test_modules_are_stripped_one_by_one_or_together(strip: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    save_file(random({f"model._orig_mod.{name}": shape for name, shape in NET.items()}), "source.safetensors")
    save_file(random(NET), "clone.safetensors")
    ok(capsys, *COMMAND, *(word for module in strip for word in ("--strip", module)))
    said = refused(capsys, *COMMAND, "--force", "--strip", "modul._orig_mod")
    assert "the source has no leading module 'modul._orig_mod'" in said


@pytest.mark.usefixtures("here")
def test_a_second_set_of_parameters_keeps_the_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    params = {"Dense_0": random({"kernel": (4, 5), "bias": (5,)}), "BatchNorm_0": random({"scale": (5,), "bias": (5,)})}
    state = {
        "step": np.int32(3),
        "params": params,
        "ema_params": {module: {name: a + 1 for name, a in inside.items()} for module, inside in params.items()},
        "batch_stats": {"BatchNorm_0": random({"mean": (5,), "var": (5,)})},
        "opt_state": {"0": {"count": np.int32(3)}},
    }
    Path("state.msgpack").write_bytes(flax.serialization.msgpack_serialize(state))
    said = ok(capsys, "flax->torch", "state.msgpack", "-o", "plain.safetensors")
    assert "--key ema_params takes it" in said
    ok(capsys, "flax->torch", "state.msgpack", "-o", "ema.safetensors", "--key", "ema_params")
    plain, ema = converter.read("plain.safetensors"), converter.read("ema.safetensors")
    assert plain.keys() == ema.keys() and len(ema) == 6
    assert np.array_equal(ema["BatchNorm_0.running_mean"], plain["BatchNorm_0.running_mean"])
    assert np.array_equal(ema["Dense_0.bias"], plain["Dense_0.bias"] + 1)


@pytest.mark.usefixtures("here")
def test_a_certificate_is_not_told_to_take_options(capsys: pytest.CaptureFixture[str]) -> None:
    save_file(random(NET), "source.safetensors")
    ok(capsys, "torch->flax", "source.safetensors", "-o", "made.msgpack", "--certificate", "cert.json")
    document = json.loads(Path("cert.json").read_text())
    document["options"]["map"] = {"hiden": "hidden"}
    Path("cert.json").write_text(json.dumps(document))
    said = run(capsys, "verify", "cert.json").out
    assert "the source has no layer 'hiden'. Did you mean 'hidden'?" in said and "map=" not in said


@pytest.mark.usefixtures("here")
def test_what_verify_advises_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    save_file(random({"a.weight": (4, 4), "b.weight": (4, 4)}), "source.safetensors")
    save_file(random({"c.weight": (4, 4), "d.weight": (4, 4)}), "clone.safetensors")
    said = refused(capsys, "verify", "source.safetensors", "clone.safetensors")
    flags = {word for word in shlex.split(said.replace("'", "")) if word.startswith("--")}
    offered = ok(capsys, "verify", "--help")
    assert flags and all(flag in offered for flag in flags)


ODD: Shapes = {"odd.weight": (3, 4, 2, 2, 2, 2), "odd.bias": (9,)}
FLAX: dict[str, Any] = {"out": {"kernel": (5, 3), "bias": (3,)}}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("alike", [True, False])
def test_a_layer_of_an_unknown_kind_beside_a_clone(alike: bool, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(random({**ODD, "out.weight": (3, 5), "out.bias": (3,)}), "source.safetensors")
    odd = random({"kernel": ODD["odd.weight"] if alike else (7, 2), "bias": (9,)})
    clone = {"params": {"out": random(FLAX["out"]), "odd": odd}}
    Path("clone.msgpack").write_bytes(flax.serialization.msgpack_serialize(clone))
    command = ["torch->flax", "source.safetensors", "--like", "clone.msgpack", "-o", "made.msgpack"]
    said = refused(capsys, *command)
    if alike:
        assert "--kind odd=parameter moves its tensors as they are" in said
        ok(capsys, *command, "--kind", "odd=parameter")
        made = flax.serialization.msgpack_restore(Path("made.msgpack").read_bytes())
        assert np.array_equal(made["params"]["odd"]["bias"], random(ODD)["odd.bias"])
    else:
        assert "--kind" not in said and "--ignore odd" in said and "--allow-missing odd" in said
        ok(capsys, *command, "--ignore", "odd", "--allow-missing", "odd")


@pytest.mark.usefixtures("here")
def test_several_layers_in_one_are_asked_about(capsys: pytest.CaptureFixture[str]) -> None:
    """Of `nn.scan`, or `jax.vmap` over the layers."""
    stack = random({"kernel": (6, 5, 7), "bias": (6, 7)})
    source = {"params": {"layers": {"mlp": stack}, "out": random(FLAX["out"])}}
    Path("source.msgpack").write_bytes(flax.serialization.msgpack_serialize(source))
    command = ["flax->torch", "-o", "made.safetensors", "source.msgpack"]
    assert "--stacked layers.mlp=0" in refused(capsys, *command)
    ok(capsys, *command, "--stacked", "layers.mlp=0")
    made = load_file("made.safetensors")
    for place in range(6):
        np.testing.assert_array_equal(made[f"layers.mlp.{place}.weight"], stack["kernel"][place].T)
        np.testing.assert_array_equal(made[f"layers.mlp.{place}.bias"], stack["bias"][place])


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("framework", "name", "told"),
    [
        ("tensorflow", "rnn/cudnn_lstm/opaque_kernel", "tf.train.Saver"),
        ("tensorflow", "rnn/opaque_kernel/.ATTRIBUTES/VARIABLE_VALUE", "tf.train.Saver"),
        ("mxnet", "lstm_parameters", "unpack_weights"),
        ("mxnet", "encoder_rnn_tanh_parameters", "unpack_weights"),
    ],
)
def test_all_weights_of_an_rnn_in_one_tensor(
    framework: str, name: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = "out/kernel" if "/" in name else "out.weight"
    save_file(random({name: (176,), out: (3, 5)}), "source.safetensors")
    said = refused(capsys, f"{framework}->torch", "source.safetensors", "-o", "made.safetensors")
    assert "one flat tensor of all weights of a recurrent layer" in said and told in said and "--" not in said
