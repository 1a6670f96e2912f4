"""Quantized tensors whose parts do not fit each other: an error that says what, never a traceback, never values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import converter
from converter.core.tensors import Array
from converter.errors import FormatError
from converter.formats import Contents, by_name, open_reader, open_writer
from tests.formats.contract import random_array, specs_of
from tests.places import SAMPLES

FOLDER = SAMPLES / "quantized"
Parts = dict[str, Array]


def parts_of(name: str) -> Parts:
    with open_reader(FOLDER / name / "model.safetensors")[1] as reader:
        return {spec.name: np.array(reader.read(spec.name)) for spec in reader.contents.specs}


def state(**changes: object) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        name = next(name for name in parts if "quant_state" in name)
        text = json.dumps({**json.loads(parts[name].tobytes()), **changes})
        parts[name] = np.frombuffer(text.encode(), np.uint8)

    return change


def instead(leaf: str, shape: tuple[int, ...], dtype: str = "float32") -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        parts[f"a.fc.{leaf}"] = random_array(shape, dtype)

    return change


def value(leaf: str, number: int) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        parts[f"a.fc.{leaf}"].reshape(-1)[0] = number

    return change


def without(leaf: str) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        del parts[f"a.fc.{leaf}"]

    return change


NESTED = "weight.quant_state.bitsandbytes__nf4"
#: Sample, what is changed, what is said.
ROWS: tuple[tuple[str, Callable[[Parts], None], str], ...] = (
    ("gptq_4_gptq", value("g_idx", 3), "its 'g_idx' names group 3 of 3"),
    ("gptq_4_gptq", value("g_idx", -1), "its 'g_idx' names group -1 of 3"),
    ("gptq_4_gptq", instead("g_idx", (95,), "int32"), r"its 'g_idx' \(95,\) does not fit its 96 inputs"),
    ("gptq_4_gptq", instead("scales", (3, 63), "float16"), "does not fit its 'scales'"),
    ("gptq_4_gptq", instead("scales", (3, 64), "int32"), "'scales' is int32"),
    ("gptq_4_gptq", instead("scales", (0, 64), "float16"), "are empty"),
    ("gptq_4_gptq", instead("qzeros", (2, 8), "int32"), "do not fit its 'scales'"),
    ("gptq_4_gptq", instead("qzeros", (3, 10), "int32"), "do not fit its 'scales'"),
    ("gptq_4_gptq", instead("qweight", (12,), "int32"), "of 2 axes was expected"),
    ("gptq_8_gptq", without("g_idx"), ""),
    ("awq", instead("scales", (7, 48), "float16"), "do not fit each other"),
    ("awq", instead("qzeros", (2, 5), "int32"), "do not fit each other"),
    ("bitsandbytes_nf4", instead(NESTED, (90,), "uint8"), "is not the JSON of a quantization"),
    ("bitsandbytes_nf4", instead(NESTED, (9000,), "uint8"), "at most 4096 are read"),
    ("bitsandbytes_nf4", without(NESTED), "is missing, which has its shape and dtype"),
    ("bitsandbytes_nf4", state(shape=[96, 41]), "has 1920 bytes, and"),
    ("bitsandbytes_nf4", state(shape=[1 << 39, 1 << 39]), "names the shape"),
    ("bitsandbytes_nf4", state(shape=[-96, -40]), "names the shape"),
    ("bitsandbytes_nf4", state(shape=[]), "names the shape"),
    ("bitsandbytes_nf4", state(shape="96"), "is not the JSON of a quantization"),
    ("bitsandbytes_nf4", state(blocksize=0), "a 'blocksize' of 0"),
    ("bitsandbytes_nf4", state(blocksize=1 << 40), "a 'blocksize' of"),
    ("bitsandbytes_nf4", state(blocksize=1 << 20), "values"),
    ("bitsandbytes_nf4", state(nested_blocksize=1), "its 'nested_absmax' has no 60 values"),
    ("bitsandbytes_nf4", state(nested_offset=float("inf")), "'nested_offset'"),
    ("bitsandbytes_nf4", state(dtype="int8"), "names the dtype 'int8'"),
    ("bitsandbytes_nf4", state(quant_type="af4"), "names the quantization 'af4'"),
    ("bitsandbytes_nf4", instead("weight.quant_map", (15,)), "has no 16 values"),
    ("bitsandbytes_nf4", instead("weight.nested_quant_map", (16,)), "has no 256 values"),
    ("bitsandbytes_int8", instead("SCB", (23,)), "does not fit its weight"),
    ("bitsandbytes_int8", value("weight_format", 2), "an order of tiles for one kind of GPU"),
    ("compressed_int4_group", value("weight_shape", 47), "does not fit its 'weight_packed'"),
    ("compressed_int4_group", value("weight_shape", -1), "does not fit its 'weight_packed'"),
    ("compressed_int4_group", instead("weight_scale", (48, 5)), "are no 5 groups"),
    ("compressed_int4_group", instead("weight_zero_point", (48, 4), "int32"), "does not fit its scales"),
    ("compressed_int4_group", instead("weight_g_idx", (64,), "int64"), "names groups that are none of its 4"),
    ("compressed_int4_group", instead("weight_shape", (3,), "int64"), "has no two sizes"),
    ("compressed_int4_group", without("weight_shape"), "its 'weight_shape' is missing"),
    ("naive_int8_channel", instead("weight_zero_point", (48, 2), "int8"), "does not fit its 'weight_scale'"),
    ("naive_int8_channel", instead("weight", (48, 64), "uint8"), "its weight is uint8"),
    ("fp8_group", instead("weight_scale", (48, 5)), "are no 5 groups"),
    ("fp8_channel", without("weight_scale"), "none of its tensors is a scale of its weight"),
    ("fp8_block", instead("weight_scale_inv", (2, 3)), "does not fit a weight"),
    ("fp8_block", instead("weight", (200, 150), "int8"), "may be two floats of 4 bits"),
)


def saved(folder: Path, name: str, parts: Parts) -> Path:
    config = FOLDER / name / "config.json"
    if config.exists():
        (folder / "config.json").write_bytes(config.read_bytes())
    with open_writer(by_name("safetensors"), folder / "model.safetensors", Contents(specs_of(parts))) as writer:
        for tensor, array in parts.items():
            writer.write(tensor, array)
    return folder / "model.safetensors"


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_parts_that_do_not_fit_are_an_error(tmp_path: Path, row: int) -> None:
    name, change, said = ROWS[row]
    parts = parts_of(name)
    change(parts)
    path = saved(tmp_path, name, parts)
    if not said:  # it goes without that part
        with converter.open(path) as weights:
            assert weights.net and weights["a.fc.weight"].size
        return
    with pytest.raises(FormatError, match=said), converter.open(path) as weights:
        assert weights.net
        list(weights.values())


STATED = (
    ("gptq_4_gptq", {"checkpoint_format": "marlin"}, "its 'checkpoint_format' is 'marlin'"),
    ("gptq_4_gptq", {"bits": 8}, "its shapes are those of 4 bits"),
    ("awq", {"version": "gemv"}, "laid out for the kernel 'gemv'"),
    ("awq", {"bits": 3}, "says 3 bits"),
    ("fp8_block", {"weight_block_size": [0, 128]}, "no 'weight_block_size' of two numbers"),
    ("fp8_block", {"weight_block_size": [1 << 40, 1 << 40]}, "no 'weight_block_size' of two numbers"),
    ("fp8_block", {"weight_block_size": "128"}, "no 'weight_block_size' of two numbers"),
    ("fp8_block", {"weight_block_size": [64, 64]}, "does not fit a weight"),
)


@pytest.mark.parametrize("row", range(len(STATED)))
def test_what_a_configuration_states_must_fit(tmp_path: Path, row: int) -> None:
    name, changes, said = STATED[row]
    path = saved(tmp_path, name, parts_of(name))
    document = json.loads((tmp_path / "config.json").read_text())
    document["quantization_config"] |= changes
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(FormatError, match=said), converter.open(path) as weights:
        assert weights.net


def test_a_configuration_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path, "awq", parts_of("awq"))
    (tmp_path / "config.json").write_text("[" * 100)
    with pytest.raises(FormatError, match="is not JSON"), converter.open(path) as weights:
        assert weights.net
