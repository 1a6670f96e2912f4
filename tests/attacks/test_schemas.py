"""Schema files that stand for more than they say, and patterns that would be tried in endless ways."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import converter
from converter.core.patterns import check_pattern, indices_of
from converter.schema.bounds import MOST_BYTES, MOST_LAYERS
from converter.schema.loader import load_schema, parse_schema
from tests.attacks.limits import harmless

LINEAR = "{path: a, kind: linear}"


def blocks(count: int, uses: int, last: str = LINEAR) -> str:
    """Blocks of which each uses the next so many times."""
    lines = ["name: a", "layers: [{use: b0, path: x}]", "blocks:"]
    for number in range(count):
        each = ", ".join(f"{{use: b{number + 1}, path: p{use}}}" for use in range(uses))
        lines.append(f"  b{number}: [{each}]")
    return "\n".join([*lines, f"  b{count}: [{last}]"])


def aliases(count: int, uses: int = 10) -> str:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * uses)}]" for i in range(1, count)]
    return "\n".join([*lines, f"name: *a{count - 1}", f"layers: [{LINEAR}]"])


MANY = ", ".join(f"n{i}" for i in range(60))
LARGE = {
    "doubling blocks": blocks(19, 2),
    "doubling blocks of nothing": blocks(19, 2, ""),
    "a chain of blocks": blocks(300, 1),
    "aliases": aliases(60),
    "merged aliases": "\n".join(
        ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 40))]
    ),
    "a value in itself": f"name: a\nlayers: &a [*a, {LINEAR}]",
    "names times names": blocks(6, 1, f"{{path: a, kind: linear, names: {{torch: [{MANY}]}}}}").replace(
        "path: p0}", f"path: p0, names: {{torch: [{MANY}]}}}}"
    ),
    "nested lists": "name: " + "[" * 5_000,
    "signs": "a: [" + "x, " * 130_000,
    "digits": f"name: a\nlayers: [{{path: a, kind: linear, heads: {'1' * 5000}}}]",
    "digits by sixty": f"name: a\nlayers: [{{path: a, kind: linear, heads: 1{':59' * 100_000}}}]",
    "a size beyond float": f"name: a\nlayers: [{{path: a, kind: linear, heads: 1{':59' * 15}.5}}]",
    "an infinite size": "name: a\nlayers: [{path: a, kind: linear, heads: 1.0e+400}]",
    "an impossible date": "name: 2020-99-99\nlayers: []",
    "patterns": "name: a\nlayers:\n" + "\n".join(f"- {{path: 'a{i}.{{i}}', kind: linear}}" for i in range(1100)),
    "a tag": "name: !!python/object/apply:os.system ['true']\nlayers: []",
}


@pytest.mark.parametrize("what", LARGE)
def test_it_is_refused_in_time(what: str) -> None:
    before = time.process_time()
    with pytest.raises(converter.ConversionError) as error:
        parse_schema(LARGE[what])
    assert time.process_time() - before < 10
    assert len(str(error.value)) < 1000


def test_what_is_not_large_is_read() -> None:
    assert len(parse_schema(blocks(8, 2)).layers) == 2**8 < MOST_LAYERS
    shared = "name: a\nlayers: [{path: a, kind: &kind linear}, {path: b, kind: *kind}]"
    assert [layer.kind for layer in parse_schema(shared).layers] == ["linear", "linear"]


def test_a_pipe_is_no_schema_nor_a_file_of_names(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(converter.ConversionError, match="not a regular file"):
        load_schema(str(tmp_path / "pipe.yaml"))
    with pytest.raises(converter.ConversionError):
        converter.open(tmp_path / "pipe.yaml", names_from=tmp_path / "pipe.yaml")


def test_the_command_line_refuses_one(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text("# " + "x" * MOST_BYTES)
    with pytest.raises(converter.ConversionError, match="more than such a file can have"):
        load_schema(str(tmp_path / "long.yaml"))
    (tmp_path / "large.yaml").write_text(LARGE["aliases"])
    assert "values, at most" in harmless("schema", "check", "large.yaml", cwd=tmp_path, code=1).err


@pytest.mark.parametrize(
    "pattern",
    ["{a}{b}{c}{d}{e}{f}x", "{a}1{b}1{c}x", "n{_a}{_b}{_c}x", "n{_a}_1{_b}_1{_c}x", "{a}{a}{a}{a}x", "n{_a}{b}x"],
)
def test_two_indices_have_something_between_them(pattern: str) -> None:
    with pytest.raises(converter.ConversionError, match="nothing between them"):
        check_pattern(pattern)


@pytest.mark.parametrize("pattern", ["{0*i}", "{" + "9" * 5000 + "*i}", "{i+" + "9" * 5000 + "}"])
def test_an_index_counts_in_small_numbers(pattern: str) -> None:
    with pytest.raises(converter.ConversionError, match="a brace that is no index"):
        check_pattern(pattern)


ALLOWED = {
    "blocks.{i}.{j}_conv": ("blocks.3.12_conv", {"i": 3, "j": 12}),
    "conv{i}{_j}": ("conv7_2", {"i": 7, "j": 2}),
    "a_{i}_{j}": ("a_1_2", {"i": 1, "j": 2}),
    "conv{_i}_1": ("conv_1", {"i": 0}),
    "net.{2*i+1}": ("net.7", {"i": 3}),
}


@pytest.mark.parametrize("pattern", ALLOWED)
def test_other_patterns_are_as_they_were(pattern: str) -> None:
    name, indices = ALLOWED[pattern]
    check_pattern(pattern)
    assert indices_of(pattern, name) == indices
    assert indices_of(pattern, f"{name}.") is None


def test_a_name_of_many_digits_is_matched_in_time() -> None:
    before = time.process_time()
    for pattern in ("x.".join(f"{{{letter}}}" for letter in "abcdefghijklmnopqrstuvwxyz"), "{i}", "n{_i}.{j}_{k}"):
        check_pattern(pattern)
        for name in ("1" * 100_000, "1x." * 30_000, "n" + "_1" * 50_000, "1_" * 50_000):
            assert indices_of(pattern, name) is None
    assert time.process_time() - before < 5
