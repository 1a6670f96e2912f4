"""Queries, keys and values of other sizes in one matrix, in turn or by group, and gate and up: there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import converter
from converter.errors import MatchError
from tests.parity.sides import Array

HEADS, GROUPS, SIZE, WIDTH, INNER, BLOCKS = 8, 2, 4, 16, 24, 3
Weights = dict[str, Array]


def apart(seed: int = 0, names: str = "layers.{}.self_attn.{}_proj", mlp: str = "layers.{}.mlp.{}_proj") -> Weights:
    """Llama's block of a small net, as transformers has it."""
    rng = np.random.default_rng(seed)
    shapes = {}
    for block in range(BLOCKS):
        sizes = {"q": HEADS, "k": GROUPS, "v": GROUPS}
        shapes |= {names.format(block, word): (heads * SIZE, WIDTH) for word, heads in sizes.items()}
        shapes[names.format(block, "o")] = (WIDTH, HEADS * SIZE)
        shapes |= {mlp.format(block, word): (INNER, WIDTH) for word in ("gate", "up")}
        shapes[mlp.format(block, "down")] = (WIDTH, INNER)
    return {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def by_group(parts: list[Array], groups: int) -> Array:
    """What Falcon's `_split_heads` takes apart: of each group its queries, its key and its value."""
    runs = [part.reshape(groups, -1, part.shape[-1]) for part in parts]
    return np.concatenate(runs, 1).reshape(-1, parts[0].shape[-1])


def joined(weights: Weights, name: str, groups: int, order: str = "qkv", gated: str = "mlp.gate_up_proj") -> Weights:
    """The same with queries, keys and values in one, and gate and up."""
    made: Weights = {}
    for block in range(BLOCKS):
        parts = [weights[f"layers.{block}.self_attn.{word}_proj.weight"] for word in order]
        made[f"layers.{block}.{name}.weight"] = by_group(parts, groups)
        module = name.rpartition(".")[0]
        made[f"layers.{block}.{module}.dense.weight"] = weights[f"layers.{block}.self_attn.o_proj.weight"]
        halves = [weights[f"layers.{block}.mlp.{word}_proj.weight"] for word in ("gate", "up")]
        made[f"layers.{block}.{gated}.weight"] = np.concatenate(halves)
        made[f"layers.{block}.mlp.down_proj.weight"] = weights[f"layers.{block}.mlp.down_proj.weight"]
    return made


def same(given: Path, expected: Weights) -> None:
    made = load_file(given)
    assert made.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(made[name], value, name)


#: Name of the layer, how many groups it has its parts in, and what has to be said of it.
FORMS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "in turn, as Phi-3 and LitGPT have them": ("self_attn.qkv_proj", 1, {}),
    "by group, as Falcon has them": ("self_attention.query_key_value", GROUPS, {"heads": {"*.query_key_value": HEADS}}),
    "by group, as InternLM2 has them": ("attention.wqkv", GROUPS, {"heads": {"*.wqkv": HEADS}}),
    "by group, as LitGPT had them": ("attn.attn", GROUPS, {"heads": {"*.attn": HEADS}}),
    "in turn, as ChatGLM has them": ("self_attention.query_key_value", 1, {"heads": {"*.query_key_value": 1}}),
    "in turn, by a name that says nothing": ("mixer.all", 1, {"joined": {"*.all": "4:1:1"}}),
    "by group, by a name that says nothing": ("mixer.all", GROUPS, {"joined": {"*.all": "2x4:1:1"}}),
}


@pytest.mark.parametrize("form", FORMS)
def test_parts_of_other_sizes(tmp_path: Path, form: str) -> None:
    name, groups, words = FORMS[form]
    weights, others = apart(), apart(1)
    whole = joined(weights, name, groups)
    save_file(whole, tmp_path / "joined.safetensors")
    save_file(others, tmp_path / "apart.safetensors")
    if "joined" in words:  # the words for the parts are missing, too
        module = name.rpartition(".")[0]
        words = {**words, "map": {f"layers.{i}.{name}": _sum(f"layers.{i}.self_attn.{{}}_proj") for i in range(BLOCKS)}}
        words["map"] |= {f"layers.{i}.{module}.dense": f"layers.{i}.self_attn.o_proj" for i in range(BLOCKS)}
    ends = tmp_path / "joined.safetensors", tmp_path / "a.safetensors"
    converter.convert("torch->torch", *ends, like=tmp_path / "apart.safetensors", **words)
    same(tmp_path / "a.safetensors", weights)
    save_file(joined(others, name, groups), tmp_path / "joined.safetensors")
    if "map" in words:
        words = {**words, "map": {new: old for old, new in words["map"].items()}}
    ends = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    converter.convert("torch->torch", *ends, like=tmp_path / "joined.safetensors", **words)
    same(tmp_path / "b.safetensors", whole)


def _sum(name: str) -> str:
    return "+".join(name.format(word) for word in "qkv")


