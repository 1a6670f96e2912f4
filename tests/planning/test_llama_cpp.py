"""GGUF files of llama.cpp into the names of other code bases: rotated rows are put back, or it is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

import converter
from converter.core.tensors import Array
from converter.errors import MatchError
from converter.formats import Contents, by_name, open_writer
from converter.formats.gguf.header import U32
from tests.formats.contract import random_array, same_bits, specs_of
from tests.formats.gguf.test_file import entry, made, tensor, text

HEADS, GROUPS, WIDTH, HIDDEN, WORDS = 4, 2, 32, 48, 40
HALF = WIDTH // HEADS * GROUPS
#: Names of Hugging Face -> those of llama.cpp, and shapes.
BLOCK = {
    "self_attn.q_proj": ("attn_q", (WIDTH, WIDTH)),
    "self_attn.k_proj": ("attn_k", (HALF, WIDTH)),
    "self_attn.v_proj": ("attn_v", (HALF, WIDTH)),
    "self_attn.o_proj": ("attn_output", (WIDTH, WIDTH)),
    "mlp.gate_proj": ("ffn_gate", (HIDDEN, WIDTH)),
    "mlp.up_proj": ("ffn_up", (HIDDEN, WIDTH)),
    "mlp.down_proj": ("ffn_down", (WIDTH, HIDDEN)),
    "input_layernorm": ("attn_norm", (WIDTH,)),
    "post_attention_layernorm": ("ffn_norm", (WIDTH,)),
}
NAMES = {
    "model.embed_tokens": ("token_embd", (WORDS, WIDTH)),
    "model.norm": ("output_norm", (WIDTH,)),
    "lm_head": ("output", (WORDS, WIDTH)),
    **{f"model.layers.{i}.{hf}": (f"blk.{i}.{own}", shape) for i in range(2) for hf, (own, shape) in BLOCK.items()},
}
KINDS = {"*": "linear", "token_embd": "embedding", "*norm": "norm"}


def permuted(weight: Array, heads: int) -> Array:
    """`LlamaModel.permute` of llama.cpp."""
    apart = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return apart.swapaxes(1, 2).reshape(weight.shape)


def nets(folder: Path, architecture: str = "llama", kv: bool = True) -> tuple[Path, Path, dict[str, Array]]:
    """The GGUF file, a clone of Hugging Face, and what that is to hold."""
    wanted = {
        f"{name}.weight": random_array(shape, "float16", seed).view(np.uint16).astype(np.float32)
        for seed, (name, (_, shape)) in enumerate(NAMES.items())
    }
    stored, data = [], b""
    for name, (own, _) in NAMES.items():
        array = wanted[f"{name}.weight"]
        if architecture == "llama" and own.endswith(("attn_q", "attn_k")):
            array = permuted(array, HEADS if own.endswith("q") else GROUPS)
        stored.append(tensor(f"{own}.weight", array.shape[::-1], 0, len(data)))
        data += array.tobytes()
    values = [entry("general.architecture", 8, text(architecture))]
    values.append(entry(f"{architecture}.attention.head_count", U32, struct.pack("<I", HEADS)))
    if kv:
        values.append(entry(f"{architecture}.attention.head_count_kv", U32, struct.pack("<I", GROUPS)))
    clone = folder / "clone.safetensors"
    with open_writer(by_name("safetensors"), clone, Contents(specs_of(wanted))) as writer:
        for name, array in wanted.items():
            writer.write(name, random_array(array.shape, "float32", 99))
    return made(folder / "net.gguf", stored, values, data), clone, wanted


def test_rows_of_llama_are_put_as_hugging_face_has_them(tmp_path: Path) -> None:
    source, clone, wanted = nets(tmp_path)
    report = converter.convert("torch->torch", source, tmp_path / "out.safetensors", like=clone)
    with converter.open(tmp_path / "out.safetensors") as found:
        assert all(same_bits(found[name], array) for name, array in wanted.items())
    done = {step["target"]["name"]: step["done"] for step in report.to_dict()["tensors"]}
    turned = {name for name, ops in done.items() if "rotated neighbours put as the halves of each head" in ops}
    assert turned == {name for name in wanted if "q_proj" in name or "k_proj" in name}
    assert not [check for check in report.checks if "rotary" in check.property]


def test_rows_of_qwen_are_in_order(tmp_path: Path) -> None:
    source, clone, wanted = nets(tmp_path, "qwen2")
    converter.convert("torch->torch", source, tmp_path / "out.safetensors", like=clone)
    with converter.open(tmp_path / "out.safetensors") as found:
        assert all(same_bits(found[name], array) for name, array in wanted.items())


def test_the_one_in_scales_of_gemma_is_taken_off(tmp_path: Path) -> None:
    source, clone, wanted = nets(tmp_path, "gemma")
    report = converter.convert("torch->torch", source, tmp_path / "out.safetensors", like=clone)
    done = {step["target"]["name"]: step["done"] for step in report.to_dict()["tensors"]}
    with converter.open(tmp_path / "out.safetensors") as found:
        for name, array in wanted.items():
            less = array - np.float32(1) if "norm" in name else array
            assert same_bits(found[name], less)
            assert ("-1 added to each" in done[name]) == ("norm" in name)
    names = {"blk.0.attn_norm": "elsewhere.scale"}
    with pytest.raises(MatchError, match=r"nothing says whether 'elsewhere\.scale\.weight' is that scale, or less one"):
        converter.convert("torch->torch", source, tmp_path / "no.safetensors", map=names, kind=KINDS)


@pytest.mark.parametrize("architecture", ["mamba", "bloom"])
def test_an_architecture_that_is_stored_otherwise_is_refused_elsewhere(tmp_path: Path, architecture: str) -> None:
    source, clone, _ = nets(tmp_path, architecture)
    with pytest.raises(MatchError, match=rf"as llama\.cpp stores '{architecture}'"):
        converter.convert("torch->torch", source, tmp_path / "out.safetensors", like=clone)
    converter.convert("torch->flax", source, tmp_path / "out.msgpack", kind=KINDS)


def test_without_metadata_names_of_llama_cpp_are_refused_elsewhere(tmp_path: Path) -> None:
    source, clone, _ = nets(tmp_path)
    converter.convert("torch->torch", source, tmp_path / "net.pt")
    with pytest.raises(MatchError, match="of no architecture"):
        converter.convert("torch->torch", tmp_path / "net.pt", tmp_path / "out.safetensors", like=clone)


def test_where_the_heads_are_not_known_the_user_is_asked(tmp_path: Path) -> None:
    source, clone, wanted = nets(tmp_path, kv=False)
    with converter.open(source) as weights:
        assert weights.contents.metadata["llama.attention.head_count"] == str(HEADS)
    mapped = {"blk.0.attn_q": "elsewhere.query"}
    with pytest.raises(MatchError, match=r"nothing says how 'elsewhere\.query\.weight' has them"):
        converter.convert("torch->torch", source, tmp_path / "out.safetensors", map=mapped, kind=KINDS)
    options = {"map": mapped, "kind": KINDS}
    options["rotary"] = {"blk.0.attn_q": f"{HEADS}:halves"}
    converter.convert("torch->torch", source, tmp_path / "out.safetensors", **options)  # type: ignore[arg-type]
    with converter.open(tmp_path / "out.safetensors") as found:
        assert same_bits(found["elsewhere.query.weight"], wanted["model.layers.0.self_attn.q_proj.weight"])
    assert clone.exists()
