"""`tied` in a schema: an output layer with the weights of the embedding, with no clone to tell it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from converter.errors import ConversionError
from converter.schema.loader import parse_schema
from tests.command import ok, refused
from tests.parity.across import saved
from tests.parity.sides import SIDES, Case, assert_same
from tests.parity.test_tied import UNTIED
from tests.parity.tied_cases import TIED

SCHEMA = {
    "name": "tied",
    "layers": [
        {"path": "emb", "kind": "embedding"},
        {"path": "fc", "kind": "linear"},
        {"path": "out", "kind": "linear", "tied": "emb", "names": {"tensorflow": [], "flax": []}},
    ],
}
MAIN = ("torch", "keras", "linen", "gluon")


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    path = tmp_path / "tied.yaml"
    path.write_text(json.dumps(SCHEMA))
    return path


@pytest.mark.parametrize("source", MAIN)
@pytest.mark.parametrize("target", MAIN)
def test_stored_once_or_twice_as_the_framework_has_it(
    source: str, target: str, schema: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, given = saved(TIED, source, tmp_path, 1)
    result = tmp_path / f"result{SIDES[target].ending}"
    words = (f"{SIDES[source].framework}->{SIDES[target].framework}", given, "--schema", schema, "-o", result)
    report = ok(capsys, *words)
    assert_same(TIED.run(target, SIDES[target].load(TIED.random(target, 3), result)), TIED.run(source, net))
    once = ("keras", "linen")
    assert ("left out: out.weight (tied to emb.weight)" in report) == (source not in once and target in once)


def test_the_neutral_file_holds_it_once_and_knows_both(
    schema: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, given = saved(TIED, "keras", tmp_path, 1)
    ok(capsys, "tf->neutral", given, "--schema", schema, "-o", tmp_path / "x.safetensors")
    ok(capsys, "neutral->torch", tmp_path / "x.safetensors", "-o", tmp_path / "x.pt")
    assert_same(
        TIED.run("torch", SIDES["torch"].load(TIED.random("torch", 3), tmp_path / "x.pt")), TIED.run("keras", net)
    )
    found = torch.load(tmp_path / "x.pt")
    assert torch.equal(found["out.weight"], found["emb.weight"])


def test_weights_that_are_not_tied_are_not_left_out(
    schema: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, given = saved(UNTIED, "torch", tmp_path, 1)
    message = refused(capsys, "torch->flax", given, "--schema", schema, "-o", tmp_path / "x.msgpack")
    assert "'out' is tied to 'emb' in the schema, and has other weights" in message


def test_an_untied_clone_gets_the_weights_that_the_schema_says(
    schema: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By contents nothing would tell: the clone is random in both places."""
    net, given = saved(TIED, "linen", tmp_path, 1)
    _, like = saved(UNTIED, "torch", tmp_path, 2, "like")
    ok(capsys, "flax->torch", given, "--schema", schema, "--like", like, "-o", tmp_path / "x.pt")
    loaded = SIDES["torch"].load(UNTIED.random("torch", 3), tmp_path / "x.pt")
    assert_same(Case("", {}, TIED.inputs).run("torch", loaded), TIED.run("linen", net))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"path": "out", "kind": "linear", "tied": "embb"}, "layer 'out' is tied to 'embb': one must be"),
        ({"path": "out", "kind": "conv", "tied": "emb"}, "one must be a linear layer of the schema"),
        ({"path": "out", "kind": "linear", "names": {"flax": []}}, "layer 'out' has an empty list of names for flax"),
        (
            {"path": "out.{i}", "kind": "linear", "tied": "emb"},
            "'out.{i}' and 'emb' are tied, and have different indices",
        ),
    ],
)
def test_what_cannot_be_tied_is_an_error(layer: dict[str, object], message: str) -> None:
    with pytest.raises(ConversionError) as error:
        parse_schema(json.dumps({**SCHEMA, "layers": [*SCHEMA["layers"][:2], layer]}))
    assert message in str(error.value)