def test_codegen_has_four_runs_and_its_values_before_its_keys(tmp_path: Path) -> None:
    """`CodeGenAttention.forward` of transformers/models/codegen/modeling_codegen.py; GPT-J has them apart."""
    rng = np.random.default_rng(0)
    parts = {word: rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) for word in "qkv"}
    output = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)
    split = np.split(by_group([parts[word] for word in "qvk"], 4).reshape(4, -1, WIDTH), 3, 1)  # as forward does it
    for piece, word in zip(split, "qvk", strict=True):
        np.testing.assert_array_equal(piece.reshape(WIDTH, WIDTH), parts[word])
    whole = {
        "h.0.attn.qkv_proj.weight": by_group([parts[word] for word in "qvk"], 4),
        "h.0.attn.out_proj.weight": output,
    }
    gptj = {
        **{f"h.0.attn.{word}_proj.weight": part for word, part in parts.items()},
        "h.0.attn.out_proj.weight": output,
    }
    save_file(whole, tmp_path / "codegen.safetensors")
    save_file({name: -value for name, value in gptj.items()}, tmp_path / "gptj.safetensors")
    ends = tmp_path / "codegen.safetensors", tmp_path / "a.safetensors"
    converter.convert("torch->torch", *ends, like=tmp_path / "gptj.safetensors")
    same(tmp_path / "a.safetensors", gptj)
    save_file({name: -value for name, value in whole.items()}, tmp_path / "codegen.safetensors")
    ends = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    converter.convert("torch->torch", *ends, like=tmp_path / "codegen.safetensors")
    same(tmp_path / "b.safetensors", whole)


def test_without_a_clone(tmp_path: Path) -> None:
    """The output beside them tells how many are queries; what nothing tells is said, or refused."""
    weights = apart()
    save_file(joined(weights, "self_attn.qkv_proj", 1), tmp_path / "joined.safetensors")
    names = {f"layers.{i}.self_attn.qkv_proj": _sum(f"layers.{i}.self_attn.{{}}_proj") for i in range(BLOCKS)}
    names |= {f"layers.{i}.self_attn.dense": f"layers.{i}.self_attn.o_proj" for i in range(BLOCKS)}
    gates = {f"layers.{i}.mlp.gate_up_proj": f"layers.{i}.mlp.gate_proj+layers.{i}.mlp.up_proj" for i in range(BLOCKS)}
    ends = tmp_path / "joined.safetensors", tmp_path / "a.safetensors"
    converter.convert("torch->torch", *ends, map=names | gates, kind={"*": "linear"})
    same(tmp_path / "a.safetensors", weights)
    back = {new: old for old, new in (names | gates).items()}
    ends = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    converter.convert("torch->torch", *ends, map=back, kind={"*": "linear"})
    same(tmp_path / "b.safetensors", joined(weights, "self_attn.qkv_proj", 1))
    wqkv = {new: old.replace("self_attn.qkv_proj", "wqkv") for new, old in back.items()}
    with pytest.raises(MatchError, match="holds its parts head by head"):
        converter.plan(tmp_path / "a.safetensors", to="torch", map=wqkv)
    words: Any = {"joined": {"*.wqkv": "2x4:1:1"}, "kind": {"*": "linear"}}
    with converter.plan(tmp_path / "a.safetensors", to="torch", map=wqkv, **words) as plan:
        plan.write(tmp_path / "c.safetensors")
    parts = [weights[f"layers.0.self_attn.{word}_proj.weight"] for word in "qkv"]
    np.testing.assert_array_equal(
        load_file(tmp_path / "c.safetensors")["layers.0.wqkv.weight"], by_group(parts, GROUPS)
    )


def test_both_joined_in_another_order(tmp_path: Path) -> None:
    """A matrix of one shape on both sides is not moved as it is where the names tell that its parts lie otherwise."""
    weights, others = apart(), apart(1)
    save_file(joined(weights, "attention.query_key_value", GROUPS), tmp_path / "source.safetensors")
    save_file(joined(others, "attention.qkv", 1), tmp_path / "clone.safetensors")
    ends = tmp_path / "source.safetensors", tmp_path / "a.safetensors"
    with pytest.raises(MatchError, match="number of heads is unknown"):
        converter.plan(ends[0], like=tmp_path / "clone.safetensors")
    heads = {"*.query_key_value": HEADS}
    converter.convert("torch->torch", *ends, like=tmp_path / "clone.safetensors", heads=heads)
    same(tmp_path / "a.safetensors", joined(weights, "attention.qkv", 1))


