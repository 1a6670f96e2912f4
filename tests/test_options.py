"""Options are declared once: records, keywords and flags are the same, and a value of a wrong type is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch

import converter
from converter.cli import program
from converter.errors import FLAGS
from converter.options import (
    ConvertKeywords,
    MatchKeywords,
    MatchOptions,
    Options,
    PartKeywords,
    ReadKeywords,
    ReadOptions,
    ReuseKeywords,
    ReuseOptions,
    TrainingKeywords,
    TrainingOptions,
    WriteKeywords,
    WriteOptions,
    check_keywords,
    options_of,
    record_of,
)
from tests.places import ROOT

EXAMPLE = ROOT / "examples" / "mlp.params"
RECORDS: dict[type[Options], Any] = {
    ReadOptions: ReadKeywords,
    MatchOptions: MatchKeywords,
    WriteOptions: WriteKeywords,
    ReuseOptions: PartKeywords,
    TrainingOptions: TrainingKeywords,
}


# -- declared once ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_the_keywords_are_the_fields(record: type[Options]) -> None:
    names = set(options_of(record))
    assert names == set(record.__struct_fields__) == set(RECORDS[record].__annotations__)


def test_no_two_records_share_a_field() -> None:
    names = [name for record in RECORDS for name in options_of(record)]
    assert len(names) == len(set(names))


def test_reuse_takes_what_convert_takes() -> None:
    everything = {name for record in RECORDS for name in options_of(record)}
    training = set(options_of(TrainingOptions))  # that of some layers alone does not go on
    assert set(ReuseKeywords.__annotations__) == everything - training
    assert set(ConvertKeywords.__annotations__) == everything - set(options_of(ReuseOptions))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_has_a_help_text_and_the_default_is_valid(record: type[Options]) -> None:
    for name, option in options_of(record).items():
        assert option.help.rstrip("]").endswith((".", "newest", "largest", "processors")), name
        assert bool(option.metavar) == (option.values.shape != "flag"), name
        assert ("Repeatable." in option.help) == (option.values.shape in ("many", "pairs")), name
        value = getattr(record(), name)
        assert value is None or option.values.check(value) == value, name


#: Command -> the records whose fields it has, the fields that it lacks, and its own flags.
COMMANDS: dict[str, tuple[tuple[type[Options], ...], set[str], set[str]]] = {
    "convert": (
        (MatchOptions, ReadOptions, WriteOptions, TrainingOptions),
        set(),
        {"--from", "--to", "--output", "--net", "--like", "--example-input"}
        | {"--dask", "--dry-run", "--certificate", "--json"},
    ),
    "inspect": ((ReadOptions,), set(), {"--from", "--stats", "--json"}),
    "verify": ((MatchOptions, ReadOptions), set(), {"--from", "--to", "--json"}),
    "reuse": (
        (ReuseOptions, MatchOptions, ReadOptions, WriteOptions),
        {"allow_missing", "report"},
        {"--into", "--output", "--from", "--to", "--dry-run", "--json"},
    ),
    "schema infer": ((MatchOptions, ReadOptions), set(), {"--from", "--to", "--net", "--example-input"}),
}


def command(path: str) -> click.Command:
    found: Any = program
    for word in path.split():
        found = found.commands[word]
    return found


@pytest.mark.parametrize("path", COMMANDS)
def test_the_flags_are_the_fields(path: str) -> None:
    records, lacks, own = COMMANDS[path]
    expected = set(own)
    for record in records:
        for name, option in options_of(record).items():
            if name not in lacks:
                negated = option.values.shape == "flag" and getattr(record(), name)
                expected.add(f"--{'no-' if negated else ''}{name.replace('_', '-')}")
    params = [param for param in command(path).params if isinstance(param, click.Option)]
    flags = {flag for param in params for flag in param.opts if flag.startswith("--")}
    assert flags == expected
    fields = {name: option for record in records for name, option in options_of(record).items()}
    for param in params:
        if param.name in fields:
            assert param.help == fields[param.name].help and not param.secondary_opts


# -- values -----------------------------------------------------------------------------------------------------------


def test_a_text_where_a_list_is_meant_is_one_pattern() -> None:
    assert MatchOptions(ignore="head.*").ignore == ("head.*",)  # type: ignore[arg-type]
    assert MatchOptions(ignore=["a", "b"]).ignore == ("a", "b")  # type: ignore[arg-type]
    assert ReuseOptions(layers="encoder").layers == ("encoder",)  # type: ignore[arg-type]
    with converter.plan(EXAMPLE, to="flax", ignore="output") as planned:
        assert {item.name for item in planned.tensors.left_out} == {"output.weight", "output.bias"}


def test_values_are_as_the_record_has_them() -> None:
    assert MatchOptions(flatten={"a": "64x49+4", "b": "7", "c": 0}).flatten == {"a": ((64, 49), (4, 1)), "b": 7, "c": 0}  # type: ignore[dict-item]
    assert WriteOptions(max_shard_size="5GB", memory="2 GiB").max_shard_size == 5 * 10**9  # type: ignore[arg-type]
    assert WriteOptions(memory="2 GiB").memory == 2 << 30  # type: ignore[arg-type]
    assert WriteOptions(workers=np.int64(3)).workers == 3  # type: ignore[arg-type]
    assert ReadOptions(names_from=Path("a.pt")).names_from == "a.pt"  # type: ignore[arg-type]


WRONG: list[tuple[str, Any, str]] = [
    ("step", "newest", "expected an integer of at least 0"),
    ("step", -1, "expected an integer of at least 0"),
    ("step", 1.5, "expected an integer of at least 0"),
    ("key", 3, "expected a text"),
    ("key", ("model",), "expected a text"),
    ("names_from", 3, "expected a path"),
    ("checksums", "no", "expected True or False"),
    ("schema", 7, "expected the name of a schema, or the path of a YAML file"),
    ("map", 3, "expected a mapping"),
    ("map", [("a", "b")], "expected a mapping"),
    ("map", {"a": 3}, "expected a text"),
    ("map", "a=b", "expected a mapping"),
    ("strip", 3, "expected a pattern, or a list of patterns"),
    ("strip", [3], "expected a text"),
    ("ignore", (3,), "expected a text"),
    ("ignore", ("a", 3), "expected a text"),
    ("ignore", {"a": 1}, "expected a pattern, or a list of patterns"),
    ("allow_missing", True, "expected a pattern, or a list of patterns"),
    ("kind", {"a": None}, "expected a text"),
    ("heads", {"a": 0}, "expected an integer of at least 1"),
    ("heads", {"a": "8"}, "expected an integer of at least 1"),
    ("heads", 8, "expected a mapping"),
    ("heads", {"a": np.ones(2, int)}, "expected an integer of at least 1"),
    ("flatten", {"a": "64x"}, "'64x' is neither a number of channels nor a sum such as 64x49+4"),
    ("flatten", {"a": True}, "expected an integer of at least 0"),
    ("flatten", {"a": (64, 49)}, "expected a number of channels, or a sum such as '64x49+4'"),
    ("flatten", {"a": ((64, 49, 1),)}, "expected a number of channels, or a sum such as '64x49+4'"),
    ("unflatten", {"a": "64x49"}, "expected an integer of at least 0"),
    ("flatten_fix", 0, "expected True or False"),
    ("strict", "yes", "expected True or False"),
    ("format", 5, "expected a text"),
    ("report", 3, "expected a path"),
    ("dtype", "int8", "unknown dtype 'int8'. There are float16, bfloat16, float32, float64"),
    ("max_shard_size", "huge", "'huge' is an invalid size. Say it like 5GB, 500MB or 2GiB"),
    ("max_shard_size", 0, "expected an integer of at least 1"),
    ("resume", "yes", "expected True or False"),
    ("memory", 1.5, "expected an integer of at least 1"),
    ("workers", 0, "expected an integer of at least 1"),
    ("force", 1, "expected True or False"),
    ("training", 1, "expected True or False"),
    ("optimizer", 3, "expected a text"),
    ("optimizer_file", 3, "expected a path"),
    ("hyper", {"learning_rate": "fast"}, "expected a number"),
    ("hyper", {"learning_rate": float("nan")}, "expected a number"),
    ("parameter_order", 3, "expected a path"),
    ("clone_order", 3, "expected a path"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG, ids=[f"{name} {value!r}" for name, value, _ in WRONG])
def test_a_value_of_a_wrong_type_names_the_option(tmp_path: Path, name: str, value: Any, message: str) -> None:
    with pytest.raises(converter.ConversionError) as error:
        converter.convert("torch->flax", EXAMPLE, tmp_path / "x.msgpack", **{name: value})
    (problem,) = error.value.problems
    assert problem.subject == name and problem.met == repr(value) and problem.about is not None
    assert str(error.value).startswith(f"{name}={value!r}: {message}")
    assert error.value.said(FLAGS).startswith(f"--{name.replace('_', '-')}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("first", 0, "expected an integer of at least 1"),
        ("layers", 3, "expected a pattern, or a list of patterns"),
        ("skip_mismatch", "yes", "expected True or False"),
        ("slice", 1, "expected True or False"),
        ("inflate", "", "expected True or False"),
    ],
)
def test_a_wrong_value_of_reuse_names_the_option(name: str, value: Any, message: str) -> None:
    with pytest.raises(converter.ConversionError, match=f"^{name}={value!r}: {message}"):
        converter.reuse(EXAMPLE, EXAMPLE, **{name: value})


CALLS: dict[str, Callable[..., Any]] = {
    "open": lambda **options: converter.open(EXAMPLE, **options),
    "plan": lambda **options: converter.plan(EXAMPLE, "flax", **options),
    "convert": lambda **options: converter.convert("torch->flax", EXAMPLE, **options),
    "save": lambda **options: converter.save(torch.nn.Linear(2, 3), "no/where.pt", **options),
    "load_into": lambda **options: converter.load_into(torch.nn.Linear(2, 3), EXAMPLE, **options),
    "reuse": lambda **options: converter.reuse(EXAMPLE, EXAMPLE, **options),
    "verify": lambda **options: converter.verify(EXAMPLE, EXAMPLE, **options),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_unknown_keyword_is_a_type_error_with_the_near_miss(call: str) -> None:
    wrong, near = ("checksum", "checksums") if call == "open" else ("ignored", "ignore")
    if call == "save":
        wrong, near = "flaten", "flatten"
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{wrong}'. Did you mean '{near}'\\?"):
        CALLS[call](**{wrong: ["x"]})
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'zzz'$"):
        CALLS[call](zzz=1)
    with pytest.raises(TypeError, match=r"options takes .*, not dict"):
        CALLS[call](options=[{}])


def test_a_record_of_another_command_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"options takes ReadOptions, MatchOptions, TrainingOptions, not WriteOptions"):
        converter.plan(EXAMPLE, "flax", options=WriteOptions())
    check_keywords({"step": 1}, (), ReadOptions)


# -- records and keywords ---------------------------------------------------------------------------------------------


def test_records_and_keywords_give_the_same(tmp_path: Path) -> None:
    match = MatchOptions(map={"output": "out"}, ignore="hidden", strict=True)  # type: ignore[arg-type]
    write = WriteOptions(dtype="float16", force=True)
    first = converter.convert("torch->flax", EXAMPLE, tmp_path / "a.msgpack", options=(match, write))
    second = converter.convert(
        "torch->flax",
        EXAMPLE,
        tmp_path / "b.msgpack",
        map={"output": "out"},
        ignore="hidden",
        strict=True,
        dtype="float16",
    )
    assert first.to_dict()["tensors"] == second.to_dict()["tensors"]
    assert first.to_dict()["left_out"] == second.to_dict()["left_out"]
    assert (tmp_path / "a.msgpack").read_bytes() == (tmp_path / "b.msgpack").read_bytes()
    with converter.plan(EXAMPLE, "flax", options=match) as a, converter.plan(EXAMPLE, "flax", options=[match]) as b:
        assert a.to_dict() == b.to_dict()


def test_a_keyword_goes_before_the_record() -> None:
    base = MatchOptions(strict=True, ignore="a")  # type: ignore[arg-type]
    assert record_of(MatchOptions, base, {"ignore": "b"}) == MatchOptions(strict=True, ignore="b")  # type: ignore[arg-type]
    assert record_of(MatchOptions, (ReadOptions(), base), {}) is base
    assert record_of(WriteOptions, base, {}) == WriteOptions()


def test_a_record_as_data_has_what_changes_the_result() -> None:
    read = ReadOptions(step=3, checksums=False)
    assert read.to_dict() == {"step": 3}
    match = MatchOptions(flatten={"a": "64x49+4"}, strip="module", flatten_fix=False)  # type: ignore[dict-item, arg-type]
    document = json.loads(json.dumps(match.to_dict()))
    assert document == {"strip": ["module"], "flatten": {"a": [[64, 49], [4, 1]]}, "flatten_fix": False}
    assert MatchOptions(**document) == match  # as a certificate has it
    assert WriteOptions(dtype="float16", force=True, workers=2).to_dict() == {"dtype": "float16"}


# -- no option is ignored ---------------------------------------------------------------------------------------------


def test_what_the_source_cannot_take_is_refused() -> None:
    net = torch.nn.Linear(20, 3)
    with pytest.raises(converter.ConversionError, match=r"^step=3: the source is a live net: leave this out\.$"):
        converter.plan(net, "flax", step=3)
    with (
        converter.open(EXAMPLE) as weights,
        pytest.raises(converter.ConversionError, match=r"key='model': the source is a file that is open: give this to"),
    ):
        converter.plan(weights, "flax", key="model")
    with (
        converter.open(EXAMPLE) as weights,
        pytest.raises(converter.ConversionError, match=r"mlp\.params: was opened as a file of torch, not of flax\.$"),
    ):
        converter.plan(weights, "flax", framework="flax")
    with pytest.raises(converter.ConversionError, match="example_input=X: this is for a live net, and both are files"):
        converter.convert("torch->torch", EXAMPLE, "x.pt", like=EXAMPLE, example_input=np.ones((1, 20)))


def test_what_reuse_cannot_use_is_refused(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(20, 256))
    with pytest.raises(converter.ConversionError, match="a live net is filled in place, so 'dtype' is of no use"):
        converter.reuse(EXAMPLE, net, map={"hidden": "0"}, dtype="float16")
    with pytest.raises(converter.ConversionError, match=r"^allow_missing='0': whatever nothing is taken for stays"):
        converter.reuse(EXAMPLE, net, map={"hidden": "0"}, allow_missing="0")
    with pytest.raises(converter.ConversionError, match=r"^report='page.html': a page is of a whole conversion"):
        converter.reuse(EXAMPLE, net, map={"hidden": "0"}, report="page.html")


def test_reuse_reads_and_matches_as_convert_does(tmp_path: Path) -> None:
    """schema, strip, ignore, step or key, flatten: what only convert took once."""
    mlp = torch.load(EXAMPLE, weights_only=True)
    torch.save({"model": {f"module.{name}": value for name, value in mlp.items()}, "epoch": 3}, tmp_path / "old.pt")
    fresh = {name: torch.zeros_like(value) for name, value in mlp.items()}
    torch.save(fresh, tmp_path / "new.pt")
    report = converter.reuse(
        tmp_path / "old.pt",
        tmp_path / "new.pt",
        layers="*",
        key="model",
        strip="module",
        schema="mlp",
        ignore="output",
        output=tmp_path / "merged.pt",
    )
    assert [one.taking.source.path for one in report.reused] == ["hidden"]
    merged = torch.load(tmp_path / "merged.pt", weights_only=True)
    assert torch.equal(merged["hidden.weight"], mlp["hidden.weight"]) and not merged["output.weight"].any()
    with pytest.raises(converter.MatchError, match=r"flatten=\{'hiden': '5x4'\}"):
        converter.reuse(tmp_path / "new.pt", tmp_path / "new.pt", layers="*", flatten={"hiden": "5x4"}, output="x.pt")


def test_help_texts_are_not_wrapped_in_code() -> None:
    for record in RECORDS:
        for name, option in options_of(record).items():
            assert not re.search(r"\s{3,}|`", option.help), name
