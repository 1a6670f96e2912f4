"""Multi-head attention: hand-made layers and the frameworks' own, one layer for three, heads; see also test_hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

import converter
from tests.command import ok, refused
from tests.parity.across import anew, crossed, into, saved
from tests.parity.attention_cases import (
    BERT,
    D2L,
    GPT2,
    MADE,
    NEUTRAL,
    ONE,
    OWN,
    PROJECTIONS,
    SQUARE_GPT2,
    THREE,
    Shape,
    named,
    own,
)
from tests.parity.sides import SIDES, Case, assert_same, renamed

OWN_ATTENTION, OTHER_SIZES = OWN[0], OWN[4]
MADE_D2L, _, MADE_PROJECTIONS, MADE_BERT = MADE


@pytest.mark.parametrize(
    ("ours", "source", "theirs", "target"),
    [*crossed(OWN_ATTENTION, MADE_PROJECTIONS), *crossed(OTHER_SIZES, MADE_D2L)],
)
def test_between_own_layers_and_hand_made_ones(
    ours: Case, source: str, theirs: Case, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {MADE_PROJECTIONS.name: PROJECTIONS, MADE_D2L.name: D2L}
    words = renamed(names.get(ours.name, NEUTRAL), names.get(theirs.name, NEUTRAL))
    into(ours, source, theirs, target, tmp_path, lambda *all: ok(capsys, *all), words)


#: What BERT calls an attention in PyTorch, in the other frameworks a layer of their own.
BERT_LAYERS = [{**layer, "names": {"torch": [name]}} for layer, name in zip(OWN_ATTENTION.layers, BERT, strict=True)]


@pytest.mark.parametrize("other", ["keras", "tf_keras", "linen", "gluon"])
@pytest.mark.parametrize("back", [False, True], ids=["from BERT", "into BERT"])
def test_by_a_schema_with_names_of_bert(
    other: str, back: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = [(MADE_BERT, "torch"), (OWN_ATTENTION, other)]
    (ours, source), (theirs, target) = reversed(sides) if back else sides
    anew(ours, source, theirs, target, tmp_path, lambda *all: ok(capsys, *all), BERT_LAYERS)


@pytest.mark.parametrize("target", ["torch", "keras", "linen"])
@pytest.mark.parametrize("source", ["torch", "gluon"])
def test_the_user_gives_the_heads(source: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four dense layers, named as those of an attention, become one where their heads are known."""
    words = (*renamed(PROJECTIONS, NEUTRAL), "--heads", "self_attn=2")
    anew(MADE_PROJECTIONS, source, OWN_ATTENTION, target, tmp_path, lambda *all: ok(capsys, *all), words=words)


