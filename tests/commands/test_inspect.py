"""`converter inspect`, and the options that choose what is read and written."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
from safetensors.torch import load_file

import converter
from tests.command import ok, refused
from tests.places import ROOT

EXAMPLES = ROOT / "examples"


@pytest.mark.parametrize(
    ("file", "title"),
    [
        ("mlp.params", "PyTorch file, torch names"),
        ("mlp.weights.h5", "Keras 3 weights, tensorflow names"),
        ("mlp.msgpack", "Flax msgpack, flax names"),
        ("mlp-mxnet.params", "MXNet parameters, mxnet names"),
    ],
)
def test_what_people_and_programs_see(capsys: pytest.CaptureFixture[str], file: str, title: str) -> None:
    printed = ok(capsys, "inspect", EXAMPLES / file)
    assert f"{file}: {title}" in printed and "4 tensors, 7,946 values, 31,784 bytes" in printed
    found = json.loads(ok(capsys, "inspect", EXAMPLES / file, "--json", "--stats"))
    assert found["total"] == {"tensors": 4, "bytes": 31784, "elements": 7946}
    with converter.read(EXAMPLES / file) as weights:
        for entry in found["tensors"]:
            array = weights[entry["name"]]
            assert entry["shape"] == list(array.shape) and entry["kind"] == "linear" and entry["bytes"] == array.nbytes
            assert entry["statistics"] == {
                "minimum": array.min(),
                "maximum": array.max(),
                "mean": pytest.approx(array.mean(dtype=np.float64)),
                "non_finite": 0,
            }


def test_values_that_are_not_finite_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {"a": torch.tensor([1.0, float("nan"), float("-inf"), 3.0]), "b": torch.tensor([float("nan")]).bfloat16()}
    torch.save(values, tmp_path / "x.pt")
    first, second = json.loads(ok(capsys, "inspect", tmp_path / "x.pt", "--stats", "--json"))["tensors"]
    assert first["statistics"] == {"minimum": 1.0, "maximum": 3.0, "mean": 2.0, "non_finite": 2}
    assert second["statistics"] == {"minimum": None, "maximum": None, "mean": None, "non_finite": 1}


def test_half_a_character_is_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A lone surrogate: pickles and JSON can say one, and no terminal and no other file can."""
    tensor = np.arange(3.0)
    (tmp_path / "name.pkl").write_bytes(pickle.dumps({"a\ud800": tensor}, 0))
    (tmp_path / "beside.pkl").write_bytes(pickle.dumps({"a": tensor, "b\ud800": "\ud801"}, 0))
    header = json.dumps({"a\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "name.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    for name in ("name.pkl", "name.safetensors"):
        assert r"the name of a tensor, 'a\ud800', is no text" in refused(capsys, "inspect", tmp_path / name)
    assert r"left out: b\ud800" in ok(capsys, "inspect", tmp_path / "beside.pkl")
    found = json.loads(ok(capsys, "inspect", tmp_path / "beside.pkl", "--json"))
    assert found["left_out"][0]["name"] == "b\ud800"


def checkpoint(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """A training checkpoint, wrapped by DataParallel and torch.compile, with a second set of weights."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LSTM(4, 2))
    weights = {f"module._orig_mod.{name}": torch.randn_like(value) for name, value in net.state_dict().items()}
    ema = {name.removeprefix("module._orig_mod."): torch.randn_like(value) for name, value in weights.items()}
    optimizer = torch.optim.Adam(net.parameters())
    torch.save({"model": weights, "ema": ema, "optimizer": optimizer.state_dict(), "epoch": 7}, path)
    return {"model": weights, "ema": ema}


def test_a_training_checkpoint_gives_its_weights_or_those_at_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = checkpoint(tmp_path / "train.ckpt")
    printed = ok(capsys, "torch->torch", tmp_path / "train.ckpt", "-o", tmp_path / "a.safetensors", "--strip", "module",
                 "--strip", "_orig_mod")  # fmt: skip
    assert "optimizer" in printed and "epoch" in printed
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == saved["ema"].keys()
    assert all(torch.equal(value, saved["model"][f"module._orig_mod.{name}"]) for name, value in found.items())
    ok(capsys, "torch->torch", tmp_path / "train.ckpt", "-o", tmp_path / "b.safetensors", "--key", "ema")
    found = load_file(tmp_path / "b.safetensors")
    assert found.keys() == saved["ema"].keys()
    assert all(torch.equal(value, saved["ema"][name]) for name, value in found.items())
    message = refused(capsys, "torch->torch", tmp_path / "train.ckpt", "--key", "emma", "-o", tmp_path / "c.pt")
    assert "emma" in message and "ema" in message
    message = refused(capsys, "torch->torch", tmp_path / "train.ckpt", "--strip", "modul", "-o", tmp_path / "c.pt")
    assert "--strip modul: the source has no leading module 'modul'." in message


def test_leaves_without_names_are_named_by_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Equinox writes one .npy behind the other, in the order of the tree: weight, bias of each layer."""
    original = torch.load(EXAMPLES / "mlp.params", weights_only=True)
    fresh = {name: torch.randn_like(value) for name, value in original.items()}
    torch.save(fresh, tmp_path / "names.pt")
    with (tmp_path / "model.eqx").open("wb") as file:
        for value in original.values():
            np.save(file, value.numpy())
    words = ("torch->flax", tmp_path / "model.eqx", "-o", tmp_path / "m.msgpack")
    ok(capsys, *words, "--names-from", tmp_path / "names.pt")
    with converter.read(tmp_path / "m.msgpack") as found:
        assert np.array_equal(found["params/hidden/kernel"], original["hidden.weight"].numpy().T)
        assert np.array_equal(found["params/output/bias"], original["output.bias"].numpy())
    torch.save(dict(reversed(fresh.items())), tmp_path / "names.pt")
    message = refused(capsys, *words, "--force", "--names-from", tmp_path / "names.pt")
    assert "tensor '0' has shape (256, 20); at the same position, 'output.bias' is (10,)" in message


@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_shards_of_a_given_size(tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str) -> None:
    output = tmp_path / f"model{ending}"
    printed = ok(capsys, "torch->torch", EXAMPLES / "mlp.params", "-o", output, "--max-shard-size", "12KB")
    index = tmp_path / f"model{ending}.index.json"
    assert str(index) in printed
    shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    assert len(shards) == 2 and all((tmp_path / name).is_file() for name in shards)
    original = torch.load(EXAMPLES / "mlp.params", weights_only=True)
    load = load_file if ending == ".safetensors" else torch.load
    found = {name: value for shard in shards for name, value in load(tmp_path / shard).items()}
    assert found.keys() == original.keys() and all(torch.equal(found[name], original[name]) for name in found)
    with converter.read(index) as weights:
        assert all(np.array_equal(weights[name], original[name].numpy()) for name in original)


def test_an_orbax_checkpoint_in_files_of_a_given_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("torch->flax", EXAMPLES / "mlp.params", "-o", tmp_path / "net.orbax", "--max-shard-size", "8KB")
    ok(capsys, *words)
    sizes = [file.stat().st_size for file in (tmp_path / "net.orbax").glob("*/*") if file.name != ".zarray"]
    assert len(sizes) > 4 and max(sizes) <= 8000
    found = ocp.StandardCheckpointer().restore(tmp_path / "net.orbax")["params"]
    original = torch.load(EXAMPLES / "mlp.params", weights_only=True)
    for layer in ("hidden", "output"):
        assert np.array_equal(found[layer]["kernel"], original[f"{layer}.weight"].numpy().T)
        assert np.array_equal(found[layer]["bias"], original[f"{layer}.bias"].numpy())
    assert "cannot be resumed" in refused(capsys, *words, "--force", "--resume")


def test_shards_of_an_older_output_are_not_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = tmp_path / "model-00001-of-00002.safetensors"
    shard.write_text("precious")
    words = (
        "torch->neutral",
        EXAMPLES / "mlp.params",
        "-o",
        tmp_path / "model.safetensors",
        "--max-shard-size",
        "12KB",
    )
    assert f"{shard}: exists already" in refused(capsys, *words)
    assert shard.read_text() == "precious"
    ok(capsys, *words, "--force")
    ok(capsys, "neutral->flax", tmp_path / "model.safetensors.index.json", "-o", tmp_path / "m.msgpack")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-shard-size", "huge"], "'--max-shard-size': 'huge' is an invalid size. Say it like 5GB"),
        (["--max-shard-size", "0"], "'--max-shard-size': '0' is an invalid size"),
    ],
)
def test_an_invalid_size_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    said = refused(capsys, "torch->torch", EXAMPLES / "mlp.params", "-o", tmp_path / "x.pt", *words, code=2)
    assert message in said


def test_a_format_without_shards_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("-o", tmp_path / "x.pt", "--max-shard-size", "1GB", "--format", "npz")
    assert "NumPy archive cannot be written in shards" in refused(
        capsys, "torch->torch", EXAMPLES / "mlp.params", *words
    )


def test_a_wrong_checksum_is_told_unless_it_is_not_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ok(capsys, "torch->neutral", EXAMPLES / "mlp.params", "-o", tmp_path / "n.safetensors")
    data = bytearray((tmp_path / "n.safetensors").read_bytes())
    data[-5] ^= 1
    (tmp_path / "n.safetensors").write_bytes(data)
    assert "output" in refused(capsys, "neutral->torch", tmp_path / "n.safetensors")
    ok(capsys, "neutral->torch", tmp_path / "n.safetensors", "--no-checksums")
