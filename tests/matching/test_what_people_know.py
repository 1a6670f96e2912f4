"""What a person who knows two nets need not be asked: tables and matrices without a layer, indices, tied tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import converter
from converter.matching.hints import Hints
from converter.matching.matcher import match
from converter.planning.families import oriented
from tests.matching.test_matcher import net

Tensors = dict[str, np.ndarray[Any, np.dtype[Any]]]


def drawn(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def converted(source: Tensors, clone: Tensors, way: str = "torch->torch", **options: Any) -> tuple[Tensors, str]:
    save_file(source, "source.safetensors")
    save_file(clone, "clone.safetensors")
    report = converter.convert(way, "source.safetensors", "made.safetensors", like="clone.safetensors", **options)
    return load_file("made.safetensors"), str(report)


@pytest.mark.usefixtures("here")
def test_a_table_is_the_same_with_and_without_a_layer() -> None:
    ours = drawn({"tok.weight": (9, 4), "positional_embedding": (1, 7, 4)})
    made, _ = converted(ours, drawn({"embed.weight": (9, 4), "pos.weight": (7, 4)}, 1))
    assert np.array_equal(made["pos.weight"], ours["positional_embedding"][0])
    assert np.array_equal(made["embed.weight"], ours["tok.weight"])


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("shape", "said"), [((6, 4), "same name"), ((4, 4), "likely: same name; a bare matrix")])
def test_a_bare_matrix_is_multiplied_from_the_right(shape: tuple[int, int], said: str) -> None:
    """CLIP's ``x @ text_projection`` is a Linear elsewhere; of a square one that is likely, and said so."""
    ours = drawn({"proj": shape})
    made, report = converted(ours, drawn({"proj.weight": shape[::-1]}, 1))
    assert np.array_equal(made["proj.weight"], ours["proj"].T) and said in report
    if "likely" in said:
        with pytest.raises(converter.MatchError, match="rests on: a bare matrix"):
            converted(ours, drawn({"proj.weight": shape[::-1]}, 1), force=True, strict=True)
    made, report = converted(drawn({"proj.weight": shape}), drawn({"proj": shape[::-1]}, 1), force=True)
    assert np.array_equal(made["proj"], drawn({"proj.weight": shape})["proj.weight"].T) and said in report


@pytest.mark.usefixtures("here")
def test_a_bare_matrix_that_fits_the_other_way_alone_is_not_turned() -> None:
    ours = drawn({"proj": (6, 4)})
    made, _ = converted(ours, drawn({"proj.weight": (6, 4)}, 1))
    assert np.array_equal(made["proj.weight"], ours["proj"])


@pytest.mark.usefixtures("here")
def test_indices_are_no_weights() -> None:
    """Each side keeps its own, as the report says; a matrix that is packed in whole numbers is a weight."""
    ours, theirs = drawn({"fc.weight": (3, 2)}), drawn({"fc.weight": (3, 2)}, 1)
    ours["attn.relative_index"], theirs["attn.index"] = np.arange(8), np.arange(9)
    made, report = converted(ours, theirs)
    assert np.array_equal(made["attn.index"], theirs["attn.index"]) and np.array_equal(
        made["fc.weight"], ours["fc.weight"]
    )
    assert "attn.relative_index" in report and "whole numbers that a net computes" in report
    assert "kept from the clone" in report
    ours["packed"] = np.arange(8, dtype=np.int32)
    with pytest.raises(converter.MatchError, match=r"'packed' .* has no counterpart"):
        converted(ours, theirs, force=True)


@pytest.mark.usefixtures("here")
def test_one_tensor_under_several_names_is_not_asked_about() -> None:
    ours, theirs = drawn({"shared": (9, 4)}), drawn({"table": (9, 4)}, 1)
    tied = {f"{name}.weight": ours["shared"] for name in ("shared", "encoder.embed", "decoder.embed")}
    made, report = converted(tied, {"token.weight": theirs["table"]})
    assert np.array_equal(made["token.weight"], ours["shared"]) and "one tensor under several names" in report
    made, _ = converted({"token.weight": ours["shared"]}, dict.fromkeys(tied, theirs["table"]), force=True)
    assert all(np.array_equal(made[name], ours["shared"]) for name in tied)
    other = {**tied, "decoder.embed.weight": drawn({"table": (9, 4)}, 2)["table"]}
    with pytest.raises(converter.MatchError, match=r"could be 'decoder.embed', 'encoder.embed', 'shared'"):
        converted(other, {"token.weight": theirs["table"]}, force=True)


