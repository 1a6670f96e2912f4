from pathlib import Path

import pytest

from converter.errors import ConversionError
from converter.layers import KINDS
from converter.schema import load_schema, schema_folder

SHIPPED = sorted(path.stem for path in schema_folder().glob("*.yaml"))


def test_the_mlp_is_shipped() -> None:
    assert "mlp" in SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_schema_is_valid(name: str) -> None:
    schema = load_schema(name)
    assert schema.name == name and schema.description
    assert all(layer.kind in KINDS for layer in schema.layers)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nlayers: []\ncolour: red\n", "unknown field `colour`"),
        ("name: x\nlayers:\n  - {path: a}\n", "missing required field `kind`"),
        ("name: x\nlayers:\n  - {path: a, kind: lineal}\n", "unknown kind 'lineal'. There are linear,"),
        (
            "name: x\nlayers:\n  - {path: a, kind: linear, names: {torsh: [b]}}\n",
            "unknown framework 'torsh'. Did you mean",
        ),
        ("name: x\nlayers:\n  - {path: a, kind: linear, names: {jax: [b]}}\n", "write 'flax' for the framework 'jax'"),
        ("name: x\nlayers:\n  - {path: a, kind: linear, names: {flax: []}}\n", "has an empty list of names for flax"),
        (
            "name: x\nlayers:\n  - {path: a, kind: linear}\n  - {path: b, kind: linear, names: {flax: [c, a]}}\n",
            "'a' in flax stands for both 'a' and 'b'",
        ),
        ("name: [\n", "not a schema"),
        ("- 1\n", "not a schema"),
        ("\x00", "not a schema"),
    ],
)
def test_a_faulty_schema_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConversionError) as error:
        load_schema(str(path))
    assert message in str(error.value) and str(path) in str(error.value)


def test_a_schema_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ConversionError, match=r"no schema 'mpl' is shipped. There are: .*mlp"):
        load_schema("mpl")
    with pytest.raises(ConversionError, match=r"mine.yaml: cannot be read: No such file"):
        load_schema("mine.yaml")
