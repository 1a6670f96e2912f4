"""Architectures in schema files, and in the metadata of neutral files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import msgspec
import pytest

import converter
from converter.architectures.document import DEEPEST, decoded, encoded
from converter.architectures.family import family_of, of_defaults
from converter.architectures.instance import of_schema
from converter.architectures.vocabulary import VOCABULARY, kind_of
from converter.errors import ConversionError
from converter.schema.loader import load_schema, parse_schema, schema_folder, shipped
from tests.architectures.test_build import CASES
from tests.command import ok, refused
from tests.places import ROOT

MLP = ROOT / "examples" / "mlp.params"
HEAD = "name: net\nlayers: [{path: a, kind: linear}]\narchitecture:\n  input: [4]\n  steps:\n"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("[{kind: linear, path: a}, relo]", "line 6: architecture: there is no step 'relo'. Did you mean 'relu'?"),
        ("[{kind: linear, path: a}, conv3d]", "there is no step 'conv3d'. "),
        ("[{kind: linear, path: a}, max_pool]", "the step 'max_pool' needs its options: Object missing required"),
        ("[{kind: linear, path: a, bais: true}]", "line 6: unknown key `bais`"),
        ("[{kind: linear, path: a, bais: true}]", "Did you mean `bias`?"),
        ("[{kind: lineal, path: a}]", "line 6: Invalid value 'lineal' - at `$.architecture.steps[0].kind`."),
        ("[{kind: lineal, path: a}]", "Did you mean 'linear'?"),
        ("[{kind: linear, path: a, out: -3}]", "line 6: Expected `int` >= 1 - at `$.architecture.steps[0].out`"),
        (
            "[{kind: linear, path: b}]",
            "line 6: architecture: the linear 'b' is not a layer of the schema. There are a.",
        ),
        ("[{kind: conv, path: a}]", "line 6: architecture: the conv 'a' is linear in the schema"),
        ("[{kind: linear, path: a}, {kind: linear, path: a}]", "architecture: the linear 'a' occurs twice"),
        ("[{kind: linear, path: a, if: b}]", "line 6: architecture: 'b' is not a layer of the schema"),
        ("[relu]", "architecture: no step uses the layer 'a'"),
        ("[{kind: concat, branches: [[relu]]}]", "Expected `array` of length >= 2"),
        ("[{kind: residual, body: [{kind: linear, path: a, out: x}]}]", "$.architecture.steps[0].body[0].out"),
        ("[{kind: sequential, each: ij, steps: [relu]}]", "$.architecture.steps[0].each"),
    ],
)
def test_a_faulty_architecture_is_refused_with_its_line(steps: str, message: str) -> None:
    schema = parse_schema(f"{HEAD}    {steps}\n")
    with pytest.raises(ConversionError) as error:
        family_of(schema)
    assert message in str(error.value)


def test_a_key_that_nothing_reads_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.yaml").write_text("name: net\nlayers: [{path: a, kind: linear}]\narchitecture:\n  stesp: []\n")
    message = refused(capsys, "schema", "check", tmp_path / "net.yaml")
    assert "unknown key `stesp`" in message and "Did you mean `steps`?" in message


def test_the_json_schema_knows_every_step() -> None:
    kinds = {
        value
        for definition in json.loads((schema_folder() / "schema.json").read_text())["$defs"].values()
        for value in definition.get("properties", {}).get("kind", {}).get("enum", [])
    }
    assert {kind_of(step) for step in VOCABULARY} <= kinds


@pytest.mark.parametrize("name", [name for name in shipped() if name in CASES])
def test_the_same_architecture_is_the_same_bytes(name: str) -> None:
    """And what is read from them is what was written; so it is of what is printed."""
    found, _ = of_schema(load_schema(name), None)
    assert decoded(encoded(found)) == decoded(encoded(decoded(encoded(found))))
    assert encoded(decoded(encoded(found))) == encoded(found)
    import yaml

    assert decoded(msgspec.json.encode(yaml.safe_load(str(found)))) == decoded(encoded(found))


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_architecture_is_right_and_has_sizes_for_a_net_without_weights(name: str) -> None:
    family = family_of(load_schema(name))
    assert family is None or (family.input and of_defaults(family.steps, {}))


def test_a_mistake_is_reported_with_its_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.yaml"
    layers = "[{path: hidden, kind: linear}, {path: output, kind: linear}]"
    path.write_text(f"name: net\nlayers: {layers}\narchitecture:\n  steps: [{{kind: linear, path: b}}]\n")
    message = f"{path}: line 4: architecture: the linear 'b' is not a layer of the schema"
    assert message in refused(capsys, "schema", "check", path)
    assert message in refused(capsys, "scaffold", path, "--to", "flax")
    assert message in refused(capsys, "torch->neutral", MLP, "-o", tmp_path / "net.safetensors", "--schema", path)


def altered(path: Path, change: object) -> Path:
    """The file with another architecture in its metadata."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    document = json.loads(header["__metadata__"]["converter"])
    document["architecture"] = change
    header["__metadata__"]["converter"] = json.dumps(document)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    return path


