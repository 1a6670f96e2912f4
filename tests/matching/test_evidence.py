"""Two trees of modules laid on each other: the right pairs, or a refusal."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.errors import MatchError
from converter.matching.evidence import NAMES, PLACE, POSITION
from converter.matching.hints import Hints
from converter.matching.matcher import match
from converter.matching.pairs import SAME_NAME
from converter.options import MatchOptions
from tests.matching.test_matcher import SQUARE, net, pairs, stack

Shape = tuple[int, int]
#: A net: a linear layer of that shape, a Sequential of nets, or nets under the names of attributes.
Plan = Shape | list["Plan"] | dict[str, "Plan"]

FOUR = [(4, 4)] * 4


def test_containers_are_paired_by_their_places() -> None:
    """Every block holds the same shapes, so only the order tells them apart; activations count on one side."""
    ours = ["net.0.0", "net.0.2", "net.1.0", "net.1.2"]
    theirs = ["layers_0.layers_0", "layers_0.layers_1", "layers_1.layers_0", "layers_1.layers_1"]
    found = pairs(stack("torch", ours, FOUR), stack("flax", theirs, FOUR))
    assert found == {one: (other, POSITION) for one, other in zip(ours, theirs, strict=True)}


def test_names_count_inside_of_what_the_order_pairs() -> None:
    ours = ["blocks.0.up", "blocks.0.down", "blocks.3.up", "blocks.3.down"]
    theirs = ["body_0.down", "body_0.up", "body_1.down", "body_1.up"]
    found = pairs(stack("torch", ours, FOUR), stack("torch", [f"x.{path.replace('_', '.')}" for path in theirs], FOUR))
    assert {one: other for one, (other, _) in found.items()} == {
        "blocks.0.up": "x.body.0.up",
        "blocks.0.down": "x.body.0.down",
        "blocks.3.up": "x.body.1.up",
        "blocks.3.down": "x.body.1.down",
    }


def test_blocks_are_numbered_in_their_order_whoever_began_to_count_where() -> None:
    ours = ["enc.blks.block0.fc", "enc.blks.block1.fc"]
    for theirs in (["blks.0.fc", "blks.1.fc"], ["blks_0.fc", "blks_1.fc"], ["x.block1.fc", "x.block2.fc"]):
        found = pairs(stack("torch", ours, SQUARE[:2]), stack("flax", theirs, SQUARE[:2]))
        assert {one: other for one, (other, _) in found.items()} == dict(zip(ours, theirs, strict=True))
    with pytest.raises(MatchError):  # any other word may count something else
        pairs(stack("torch", ours, SQUARE[:2]), stack("torch", ["x.part1.fc", "x.part2.fc"], SQUARE[:2]))


def test_keras_counts_the_classes_of_the_user() -> None:
    ours = ["blks.0.up", "blks.0.down", "blks.1.up", "blks.1.down"]
    theirs = ["blks/my_block/up", "blks/my_block/down", "blks/my_block_1/up", "blks/my_block_1/down"]
    target = net("tensorflow", {f"{path}/vars/0": (4, 4) for path in theirs})
    source = net("torch", {f"{path}.weight": (4, 4) for path in ours})
    found = pairs(source, target)
    assert {one: other for one, (other, _) in found.items()} == {
        one: other.replace("/", ".") for one, other in zip(ours, theirs, strict=True)
    }


def test_words_that_mean_the_same_pair() -> None:
    ours = ["attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj"]
    theirs = ["attention.key", "attention.query", "attention.output", "attention.value"]
    found = pairs(stack("torch", ours, FOUR), stack("flax", theirs, FOUR))
    assert found == {
        "attn.q_proj": ("attention.query", NAMES),
        "attn.k_proj": ("attention.key", NAMES),
        "attn.v_proj": ("attention.value", NAMES),
        "attn.out_proj": ("attention.output", NAMES),
    }
    with pytest.raises(MatchError, match="rests on: names"):
        match(stack("torch", ours, FOUR), stack("flax", theirs, FOUR), Hints.of(MatchOptions(strict=True)))


def test_the_only_module_left_in_a_place_pairs() -> None:
    """The name of the last layer is lost in one file; its shape is that of layers elsewhere."""
    ours, theirs = ["a.fc", "a.last", "b.fc", "b.last"], ["a.fc", "a.other", "b.fc", "b.another"]
    found = pairs(stack("torch", ours, FOUR), stack("flax", theirs, FOUR))
    assert found["a.last"] == ("a.other", PLACE) and found["b.last"] == ("b.another", PLACE)
    assert found["a.fc"] == ("a.fc", SAME_NAME)


def test_unlike_containers_are_not_paired_by_place() -> None:
    ours = ["net.0", "net.1", "net.2"]
    with pytest.raises(MatchError):
        pairs(stack("torch", ours, SQUARE), stack("flax", ["layers_0", "layers_1"], SQUARE[:2]))


def test_layers_that_the_user_mapped_hold_their_places() -> None:
    """What is paired already is part of the order: three layers in turn, the first of which is the other's last."""
    hints = Hints.of(MatchOptions(map={"net.0": "layers_2"}))
    with pytest.raises(MatchError):
        match(
            stack("torch", ["net.0", "net.1", "net.2"], SQUARE),
            stack("flax", ["layers_0", "layers_1", "layers_2"], SQUARE),
            hints,
        )


