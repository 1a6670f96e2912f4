"""Quantized tensors give what the packages that define them give, bit for bit (samples of tests.quantized.make)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import converter
from converter.core.tensors import Array
from converter.errors import ConversionError
from converter.formats import open_reader
from converter.quantized.ggml import BLOCK_TYPES, dequantized
from tests.command import ok
from tests.formats.contract import same_bits
from tests.places import SAMPLES

FOLDER = SAMPLES / "quantized"
#: A float16 of these is what AutoGPTQ and AutoAWQ compute; bfloat16 what transformers does of MXFP4.
CASES = sorted(path.name for path in FOLDER.iterdir())
PACKED = [name for name in CASES if not name.startswith("gguf")]


def model(name: str) -> Path:
    return next(FOLDER.joinpath(name).glob("model.*"))


def expected(name: str) -> dict[str, Array]:
    with open_reader(FOLDER / name / "expected.safetensors")[1] as reader:
        return {spec.name: np.array(reader.read(spec.name)) for spec in reader.contents.specs}


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_the_package_bit_for_bit(name: str) -> None:
    wanted = expected(name)
    with converter.open(model(name)) as weights:
        assert wanted and set(wanted) <= set(weights)
        for tensor, array in wanted.items():
            found = weights[tensor]
            assert same_bits(found, array), (tensor, found.dtype, array.dtype)
            assert weights.contents.by_name[tensor].shape == array.shape and not found.flags.writeable
        left = {"bias", "w_bias"}
        assert {tensor.rpartition(".")[2] for tensor in set(weights) - set(wanted)} <= left


def test_all_packings_that_are_undone_have_a_sample() -> None:
    assert len(PACKED) == 23
    with converter.open(model("gguf")) as weights:
        kinds = {kind.removeprefix("GGUF, ") for kind in weights.contents.quantized.values()}
    assert kinds == BLOCK_TYPES.keys() - {"Q8_K"}


def test_q8_k_is_a_scale_and_its_numbers() -> None:
    """dequantize_row_q8_K of ggml-quants.c; the package of Python has no formula."""
    rng = np.random.default_rng(0)
    scales, numbers = rng.random((5, 1)).astype(np.float32), rng.integers(-128, 128, (5, 256)).astype(np.int8)
    sums = rng.integers(0, 256, (5, 32)).astype(np.uint8)
    blocks = np.concatenate([scales.view(np.uint8), numbers.view(np.uint8), sums], 1)
    assert same_bits(dequantized(blocks, BLOCK_TYPES["Q8_K"]), (scales * numbers).reshape(-1))


@pytest.mark.parametrize("name", PACKED)
def test_a_conversion_says_that_it_computes(tmp_path: Path, name: str) -> None:
    report = converter.convert("torch->torch", model(name), tmp_path / "net.pt")
    said = {step["target"]["name"]: step["done"] for step in report.to_dict()["tensors"]}
    with converter.open(tmp_path / "net.pt") as written:
        for tensor, array in expected(name).items():
            assert said[tensor][0].startswith("dequantized ("), said
            assert same_bits(written[tensor], array)
        assert not written.contents.quantized


@pytest.mark.parametrize("name", ["gptq_4_gptq", "bitsandbytes_nf4", "fp8_block"])
def test_a_linear_layer_is_one_in_another_framework(tmp_path: Path, name: str) -> None:
    report = converter.convert("torch->flax", model(name), tmp_path / "net.msgpack", kind={"*": "linear"})
    assert "dequantized" in str(report)
    with converter.open(tmp_path / "net.msgpack") as written:
        assert np.array_equal(written["params/a/fc/kernel"], expected(name)["a.fc.weight"].T)


@pytest.mark.parametrize("name", PACKED)
def test_what_is_kept_is_kept_bit_for_bit(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ok(capsys, "torch->torch", model(name), "-o", tmp_path / "net.pt", "--keep-quantized")
    with open_reader(model(name))[1] as before, open_reader(tmp_path / "net.pt")[1] as after:
        assert set(before.contents.by_name) == set(after.contents.by_name)
        assert all(same_bits(before.read(tensor), after.read(tensor)) for tensor in before.contents.by_name)


def test_what_is_kept_stays_in_its_framework(tmp_path: Path) -> None:
    path = model("gptq_4_gptq")
    for target, output in (("flax", "net.msgpack"), ("neutral", "net.safetensors")):
        with pytest.raises(ConversionError, match="quantized tensors are kept in files of PyTorch alone"):
            converter.convert(f"torch->{target}", path, tmp_path / output, keep_quantized=True)
    with pytest.raises(ConversionError, match="scales of tensors that are kept quantized would be cast"):
        converter.convert("torch->torch", path, tmp_path / "net.pt", keep_quantized=True, dtype="float32")
    with pytest.raises(ConversionError, match="nothing in it is quantized"):
        converter.convert("torch->torch", FOLDER / "awq/expected.safetensors", tmp_path / "a.pt", keep_quantized=True)
    with pytest.raises(ConversionError, match="its format has quantized blocks of its own"):
        converter.convert("torch->torch", model("gguf"), tmp_path / "net.pt", keep_quantized=True)
    assert not list(tmp_path.iterdir())


def test_without_its_configuration_a_checkpoint_is_refused_where_shapes_do_not_tell(tmp_path: Path) -> None:
    for name, what in (("gptq_4_gptq", "less one depends on the version"), ("fp8_block", "whose size no shape tells")):
        shutil.copy(model(name), tmp_path / "model.safetensors")
        with pytest.raises(ConversionError, match=rf"{what}.*no config\.json or quantize_config\.json beside it"):
            converter.convert("torch->torch", tmp_path / "model.safetensors", tmp_path / "out.pt")
        shutil.copy(FOLDER / name / "config.json", tmp_path)
        converter.convert("torch->torch", tmp_path / "model.safetensors", tmp_path / "out.pt", force=True)
        (tmp_path / "config.json").unlink()


def test_another_process_computes_the_same() -> None:
    with converter.open(model("awq")) as weights:
        opening, array = weights.reader.opening, weights["a.fc.weight"]
    with opening() as again:
        assert same_bits(again.read("a.fc.weight"), array)


def test_views_of_few_bytes_do_not_fill_the_memory(tmp_path: Path) -> None:
    """A weight that a file of some hundred bytes spreads over 400 MB by a stride of zero is refused."""
    few = torch.zeros(1, dtype=torch.int8).expand(10_000, 10_000)
    torch.save({"fc.weight": few, "fc.SCB": torch.ones(1).expand(10_000)}, tmp_path / "net.pt")
    with pytest.raises(ConversionError, match="so that no file can fill the memory"):
        converter.convert("torch->torch", tmp_path / "net.pt", tmp_path / "out.pt")
