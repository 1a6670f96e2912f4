"""Experts in one tensor and apart, transposed or not, gate and up joined or not: there and back, by files alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import converter
from converter.errors import MatchError
from tests.matching.test_joined import Weights, same

EXPERTS, WIDTH, INNER, BLOCKS, SHARED = 4, 12, 10, 2, 14


def apart(seed: int = 0) -> Weights:
    """Qwen-MoE as transformers 4 has it: experts of three layers, a router, and a shared expert with its gate."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {}
    for block in range(BLOCKS):
        module = f"layers.{block}.mlp"
        sizes = {f"experts.{expert}": INNER for expert in range(EXPERTS)} | {"shared_expert": SHARED}
        for name, inner in sizes.items():
            shapes |= {f"{module}.{name}.{word}_proj": (inner, WIDTH) for word in ("gate", "up")}
            shapes[f"{module}.{name}.down_proj"] = (WIDTH, inner)
        shapes |= {f"{module}.gate": (EXPERTS, WIDTH), f"{module}.shared_expert_gate": (1, WIDTH)}
    return {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def stacked(weights: Weights, block: int, word: str, turned: bool) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    each = [weights[f"layers.{block}.mlp.experts.{expert}.{word}_proj.weight"] for expert in range(EXPERTS)]
    return np.ascontiguousarray(np.stack([one.T if turned else one for one in each]))


def others(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if ".experts." not in name}


def transformers_5(weights: Weights) -> Weights:
    """`MergeModulelist(dim=0), Concatenate(dim=1)` of transformers/conversion_mapping.py."""
    made = others(weights)
    for block in range(BLOCKS):
        halves = [stacked(weights, block, word, False) for word in ("gate", "up")]
        made[f"layers.{block}.mlp.experts.gate_up_proj"] = np.concatenate(halves, 1)
        made[f"layers.{block}.mlp.experts.down_proj"] = stacked(weights, block, "down", False)
    return made


def llama_4(weights: Weights) -> Weights:
    """Inputs before outputs: `Llama4TextExperts` of transformers/models/llama4/modeling_llama4.py."""
    made = others(weights)
    for block in range(BLOCKS):
        halves = [stacked(weights, block, word, True) for word in ("gate", "up")]
        made[f"layers.{block}.mlp.experts.gate_up_proj"] = np.ascontiguousarray(np.concatenate(halves, 2))
        made[f"layers.{block}.mlp.experts.down_proj"] = stacked(weights, block, "down", True)
    return made


def three(weights: Weights) -> Weights:
    """Each of the three in one tensor, as llama.cpp has them."""
    made = others(weights)
    for block in range(BLOCKS):
        made |= {f"layers.{block}.mlp.{word}_exps.weight": stacked(weights, block, word, False) for word in WORDS}
    return made


def granite(weights: Weights) -> Weights:
    """`GraniteMoeParallelExperts` of transformers/models/granitemoe/modeling_granitemoe.py."""
    made = others(weights)
    for block in range(BLOCKS):
        halves = [stacked(weights, block, word, False) for word in ("gate", "up")]
        made[f"layers.{block}.mlp.input_linear.weight"] = np.concatenate(halves, 1)
        made[f"layers.{block}.mlp.output_linear.weight"] = stacked(weights, block, "down", False)
    return made


WORDS = ("gate", "up", "down")
FORMS = {"apart": lambda weights: weights, "transformers 5": transformers_5, "llama 4": llama_4}
FORMS |= {"three": three, "granite": granite}
PAIRS = [(one, other) for one in FORMS for other in FORMS if one != other]


@pytest.mark.parametrize(("form", "into"), PAIRS, ids=lambda name: name)
def test_from_every_form_into_every_other(tmp_path: Path, form: str, into: str) -> None:
    weights = apart()
    save_file(FORMS[form](weights), tmp_path / "source.safetensors")
    save_file(FORMS[into](apart(1)), tmp_path / "clone.safetensors")
    ends = tmp_path / "source.safetensors", tmp_path / "made.safetensors"
    converter.convert("torch->torch", *ends, like=tmp_path / "clone.safetensors")
    same(tmp_path / "made.safetensors", FORMS[into](weights))


def gpt_oss(weights: Weights, biases: Weights) -> Weights:
    """`GptOssExperts`: inputs before outputs, gates and what they gate by turns, and biases."""
    made = others(weights)
    for block in range(BLOCKS):
        module = f"layers.{block}.mlp.experts"
        turns = [stacked(weights, block, word, True) for word in ("gate", "up")]
        made[f"{module}.gate_up_proj"] = np.stack(turns, -1).reshape(EXPERTS, WIDTH, 2 * INNER)
        made[f"{module}.down_proj"] = stacked(weights, block, "down", True)
        own = [np.stack([biases[f"{module}.{i}.{word}_proj.bias"] for i in range(EXPERTS)]) for word in WORDS]
        made[f"{module}.gate_up_proj_bias"] = np.stack(own[:2], -1).reshape(EXPERTS, 2 * INNER)
        made[f"{module}.down_proj_bias"] = own[2]
    return made


def test_gpt_oss_takes_turns(tmp_path: Path) -> None:
    def nets(seed: int) -> tuple[Weights, Weights]:
        weights, rng = apart(seed), np.random.default_rng(seed + 9)
        names = [name.removesuffix("weight") for name in weights if ".experts." in name]
        biases = {
            f"{name}bias": rng.normal(size=weights[f"{name}weight"].shape[0]).astype(np.float32) for name in names
        }
        return gpt_oss(weights, biases), weights | biases

    (whole, single), (other_whole, other_single) = nets(0), nets(1)
    for source, clone, expected in ((whole, other_single, single), (single, other_whole, whole)):
        save_file(source, tmp_path / "source.safetensors")
        save_file(clone, tmp_path / "clone.safetensors")
        ends = tmp_path / "source.safetensors", tmp_path / "made.safetensors"
        converter.convert("torch->torch", *ends, like=tmp_path / "clone.safetensors", force=True)
        same(tmp_path / "made.safetensors", expected)


def test_gates_of_gpt_oss_are_the_even_outputs() -> None:
    """As its forward has it: ``gate, up = gate_up[..., ::2], gate_up[..., 1::2]``."""
    from converter.core.parts import Part, Runs

    x, weight = np.random.default_rng(0).normal(size=(3, WIDTH)), np.random.default_rng(1).normal(size=(WIDTH, 8))
    for place in range(2):
        part = Part(1, Runs((1, 1), 4), place)
        np.testing.assert_allclose(x @ part.made(weight), (x @ weight)[:, place::2])


def test_what_nothing_tells_is_refused(tmp_path: Path) -> None:
    """An expert as wide as the net could lie either way."""
    rng = np.random.default_rng(0)
    shapes = {"mlp.gate.weight": (EXPERTS, WIDTH), "mlp.experts.down_proj": (EXPERTS, WIDTH, WIDTH)}
    save_file(
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}, tmp_path / "a.safetensors"
    )
    shapes = {f"mlp.experts.{i}.down_proj.weight": (WIDTH, WIDTH) for i in range(EXPERTS)} | {
        "mlp.gate.weight": (EXPERTS, WIDTH)
    }
    save_file(
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}, tmp_path / "b.safetensors"
    )
    for source, clone in (("a", "b"), ("b", "a")):
        with pytest.raises(MatchError, match="nothing in the source fits"):
            converter.plan(tmp_path / f"{source}.safetensors", like=tmp_path / f"{clone}.safetensors")


def test_read_a_layer_at_a_time(tmp_path: Path) -> None:
    """The bias of one expert is no part of another: every tensor of the result is its own."""
    weights = apart()
    save_file(transformers_5(weights), tmp_path / "source.safetensors")
    save_file(apart(1), tmp_path / "clone.safetensors")
    with converter.plan(tmp_path / "source.safetensors", like=tmp_path / "clone.safetensors") as plan:
        plan.write(tmp_path / "made.safetensors", workers=2)
        assert "part 1 of" in str(plan.to_dict())
    made = load_file(tmp_path / "made.safetensors")
    assert len({value.tobytes() for value in made.values()}) == len(made)
