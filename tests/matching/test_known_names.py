"""Nets whose names are those of well-known code bases."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import converter
from converter.errors import MatchError
from converter.schema.names import Row, Table, parse_table, tables
from tests.zoo.names import Known, rows

Shapes = dict[str, tuple[int, ...]]
NORM = ("weight", "bias", "running_mean", "running_var")


def bottleneck(depths: tuple[int, ...], width: int, name: Callable[..., str], pieces: Mapping[str, str]) -> Shapes:
    """A ResNet of bottleneck blocks in a code base of PyTorch. name: of a piece of a block; pieces: the others."""
    shapes: Shapes = {f"{pieces['stem']}.weight": (width, 3, 7, 7)}
    shapes |= {f"{pieces['norm']}.{leaf}": (width,) for leaf in NORM}
    inputs = width
    for stage, depth in enumerate(depths):
        inner = width * 2**stage
        for block in range(depth):
            kernels = [("conv1", inner, inputs, 1), ("conv2", inner, inner, 3), ("conv3", 4 * inner, inner, 1)]
            for piece, out, into, side in [*kernels, ("downsample", 4 * inner, inputs, 1)][: 3 + (block == 0)]:
                shapes[f"{name(stage, block, piece)}.weight"] = (out, into, side, side)
                shapes |= {f"{name(stage, block, piece, norm=True)}.{leaf}": (out,) for leaf in NORM}
            inputs = 4 * inner
    return shapes | {f"{pieces['head']}.weight": (7, inputs), f"{pieces['head']}.bias": (7,)}


def torchvision(stage: int, block: int, piece: str, norm: bool = False) -> str:
    inside = f"downsample.{int(norm)}" if piece == "downsample" else f"{'bn' if norm else 'conv'}{piece[-1]}"
    return f"layer{stage + 1}.{block}.{inside}"


def hugging_face(stage: int, block: int, piece: str, norm: bool = False) -> str:
    inside = "shortcut" if piece == "downsample" else f"layer.{int(piece[-1]) - 1}"
    return f"resnet.encoder.stages.{stage}.layers.{block}.{inside}.{'normalization' if norm else 'convolution'}"


OURS = {"stem": "conv1", "norm": "bn1", "head": "fc"}
THEIRS = {
    f"{name}": f"resnet.embedder.embedder.{what}" for name, what in (("stem", "convolution"), ("norm", "normalization"))
}
THEIRS |= {"head": "classifier.1"}


def drawn(shapes: Shapes, seed: int = 0) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """In any order, which safetensors does not keep."""
    rng = np.random.default_rng(seed)
    names = random.Random(seed).sample(sorted(shapes), len(shapes))
    return {name: rng.normal(size=shapes[name]).astype(np.float32) for name in names}


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """A ResNet of 3, 4, 6 and 3 blocks as torchvision names it, and a clone as transformers does."""
    monkeypatch.chdir(tmp_path)
    source = drawn(bottleneck((3, 4, 6, 3), 4, torchvision, OURS))
    save_file(source, "source.safetensors")
    save_file(drawn(bottleneck((3, 4, 6, 3), 4, hugging_face, THEIRS), 1), "clone.safetensors")
    return source


def plan(**options: Any) -> converter.Plan:
    return converter.plan("source.safetensors", "torch", like="clone.safetensors", **options)


def test_the_names_of_two_code_bases_are_certain_and_said_so(two: dict[str, Any]) -> None:
    with plan(strict=True) as certain:
        assert "schema resnet, t" in str(certain) and "likely" not in str(certain)
        certain.write("made.safetensors")
    made = load_file("made.safetensors")
    for stage, depth in enumerate((3, 4, 6, 3)):
        for block in range(depth):
            for piece in ("conv1", "conv2", "conv3", "downsample")[: 3 + (block == 0)]:
                ours, theirs = torchvision(stage, block, piece), hugging_face(stage, block, piece)
                assert np.array_equal(made[f"{theirs}.weight"], two[f"{ours}.weight"])
                ours, theirs = (name(stage, block, piece, norm=True) for name in (torchvision, hugging_face))
                for leaf in NORM:
                    assert np.array_equal(made[f"{theirs}.{leaf}"], two[f"{ours}.{leaf}"])


def test_schema_none_pairs_without_them(two: dict[str, Any]) -> None:
    del two
    try:
        with plan(schema="none") as by_evidence:
            reasons = {pair.reason for pair in by_evidence.pairs}
    except MatchError as error:
        reasons = {pair.reason for pair in error.paired}
    assert reasons and not any(reason.startswith("schema") for reason in reasons)


def test_what_the_user_maps_holds(two: dict[str, Any]) -> None:
    """Two convolutions of one shape: crossed on purpose, and the rest as the table says."""
    first, second = (torchvision(0, block, "conv2") for block in (0, 1))
    with plan(map={first: hugging_face(0, 1, "conv2"), second: hugging_face(0, 0, "conv2")}) as crossed:
        crossed.write("made.safetensors")
    made = load_file("made.safetensors")
    assert np.array_equal(made[f"{hugging_face(0, 1, 'conv2')}.weight"], two[f"{first}.weight"])
    assert np.array_equal(made[f"{hugging_face(0, 2, 'conv2')}.weight"], two[f"{torchvision(0, 2, 'conv2')}.weight"])


def test_nets_that_are_not_alike_are_not_paired_by_a_table(two: dict[str, Any]) -> None:
    """As many blocks in all, and other ones in each stage: names alone would cross what fits by chance."""
    del two
    save_file(drawn(bottleneck((3, 6, 4, 3), 4, hugging_face, THEIRS), 1), "clone.safetensors")
    with pytest.raises(MatchError) as caught, plan():
        pass
    assert not any(pair.reason.startswith("schema") for pair in caught.value.paired)


def test_a_net_inside_another_is_known_too(two: dict[str, Any]) -> None:
    """``backbone.`` before every name but that of a head of its own."""
    inside = {name if name.startswith("fc.") else f"backbone.{name}": value for name, value in two.items()}
    save_file(inside, "source.safetensors")
    with plan() as known:
        assert all(pair.reason.startswith("schema resnet, t") for pair in known.pairs)


TABLES = list(tables())


@pytest.mark.parametrize("table", TABLES, ids=[table.family for table in TABLES])
def test_the_shipped_tables_are_sound(table: Table) -> None:
    """Each name in a code base is of one row, with the exception of those that several kinds have."""
    assert len(table.code_bases) > 1 and len(table.rows) <= 100
    for base in table.code_bases:
        patterns = [(pattern, row.kind) for row in table.rows for pattern in row.names.get(base, ())]
        assert len(patterns) == len(set(patterns)), base
        public = [(re.sub(r"(^|\.)_", r"\1", pattern), kind) for pattern, kind in patterns]
        assert len(public) == len(set(public)), base


def test_a_table_as_it_is_written() -> None:
    text = 'family: x\nlayers:\n  - {kind: conv, a: "b{i}.c", d: [e, h], optional: true}\n  - {f: g, alone: true}\n'
    first, second = Row({"a": ("b{i}.c",), "d": ("e", "h")}, "conv", optional=True), Row({"f": ("g",)}, alone=True)
    assert parse_table(text) == Table("x", (first, second))


def test_a_layer_in_a_private_attribute_of_keras_has_two_names() -> None:
    """A file of Keras has that of the attribute, a live net that of the layer, most often without the underscore."""
    table = parse_table('family: x\nlayers:\n  - {Keras: "block_{i}._attend.query", torch: "b.{i}.q"}\n')
    assert [list(table.rows_of("Keras", f"block_2.{name}.query")) for name in ("_attend", "attend", "other")] == [
        [0],
        [0],
        [],
    ]


# -- how tables are written --------------------------------------------------------------------------------------------


def layers(*names: Mapping[str, str], kind: str = "conv", net: str = "net") -> list[Known]:
    return [Known(net, kind, dict(one)) for one in names]


def patterns(known: list[Known]) -> list[dict[str, str]]:
    return [dict(group.patterns) for group in rows(known)]


def test_numbers_that_differ_become_one_place() -> None:
    known = layers(*({"a": f"layer{i // 2 + 1}.{i % 2}.conv", "b": f"block_{i}_conv"} for i in range(4)))
    assert patterns(known) == [{"a": "layer{i}.{j}.conv", "b": "block_{i}_conv"}]


def test_a_name_with_fewer_places_is_told_apart() -> None:
    """The first block has its one convolution where the others have their first of two."""
    known = layers({"a": "f.0.c.0", "b": "first_dw"})
    for i in range(1, 4):
        known += layers({"a": f"f.{i}.c.0", "b": f"block_{i}_pw"}, {"a": f"f.{i}.c.1", "b": f"block_{i}_dw"})
    assert patterns(known) == [
        {"a": "f.0.c.0", "b": "first_dw"},
        {"a": "f.{i}.c.0", "b": "block_{i}_pw"},
        {"a": "f.{i}.c.1", "b": "block_{i}_dw"},
    ]


def test_layers_that_come_in_another_order_are_not_one_row() -> None:
    known = layers({"a": "x.0", "b": "y.1"}, {"a": "x.1", "b": "y.0"})
    assert patterns(known) == [{"a": "x.0", "b": "y.1"}, {"a": "x.1", "b": "y.0"}]


def test_a_code_base_may_call_the_layers_of_another_net_otherwise() -> None:
    small = layers(*({"a": f"b.{i}.c", "d": f"Basic_{i}.Conv"} for i in range(2)), net="small")
    large = layers(*({"a": f"b.{i}.c", "d": f"Bottleneck_{i}.Conv"} for i in range(4)), net="large")
    assert patterns(small + large) == [{"a": "b.{i}.c", "d": "Basic_{i}.Conv", "d|2": "Bottleneck_{i}.Conv"}]


def test_letters_of_blocks_are_places() -> None:
    known = layers(*({"a": f"blocks.{i}.conv", "b": f"block2{letter}_conv"} for i, letter in enumerate("abc")))
    assert patterns(known) == [{"a": "blocks.{i}.conv", "b": "block2{@i}_conv"}]


def test_nets_of_several_sizes_make_one_row_where_a_code_base_has_both() -> None:
    """The head is at another number in each; and a code base that has one of the nets only has its column."""
    small = layers({"a": "net.4", "b": "head"}, kind="linear", net="small")
    large = layers({"a": "net.9", "c": "output"}, kind="linear", net="large")
    assert patterns(small + large) == [{"a": "net.{i}", "b": "head", "c": "output"}]