def test_a_module_holds_what_is_counted_in_it() -> None:
    """``stem`` with ``layers_0`` and ``layers_1`` is a module as ``stem`` of the other is, which holds 0 and 1."""
    shapes = [(4, 5)] * 4
    ours, theirs = (
        ["0.stem.0", "0.stem.1", "0.body.layers_0", "0.body.layers_1"],
        [
            "0.stem.layers_0",
            "0.stem.layers_1",
            "0.body.0",
            "0.body.1",
        ],
    )
    found = pairs(stack("torch", ours, shapes), stack("flax", theirs[2:] + theirs[:2], shapes))
    assert {one: other for one, (other, _) in found.items()} == dict(zip(ours, theirs, strict=True))


def test_a_word_is_found_in_another() -> None:
    ours, theirs = ["0.norm_x", "0.query_x"], ["0.myquery", "0.mynorm_x"]
    found = pairs(stack("torch", ours, FOUR[:2]), stack("flax", theirs, FOUR[:2]))
    assert {one: other for one, (other, _) in found.items()} == {"0.norm_x": "0.mynorm_x", "0.query_x": "0.myquery"}


def test_the_order_of_a_file_and_the_numbers_of_calls_confirm_each_other() -> None:
    """ResNet of gluon into Flax: the convolutions, which shapes tell, count in step with the norms beside them."""
    ours = {"body.0": (8, 4, 3, 3), "body.1": (8,), "body.3": (8, 8, 3, 3), "body.4": (8,)}
    ours |= {"downsample.0": (8, 4, 1, 1), "downsample.1": (8,)}
    shapes = [(3, 3, 4, 8), (3, 3, 8, 8), (1, 1, 4, 8)]
    names = ("weight", "bias", "running_mean", "running_var")
    source = net(
        "torch", {f"{path}.{name}": s for path, s in ours.items() for name in names[: 4 if len(s) == 1 else 1]}
    )
    theirs: dict[str, Shape | tuple[int, ...]] = {f"params/Conv_{i}/kernel": s for i, s in enumerate(shapes)}
    for i in range(3):
        theirs |= {f"params/BatchNorm_{i}/{name}": (8,) for name in ("scale", "bias")}
        theirs |= {f"batch_stats/BatchNorm_{i}/{name}": (8,) for name in ("mean", "var")}
    found = pairs(source, net("flax", dict(theirs)))
    assert {one: other for one, (other, _) in found.items()} == {
        "body.0": "Conv_0",
        "body.1": "BatchNorm_0",
        "body.3": "Conv_1",
        "body.4": "BatchNorm_1",
        "downsample.0": "Conv_2",
        "downsample.1": "BatchNorm_2",
    }


# --- at random

WORDS = ["stem", "body", "neck", "head", "gate", "proj", "query", "key", "norm", "fc"]
SHAPES = st.sampled_from([(4, 4), (4, 5)])
PLANS: st.SearchStrategy[Plan] = st.recursive(
    SHAPES,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)


Edit = Callable[[str], str]
EDITS: Sequence[Edit] = (str, str, str, str.title, lambda name: f"{name}_x", lambda name: f"y{name}")


def spelled(plan: Plan, rng: random.Random, edit: Edit) -> list[tuple[str, Shape]]:
    """The paths of the layers, in the order of the plan, as some framework and some author would have them."""
    if isinstance(plan, tuple):
        return [("", plan)]
    found = []
    if isinstance(plan, list):
        stem, step = rng.choice(["", "layers_", "dense_"]), rng.choice([1, 2])
        inside = [(f"{stem}{i * step}", part) for i, part in enumerate(plan)]
    else:
        inside = [(edit(name), part) for name, part in plan.items()]
    wrapper = rng.choice(["", "", "wrapped."])
    for name, part in inside:
        found += [(f"{wrapper}{name}.{path}".strip("."), shape) for path, shape in spelled(part, rng, edit)]
    return found


@given(PLANS, st.randoms(use_true_random=False))
def test_nets_spelled_at_random_are_paired_rightly_or_refused(plan: Plan, rng: random.Random) -> None:
    ours, theirs = (spelled(plan, rng, rng.choice(EDITS)) for _ in range(2))
    if not ours[0][0] or len({path for path, _ in ours}) < len(ours) or len({path for path, _ in theirs}) < len(theirs):
        return  # one layer alone
    order = rng.sample(range(len(theirs)), len(theirs))  # files may have another order
    source = stack("torch", [path for path, _ in ours], [shape for _, shape in ours])
    target = stack("flax", [theirs[i][0] for i in order], [theirs[i][1] for i in order])
    try:
        found = pairs(source, target)
    except MatchError:
        return
    assert {one: other for one, (other, _) in found.items()} == {
        one: other for (one, _), (other, _) in zip(ours, theirs, strict=True)
    }
