"""Patterns: what they cover, and that no number of them takes minutes."""

from __future__ import annotations

import fnmatch

import numpy as np
import pytest

from converter.core.layers import Layer, Net
from converter.core.tensors import TensorSpec
from converter.errors import ConversionError
from converter.frameworks import framework
from converter.matching import covering
from converter.matching.hints import Hints
from converter.options import MatchOptions
from converter.schema.loader import parse_schema


def net(count: int) -> Net:
    specs = tuple(TensorSpec(f"block{number}.fc.weight", (3, 4), np.dtype("float32")) for number in range(count))
    layers = tuple(Layer(spec.name.removesuffix(".weight"), "linear", ()) for spec in specs)
    return Net(framework("torch").name, layers)


@pytest.mark.parametrize("pattern", ["a", "a.b", "a.*", "*.b", "?.b", "[ab].b", "*", "a.b.c"])
@pytest.mark.parametrize("path", ["a", "a.b", "a.b.c", "ab", "b.b"])
def test_a_pattern_covers_a_layer_or_a_module_above_it(pattern: str, path: str) -> None:
    modules = [".".join(path.split(".")[: end + 1]) for end in range(path.count(".") + 1)]
    assert covering.covers(pattern, path) == any(fnmatch.fnmatchcase(module, pattern) for module in modules)


MANY = {
    "names": MatchOptions(kind={f"block{number}.fc": "linear" for number in range(10_000)}),
    "wildcards": MatchOptions(ignore=[f"*{number}.fc" for number in range(1_000)]),
    "of several options": MatchOptions(
        ignore=[f"*{n}.a" for n in range(200)], flatten={f"*{n}.b": 3 for n in range(200)}
    ),
}


@pytest.mark.parametrize("what", MANY)
def test_too_many_patterns_are_refused_with_numbers(what: str) -> None:
    with pytest.raises(ConversionError, match=r"\d+ patterns .* 100000 layers: .* costs \d+, at most \d+ is allowed"):
        Hints.of(MANY[what]).of_source(net(100_000))


def test_rows_of_a_schema_count_too() -> None:
    rows = "".join(f"  - {{path: 'a{number}.{{i}}', kind: linear}}\n" for number in range(900))
    hints = Hints(MatchOptions(), parse_schema(f"name: many\nlayers:\n{rows}"))
    with pytest.raises(ConversionError, match=r"900 patterns \(900 of them stand for many names\)"):
        hints.of_source(net(100_000))


def test_as_many_as_anybody_needs_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    covering.check_count(net(2_000), MatchOptions(kind={f"*{number}.fc": "linear" for number in range(1_000)}), None)
    mapping = MatchOptions(map={f"block{number}": f"layer{number}" for number in range(10_000)})
    large = net(100_000)
    hints = Hints.of(mapping)
    assert hints.of_source(large).by_path.keys() == large.by_path.keys()
    assert hints.mapped("block77.fc") == "layer77.fc" and hints.mapped("block10000.fc") is None
