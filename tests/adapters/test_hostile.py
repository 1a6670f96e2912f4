"""Adapters that cannot be merged, or were made to do harm: an error that names what is wrong, and nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.adapters.test_merged import SAMPLES
from tests.command import ok, refused

Settings = dict[str, Any]
Tensors = dict[str, "np.ndarray[Any, Any]"]
A, B = (f"base_model.model.layers.0.q.lora_{letter}.weight" for letter in "AB")


def adapter(folder: Path, sample: str = "plain") -> Path:
    place = folder / "adapter"
    shutil.copytree(SAMPLES / sample / "adapter", place)
    return place


def said_of(capsys: pytest.CaptureFixture[str], folder: Path, sample: str = "plain") -> str:
    output = folder.parent / "out.pt"
    base = SAMPLES / sample / "base.safetensors"
    said = refused(capsys, "torch->torch", base, "-o", output, "--merge-adapter", folder)
    assert not output.exists() and "Traceback" not in said
    return said


CONFIGS: dict[str, tuple[Settings, str]] = {
    "ia3": ({"peft_type": "IA3"}, "its peft_type is 'IA3'"),
    "loha": ({"peft_type": "LOHA"}, "'LOHA'"),
    "adalora": ({"peft_type": "ADALORA"}, "'ADALORA'"),
    "no type": ({"peft_type": None}, "its peft_type is None"),
    "a negative rank": ({"r": -2}, "it has the rank -2"),
    "no rank": ({"r": 0}, "it has the rank 0"),
    "a rank of a billion": ({"r": 10**9}, "it has the rank 1000000000"),
    "a rank beyond integers": ({"r": 10**40}, "adapter_config.json"),
    "another rank": ({"r": 7}, "has the rank 2, and adapter_config.json says 7"),
    "a rank of text": ({"r": "2"}, "no configuration of an adapter"),
    "an alpha of text": ({"lora_alpha": "4"}, "no configuration of an adapter"),
    "an infinite alpha": ({"lora_alpha": float("inf")}, "adapter_config.json"),
    "an alpha that is no number": ({"lora_alpha": float("nan")}, "adapter_config.json"),
    "a pattern that takes for ever": ({"alpha_pattern": {"(a+)+b": 1}}, "the pattern '(a+)+b'"),
    "many stars": ({"rank_pattern": {".*.*.*.*": 1}}, "at most two"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
    "experts": ({"target_parameters": ["experts.up"]}, "target_parameters"),
    "what is to come": ({"use_magic": True}, "'use_magic'"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_that_is_not_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    changes, expected = CONFIGS[case]
    folder = adapter(tmp_path)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    assert expected in said_of(capsys, folder)


@pytest.mark.parametrize("text", ["{", "[]", "", '{"r": 1, "r": 2}', "[" * 100_000, "\x00", '"\\ud800"'])
def test_a_configuration_that_is_no_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    folder = adapter(tmp_path)
    (folder / "adapter_config.json").write_text(text)
    assert "adapter_config.json" in said_of(capsys, folder)


def _set(name: str, shape: tuple[int, ...], dtype: str = "float32") -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__setitem__(name, np.ones(shape, dtype))


TENSORS: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "A alone": (lambda tensors: tensors.pop(B), "stands alone"),
    "B alone": (lambda tensors: tensors.pop(A), "stands alone"),
    "other inputs": (_set(A, (2, 7)), "does not fit 'layers.0.q.weight' (6, 6): A (2, 7)"),
    "other outputs": (_set(B, (7, 2)), "does not fit 'layers.0.q.weight'"),
    "two ranks": (_set(A, (3, 6)), "does not fit 'layers.0.q.weight'"),
    "another rank": (lambda tensors: [_set(A, (3, 6))(tensors), _set(B, (6, 3))(tensors)], "has the rank 3"),
    "a vector": (_set(A, (12,)), "does not fit"),
    "a scalar": (_set(A, ()), "does not fit"),
    "integers": (_set(A, (2, 6), "int32"), "is no float"),
    "a magnitude of another size": (
        _set("base_model.model.layers.0.q.lora_magnitude_vector", (5,)),
        "the magnitude (5,)",
    ),
    "no such layer": (
        lambda tensors: tensors.update({name.replace("layers.0", "layers.9"): tensors[name] for name in (A, B)}),
        "meets no tensor of the base, which has no 'layers.9.q.weight'",
    ),
    "LoHa": (_set("base_model.model.layers.0.q.hada_w1_a", (2, 6)), "hada_w1_a"),
    "AdaLoRA": (_set("base_model.model.layers.0.q.lora_E", (2, 1)), "lora_E' of the adapter is no tensor of a LoRA"),
    "trained tokens": (
        _set("base_model.model.embed.token_adapter.trainable_tokens_delta", (2, 6)),
        "is no tensor of a LoRA",
    ),
    "another prefix": (_set("layers.0.q.weight", (6, 6)), "'layers.0.q.weight' of the adapter is no tensor of a LoRA"),
    "a whole tensor": (_set("base_model.model.score.weight", (3, 6)), "of no module of modules_to_save"),
    "a bias that has none": (_set("base_model.model.embed.lora_B.bias", (6,)), "stands alone"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_are_not_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    change, expected = TENSORS[case]
    folder = adapter(tmp_path)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    assert expected in said_of(capsys, folder)


def test_a_module_that_was_saved_whole_has_the_shape_of_the_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = adapter(tmp_path, "modules_to_save")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.score.weight"] = np.ones((4, 6), np.float32)
    save_file(tensors, file)
    assert "is float32 (4, 6), and 'score.weight' of the base float32 (3, 6)" in said_of(
        capsys, folder, "modules_to_save"
    )


def test_a_square_weight_in_doubt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = adapter(tmp_path, "conv1d")
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"fan_in_fan_out": true', '"fan_in_fan_out": false'))
    said = said_of(capsys, folder, "conv1d")
    assert "'layers.0.q' is square, and nothing tells how it is stored" in said


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_no_link_leads_out_of_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    folder = adapter(tmp_path)
    shutil.move(folder / name, tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert name in said_of(capsys, folder)


def test_what_is_no_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = adapter(tmp_path)
    (folder / "adapter_config.json").unlink()
    assert "no folder of an adapter" in said_of(capsys, folder)
    assert "Name a folder with adapter_config.json" in said_of(capsys, folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 100)
    said_of(capsys, folder / "adapter_model.safetensors")
    said_of(capsys, tmp_path / "nowhere")


def test_a_base_whose_names_are_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = adapter(tmp_path)
    base = SAMPLES / "plain" / "base.safetensors"
    flax = tmp_path / "x.msgpack"
    ok(capsys, "torch->flax", base, "-o", flax, "--kind", "embed=embedding", "--kind", "*conv=conv")
    said = refused(capsys, "flax->torch", flax, "-o", tmp_path / "x.pt", "--merge-adapter", folder)
    assert "12 tensors of the adapter cannot be merged" in said
    assert not (tmp_path / "x.pt").exists()
