"""Pairing of layers: the right one or a refusal."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from converter.core.layers import Net
from converter.core.tensors import TensorSpec
from converter.errors import FLAGS, MatchError
from converter.formats import Contents
from converter.frameworks import framework
from converter.matching.evidence import NAMES, ONLY_ONE, POSITION
from converter.matching.hints import Hints
from converter.matching.matcher import match
from converter.matching.pairs import MAP, SAME_NAME, SCHEMA
from converter.options import MatchOptions
from converter.planning.layout import rename
from converter.planning.plan import plan_into
from converter.schema.loader import Schema, SchemaLayer, load_schema


def net(name: str, shapes: dict[str, tuple[int, ...]], dtype: str = "float32") -> Net:
    return framework(name).net(contents(shapes, dtype))


def contents(shapes: dict[str, tuple[int, ...]], dtype: str = "float32") -> Contents:
    return Contents(tuple(TensorSpec(tensor, shape, np.dtype(dtype)) for tensor, shape in shapes.items()))


def torch_mlp(hidden: str = "hidden", output: str = "output", sizes: tuple[int, int, int] = (20, 256, 10)) -> Net:
    a, b, c = sizes
    return net(
        "torch",
        {f"{hidden}.weight": (b, a), f"{hidden}.bias": (b,), f"{output}.weight": (c, b), f"{output}.bias": (c,)},
    )


def flax_mlp(hidden: str = "hidden", output: str = "output", sizes: tuple[int, int, int] = (20, 256, 10)) -> Net:
    a, b, c = sizes
    return net(
        "flax",
        {
            f"params/{hidden}/kernel": (a, b),
            f"params/{hidden}/bias": (b,),
            f"params/{output}/kernel": (b, c),
            f"params/{output}/bias": (c,),
        },
    )


def pairs(source: Net, target: Net, hints: Hints = Hints(), strict: bool = False) -> dict[str, tuple[str, str]]:
    hints = replace(hints, options=replace(hints.options, strict=strict))
    return {pair.source.path: (pair.target.path, pair.reason) for pair in match(source, target, hints).pairs}


def test_same_names_pair() -> None:
    assert pairs(torch_mlp(), flax_mlp()) == {"hidden": ("hidden", SAME_NAME), "output": ("output", SAME_NAME)}


def test_case_separators_and_shared_modules_do_not_matter() -> None:
    found = pairs(torch_mlp("net.fc_1", "net.fc_2"), flax_mlp("Fc1", "Fc2"))
    assert found == {"net.fc_1": ("Fc1", SAME_NAME), "net.fc_2": ("Fc2", SAME_NAME)}


def test_the_wrapper_of_torch_compile_does_not_matter() -> None:
    found = pairs(torch_mlp("net._orig_mod.a", "net.b._orig_mod", (8, 8, 8)), flax_mlp("a", "b", (8, 8, 8)))
    assert found == {"net._orig_mod.a": ("a", SAME_NAME), "net.b._orig_mod": ("b", SAME_NAME)}


def test_the_only_one_that_fits_pairs_but_not_under_strict() -> None:
    assert pairs(torch_mlp("a", "b"), flax_mlp()) == {"a": ("hidden", ONLY_ONE), "b": ("output", ONLY_ONE)}
    with pytest.raises(MatchError, match=r"rests on: only one with this shape. Say map={'a': 'hidden'}"):
        pairs(torch_mlp("a", "b"), flax_mlp(), strict=True)


def test_equal_layers_of_other_names_are_refused_with_the_map_that_settles_it() -> None:
    source, target = torch_mlp("a", "b", (8, 8, 8)), flax_mlp("c", "d", (8, 8, 8))
    with pytest.raises(MatchError) as error:
        pairs(source, target)
    told = [problem.said(FLAGS) for problem in error.value.problems]
    assert told == ["'c', 'd' of the clone could each be 'a', 'b'. Say --map a=c or --map b=c."]
    found = pairs(source, target, Hints.of(MatchOptions(map={"a": "d"})))
    assert found == {"a": ("d", MAP), "b": ("c", ONLY_ONE)}


def test_map_takes_everything_below_a_module_along() -> None:
    hints = Hints.of(MatchOptions(map={"old.net": "new"}))
    found = pairs(torch_mlp("old.net.a", "old.net.b", (8, 8, 8)), flax_mlp("new/b", "new/a", (8, 8, 8)), hints)
    assert found == {"old.net.a": ("new.a", MAP), "old.net.b": ("new.b", MAP)}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"hiden": "hidden"}, "map={'hiden': 'hidden'}: the source has no layer 'hiden'. Did you mean 'hidden'?"),
        ({"hidden": "hiden"}, "'hiden' is not in the clone. Free there: 'hidden', 'output'."),
    ],
)
def test_a_map_that_names_nothing_is_an_error(mapping: dict[str, str], message: str) -> None:
    with pytest.raises(MatchError) as error:
        pairs(torch_mlp(), flax_mlp(), Hints.of(MatchOptions(map=mapping)))
    assert message in str(error.value)


def test_another_input_size_is_asked_about() -> None:
    with pytest.raises(MatchError) as error:
        pairs(torch_mlp(), flax_mlp(sizes=(30, 256, 10)))
    assert [problem.text for problem in error.value.problems] == [
        "'hidden.weight' has shape (256, 20); the clone's 'params/hidden/kernel' is (30, 256), which needs (256, 30). "
        "Is the input size of the clone 30?",
    ]


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(MatchError) as error:
        pairs(torch_mlp(), flax_mlp(sizes=(30, 256, 11)))
    assert len(error.value.problems) == 2
    assert "Is the output size of the clone 11?" in error.value.problems[1].text


def test_a_missing_bias_and_a_surplus_layer_are_named() -> None:
    without = net("flax", {"params/hidden/kernel": (20, 256), "params/output/kernel": (256, 10)})
    with pytest.raises(MatchError, match="'hidden' of the source has a bias, and 'hidden' of the clone has none"):
        pairs(torch_mlp(), without)
    smaller = net("flax", {"params/hidden/kernel": (20, 256), "params/hidden/bias": (256,)})
    with pytest.raises(MatchError, match=r"'output' \(output.weight \(10, 256\), .*\) has no counterpart in the clone"):
        pairs(torch_mlp(), smaller)
    with pytest.raises(MatchError, match="nothing in the source fits 'output' of the clone"):
        pairs(net("torch", {"hidden.weight": (256, 20), "hidden.bias": (256,)}), flax_mlp())


def test_a_matrix_that_could_be_two_kinds_takes_the_kind_of_the_clone() -> None:
    source = net("torch", {"layer.weight": (7, 7)})
    assert source.layers[0].kind == "linear or embedding"
    for leaf, transposed in (("kernel", True), ("embedding", False)):
        clone = contents({f"params/layer/{leaf}": (7, 7)})
        plan = plan_into(source, framework("flax").net(clone), clone, Hints())
        assert bool(plan.steps[0].ops) is transposed


def test_only_floats_are_cast() -> None:
    clone = contents({"params/w": (3,)}, "int32")
    with pytest.raises(MatchError, match="'w' is float32 and the clone's 'params/w' is int32: only floats are cast"):
        plan_into(net("torch", {"w": (3,)}), framework("flax").net(clone), clone, Hints())


def test_the_schema_names_both_sides() -> None:
    schema = load_schema("mlp")
    target = net("tensorflow", {"layers/dense/vars/0": (20, 256), "layers/dense/vars/1": (256,),
                                "layers/dense_1/vars/0": (256, 10), "layers/dense_1/vars/1": (10,)})  # fmt: skip
    found = pairs(torch_mlp(), target, Hints.of(MatchOptions(schema=schema)))
    assert found == {"hidden": ("dense", SCHEMA), "output": ("dense_1", SCHEMA)}


def test_a_schema_of_another_net_is_refused() -> None:
    other = Schema("other", (SchemaLayer("stem", "linear"), SchemaLayer("hidden", "embedding")))
    with pytest.raises(MatchError) as error:
        rename(torch_mlp(), "flax", Hints.of(MatchOptions(schema=other)))
    assert [problem.text for problem in error.value.problems] == [
        "the schema's layer 'stem' (stem) is not in the source, which has 'hidden', 'output'.",
        "'hidden' (hidden.weight (256, 20), hidden.bias (256,)) is linear, "
        "and the schema's layer 'hidden' is embedding.",
    ]


def test_two_layers_never_get_one_name() -> None:
    with pytest.raises(MatchError, match="2 layers would be named 'output'"):
        rename(torch_mlp(), "flax", Hints.of(MatchOptions(map={"hidden": "output"})))


@given(st.permutations(range(5)), st.lists(st.integers(2, 4), min_size=6, max_size=6), st.booleans())
def test_renamed_and_reordered_layers_pair_rightly_or_not_at_all(
    order: list[int], sizes: list[int], keep: bool
) -> None:
    """Five linear layers under new names in a new order; equal shapes must never be mixed up."""
    rng = random.Random(str((order, sizes)))
    new = {i: f"layer{i}" if keep and rng.random() < 0.5 else f"other{chr(97 + i)}" for i in range(5)}
    source = net("torch", {f"layer{i}.weight": (sizes[i + 1], sizes[i]) for i in range(5)})
    target = net("flax", {f"params/{new[i]}/kernel": (sizes[i], sizes[i + 1]) for i in order})
    try:
        found = pairs(source, target)
    except MatchError:
        return
    assert {old: pair[0] for old, pair in found.items()} == {f"layer{i}": new[i] for i in range(5)}


def stack(name: str, paths: list[str], shapes: list[tuple[int, int]]) -> Net:
    """Linear layers of these paths and (out, in) sizes."""
    given = {}
    for path, (out, size) in zip(paths, shapes, strict=True):
        if name == "torch":
            given |= {f"{path}.weight": (out, size), f"{path}.bias": (out,)}
        else:
            place = path.replace(".", "/")
            given |= {f"params/{place}/kernel": (size, out), f"params/{place}/bias": (out,)}
    return net(name, given)


SQUARE = [(4, 4)] * 3


def test_a_sequential_that_counts_activations_is_paired_by_position() -> None:
    found = pairs(stack("torch", ["0", "2", "4"], SQUARE), stack("flax", ["layers_0", "layers_1", "layers_2"], SQUARE))
    assert found == {"0": ("layers_0", POSITION), "2": ("layers_1", POSITION), "4": ("layers_2", POSITION)}
    found = pairs(stack("torch", ["net.0", "net.2", "net.10"], SQUARE), stack("torch", ["0", "1", "2"], SQUARE))
    assert found == {"net.0": ("0", POSITION), "net.2": ("1", POSITION), "net.10": ("2", POSITION)}


def test_equal_numbers_are_the_same_name_only_when_both_have_the_same_ones() -> None:
    found = pairs(stack("torch", ["0", "2"], SQUARE[:2]), stack("torch", ["net.0", "net.2"], SQUARE[:2]))
    assert set(found.values()) == {("net.0", SAME_NAME), ("net.2", SAME_NAME)}


def test_numbers_that_touch_are_not_one_number() -> None:
    with pytest.raises(MatchError):
        pairs(stack("torch", ["a.1.11", "a.2.3"], SQUARE[:2]), stack("flax", ["b.11.1", "c.2.3"], SQUARE[:2]))


def test_names_that_end_alike_pair_below_other_modules() -> None:
    ours = stack("torch", ["model.body.fc", "model.head.fc", "model.head.out"], SQUARE)
    theirs = stack("flax", ["net.head.fc", "net.extra.body.fc", "net.out"], SQUARE)
    assert pairs(ours, theirs) == {
        "model.body.fc": ("net.extra.body.fc", NAMES),
        "model.head.fc": ("net.head.fc", SAME_NAME),
        "model.head.out": ("net.out", NAMES),  # it stands in another place
    }


def test_a_nested_net_pairs_with_a_flat_one_by_the_ends_of_names() -> None:
    ours, theirs = ["features.stem", "features.neck", "head.fc"], ["fc", "neck", "stem"]
    found = pairs(stack("torch", ours, SQUARE), stack("flax", theirs, SQUARE))
    assert {one: other for one, (other, _) in found.items()} == dict(zip(ours, ["stem", "neck", "fc"], strict=True))


def test_an_end_of_a_name_says_nothing_where_something_else_is_called_alike() -> None:
    """``body_x.stem`` is rather ``body.stem_x`` than ``stem``."""
    ours, theirs = ["body_x.stem", "neck.stem", "stem_x"], ["body.stem_x", "neck.stem", "stem"]
    with pytest.raises(MatchError):
        pairs(stack("torch", ours, SQUARE), stack("flax", theirs, SQUARE))


def test_numbers_of_a_container_mean_the_same_only_where_it_counts_alike() -> None:
    """What else is in the paths does not matter: the one container counts 0, 2, 4, the other 0, 1, 2."""
    ours, theirs = ["dense_0.a", "dense_2.b", "dense_4.w.b"], ["dense_0.a", "dense_1.w.b", "dense_2.b"]
    found = pairs(stack("torch", ours, SQUARE), stack("flax", theirs, SQUARE))
    assert {one: other for one, (other, _) in found.items()} == dict(zip(ours, theirs, strict=True))


def test_the_order_of_the_user_s_own_names_is_not_trusted() -> None:
    with pytest.raises(MatchError, match=r"Say map=\{'first': 'one'\} or map=\{'second': 'one'\}\."):
        pairs(stack("torch", ["first", "second"], SQUARE[:2]), stack("flax", ["one", "two"], SQUARE[:2]))
    with pytest.raises(MatchError, match=r"Say map=\{'0': 'Dense_0'\} or map=\{'1': 'Dense_0'\}\."):
        pairs(stack("torch", ["0", "1"], SQUARE[:2]), stack("flax", ["Dense_0", "Other_0"], SQUARE[:2]))


WORDS = ["stem", "body", "neck", "head", "gate", "proj"]


@given(st.lists(st.sampled_from([(4, 4), (4, 5), (5, 4)]), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_renamed_and_reordered_layers_are_paired_rightly_or_refused(
    shapes: list[tuple[int, int]], rng: random.Random
) -> None:
    """The layers of one net get other names, or keep theirs, and stand in another order in the other."""
    names = WORDS[: len(shapes)]
    others = {
        name: rng.choice([name, name.upper(), f"wrapped.{name}", f"{name}x", f"other{i}"])
        for i, name in enumerate(names)
    }
    order = rng.sample(names, len(names))
    theirs = [others[name] for name in order]
    target = stack("flax", theirs, [shapes[names.index(name)] for name in order])
    try:
        found = pairs(stack("torch", names, shapes), target)
    except MatchError:
        return
    assert {name: path for name, (path, _) in found.items()} == others


def test_a_wildcard_settles_the_kind_of_those_that_can_be_it() -> None:
    given = contents({"up.weight": (4, 4, 3, 3), "body.weight": (4, 4, 3, 3), "fc.weight": (3, 4), "fc.bias": (3,)})
    source = framework("torch").net(given)
    hints = Hints.of(MatchOptions(kind={"*": "conv", "up*": "conv_transpose"}))
    assert {layer.path: layer.kind for layer in hints.of_source(source).layers} == {
        "up": "conv_transpose",
        "body": "conv",
        "fc": "linear",
    }
    with pytest.raises(MatchError) as error:
        Hints.of(MatchOptions(kind={"fc": "conv"})).of_source(source)
    message = "--kind fc=conv: 'fc' (fc.weight (3, 4), fc.bias (3,)) can only be linear."
    assert error.value.said(FLAGS) == message