@pytest.mark.parametrize("name", ["attn.q", "word_table"])
def test_a_square_matrix_is_a_table_only_if_it_is_called_so(name: str) -> None:
    """A file of Keras 3 whose layers have names of their own, so that a matrix may be either."""
    ours: dict[str, tuple[int, ...]] = {f"{name}.weight": (8, 8), "fc.weight": (8, 6)}
    theirs: dict[str, tuple[int, ...]] = {f"layers/{name.replace('.', '/')}/vars/0": (8, 8), "layers/fc/vars/0": (6, 8)}
    source, target = net("torch", ours), net("tensorflow", theirs)
    kinds = {reading.kind for layer in (source.layers[0], target.layers[0]) for reading in layer.readings}
    assert kinds >= {"linear", "embedding"}
    likely = {pair.source.path: pair for pair in oriented(match(source, target, Hints()).pairs)}[name]
    assert ("embedding" in {reading.kind for reading in likely.source.readings}) == (name == "word_table")
    assert likely.likely == (name != "word_table")


UNIT = {
    "branch1.0": ("shortcut_dconv.conv", (4, 1, 3, 3)),
    "branch1.1": ("shortcut_dconv.bn", (4,)),
    "branch1.2": ("shortcut_conv.conv", (4, 4, 1, 1)),
    "branch1.3": ("shortcut_conv.bn", (4,)),
    "branch2.0": ("conv1.conv", (4, 4, 1, 1)),
    "branch2.1": ("conv1.bn", (4,)),
    "branch2.3": ("dconv.conv", (4, 1, 3, 3)),
    "branch2.4": ("dconv.bn", (4,)),
    "branch2.5": ("conv2.conv", (4, 4, 1, 1)),
    "branch2.6": ("conv2.bn", (4,)),
}


