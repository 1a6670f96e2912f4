"""`--allow-missing`: layers of the clone for which the source has nothing stay as they are, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

import converter
from tests.command import ok, refused


def saved(path: Path, seed: int, classes: int, *names: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"body": (6, 4), "head": (classes, 6), "extra": (3, 6)}
    state = {}
    for name in names:
        state[f"{name}.weight"] = torch.rand(sizes[name], generator=generator)
        state[f"{name}.bias"] = torch.rand(sizes[name][0], generator=generator)
    torch.save(state, path)
    return state


def keras_clone() -> Any:
    layers = [
        keras.layers.Dense(6, name="body"),
        keras.layers.Dense(7, name="head"),
        keras.layers.Dense(3, name="more"),
    ]
    return keras.Sequential([keras.Input((4,)), *layers])


HEAD = ("--ignore", "head", "--allow-missing", "head")


def test_a_new_head_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = saved(tmp_path / "old.pt", 1, 5, "body", "head")
    new = saved(tmp_path / "new.pt", 2, 7, "body", "head", "extra")
    words = ("torch->torch", tmp_path / "old.pt", "--like", tmp_path / "new.pt", "-o", tmp_path / "out.pt")
    assert "nothing in the source fits 'extra' of the clone" in refused(capsys, *words, *HEAD)
    report = ok(capsys, *words, *HEAD, "--allow-missing", "extra")
    assert "clone: head.weight (7, 6)" in report and "kept from the clone" in report
    out = torch.load(tmp_path / "out.pt")
    assert list(out) == list(new)
    for name, value in out.items():
        assert torch.equal(value, old[name] if name.startswith("body") else new[name]), name


def test_into_the_file_of_another_framework(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, net = saved(tmp_path / "old.pt", 1, 5, "body", "head"), keras_clone()
    net.save_weights(tmp_path / "like.weights.h5")
    before = {weight.path: np.array(weight) for weight in net.weights}
    out = tmp_path / "out.weights.h5"
    words = ("torch->tf", tmp_path / "old.pt", "--like", tmp_path / "like.weights.h5", "-o", out)
    found = json.loads(ok(capsys, *words, *HEAD, "--allow-missing", "more", "--json"))
    assert [t["kept"][0]["name"] for t in found["tensors"][2:]] == [
        "layers/dense_1/vars/0",
        "layers/dense_1/vars/1",
        "layers/dense_2/vars/0",
        "layers/dense_2/vars/1",
    ]
    assert not any(t["sources"] for t in found["tensors"][2:])
    other = keras_clone()
    other.load_weights(out)
    assert np.array_equal(other.layers[0].kernel, old["body.weight"].numpy().T)
    for weight, (path, value) in zip(other.weights[2:], list(before.items())[2:], strict=True):
        assert np.array_equal(weight, value), path


def test_a_live_net_keeps_what_it_has(tmp_path: Path) -> None:
    saved(tmp_path / "old.pt", 1, 5, "body", "head")
    net = keras_clone()
    before = [np.array(weight) for weight in net.weights]
    converter.load_into(net, tmp_path / "old.pt", ignore=["head"], allow_missing=["head", "more"])
    changed = [not np.array_equal(a, b) for a, b in zip(before, net.weights, strict=True)]
    assert changed == [True, True, False, False, False, False]


def test_what_the_source_has_is_taken_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = saved(tmp_path / "old.pt", 1, 5, "body", "head")
    saved(tmp_path / "new.pt", 2, 5, "body", "head")
    words = ("torch->torch", tmp_path / "old.pt", "--like", tmp_path / "new.pt", "-o", tmp_path / "out.pt")
    ok(capsys, *words, "--allow-missing", "head")
    assert all(torch.equal(value, old[name]) for name, value in torch.load(tmp_path / "out.pt").items())


def test_a_pattern_of_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "old.pt", 1, 5, "body", "head")
    words = ("torch->torch", tmp_path / "old.pt", "--like", tmp_path / "old.pt", "-o", tmp_path / "out.pt")
    message = refused(capsys, *words, "--allow-missing", "haed")
    assert "--allow-missing haed: the clone has no layer 'haed'. Did you mean 'head'?" in message


def test_a_schema_of_more_than_the_source_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "old.pt", 1, 5, "body")
    (tmp_path / "net.yaml").write_text(
        "name: net\nlayers:\n  - {path: body, kind: linear}\n  - {path: head, kind: linear}\n"
    )
    words = ("torch->flax", tmp_path / "old.pt", "--schema", tmp_path / "net.yaml", "-o", tmp_path / "out.msgpack")
    assert "the schema's layer 'head' (head) is not in the source" in refused(capsys, *words)
    ok(capsys, *words, "--allow-missing", "head")


def test_a_certificate_of_it_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "old.pt", 1, 5, "body", "head")
    saved(tmp_path / "new.pt", 2, 7, "body", "head")
    words = ("torch->torch", tmp_path / "old.pt", "--like", tmp_path / "new.pt", "-o", tmp_path / "out.pt")
    ok(capsys, *words, *HEAD, "--certificate", tmp_path / "cert.json")
    assert "holds" in ok(capsys, "verify", tmp_path / "cert.json")
    message = refused(capsys, *words, "--force", "--like", "some.module:Net", "--certificate", tmp_path / "c.json")
    assert "a certificate covers files" in message
