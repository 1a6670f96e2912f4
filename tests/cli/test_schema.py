"""``converter schema``: listed, shown, checked, and inferred from two files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from converter.schema.loader import load_schema, shipped
from tests.command import ok, refused
from tests.places import ROOT

EXAMPLE = ROOT / "examples" / "mlp.params"


def test_the_known_names_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    listed, known = ok(capsys, "schema", "names"), json.loads(ok(capsys, "schema", "names", "--json"))
    assert all(family in listed for family in known) and known["vgg"] == ["gluon", "torchvision"]
    shown, rows = ok(capsys, "schema", "names", "vgg"), json.loads(ok(capsys, "schema", "names", "vgg", "--json"))
    assert all(name in shown for row in rows for name in (*row["gluon"], *row["torchvision"]))
    assert refused(capsys, "schema", "names", "vgh").endswith("names of 'vgh'. Did you mean 'vgg'?\n")


def test_every_shipped_schema_is_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    listed = ok(capsys, "schema", "list")
    rows = json.loads(ok(capsys, "schema", "list", "--json"))
    assert [row["name"] for row in rows] == list(shipped())
    for name in shipped():
        assert name in listed
        schema = load_schema(name)
        text, found = ok(capsys, "schema", "show", name), json.loads(ok(capsys, "schema", "show", name, "--json"))
        assert all(layer.path in text for layer in schema.layers)
        assert [layer["path"] for layer in found["layers"]] == [layer.path for layer in schema.layers]


def test_a_file_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: x\nlayers:\n  - {path: a, kind: linear}\n")
    assert ok(capsys, "schema", "check", path) == f"{path}: a schema of 1 entries, without errors\n"
    path.write_text("name: x\nlayers:\n  - {path: a, knid: linear}\n")
    message = refused(capsys, "schema", "check", path)
    assert f"{path}: not a schema: line 3:" in message and "Did you mean `kind`?" in message


def test_what_was_inferred_converts_in_both_directions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(EXAMPLE, tmp_path)
    source, clone, schema = tmp_path / "mlp.params", tmp_path / "clone.msgpack", tmp_path / "mine.yaml"
    ok(capsys, "torch->flax", source, "-o", clone, "--map", "hidden=Dense_0", "--map", "output=Dense_1")
    schema.write_text(ok(capsys, "schema", "infer", source, clone))
    assert "Dense_1" in schema.read_text()
    ok(capsys, "schema", "check", schema)
    ok(capsys, "torch->flax", source, "-o", tmp_path / "there.msgpack", "--schema", schema)
    assert (tmp_path / "there.msgpack").read_bytes() == clone.read_bytes()
    ok(capsys, "flax->torch", tmp_path / "there.msgpack", "-o", tmp_path / "back.pt", "--schema", schema)
    back, first = torch.load(tmp_path / "back.pt"), torch.load(source)
    assert back.keys() == first.keys() and all(torch.equal(back[name], first[name]) for name in first)


def test_what_cannot_be_inferred_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "both of torch" in refused(capsys, "schema", "infer", EXAMPLE, EXAMPLE)