def tensors(path: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    names = ("weight", "bias", "running_mean", "running_var") if len(shape) == 1 else ("weight",)
    return {f"{path}.{name}": shape for name in names}


def test_numbers_of_one_container_tell_nothing_of_another() -> None:
    """ShuffleNet: item 1 of ``branch1`` is the norm of the depthwise convolution, and that of ``branch2`` is not."""
    truth = {f"stage.0.{one}": f"stage1.unit1.{other}" for one, (other, _) in UNIT.items()}
    truth |= {f"stage.{i}.{one}": f"stage1.unit{i + 1}.{UNIT[one][0]}" for i in (1, 2) for one in UNIT if "2." in one}
    ours: dict[str, tuple[int, ...]] = {}
    theirs: dict[str, tuple[int, ...]] = {}
    for one, other in truth.items():
        shape = UNIT[one.split(".", 2)[2]][1]
        ours |= tensors(one, shape)
        theirs |= tensors(other, shape)
    found = match(net("torch", ours), net("torch", theirs), Hints()).pairs
    assert {pair.source.path: pair.target.path for pair in found} == truth


def test_numbers_in_names_weigh_more_than_what_stands_beside() -> None:
    """CLIP's layers list the first norm before the attention, those of transformers behind it."""
    ours = {"ln_1": (6,), "attn.q_proj": (6, 6), "ln_2": (6,), "mlp.fc1": (9, 6)}
    theirs = {"self_attn.query": (6, 6), "layer_norm1": (6,), "mlp.up": (9, 6), "layer_norm2": (6,)}
    names = dict(zip(ours, ("layer_norm1", "self_attn.query", "layer_norm2", "mlp.up"), strict=True))
    both = [
        {
            f"{block}.{i}.{path}.{leaf}": shape if leaf == "weight" else shape[:1]
            for i in range(2)
            for path, shape in side.items()
            for leaf in ("weight", "bias")
        }
        for block, side in (("resblocks", ours), ("layers", theirs))
    ]
    found = match(net("torch", both[0]), net("torch", both[1]), Hints()).pairs
    truth = {f"resblocks.{i}.{one}": f"layers.{i}.{other}" for i in range(2) for one, other in names.items()}
    assert {pair.source.path: pair.target.path for pair in found} == truth


BEIT = {"attn.qkv.weight": (12, 4), "attn.q_bias": (4,), "attn.v_bias": (4,), "attn.proj.weight": (4, 4)}
APART = {"attn.query.weight": (4, 4), "attn.query.bias": (4,), "attn.key.weight": (4, 4), "attn.value.weight": (4, 4)}
APART |= {"attn.value.bias": (4,), "attn.output.weight": (4, 4)}


@pytest.mark.usefixtures("here")
def test_biases_beside_a_matrix_are_those_of_what_it_holds() -> None:
    """BEiT has one for the queries and one for the values, and none for the keys."""
    ours = drawn(BEIT)
    query, key, value = np.split(ours["attn.qkv.weight"], 3)
    made, report = converted(ours, drawn(APART, 1))
    assert np.array_equal(made["attn.query.weight"], query) and np.array_equal(made["attn.key.weight"], key)
    assert np.array_equal(made["attn.value.weight"], value)
    assert np.array_equal(made["attn.query.bias"], ours["attn.q_bias"])
    assert np.array_equal(made["attn.value.bias"], ours["attn.v_bias"])
    assert "likely: names" in report
    again, _ = converted(made, drawn(BEIT, 2), force=True)
    assert all(np.array_equal(again[name], ours[name]) for name in BEIT)


@pytest.mark.usefixtures("here")
def test_a_bias_that_the_other_net_lacks_is_not_lost() -> None:
    without = {name: shape for name, shape in APART.items() if name != "attn.value.bias"}
    with pytest.raises(converter.MatchError):
        converted(drawn(BEIT), drawn(without, 1))


@pytest.mark.usefixtures("here")
def test_lone_numbers_are_bare_and_the_scale_comes_first() -> None:
    """The learned scale and bias of HGNetV2, numbered in a file of Keras 3: a ``bias`` of one element is no norm."""
    ours = drawn({f"block{i}.{name}": (1,) for i in (1, 2) for name in ("scale", "bias")} | {"fc.weight": (3, 2)})
    theirs = drawn({"fc.weight": (3, 2)}, 1)
    save_file(ours, "source.safetensors")
    with h5py.File("clone.weights.h5", "w") as file:
        file["layers/dense/vars/0"] = theirs["fc.weight"].T
        for i in (1, 2):
            file[f"layers/own_{i}/vars/0"], file[f"layers/own_{i}/vars/1"] = np.float32(0), np.float32(1)
            file[f"layers/own_{i}/vars"].attrs["name"] = f"block{i}"
    options: dict[str, Any] = {"like": "clone.weights.h5"}
    report = converter.convert("torch->keras", "source.safetensors", "made.weights.h5", **options)
    with h5py.File("made.weights.h5") as made:
        for i in (1, 2):
            held = [made[f"layers/own_{i}/vars/{number}"][()] for number in range(2)]
            assert held == [ours[f"block{i}.{name}"][0] for name in ("scale", "bias")]
    assert "likely: position" in str(report)
    options |= {"strict": True, "force": True}
    with pytest.raises(converter.MatchError, match="rests on"):
        converter.convert("torch->keras", "source.safetensors", "made.weights.h5", **options)
    save_file(drawn(dict.fromkeys(ours, (1,)) | {"fc.weight": (3, 2)}, 2), "clone.safetensors")
    converter.convert("keras->torch", "made.weights.h5", "again.safetensors", like="clone.safetensors")
    again = load_file("again.safetensors")
    assert all(np.array_equal(again[name], ours[name]) for name in ours)


def mobile(kimm: bool) -> dict[str, tuple[int, ...]]:
    """A block of MobileNetV2 that does not widen its input, and three that do: of timm, or of kimm."""
    shapes: dict[str, tuple[int, ...]] = {}
    for block, (given, wide, taken) in enumerate(((8, 8, 4), (4, 12, 6), (6, 18, 6), (6, 18, 6))):
        convs = {"pw": (wide, given, 1, 1), "dw": (wide, 1, 3, 3), "pwl": (taken, wide, 1, 1)}
        if block == 0:
            convs = {"dw": (wide, 1, 3, 3), "pw": (taken, given, 1, 1)}
        for number, (name, shape) in enumerate(convs.items(), 1):
            conv, norm = (f"conv_{name}.conv", f"conv_{name}.bn") if kimm else (f"conv_{name}", f"bn{number}")
            shapes[f"blocks.{block}.{conv}.weight"] = shape
            for leaf in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"blocks.{block}.{norm}.{leaf}"] = shape[:1]
    return shapes


