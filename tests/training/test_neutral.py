"""The state of an optimizer in a neutral file: the same bits back, documented, hashed, and read with suspicion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

import converter
from tests.command import ok, refused
from tests.training.test_order_torch import Square, decayed, saved, sgd, trained


def written(capsys: Any, tmp_path: Path) -> tuple[Any, Path]:
    net = Square()
    groups = [{"params": decayed(net, True), "weight_decay": 0.1}, {"params": decayed(net, False), "lr": 0.02}]
    optimizer = trained(net, sgd(groups))
    saved(net, optimizer, tmp_path / "net.pt")
    ok(capsys, "torch->neutral", tmp_path / "net.pt", "-o", tmp_path / "net.safetensors", "--training")
    return optimizer, tmp_path / "net.safetensors"


def test_there_and_back_are_the_same_bits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    optimizer, file = written(capsys, tmp_path)
    back = tmp_path / "back.pt"
    said = ok(capsys, "neutral->torch", file, "-o", back, "--like", tmp_path / "net.pt", "--training")
    assert said.count("go on with: torch.optim.SGD(") == 2
    ours, theirs = torch.load(back), optimizer.state_dict()
    for number, entry in theirs["state"].items():
        assert torch.equal(ours["optimizer"]["state"][number]["momentum_buffer"], entry["momentum_buffer"])
    for group, own in zip(ours["optimizer"]["param_groups"], theirs["param_groups"], strict=True):
        assert group == own


def test_the_document_and_the_hashes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, file = written(capsys, tmp_path)
    with safetensors.safe_open(file, "np") as opened:
        metadata, names = opened.metadata(), set(opened.keys())
    document = json.loads(metadata["converter_training"])
    assert document["version"] == 1 and document["optimizer"] == "sgd" and document["origin"] == "torch"
    assert (
        document["groups"][0]["hyper"]["weight_decay"] == 0.1
        and document["groups"][1]["hyper"]["learning_rate"] == 0.02
    )
    assert set(json.loads(metadata["xxh3_128"])) == names
    slots = {name for name in names if name.startswith("opt/")}
    parameters = {name for group in document["groups"] for name in group["parameters"]}
    assert slots == {f"opt/momentum/{name}" for name in parameters} and len(slots) == 8


def test_its_weights_are_read_without_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, file = written(capsys, tmp_path)
    ok(capsys, "neutral->flax", file, "-o", tmp_path / "net.msgpack")
    with converter.open(tmp_path / "net.msgpack") as weights:
        assert not [name for name in weights if "opt" in name or "momentum" in name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document.update(version=2), "is no document of version 1"),
        (lambda document: document.update(optimizer="magic"), "an optimizer that is not known, 'magic'"),
        (lambda document: document.update(slots=["luck"]), "is no document of version 1"),
        (lambda document: document["groups"][0]["parameters"].append("nothing.weight"), "which the file does not hold"),
    ],
)
def test_a_document_that_lies(capsys: pytest.CaptureFixture[str], tmp_path: Path, change: Any, message: str) -> None:
    _, file = written(capsys, tmp_path)
    with safetensors.safe_open(file, "np") as opened:
        metadata = dict(opened.metadata())
    arrays: dict[str, Any] = {name: np.array(value) for name, value in safetensors.numpy.load_file(file).items()}
    document = json.loads(metadata["converter_training"])
    change(document)
    metadata["converter_training"] = json.dumps(document)
    safetensors.numpy.save_file(arrays, file, metadata)
    assert message in refused(capsys, "neutral->flax", file, "-o", tmp_path / "net.msgpack", "--training")


def test_what_was_likely_stays_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, file = written(capsys, tmp_path)
    args = ("neutral->flax", file, "-o", tmp_path / "net.msgpack", "--training")
    assert "was only likely" in refused(capsys, *args, "--strict")
    assert "likely at the source: as torch had it" in ok(capsys, *args)
