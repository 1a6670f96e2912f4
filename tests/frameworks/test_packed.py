"""Packed tensors that are not undone are refused by name, in whatever file; plain ones of such dtypes are read.

Those that are undone have tests in `tests.quantized`.
"""

from __future__ import annotations

import json
from pathlib import Path

import mxnet
import numpy as np
import pytest

import converter
from converter.core.contents import Contents
from converter.core.tensors import Array, TensorSpec
from converter.errors import ConversionError, FormatError
from converter.formats import by_name, open_writer
from tests.command import ok
from tests.formats.contract import random_array


def written(path: Path, arrays: dict[str, Array]) -> Path:
    contents = Contents(tuple(TensorSpec(name, array.shape, array.dtype) for name, array in arrays.items()))
    with open_writer(by_name("torch" if path.suffix == ".pt" else "safetensors"), path, contents) as writer:
        for name, array in arrays.items():
            writer.write(name, array)
    return path


def some(**tensors: tuple[str, tuple[int, ...]]) -> dict[str, Array]:
    return {name: random_array(shape, dtype, seed) for seed, (name, (dtype, shape)) in enumerate(tensors.items())}


PACKED = {
    "integers with scales": some(qweight=("int32", (8, 16)), scales=("float16", (1, 16))),
    "MLX": some(weight=("uint32", (8, 2)), scales=("float16", (8, 1)), biases=("float16", (8, 1))),
    "HQQ": some(W_q=("uint8", (8, 4)), scale=("float16", (8, 1)), zero=("float16", (8, 1))),
    # the names and shapes are those of QuantLinear.pack of exllamav2, QuantizedLinear of AQLM and QTensor of quanto
    "EXL2": some(
        q_weight=("int32", (20, 16)),
        q_scale=("int32", (4, 2)),
        q_scale_max=("float16", (4,)),
        q_groups=("int16", (8,)),
        q_invperm=("int16", (64,)),
    ),
    "AQLM": some(
        codes=("int8", (8, 4, 1)),
        codebooks=("float16", (1, 256, 1, 8)),
        scales=("float16", (8, 1, 1, 1)),
        bias=("float16", (8,)),
    ),
    "quanto": {
        f"weight.{name}": array
        for name, array in some(
            **{"_data._data": ("uint8", (16, 4)), "_scale": ("float32", (8, 1)), "_shift": ("float32", (8, 1))}
        ).items()
    },
    "torchao": some(_weight_qdata=("int8", (8, 16)), _weight_scale=("bfloat16", (8, 1))),
    "torch.ao.quantization": {
        "scale": random_array((), "float32"),
        "_packed_params._packed_params/0": random_array((2, 3), "float16"),
        "_packed_params._packed_params/1": random_array((2,), "float32"),
    },
    "FSDP": some(_flat_param=("float32", (900,))),
    "ZeRO-3": {"weight": np.empty(0, np.float32), "bias": random_array((3,), "float32")},
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("title", PACKED)
def test_each_packing_is_refused_by_its_name(tmp_path: Path, title: str, suffix: str) -> None:
    arrays = {f"model.layers.3.proj.{name}": array for name, array in PACKED[title].items()}
    path = written(tmp_path / f"a{suffix}", {**arrays, "norm.weight": random_array((8,), "float32")})
    with converter.open(path) as weights:
        with pytest.raises(FormatError, match=r"a layer is packed by .*'model\.layers\.3\.proj") as raised:
            assert weights.net
        assert title in str(raised.value)
        assert len(weights) == len(arrays) + 1  # the tensors themselves can be looked at
    with pytest.raises(ConversionError, match="packed by"):
        converter.convert("torch->flax", path, tmp_path / "out.msgpack")
    assert not (tmp_path / "out.msgpack").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_plain_tensors_of_such_dtypes_and_names_are_read(tmp_path: Path, suffix: str) -> None:
    arrays = some(weight=("float8_e4m3fn", (8, 8)), bias=("float32", (8,)))
    arrays |= {f"steps.{name}": array for name, array in some(weight=("int8", (4, 3)), scale=("float32", (3,))).items()}
    arrays["scales"] = random_array((3,), "float32")
    with converter.open(written(tmp_path / f"a{suffix}", arrays)) as weights:
        assert sum(len(layer.tensors) for layer in weights.net.layers) == len(arrays)


def test_nothing_to_convert_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", {})
    with pytest.raises(ConversionError, match="there are no weights to convert"):
        converter.convert("torch->flax", path, tmp_path / "out.msgpack")
    assert not (tmp_path / "out.msgpack").exists()


def test_integers_of_mxnet_are_refused(tmp_path: Path) -> None:
    """As ``quantize_model`` of `mxnet.contrib.quantization` names and makes them."""
    parameters = {}
    for name, shape in (("fc_weight", (4, 3)), ("fc_bias", (4,))):
        value = mxnet.nd.array(random_array(shape, "float32"))
        made = mxnet.nd.contrib.quantize(value, mxnet.nd.min(value), mxnet.nd.max(value), out_type="int8")
        parameters |= {
            f"arg:{name}_quantize{part}": array for part, array in zip(("", "_min", "_max"), made, strict=True)
        }
    mxnet.nd.save(str(tmp_path / "net-0000.params"), parameters)
    with pytest.raises(FormatError, match=r"packed by MXNet \(contrib.quantization\)"):
        converter.convert("mxnet->torch", tmp_path / "net-0000.params", tmp_path / "out.pt")


def test_what_is_in_a_packed_file_is_shown_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "a.safetensors", PACKED["EXL2"])
    shown = ok(capsys, "inspect", path)
    assert "q_scale_max" in shown and "packed by EXL2" in shown
    found = json.loads(ok(capsys, "inspect", path, "--json"))
    assert "packed by EXL2" in found["refused"] and len(found["tensors"]) == 5