def test_what_was_paired_in_other_modules_is_no_more_than_a_hint() -> None:
    """``bn1`` is behind the depthwise convolution of the first block, and behind the pointwise one of all others."""
    ours, theirs = net("torch", mobile(kimm=True)), net("torch", mobile(kimm=False))
    for source, target in ((ours, theirs), (theirs, ours)):
        found = {pair.source.path: pair.target.path for pair in match(source, target, Hints()).pairs}
        places = [[layer.path for layer in end.layers] for end in (source, target)]
        assert list(map(found.get, places[0])) == places[1]


def test_a_layer_of_a_shortcut_is_not_taken_for_one_whose_name_its_own_ends_with() -> None:
    """ResNets of two Flax code bases, which keep no order: blocks without a shortcut tell what is what in those that
    have one.
    """

    def blocks(names: tuple[str, ...], conv: str, norm: str, path: str) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for block, (given, taken) in enumerate(((4, 4), (4, 6), (6, 9))):
            kernels = [(3, 3, given, taken), (3, 3, taken, taken), (1, 1, given, taken)]
            for number, kernel in enumerate(kernels[: 2 if given == taken else 3]):
                inside = f"params/{path}_{block}/{names[number]}"
                shapes[f"{inside}{conv.format(number)}/kernel"] = kernel
                for leaf in ("bias", "scale"):
                    shapes[f"{inside}{norm.format(number)}/{leaf}"] = (taken,)
        return dict(sorted(shapes.items()))

    ours = net("flax", blocks(("", "", ""), "Conv_{}", "BatchNorm_{}", "BasicBlock"))
    inner = ("ConvBlock_0/", "ConvBlock_1/", "Skip_0/ConvBlock_0/")
    theirs = net("flax", blocks(inner, "Conv_0", "BatchNorm_0", "layers"))
    for source, target in ((ours, theirs), (theirs, ours)):
        found = {pair.source.path: pair.target.path for pair in match(source, target, Hints()).pairs}
        norms = {"BasicBlock_2.BatchNorm_0", "layers_2.ConvBlock_0.BatchNorm_0"}
        shortcuts = {"BasicBlock_2.BatchNorm_2", "layers_2.Skip_0.ConvBlock_0.BatchNorm_0"}
        pairs = [{one, other} for one, other in found.items()]
        assert norms in pairs and shortcuts in pairs


def test_modules_that_are_only_numbered_are_known_by_what_is_in_them() -> None:
    """T5: which of two attentions a norm belongs to is said by its name in the one net, by its place in the other."""
    ours: dict[str, tuple[int, ...]] = {}
    theirs: dict[str, tuple[int, ...]] = {}
    for block, attention, number in ((i, *each) for i in range(2) for each in (("self", 0), ("cross", 1))):
        for letter, word in zip("qkvo", ("query", "key", "value", "output"), strict=True):
            inside = "SelfAttention" if attention == "self" else "EncDecAttention"
            theirs[f"block.{block}.layer.{number}.{inside}.{letter}.weight"] = (4, 4)
            ours[f"layers/t5_layer_{block}/{attention}_attention/{word}_projector/vars/0"] = (4, 4)
        theirs[f"block.{block}.layer.{number}.layer_norm.weight"] = (4,)
        ours[f"layers/t5_layer_{block}/{attention}_attention_layer_norm/vars/0"] = (4,)
    for block in range(2):
        theirs[f"block.{block}.layer.2.layer_norm.weight"] = (4,)
        ours[f"layers/t5_layer_{block}/layer_norm/vars/0"] = (4,)
    keras, torch = net("tensorflow", dict(sorted(ours.items()))), net("torch", theirs)
    for source, target in ((keras, torch), (torch, keras)):
        found = {pair.source.path: pair.target.path for pair in match(source, target, Hints()).pairs}
        pairs = {tuple(sorted(pair)) for pair in found.items()}
        assert ("block.1.layer.0.layer_norm", "t5_layer_1.self_attention_layer_norm") in pairs
        assert ("block.1.layer.1.layer_norm", "t5_layer_1.cross_attention_layer_norm") in pairs
        assert ("block.1.layer.1.EncDecAttention.q", "t5_layer_1.cross_attention.query_projector") in pairs
        assert ("block.1.layer.2.layer_norm", "t5_layer_1.layer_norm") in pairs
