"""Adapters merged into their base: the values of PEFT's merge_and_unload, whatever is written; nothing left out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import converter
from converter.execution.shards import state_of_opening
from tests.command import ok, refused, run
from tests.places import ROOT

SAMPLES = ROOT / "tests" / "samples" / "adapters"
VARIANTS = sorted(folder.name for folder in SAMPLES.iterdir())
Change = Callable[[dict[str, Any]], None]


def files(name: str) -> tuple[Path, Path, dict[str, np.ndarray[Any, Any]]]:
    folder = SAMPLES / name
    return folder / "base.safetensors", folder / "adapter", load_file(folder / "merged.safetensors")


# -- the values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_the_values_are_those_of_peft(name: str) -> None:
    base, adapter, wanted = files(name)
    before = load_file(base)
    with converter.open(base, framework="torch", merge_adapter=adapter) as found:
        assert set(found) == set(wanted)
        for key, values in wanted.items():
            assert found[key].dtype == np.float32
            np.testing.assert_allclose(found[key], values, rtol=2e-6, atol=2e-7, err_msg=key)
        changed = {key for key in wanted if not np.array_equal(wanted[key], before[key])}
        assert changed == set(found.contents.adapted)
        assert changed and max(np.abs(wanted[key] - before[key]).max() for key in changed) > 0.1


@pytest.mark.parametrize("name", ["plain", "dora_conv1d"])
def test_a_base_of_half_precision_is_rounded_once(tmp_path: Path, name: str) -> None:
    base, adapter, _ = files(name)
    halved = {key: value.astype(ml_dtypes.bfloat16) for key, value in load_file(base).items()}
    save_file(halved, tmp_path / "half.safetensors")
    save_file({key: value.astype(np.float32) for key, value in halved.items()}, tmp_path / "same.safetensors")
    with (
        converter.open(tmp_path / "half.safetensors", framework="torch", merge_adapter=adapter) as half,
        converter.open(tmp_path / "same.safetensors", framework="torch", merge_adapter=adapter) as same,
    ):
        for key in half:
            assert half[key].dtype == ml_dtypes.bfloat16
            assert half[key].tobytes() == same[key].astype(ml_dtypes.bfloat16).tobytes(), key


def test_a_folder_with_a_bin_and_names_of_the_adapter(tmp_path: Path) -> None:
    base, adapter, wanted = files("plain")
    shutil.copy(adapter / "adapter_config.json", tmp_path)
    tensors = load_file(adapter / "adapter_model.safetensors")
    named = {key.replace(".weight", ".default.weight"): torch.tensor(value) for key, value in tensors.items()}
    torch.save(named, tmp_path / "adapter_model.bin")
    with converter.open(base, framework="torch", merge_adapter=tmp_path) as found:
        for key, values in wanted.items():
            np.testing.assert_allclose(found[key], values, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("leading", ["model.", "-model."])
def test_a_leading_module_of_one_side_alone(tmp_path: Path, leading: str) -> None:
    base, adapter, wanted = files("plain")
    if leading.startswith("-"):
        leading = ""
        shutil.copytree(adapter, tmp_path / "adapter")
        adapter = tmp_path / "adapter"
        tensors = load_file(adapter / "adapter_model.safetensors")
        longer = {key.replace("base_model.model.", "base_model.model.model."): value for key, value in tensors.items()}
        save_file(longer, adapter / "adapter_model.safetensors")
    save_file({leading + key: value for key, value in load_file(base).items()}, tmp_path / "base.safetensors")
    with converter.open(tmp_path / "base.safetensors", framework="torch", merge_adapter=adapter) as found:
        for key, values in wanted.items():
            np.testing.assert_allclose(found[leading + key], values, rtol=2e-6, atol=2e-7)


# -- names of other programs ------------------------------------------------------------------------------------------

UNETS = {
    "kohya": ("lora_unet_down_0_to_q.{}.weight", "lora_unet_down_0_to_q.alpha", "lora_down", "lora_up"),
    "diffusers": ("unet.down.0.to_q.{}.weight", "unet.down.0.to_q.alpha", "lora_A", "lora_B"),
    "old diffusers": ("unet.down.0.to_q.{}.weight", "unet.down.0.to_q.alpha", "lora.down", "lora.up"),
}


def unet(folder: Path, spelling: str, alpha: float | None, shape: tuple[int, ...] = (8, 6)) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    name, scale, down, up = UNETS[spelling]
    ones = (1,) * (len(shape) - 2)
    tensors = {"w": rng.normal(size=shape), "a": rng.normal(size=(2, *shape[1:])), "b": rng.normal(size=(8, 2, *ones))}
    tensors = {key: value.astype(np.float32) for key, value in tensors.items()}
    save_file({"down.0.to_q.weight": tensors["w"], "mid.bias": np.ones(3, np.float32)}, folder / "base.safetensors")
    stated = {} if alpha is None else {scale: np.array(alpha, np.float32)}
    save_file({name.format(down): tensors["a"], name.format(up): tensors["b"], **stated}, folder / "lora.safetensors")
    return tensors


@pytest.mark.parametrize("shape", [(8, 6), (8, 3, 3, 3)])
@pytest.mark.parametrize("alpha", [None, 1.0, 5.0])
@pytest.mark.parametrize("spelling", UNETS)
def test_names_of_kohya_and_diffusers(
    tmp_path: Path, spelling: str, alpha: float | None, shape: tuple[int, ...]
) -> None:
    one = unet(tmp_path, spelling, alpha, shape)
    added = (one["b"].reshape(8, 2) @ one["a"].reshape(2, -1)).reshape(shape) * (1 if alpha is None else alpha / 2)
    adapter = tmp_path / "lora.safetensors"
    with converter.open(tmp_path / "base.safetensors", framework="torch", merge_adapter=adapter) as found:
        np.testing.assert_allclose(found["down.0.to_q.weight"], one["w"] + added, rtol=1e-5, atol=1e-6)


def test_a_layer_that_the_base_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unet(tmp_path, "kohya", 1.0)
    save_file({"up.0.to_q.weight": np.ones((8, 6), np.float32)}, tmp_path / "base.safetensors")
    words = ("torch->torch", tmp_path / "base.safetensors", "-o", tmp_path / "x.pt", "--merge-adapter")
    said = refused(capsys, *words, tmp_path / "lora.safetensors")
    assert "'lora_unet_down_0_to_q" in said and "meets no tensor of the base" in said


# -- every way out ----------------------------------------------------------------------------------------------------


def test_every_target_has_them_and_the_report_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, adapter, wanted = files("plain")
    words = ("torch->flax", base, "-o", tmp_path / "x.msgpack", "--merge-adapter", adapter, "--kind", "embed=embedding")
    words = (*words, "--ignore", "conv")
    said = ok(capsys, *words)
    assert said.count("adapter merged (LoRA, r=2, scale 2)") == 6
    with converter.open(tmp_path / "x.msgpack") as found:
        for layer in ("layers.0.q", "layers.1.up", "score"):
            kernel = found[f"params/{layer.replace('.', '/')}/kernel"]
            np.testing.assert_allclose(kernel, wanted[f"{layer}.weight"].T, rtol=2e-6, atol=2e-7)


def test_a_neutral_base_stays_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, adapter, wanted = files("plain")
    told = ("--kind", "embed=embedding", "--kind", "*conv=conv")
    ok(capsys, "torch->neutral", base, "-o", tmp_path / "n.safetensors", *told)
    words = ("neutral->neutral", tmp_path / "n.safetensors", "-o", tmp_path / "m.safetensors")
    ok(capsys, *words, "--merge-adapter", adapter)
    ok(capsys, "neutral->torch", tmp_path / "m.safetensors", "-o", tmp_path / "x.pt")
    with converter.open(tmp_path / "x.pt") as found:
        for key, values in wanted.items():
            np.testing.assert_allclose(found[key], values, rtol=2e-6, atol=2e-7)


def test_a_run_that_goes_on_takes_no_shard_of_another_adapter(tmp_path: Path) -> None:
    """What tells one work from another is the state of every file that is read."""
    base, adapter, _ = files("plain")
    shutil.copytree(adapter, tmp_path / "adapter")
    states = []
    for alpha in (4, 44):
        config = tmp_path / "adapter" / "adapter_config.json"
        config.write_text(config.read_text().replace('"lora_alpha": 4', f'"lora_alpha": {alpha}'))
        with converter.open(base, framework="torch", merge_adapter=tmp_path / "adapter") as found:
            states.append(state_of_opening(found.reader.opening))
    assert states[0] != states[1]


def test_shards_and_certificates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("base.safetensors", "adapter"):
        copy = shutil.copytree if name == "adapter" else shutil.copy
        copy(SAMPLES / "dora" / name, tmp_path / name)
    words = ["torch->torch", tmp_path / "base.safetensors", "--merge-adapter", tmp_path / "adapter"]
    ok(capsys, *words, "-o", tmp_path / "x.safetensors", "--max-shard-size", "500")
    with converter.open(tmp_path / "x.safetensors.index.json") as found:
        for key, values in files("dora")[2].items():
            np.testing.assert_allclose(found[key], values, rtol=2e-6, atol=2e-7)
    ok(capsys, *words, "-o", tmp_path / "y.safetensors", "--certificate", tmp_path / "c.json")
    assert "holds" in ok(capsys, "verify", tmp_path / "c.json")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 4', '"lora_alpha": 5'))
    said = run(capsys, "verify", tmp_path / "c.json")
    assert said.code == 1 and "adapter_config.json" in said.out and "does not hold" in said.out


def test_the_adapter_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, adapter, _ = files("plain")
    shutil.copytree(adapter, tmp_path / "adapter")
    place = tmp_path / "adapter" / "adapter_model.safetensors"
    before = place.read_bytes()
    refused(capsys, "torch->torch", base, "-o", place, "--merge-adapter", tmp_path / "adapter", "--force")
    assert place.read_bytes() == before


def test_a_quantized_base(tmp_path: Path) -> None:
    """Scaled float8 with a factor for each output, as compressed-tensors and others store it (`weight_scale`)."""
    base, adapter, _ = files("plain")
    tensors: dict[str, Any] = load_file(base)
    plain = {}
    for key in [key for key in tensors if ".up.weight" in key]:
        packed = tensors[key].astype(ml_dtypes.float8_e4m3fn)
        plain[key] = packed.astype(np.float32) * np.float32(0.5)
        tensors[key], tensors[f"{key}_scale"] = packed, np.full((packed.shape[0], 1), 0.5, np.float32)
    settings = {"quant_method": "compressed-tensors", "format": "float-quantized"}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": settings}))
    save_file(tensors, tmp_path / "base.safetensors")
    factors = load_file(adapter / "adapter_model.safetensors")
    with converter.open(tmp_path / "base.safetensors", framework="torch", merge_adapter=adapter) as found:
        for key, values in plain.items():
            prefix = f"base_model.model.{key.removesuffix('.weight')}"
            added = factors[f"{prefix}.lora_B.weight"] @ factors[f"{prefix}.lora_A.weight"] * 2
            np.testing.assert_allclose(found[key], values + added, rtol=2e-6, atol=1e-6)
            assert found.contents.quantized[key] and found.contents.adapted[key]
