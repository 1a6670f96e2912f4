from pathlib import Path

import pytest

from converter.core.patterns import fill, indices_of
from converter.errors import ConversionError
from converter.schema.loader import load_schema, parse_schema, schema_folder

SHIPPED = sorted(path.stem for path in schema_folder().glob("*.yaml"))


def test_the_mlp_is_shipped() -> None:
    assert "mlp" in SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_schema_is_valid(name: str) -> None:
    schema = load_schema(name)
    assert schema.name == name and schema.description
    assert schema.layers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nlayers: []\ncolour: red\n", "unknown key `colour`"),
        ("name: x\nlayers:\n  - {path: a}\n", "entry 'a' needs either a kind or a block to use"),
        (
            "name: x\nlayers:\n  - path: a\n    kind: linear\n    nmaes: {}\n",
            "line 5: unknown key `nmaes`",
        ),
        ("name: x\nlayers:\n  - path: a\n    kind: linear\n    nmaes: {}\n", "Did you mean `names`?"),
        ("name: x\nlayers:\n  - path: a\n    kind: 7\n", "line 4: Expected `str`, got `int`"),
        ("name: x\nlayers:\n  - {path: a, use: b}\n", "there is no block 'b'. There are: none."),
        ("name: x\nblocks: {b: [{use: b, path: c}]}\nlayers: [{path: a, use: b}]\n", "block 'b' uses itself"),
        ("name: x\nlayers:\n  - {path: 'a.{i', kind: linear}\n", "has a brace that is no index"),
        (
            "name: x\nlayers:\n  - {path: 'a.{i}', kind: linear, names: {flax: [b]}}\n",
            "names of one layer with different indices",
        ),
        ("name: x\nlayers:\n  - {kind: linear}\n", "an entry of kind 'linear' has no path"),
        ("name: x\nlayers:\n  - {path: a, kind: lineal}\n", "unknown kind 'lineal'. Did you mean 'linear'?"),
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
        (
            "name: x\nlayers:\n  - {path: a, kind: linear, names: {torch: ['net.{I}']}}\n",
            "'net.{I}' counts '{i}', which no path of the schema has",
        ),
        (
            "name: x\nlayers:\n  - {path: a, kind: linear, flatten: conv}\n",
            "the flatten before 'a' names 'conv', which is not a convolution or norm that every net",
        ),
        (
            "name: x\nlayers: [{path: b, kind: conv, optional: true}, {path: a, kind: linear, flatten: b}]\n",
            "the flatten before 'a' names 'b'",
        ),
        ("name: x\nlayers: [{path: a, kind: lstm}, {path: a, kind: gru}]\n", "two layers have the path 'a'"),
        ("name: x\nblocks: {b: [{path: c, kind: linear}]}\nlayers: []\n", "no entry uses the block 'b'"),
        (
            "name: x\nblocks: {b: [{path: c, kind: linear}]}\nlayers: [{path: a, use: b, flatten: 3}]\n",
            "entry 'a' uses a block: set `flatten` on a layer of 'b' instead",
        ),
        ("name: x\nlayers: [{path: a, kind: linear, multiplier: 2}]\n", "only a depthwise one has a multiplier"),
        ("name: x\nlayers:\n  - {path: a, kind: linear, heads: 0}\n", "line 3: Expected `int` >= 1"),
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
    with pytest.raises(ConversionError, match=r"no schema 'mpl' is shipped. Did you mean 'mlp'?"):
        load_schema("mpl")
    with pytest.raises(ConversionError, match=r"no schema 'other' is shipped. There are: .*mlp"):
        load_schema("other")
    with pytest.raises(ConversionError, match=r"mine.yaml: the file cannot be opened: No such file"):
        load_schema("mine.yaml")


@pytest.mark.parametrize(
    ("pattern", "name", "indices"),
    [
        ("a.{i}.b", "a.12.b", {"i": 12}),
        ("a.{i}.b", "a.x.b", None),
        ("a.{i}.b", "a.1.b.c", None),
        ("a.{i}.b", "xa.1.b", None),
        ("a.{i}.b", "a.01.b", None),
        ("{i}.{i}", "3.3", {"i": 3}),
        ("{i}.{i}", "3.4", None),
        ("{2*i+1}", "7", {"i": 3}),
        ("{2*i+1}", "6", None),
        ("{i+2}", "1", None),
        ("conv2d{_i}", "conv2d", {"i": 0}),
        ("conv2d{_i}", "conv2d_3", {"i": 3}),
        ("conv2d{_i}", "conv2d_0", None),
        ("a", "a", {}),
        ("net.{I}", "net.4", None),  # a count is known of a net, and not from a name
        ("a.b", "axb", None),
    ],
)
def test_indices_stand_for_numbers_alone(pattern: str, name: str, indices: dict[str, int] | None) -> None:
    assert indices_of(pattern, name) == indices
    assert indices is None or fill(pattern, indices) == name


def test_a_block_is_put_in_its_places() -> None:
    text = """
    name: net
    blocks:
      pair:
        - {path: up, kind: linear, names: {torch: [fc1, lin1]}}
        - {path: down, kind: linear, optional: true}
      twice:
        - {use: pair, path: first}
        - {use: pair, path: second, names: {flax: [zweite]}}
    layers:
      - {use: twice, path: "encoder.{i}", names: {torch: ["enc.{i+1}"]}}
    """
    layers = {layer.path: layer for layer in parse_schema(text).layers}
    assert list(layers) == [f"encoder.{{i}}.{a}.{b}" for a in ("first", "second") for b in ("up", "down")]
    up = layers["encoder.{i}.first.up"]
    assert up.spelled("torch", {"i": 2}) == ("enc.3.first.fc1", "enc.3.first.lin1")
    assert up.spelled("flax", {"i": 2}) == ("encoder.2.first.up",)
    assert layers["encoder.{i}.second.down"].spelled("flax", {"i": 0}) == ("encoder.0.zweite.down",)
    assert layers["encoder.{i}.second.down"].optional and not up.optional
    assert up.indices("torch", "enc.1.first.lin1") == {"i": 0} and up.indices("torch", "enc.0.first.lin1") is None


def test_a_further_name_without_an_index_is_that_of_the_first() -> None:
    text = "name: x\nlayers:\n  - {path: 'rnn.{i}', kind: lstm, names: {torch: ['rnn.l{i}', rnn, 'r{i}']}}\n"
    schema = parse_schema(text)
    layer = schema.layers[0]
    assert layer.spelled("torch", {"i": 0}) == layer.spelled("torch", {}) == ("rnn.l0", "rnn", "r0")
    assert layer.spelled("torch", {"i": 2}) == ("rnn.l2", "r2")
    assert layer.indices("torch", "rnn") == {} and layer.indices("torch", "rnn.l3") == {"i": 3}
    assert schema.others("torch", "rnn.l0") == ("rnn", "r0") and schema.others("torch", "rnn.l1") == ("r1",)
    assert schema.others("flax", "rnn.1") == schema.others("torch", "lstm") == ()


def test_a_first_name_has_every_index() -> None:
    """It is the one that is written."""
    for names in ("[rnn, 'rnn.l{i}']", "['rnn.l{j}']", "['rnn.l{i}', '{j}']"):
        with pytest.raises(ConversionError, match="names of one layer with different indices"):
            parse_schema(f"name: x\nlayers:\n  - {{path: 'rnn.{{i}}', kind: lstm, names: {{torch: {names}}}}}\n")