def test_heads_of_the_other_net_tell(tmp_path: Path) -> None:
    """Keras keeps the heads apart, so that nothing has to be said of a matrix by group."""
    import keras

    weights = apart()
    save_file(joined(weights, "self_attn.query_key_value", GROUPS), tmp_path / "joined.safetensors")
    inputs = keras.Input((5, WIDTH))
    made: dict[str, Any] = {}
    for block in range(BLOCKS):
        for word, heads in (("query", HEADS), ("key", GROUPS), ("value", GROUPS)):
            name = f"block_{block}_{word}"
            made[name] = keras.layers.EinsumDense("bsd,dnh->bsnh", (None, heads, SIZE), name=name)
        made[f"block_{block}_output"] = keras.layers.EinsumDense(
            "bsnh,nhd->bsd", (None, WIDTH), name=f"block_{block}_output"
        )
        for word in ("gate", "up"):
            made[f"block_{block}_{word}"] = keras.layers.Dense(INNER, use_bias=False, name=f"block_{block}_{word}")
        made[f"block_{block}_down"] = keras.layers.Dense(WIDTH, use_bias=False, name=f"block_{block}_down")
    outputs = []
    for name, layer in made.items():
        shape = (5, HEADS, SIZE) if name.endswith("output") else (5, INNER) if name.endswith("down") else None
        outputs.append(layer(keras.Input(shape) if shape else inputs))
    net = keras.Model(
        [inputs, *(layer.input for name, layer in made.items() if name.endswith(("output", "down")))], outputs
    )
    net.save_weights(tmp_path / "net.weights.h5")
    ends = tmp_path / "joined.safetensors", tmp_path / "filled.weights.h5"
    converter.convert("torch->keras", *ends, like=tmp_path / "net.weights.h5")
    net.load_weights(tmp_path / "filled.weights.h5")
    for block in range(BLOCKS):
        for word, heads in (("query", HEADS), ("key", GROUPS), ("value", GROUPS)):
            expected = weights[f"layers.{block}.self_attn.{word[0]}_proj.weight"].T.reshape(WIDTH, heads, SIZE)
            np.testing.assert_array_equal(np.asarray(made[f"block_{block}_{word}"].kernel), expected)
    ends = tmp_path / "filled.weights.h5", tmp_path / "back.safetensors"
    save_file(joined(apart(2), "self_attn.query_key_value", GROUPS), tmp_path / "clone.safetensors")
    converter.convert("keras->torch", *ends, like=tmp_path / "clone.safetensors")
    same(tmp_path / "back.safetensors", joined(weights, "self_attn.query_key_value", GROUPS))


@pytest.mark.parametrize(
    ("value", "text"),
    [("4:1", "no linear layer of"), ("7:1:1", "no linear layer of"), ("4", "no list of shares"), ("0:1", "no list")],
)
def test_what_it_cannot_mean(tmp_path: Path, value: str, text: str) -> None:
    save_file(joined(apart(), "self_attn.qkv_proj", 1), tmp_path / "joined.safetensors")
    names = {"layers.0.self_attn.qkv_proj": _sum("layers.0.self_attn.{}_proj")}
    with pytest.raises(converter.ConversionError, match=text):
        converter.plan(tmp_path / "joined.safetensors", to="torch", map=names, joined={"*.qkv_proj": value})


def test_a_part_that_nothing_fills_is_an_error(tmp_path: Path) -> None:
    weights = apart()
    save_file(
        {name: value for name, value in weights.items() if "0.self_attn.v" not in name}, tmp_path / "a.safetensors"
    )
    save_file(joined(apart(1), "self_attn.qkv_proj", 1), tmp_path / "joined.safetensors")
    with pytest.raises(MatchError, match=r"qkv_proj\[2/3\]"):
        converter.plan(tmp_path / "a.safetensors", like=tmp_path / "joined.safetensors")


def test_a_part_is_no_twin_of_the_tensor_that_it_is_in(tmp_path: Path) -> None:
    """What the clone lacks is not left out as tied to what it has."""
    save_file(joined(apart(), "self_attn.qkv_proj", 1), tmp_path / "joined.safetensors")
    without = {name: value for name, value in apart(1).items() if "0.self_attn.v" not in name}
    save_file(without, tmp_path / "a.safetensors")
    shares = {"*.qkv_proj": "8:2:2"}
    with pytest.raises(MatchError, match=r"qkv_proj\[2/3\]"):
        converter.plan(tmp_path / "joined.safetensors", like=tmp_path / "a.safetensors", joined=shares)


def test_as_the_forward_of_torch_splits_them() -> None:
    """The ops alone, against `torch.split` of what a layer gives."""
    from converter.core.parts import Join, Part, Runs

    x, layer = torch.randn(2, WIDTH), torch.nn.Linear(WIDTH, (HEADS + 2 * GROUPS) * SIZE)
    runs = Runs((HEADS * SIZE, GROUPS * SIZE, GROUPS * SIZE))
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    parts = [(Part(0, runs, place).made(weight), Part(0, runs, place).made(bias)) for place in range(3)]
    for (kernel, offset), expected in zip(parts, layer(x).split(runs.sizes, -1), strict=True):
        np.testing.assert_allclose(x.numpy() @ kernel.T + offset, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    (again,) = Join(0, runs).apply([kernel for kernel, _ in parts])
    np.testing.assert_array_equal(again, weight)