@pytest.mark.parametrize("target", ["keras", "linen"])
def test_heads_that_no_one_gave(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, given = saved(OWN_ATTENTION, "torch", tmp_path, 1)
    words = (f"torch->{SIDES[target].framework}", given, "-o", tmp_path / f"result{SIDES[target].ending}")
    assert "belongs to an attention, and the number of its heads is unknown. Say --heads attn=N." in refused(
        capsys, *words
    )
    assert "cannot be split into 4 heads" in refused(capsys, *words, "--heads", "attn=4")
    ok(capsys, *words, "--heads", "attn=2")
    clone = SIDES[target].load(OWN_ATTENTION.fresh(target), tmp_path / f"result{SIDES[target].ending}")
    assert_same(OWN_ATTENTION.run(target, clone), OWN_ATTENTION.run("torch", net))


SHARED, LARGER_VALUES = OWN[6], OWN[5]


@pytest.mark.parametrize("target", ["linen", "nnx"])
def test_values_of_another_size_do_not_fit_flax(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, given = saved(LARGER_VALUES, "keras", tmp_path, 1)
    _, like = saved(OTHER_SIZES, target, tmp_path, 2, "like")
    message = refused(capsys, "tf->flax", given, "--like", like, "-o", tmp_path / "out.msgpack")
    assert "/value_dense/vars/0' has shape (5, 2, 4)" in message and "(5, 2, 3)" in message


def test_shared_heads_do_not_fit_pytorch_s_own_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = own("shared", Shape(heads=4, groups=2, model=8, key_in=8, value_in=8, head=2, out=8))
    whole = own("whole", Shape(heads=4, model=8, key_in=8, value_in=8, head=2, out=8))
    _, given = saved(shared, "keras", tmp_path, 1)
    _, like = saved(whole, "torch", tmp_path, 2, "like")
    message = refused(capsys, "tf->torch", given, "--like", like, "-o", tmp_path / "out.pt")
    assert "'attn.in_proj_weight' is (24, 8)" in message and "_key_dense/vars/0' has shape (8, 2, 2)" in message


class TorchMore(torch.nn.Module):
    def __init__(self, **more: bool) -> None:
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(6, 2, batch_first=True, **more)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.attn(x, x, x)[0]
        return output


@pytest.mark.parametrize("target", ["keras", "linen", "gluon"])
def test_a_learned_key_and_value_are_refused(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    side = SIDES[target]
    torch.save(TorchMore(add_bias_kv=True).state_dict(), tmp_path / "source.pt")
    _, like = saved(OWN_ATTENTION, target, tmp_path, 2, "like")
    for words in (("--heads", "attn=2"), ("--like", like)):
        message = refused(capsys, f"torch->{side.framework}", tmp_path / "source.pt", *words)
        assert "add_bias_kv=True" in message


def test_a_key_of_zeros_is_a_warning(tmp_path: Path) -> None:
    """No weight tells it, and it changes the output."""
    clone = OWN_ATTENTION.random("keras", 1)
    with pytest.warns(converter.CloneWarning, match="attention to a key of zeros is False in the clone"):
        converter.load_into(clone, TorchMore(add_zero_attn=True))


# --- one layer for queries, keys and values

FUSED = "--map", "qkv=query+key+value"
APART = "--map", "query+key+value=qkv"
SQUARE = "--kind", "c_proj=linear_in_out"
GPT2_TO_THREE = "--map", "c_attn=query+key+value", "--map", "c_proj=proj", *SQUARE
THREE_TO_GPT2 = "--map", "query+key+value=c_attn", "--map", "proj=c_proj", *SQUARE


@pytest.mark.parametrize(("ours", "source", "theirs", "target"), crossed(ONE, THREE))
def test_one_layer_and_three(
    ours: Case, source: str, theirs: Case, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into(ours, source, theirs, target, tmp_path, lambda *all: ok(capsys, *all), FUSED if ours is ONE else APART)


@pytest.mark.parametrize("flavour", THREE.nets)
@pytest.mark.parametrize("back", [False, True], ids=["from GPT-2", "into GPT-2"])
def test_the_layer_of_gpt2_and_three(
    flavour: str, back: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = lambda *all: ok(capsys, *all)  # noqa: E731
    if back:
        into(THREE, flavour, SQUARE_GPT2, "torch", tmp_path, run, THREE_TO_GPT2)
    else:
        into(SQUARE_GPT2, "torch", THREE, flavour, tmp_path, run, GPT2_TO_THREE)


def test_a_clone_s_square_layer_is_not_guessed_by_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, given = saved(THREE, "linen", tmp_path, 1)
    _, like = saved(SQUARE_GPT2, "torch", tmp_path, 2, "like")
    words = ("flax->torch", given, "--like", like, "-o", tmp_path / "out.pt", *THREE_TO_GPT2[:4])
    message = refused(capsys, *words, "--strict")
    assert "Say --kind c_proj=linear or --kind c_proj=linear_in_out." in message


MAIN = ("torch", "keras", "linen", "gluon")


@pytest.mark.parametrize("target", MAIN)
@pytest.mark.parametrize("source", ["torch", "keras", "gluon"])
@pytest.mark.parametrize("back", [False, True], ids=["apart", "together"])
def test_one_layer_and_three_without_a_template(
    source: str, target: str, back: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = (THREE, ONE) if back else (ONE, THREE)
    anew(ours, source, theirs, target, tmp_path, lambda *all: ok(capsys, *all), words=APART if back else FUSED)


def fused_schema(framework: str) -> list[dict[str, Any]]:
    parts = {name: [f"qkv[{i}/3]"] for i, name in enumerate(("query", "key", "value"))}
    rows = [{"path": name, "kind": "linear", "names": {framework: part}} for name, part in parts.items()]
    return [*rows, {"path": "proj", "kind": "linear"}]


@pytest.mark.parametrize("other", ["tensorflow", "flax", "mxnet"])
@pytest.mark.parametrize("back", [False, True], ids=["apart", "together"])
def test_a_schema_names_the_parts(other: str, back: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flavour = next(name for name in MAIN if SIDES[name].framework == other)
    sides = [(ONE, "torch"), (THREE, flavour)]
    (ours, source), (theirs, target) = reversed(sides) if back else sides
    anew(ours, source, theirs, target, tmp_path, lambda *all: ok(capsys, *all), fused_schema("torch"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("qkv=query+key+value+more+rest", "'qkv' (qkv.weight (18, 6), qkv.bias (18,)) is no linear layer of 5 equal"),
        ("qkv+proj=query+key+value", "2 layers cannot be 3 others"),
        ("qkv[3/3]=query", "'qkv[3/3]' is no part of a layer"),
        ("qvk=query+key+value", "the source has no layer 'qvk[0/3]'"),
        ("qkv[0/3]=query", "holds 3 layers in one, and only 2"),
    ],
)
def test_parts_that_cannot_be(word: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, given = saved(ONE, "torch", tmp_path, 1)
    assert message in refused(capsys, "torch->flax", given, "-o", tmp_path / "out.msgpack", "--map", word)


# --- the same layer back


#: What the shapes alone leave open.
SAID = {
    "attention without bias": ("--kind", "attn.*=linear"),
    "attention with normed keys": ("--kind", "attn.*_ln=norm"),
    "square attention of GPT-2": SQUARE,
}


@pytest.mark.parametrize("case", [*OWN[:3], *OWN[5:], GPT2, SQUARE_GPT2], ids=lambda case: case.name)
def test_there_and_back_by_neutral(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every bit, from each flavour; heads are kept in the neutral file, so that none need be given."""
    for flavour, side in SIDES.items():
        if flavour in case.nets:
            net, given = saved(case, flavour, tmp_path, 1)
            middle, back = tmp_path / f"{flavour}.safetensors", tmp_path / f"back{side.ending}"
            ok(capsys, f"{side.framework}->neutral", given, "-o", middle, *SAID.get(case.name, ()))
            words = ("-o", back, "--like", given, "--force", *SAID.get(case.name, ()))
            ok(capsys, f"neutral->{side.framework}", middle, *words)
            found = named(flavour, side.load(case.fresh(flavour), back))
            for name, value in named(flavour, net).items():
                assert found[name].tobytes() == value.tobytes(), (flavour, name)


class ByHead(keras.layers.Layer):  # type: ignore[misc]
    """An attention as that of Gemma in KerasHub: its kernels have the heads first (keras_hub, gemma_attention.py)."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        axes, last = ("nh", "d") if bias else (None, None)
        for name in ("query", "key", "value"):
            layer = keras.layers.EinsumDense("btd,ndh->btnh", output_shape=(None, 3, 4), bias_axes=axes)
            setattr(self, f"{name}_dense", layer)
        self.output_dense = keras.layers.EinsumDense("bnth,nhd->btd", output_shape=(None, 10), bias_axes=last)

    def call(self, x: Any) -> Any:
        layers = (self.query_dense, self.key_dense, self.value_dense)
        query, key, value = (keras.ops.transpose(layer(x), (0, 2, 1, 3)) for layer in layers)
        weights = keras.ops.softmax(query @ keras.ops.transpose(key, (0, 1, 3, 2)), axis=-1)
        return self.output_dense(weights @ value)


class InTorch(torch.nn.Module):
    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (torch.nn.Linear(10, 12, bias=bias) for _ in range(3))
        self.o_proj = torch.nn.Linear(12, 10, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = (layer(x).unflatten(-1, (3, 4)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
        query, key, value = parts
        weights = torch.softmax(query @ key.transpose(2, 3), dim=-1)
        return self.o_proj((weights @ value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


@pytest.mark.parametrize("bias", [False, True])
def test_kernels_with_the_heads_first(tmp_path: Path, bias: bool) -> None:
    """Both ways: what one computes the other computes with the weights of its file."""
    x = np.random.default_rng(0).normal(size=(2, 5, 10)).astype(np.float32)
    ours, theirs = InTorch(bias), keras.Sequential([keras.Input((5, 10)), ByHead(bias)])
    torch.save(ours.state_dict(), tmp_path / "ours.pt")
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    assert not np.allclose(theirs(x), ours(torch.tensor(x)).detach(), atol=1e-4)
    converter.convert(
        "torch->tensorflow", tmp_path / "ours.pt", tmp_path / "made.weights.h5", like=tmp_path / "theirs.weights.h5"
    )
    theirs.load_weights(tmp_path / "made.weights.h5")
    assert np.allclose(theirs(x), ours(torch.tensor(x)).detach(), atol=1e-5)
    back = InTorch(bias)
    converter.convert(
        "tensorflow->torch", tmp_path / "made.weights.h5", tmp_path / "back.pt", like=tmp_path / "ours.pt"
    )
    back.load_state_dict(torch.load(tmp_path / "back.pt"))
    assert np.array_equal(back(torch.tensor(x)).detach(), ours(torch.tensor(x)).detach())
