"""What a schema counts in a net, and the channels that it finds there."""

from __future__ import annotations

import numpy as np

from converter.core.contents import Contents
from converter.core.layers import Net
from converter.core.tensors import TensorSpec
from converter.frameworks import framework
from converter.matching.hints import Hints
from converter.matching.schema_layers import for_net
from converter.options import MatchOptions
from converter.schema.loader import load_schema, parse_schema

COUNTED = """
name: net
layers:
  - {path: "block{i+1}.conv", kind: conv, names: {torch: ["net.{i}.0"], flax: ["blocks_{2*i}"]}}
  - {path: fc, kind: linear, names: {torch: ["net.{I+1}"], flax: ["fc{_I}"]}, flatten: "block{i+1}.conv"}
"""


def of_torch(**shapes: tuple[int, ...]) -> Net:
    specs = (TensorSpec(f"{name}.weight", shape, np.dtype("f4")) for name, shape in shapes.items())
    return framework("torch").net(Contents(tuple(specs)))


def test_what_stands_behind_so_many_layers_is_counted_in_the_net() -> None:
    """The channels of a flatten are those of the last layer by its number, not by the alphabet or the file."""
    shapes = {f"net.{i}.0": (i + 2, i + 1, 3, 3) for i in (10, *range(10))}
    schema = for_net(
        Hints.of(MatchOptions(schema=parse_schema(COUNTED))), of_torch(**shapes, **{"net.12": (10, 24)})
    ).schema
    assert schema is not None
    block, fc = schema.layers
    assert fc.spelled("torch", {}) == ("net.12",) and fc.spelled("flax", {}) == ("fc_11",) and fc.flatten == 12
    assert block.spelled("flax", {"i": 2}) == ("blocks_4",)
    assert load_schema("vgg").entry("torch", "net.6") is None, "what is counted has no name before it is"


def test_a_count_of_nothing_is_zero_and_a_layer_that_is_missing_flattens_nothing() -> None:
    schema = for_net(Hints.of(MatchOptions(schema=parse_schema(COUNTED))), of_torch(**{"net.1": (10, 24)})).schema
    assert schema is not None
    assert schema.layers[1].spelled("torch", {}) == ("net.1",) and schema.layers[1].flatten is None


def test_modules_that_are_left_out_are_not_counted_in() -> None:
    net = of_torch(**{"module.net.0.0": (2, 1, 3, 3), "module.net.2": (10, 24)})
    schema = for_net(Hints.of(MatchOptions(schema=parse_schema(COUNTED), strip=sorted({"module"}))), net).schema
    assert schema is not None and schema.layers[1].spelled("torch", {}) == ("net.2",)


def test_a_flatten_inside_of_a_block_names_a_layer_of_that_block() -> None:
    text = """
    name: net
    blocks:
      tower:
        - {path: conv, kind: conv}
        - {path: fc, kind: linear, flatten: conv}
    layers:
      - {use: tower, path: left}
      - {use: tower, path: right}
    """
    net = of_torch(**{"left.conv": (4, 1, 3, 3), "right.conv": (6, 1, 3, 3), "left.fc": (2, 24), "right.fc": (2, 24)})
    schema = for_net(Hints.of(MatchOptions(schema=parse_schema(text))), net).schema
    assert schema is not None and [layer.flatten for layer in schema.layers] == [None, 4, None, 6]