DEEP: object = "relu"
for _ in range(DEEPEST + 5):
    DEEP = {"kind": "sequential", "steps": [DEEP]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": [{"kind": "linear", "path": "__import__('os')"}]}, "cannot be built: only letters"),
        ({"steps": [{"kind": "linear", "path": "__class__"}]}, "cannot be built: only letters"),
        ({"steps": [{"kind": "linear", "path": "hidden"}, "eval"]}, "there is no step 'eval'"),
        ({"steps": [{"kind": "exec"}]}, "Invalid value 'exec'"),
        ({"steps": ["relu"]}, "no step of the architecture uses the layer 'hidden'"),
        ({"steps": [DEEP]}, "nested more than 40 deep"),
        ({"steps": [], "name": 'net"""'}, "an architecture called"),
        ({"steps": [], "more": 1}, "unknown field `more`"),
        ([], "its architecture cannot be read by this version"),
    ],
)
def test_a_hostile_file_is_refused(change: object, message: str, tmp_path: Path) -> None:
    """Text of a file never becomes code; its weights can be had all the same."""
    path = tmp_path / "mlp.safetensors"
    converter.convert("torch->neutral", MLP, path, schema="mlp")
    altered(path, change)
    for framework in ("torch", "flax"):
        with pytest.raises(ConversionError) as error:
            converter.scaffold(path, framework)
        assert message in str(error.value)
    report = converter.convert("neutral->flax", path, tmp_path / "mlp.msgpack")
    assert len(report.plan.steps) == 4
    unread = [message in item.reason for item in report.plan.left_out]
    assert unread == ([] if change == {"steps": ["relu"]} else [True])  # that can be read, and fits no weights


def test_names_of_files_do_not_become_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mlp.safetensors"
    ok(capsys, "torch->neutral", MLP, "-o", path, "--schema", "mlp")
    names = {"hidden": {"flax": ["x = nn.Dense(1)\n"]}}
    steps = [{"kind": "linear", "path": "hidden"}, "relu", {"kind": "linear", "path": "output"}]
    altered(path, {"steps": steps, "names": names, "input": [20]})
    assert "only letters, digits and underscores" in refused(capsys, "scaffold", path, "--to", "flax")


def test_a_file_says_that_it_holds_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mlp.safetensors"
    ok(capsys, "torch->neutral", MLP, "-o", path, "--schema", "mlp")
    assert "\nit holds the architecture, too: converter scaffold prints the code of the net\n" in ok(
        capsys, "inspect", path
    )
    found = json.loads(ok(capsys, "inspect", path, "--json"))["architecture"]
    assert found["name"] == "mlp" and found["input"] == [20] and found["steps"][1] == "relu"
    assert json.loads(ok(capsys, "inspect", MLP, "--json"))["architecture"] is None
