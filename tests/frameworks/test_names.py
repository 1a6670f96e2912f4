"""How each framework's names are taken apart, and spelled."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from converter.core.kinds import KINDS
from converter.core.layers import Net
from converter.core.tensors import TensorSpec
from converter.errors import ConversionError
from converter.formats import Contents, by_name
from converter.frameworks import FRAMEWORKS, framework, recognise
from converter.frameworks.base import Part
from converter.matching.hints import Hints
from converter.options import MatchOptions
from converter.planning.layout import plan_new
from converter.schema.loader import parse_schema

F32 = np.dtype("float32")


def contents(shapes: dict[str, tuple[int, ...]], **others: object) -> Contents:
    return Contents(tuple(TensorSpec(name, shape, F32) for name, shape in shapes.items()), **others)  # type: ignore[arg-type]


def paths(name: str, shapes: dict[str, tuple[int, ...]], **others: object) -> dict[str, str]:
    return {layer.path: layer.kind for layer in framework(name).net(contents(shapes, **others)).layers}


@pytest.mark.parametrize("row", FRAMEWORKS, ids=lambda row: row.name)
def test_every_kind_has_its_roles_in_every_framework(row: object) -> None:
    only_some = {kind for kind, described in KINDS.items() if described.own or described.alike}
    assert {form.kind for form in row.forms} >= KINDS.keys() - only_some
    for form in row.forms:
        words = {word for leaf in form.leaves for role in leaf.roles for word in role}
        assert words <= KINDS[form.kind].roles.keys()
        assert words >= KINDS[form.kind].roles.keys() - KINDS[form.kind].optional
        for leaf in form.leaves:
            axes = re.findall(r"[\w+]+", re.sub(r"1\*|~", "", leaf.axes))
            neutral = re.findall(r"[\w+]+", leaf.neutral)
            sizes = ("1", "each")
            assert sorted(a for a in axes if a not in sizes) == sorted(a for a in neutral if a not in sizes), leaf


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("torch", {"net.0.weight": (3, 4), "net.0.bias": (3,)}, {"net.0": "linear"}),
        ("torch", {"weight": (3, 4), "bias": (3,)}, {"": "linear"}),
        ("torch", {"e.weight": (3, 4)}, {"e": "linear or embedding"}),
        ("torch", {"n.weight": (3,), "n.bias": (3,)}, {"n": "norm"}),
        ("torch", {"w.weight": (3, 4), "w.bias": (4,)}, {"w": "linear"}),
        ("torch", {"c.weight": (3, 4, 2, 2), "c.bias": (3,)}, {"c": "conv"}),
        ("torch", {"a.weight_g": (3, 1)}, {"a": "unknown"}),
        ("torch", {"cls_token": (1, 1, 4), "x.pos": (5, 4)}, {"cls_token": "parameter", "x.pos": "parameter"}),
        ("mxnet", {"dense0_weight": (3, 4), "dense0_bias": (3,)}, {"dense0": "linear"}),
        ("mxnet", {"arg:fc1_weight": (3, 4), "arg:fc1_bias": (3,)}, {"fc1": "linear"}),
        (
            "mxnet",
            {"arg:bn_gamma": (3,), "arg:bn_beta": (3,), "aux:bn_moving_mean": (3,), "aux:bn_moving_var": (3,)},
            {"bn": "batch_norm"},
        ),
        ("flax", {"params/params/a/b/kernel": (3, 4)}, {"a.b": "linear"}),
        ("flax", {"layers/0/kernel/value": (3, 4)}, {"layers.0": "linear"}),
        ("flax", {"params/a.b/kernel": (3, 4)}, {"a\\.b": "linear"}),
        (
            "flax",
            {"params/n/scale": (3,), "params/n/bias": (3,), "batch_stats/n/mean": (3,), "batch_stats/n/var": (3,)},
            {"n": "batch_norm"},
        ),
        ("tensorflow", {"model/a/_kernel/.ATTRIBUTES/VARIABLE_VALUE": (3, 4)}, {"model.a": "linear"}),
        ("tensorflow", {"a.Sb/x../kernel/.ATTRIBUTES/VARIABLE_VALUE": (3, 4)}, {"a/b.x\\.": "linear"}),
        ("tensorflow", {"dense_1/mlp/dense_1/kernel:0": (3, 4)}, {"dense_1": "linear"}),
        ("tensorflow", {"net/top/net/dense_8/kernel:0": (3, 4)}, {"net.dense_8": "linear"}),
        ("tensorflow", {"layers/embedding/vars/0": (3, 4)}, {"embedding": "embedding"}),
        ("tensorflow", {"layers/sequential/layers/dense/vars/0": (3, 4)}, {"sequential.dense": "linear"}),
        ("tensorflow", {"a/vars/0": (3, 4)}, {"a": "linear or embedding or parameter"}),
        ("tensorflow", {"layers/conv2d/vars/0": (2, 2, 3, 4)}, {"conv2d": "conv"}),
        ("tensorflow", {"vars/0": (3, 4)}, {"vars.0": "parameter"}),
        (
            "tensorflow",
            {"vars/0": (1, 1, 4), "vars/1": (1, 7, 4), "a/vars/0": (5, 4), "a/vars/1": (6, 7)},
            {"vars.0": "parameter", "vars.1": "parameter", "a.vars.0": "parameter", "a.vars.1": "parameter"},
        ),
        ("tensorflow", {"dense/vars/0": (5, 4), "dense/vars/1": (6, 7)}, {"dense": "unknown"}),
    ],
)  # fmt: skip
def test_names_become_layers(name: str, given: dict[str, tuple[int, ...]], expected: dict[str, str]) -> None:
    assert paths(name, given) == expected


def test_the_user_s_name_of_a_keras_layer_counts_and_an_automatic_one_does_not() -> None:
    given = {"layers/dense/vars/0": (3, 4), "layers/dense_1/vars/0": (4, 5)}
    named = {"layers/dense/vars": "stem", "layers/dense_1/vars": "dense_7"}
    assert list(paths("tensorflow", given, labels=named)) == ["stem", "dense_1"]
    same = {"layers/dense/vars": "twin", "layers/dense_1/vars": "twin"}
    assert list(paths("tensorflow", given, labels=same)) == ["layers.dense", "layers.dense_1"]


def test_two_tensors_that_would_be_one_are_refused() -> None:
    with pytest.raises(ConversionError, match="'arg:a_weight' and 'aux:a_weight' are both the weight of layer 'a'"):
        paths("mxnet", {"arg:a_weight": (3, 4), "aux:a_weight": (3, 4)})


def test_files_without_an_order_are_sorted_as_people_count() -> None:
    given = {f"params/Dense_{i}/kernel": (3, 4) for i in (10, 9, 0)}
    net = framework("flax").net(contents(given))
    assert not net.ordered and [layer.path for layer in net.layers] == ["Dense_0", "Dense_9", "Dense_10"]


def new_names(source: str, given: dict[str, tuple[int, ...]], target: str, form: str) -> Contents:
    found = contents(given)
    return plan_new(framework(source).net(found), found, framework(target), form, Hints()).contents


@pytest.mark.parametrize(
    ("target", "form"),
    [
        ("tensorflow", "tf-checkpoint"),
        ("tensorflow", "keras2-h5"),
        ("tensorflow", "keras-h5"),
        ("tensorflow", "npz"),
        ("flax", "flax-msgpack"),
        ("mxnet", "mxnet"),
        ("neutral", "safetensors"),
    ],
)
def test_a_batch_norm_without_scale_and_offset_has_names_everywhere(target: str, form: str) -> None:
    made = new_names("torch", {"norm.running_mean": (3,), "norm.running_var": (3,)}, target, form)
    assert len(made.specs) == (4 if target == "mxnet" else 2)  # gluon's always has both


def test_keras_h5_numbers_flat_layers_and_keeps_the_paths_of_nested_ones() -> None:
    given = {
        "a.weight": (3, 4),
        "a.bias": (3,),
        "b.weight": (5, 3),
        "b.bias": (5,),
        "c.d.weight": (2, 5),
        "c.d.bias": (2,),
    }
    made = new_names("torch", given, "tensorflow", "keras-h5")
    assert [spec.name for spec in made.specs][::2] == ["layers/dense/vars/0", "layers/dense_1/vars/0", "c/d/vars/0"]
    nested = {"layers/c": "c", "c/layers/d": "c/d"}
    assert made.links == {"a": "layers/dense", "b": "layers/dense_1", **nested}
    assert made.labels == {"layers/dense/vars": "a", "layers/dense_1/vars": "b", "c/d/vars": "d"}


def test_keras_h5_has_a_recurrent_layer_inside_of_others_wherever_it_may_be_looked_for() -> None:
    weights = {f"net.rnn.{word}_l{i}": (9, 3) for i in range(2) for word in ("weight_ih", "weight_hh")}
    given = contents({**weights, "net.cell.weight_ih_l0": (9, 3), "net.cell.weight_hh_l0": (9, 3)})
    layers = [
        {
            "path": "{i}",
            "kind": "gru",
            "names": {"torch": ["net.rnn.l{i}"], "tensorflow": ["net.rnn.l{i}", "m.gru.l{i}"]},
        },
        {"path": "one", "kind": "gru", "names": {"torch": ["net.cell"], "tensorflow": ["net.gru", "m.net.gru"]}},
    ]
    schema = parse_schema(json.dumps({"name": "net", "layers": layers}))
    source = framework("torch").net(given)
    plan = plan_new(source, given, framework("tensorflow"), "keras-h5", Hints.of(MatchOptions(schema=schema)))
    second, one = "net/rnn/cell/cells/gru_cell_1", "net/gru/cell"
    assert {spec.name.rpartition("/vars")[0] for spec in plan.contents.specs} == {second[:-2], second, one}
    further = {"net/rnn/l1/cell": second, "m/gru/cell/cells/gru_cell_1": second, "m/net/gru/cell": one}
    further |= {"m/layers/gru": "m/gru", "layers/net": "net"}
    assert further.items() <= plan.contents.links.items()


def test_a_weight_that_a_keras_layer_has_for_itself_is_written_by_its_number() -> None:
    layers = [
        {"path": "cls", "kind": "parameter", "names": {"tensorflow": ["vars.0", "cls"]}},
        {"path": "pos", "kind": "parameter", "names": {"tensorflow": ["a.vars.1"]}},
    ]
    given = contents({"cls": (1, 4), "pos": (5, 4)})
    schema = parse_schema(json.dumps({"name": "net", "layers": layers}))
    source = framework("torch").net(given)
    written = plan_new(
        source, given, framework("tensorflow"), "keras-h5", Hints.of(MatchOptions(schema=schema))
    ).contents
    assert [spec.name for spec in written.specs] == ["vars/0", "a/vars/1"]
    assert not written.links and not written.labels


def test_a_cell_that_names_itself_has_no_layer_around_it_in_flax() -> None:
    given = contents({"a.weight_ih_l0": (9, 3), "a.weight_hh_l0": (9, 3)})
    source = framework("torch").net(given)
    for path, place in (("r.ScanGRUCell_0", "r/ScanGRUCell_0"), ("GRUCell_1", "GRUCell_1"), ("rnn", "rnn/cell")):
        plan = plan_new(source, given, framework("flax"), "flax-msgpack", Hints.of(MatchOptions(map={"a": path})))
        assert f"params/{place}/ir/kernel" in plan.contents.by_name


def test_keras_h5_of_equal_layers_needs_an_order() -> None:
    layer = {"kernel": (4, 4), "bias": (4,)}
    with pytest.raises(ConversionError, match="'first' and 'last' have the same shapes, and the source does not keep"):
        named = {f"params/{name}/{leaf}": shape for name in ("first", "last") for leaf, shape in layer.items()}
        new_names("flax", named, "tensorflow", "keras-h5")
    numbered = {f"params/Dense_{i}/{leaf}": shape for i in (1, 0) for leaf, shape in layer.items()}
    made = new_names("flax", numbered, "tensorflow", "keras-h5")
    assert made.labels == {"layers/dense/vars": "Dense_0", "layers/dense_1/vars": "Dense_1"}
    ordered = {
        f"{name}.{leaf}": shape
        for name in ("first", "last")
        for leaf, shape in {"weight": (4, 4), "bias": (4,)}.items()
    }
    assert new_names("torch", ordered, "tensorflow", "keras-h5").links["last"] == "layers/dense_1"


def test_data_of_no_net_gets_no_root() -> None:
    assert [spec.name for spec in new_names("torch", {"x": (3,), "y": (4,)}, "flax", "flax-msgpack").specs] == [
        "x",
        "y",
    ]
    mixed = {"x": (3,), "fc.weight": (3, 4), "fc.bias": (3,)}
    made = new_names("torch", mixed, "flax", "flax-msgpack")
    assert sorted(spec.name for spec in made.specs) == ["params/fc/bias", "params/fc/kernel", "params/x"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"a.weight": (3, 4), "a.bias": (3,)}, "torch"),
        ({"params/a/kernel": (3, 4), "params/a/bias": (4,)}, "flax"),
        # so are the norms of old BERT; both lay it out alike
        ({"a.gamma": (3,), "a.beta": (3,), "b.weight": (3, 4), "b.bias": (3,)}, "torch"),
        ({"a.gamma": (3,), "a.beta": (3,), "a.running_mean": (3,), "a.running_var": (3,)}, "mxnet"),
        ({"a/gamma": (3,), "a/beta": (3,), "a/moving_mean": (3,), "a/moving_variance": (3,)}, "tensorflow"),
    ],
)
def test_a_file_of_any_framework_is_told_by_its_names(given: dict[str, tuple[int, ...]], expected: str) -> None:
    assert recognise(by_name("safetensors"), contents(given)).name == expected


DOCUMENT = {"version": 1, "framework": "torch", "ordered": True, "container": "dict"}


def neutral(layers: object, given: dict[str, tuple[int, ...]], **changes: object) -> Net:
    text = json.dumps({**DOCUMENT, "layers": layers, **changes})
    return framework("neutral").net(contents(given, metadata={"converter": text}))


def test_the_neutral_file_lists_its_layers() -> None:
    net = neutral([{"path": "a.b", "kind": ["linear", "embedding"]}], {"a.b.weight": (3, 4)})
    assert [(layer.path, layer.kind) for layer in net.layers] == [("a.b", "linear or embedding")]


@pytest.mark.parametrize(
    ("layers", "changes", "message"),
    [
        ([], {}, "'a' holds tensors but is no layer of its metadata"),
        ([{"path": "a", "kind": ["norm"]}], {}, r"layer 'a' is no norm: weight \(3, 4\)"),
        (
            [{"path": "a", "kind": ["linear"]}, {"path": "b", "kind": ["linear"]}],
            {},
            "layer 'b' is no linear: no tensors",
        ),
        ([{"path": "a", "kind": []}], {}, "layer 'a' is no "),
        ([{"path": "a", "kind": ["linear"]}], {"version": 2}, "no document of version 1"),
        ([{"path": "a", "kind": "linear"}], {}, "no document of version 1"),
        (7, {}, "no document of version 1"),
    ],
)
def test_a_neutral_file_that_contradicts_itself_is_refused(
    layers: object, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConversionError, match=message):
        neutral(layers, {"a.weight": (3, 4)}, **changes)


def test_names_of_another_framework_are_not_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose names have no such separator, has all of them in one group."""
    given = contents({f"blocks.{i}.dense.{leaf}": (3,) for i in range(20) for leaf in ("weight", "bias", "other")})

    def compared(self: Part, other: object) -> bool:
        raise AssertionError

    monkeypatch.setattr(Part, "__eq__", compared)
    assert len(framework("flax").net(given).layers) > 0
