"""File names that say something else than what is in the file: an output called ONNX, a shard that stands for a net."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from converter.formats.others import OTHER_EXTENSIONS
from tests.attacks.test_outputs import SHARD, Shell, checkpoint, shell, state

__all__ = ["shell"]


@pytest.mark.parametrize("name", ["x.ONNX", "x.bin.index", "x.tar.gz", "x.json", *map("x{}".format, OTHER_EXTENSIONS)])
def test_an_extension_of_what_is_not_written_is_refused(shell: Shell, tmp_path: Path, name: str) -> None:
    checkpoint(tmp_path / "net.safetensors")
    for target, own in (("flax", ".msgpack"), ("torch", ".pt"), ("neutral", ".safetensors")):
        said = shell.refused(f"torch->{target}", "net.safetensors", "-o", name)
        assert f"{name}: '." in said and "which is not written" in said and own in said, said
        assert "--format" in said
    assert len(state(tmp_path)) == 1


def test_the_advice_about_an_extension_works(shell: Shell, tmp_path: Path) -> None:
    checkpoint(tmp_path / "net.safetensors")
    shell.ok("torch->flax", "net.safetensors", "-o", "x.msgpack")
    shell.ok("torch->flax", "net.safetensors", "-o", "x.onnx", "--format", "flax-msgpack")
    shell.ok("torch->torch", "net.safetensors", "-o", "epoch.12")
    assert (tmp_path / "x.msgpack").read_bytes() == (tmp_path / "x.onnx").read_bytes()


def test_an_extension_is_the_same_in_capitals(shell: Shell, tmp_path: Path) -> None:
    checkpoint(tmp_path / "net.safetensors")
    assert "format 'keras2-h5'" in shell.refused("torch->torch", "net.safetensors", "-o", "X.H5")
    shell.ok("torch->torch", "net.safetensors", "-o", "X.NPZ")
    assert (tmp_path / "X.NPZ").read_bytes()[:2] == b"PK"
    assert np.load(tmp_path / "X.NPZ")["first.weight"].shape == (3, 3)


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize(
    ("form", "extension"),
    [("safetensors-sharded", ".safetensors"), ("torch-sharded", ".bin")],
    ids=["safetensors", "torch"],
)
def test_a_lone_shard_is_half_a_net(shell: Shell, tmp_path: Path, form: str, extension: str, with_index: bool) -> None:
    index = checkpoint(tmp_path / f"net{extension}.index.json", form)
    shard = f"net-00002-of-00004{extension}"
    if not with_index:
        index.rename(tmp_path / "moved.txt")
    checkpoint(tmp_path / "clone.pt", "torch")
    for words in (("torch->flax", shard), ("torch->torch", "clone.pt", "--like", shard, "-o", "x.pt")):
        said = shell.refused(*words)
        assert f"{shard}: one of 4 shards, not the whole net" in said, said
        assert (f"Name its index, '{index.name}'" if with_index else "fetch that and the other shards") in said
    assert "second" in shell.ok("inspect", shard) or "first" in shell.ok("inspect", shard)
    shutil.copy(tmp_path / shard, tmp_path / f"part{extension}")
    shell.ok("torch->flax", f"part{extension}")  # as the message says


def test_an_index_of_another_name_is_met(shell: Shell, tmp_path: Path) -> None:
    index = checkpoint(tmp_path / "net.safetensors.index.json", "safetensors-sharded")
    index.rename(tmp_path / "renamed.index.json")
    assert "'renamed.index.json'" in shell.refused("torch->flax", SHARD)


def test_an_only_shard_is_a_whole_net(shell: Shell, tmp_path: Path) -> None:
    checkpoint(tmp_path / "net-00001-of-00001.safetensors")
    shell.ok("torch->flax", "net-00001-of-00001.safetensors", "-o", "x.msgpack")


def test_a_whole_net_is_not_called_a_shard(shell: Shell, tmp_path: Path) -> None:
    checkpoint(tmp_path / "net.safetensors")
    said = shell.refused("torch->torch", "net.safetensors", "-o", "net-00001-of-00002.bin", "--format", "torch")
    assert "one of several shards" in said


@pytest.mark.parametrize("with_map", [True, False])
def test_a_lone_shard_of_keras_is_half_a_net(shell: Shell, tmp_path: Path, with_map: bool) -> None:
    checkpoint(tmp_path / "net_00000.weights.h5", "keras-h5", "/")
    if with_map:
        (tmp_path / "net.weights.json").write_text('{"weight_map": {"/first/vars": "net_00000.weights.h5"}}')
    said = shell.refused("tensorflow->torch", "net_00000.weights.h5")
    assert "not the whole net" in said and ("'net.weights.json'" in said)


def test_numbered_checkpoints_of_keras_are_whole(shell: Shell, tmp_path: Path) -> None:
    for step in (0, 1):
        checkpoint(tmp_path / f"step_{step:05}.weights.h5", "keras-h5", "/")
    shell.ok("tensorflow->torch", "step_00001.weights.h5", "-o", "x.pt")
    checkpoint(tmp_path / "epoch_00007.weights.h5", "keras-h5", "/")
    shell.ok("tensorflow->torch", "epoch_00007.weights.h5", "-o", "y.pt")


@pytest.mark.parametrize("name", ["consolidated.{}.pth", "mp_rank_{}_model_states.pt"])
def test_a_slice_of_a_net_for_one_processor_is_no_net(shell: Shell, tmp_path: Path, name: str) -> None:
    for rank in ("00", "01"):
        checkpoint(tmp_path / name.format(rank), "torch")
    assert "one of 2 slices of a net" in shell.refused("torch->flax", name.format("00"))
    (tmp_path / name.format("01")).unlink()
    shell.ok("torch->flax", name.format("00"), "-o", "x.msgpack")
