"""Files of MLX, written by hand as `mlx.nn` saves them, against the same nets of PyTorch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import converter
from converter.errors import ConversionError

Arrays = Mapping[str, np.ndarray[Any, Any]]
RANDOM = np.random.default_rng(7)


def random(*shape: int) -> np.ndarray[Any, Any]:
    return RANDOM.normal(size=shape).astype(np.float32)


def written(path: Path, tensors: Arrays, form: str = "mlx", codes: str = "F32") -> Path:
    """A safetensors file whose metadata says that format."""
    header: dict[str, Any] = {"__metadata__": {"format": form}}
    end = 0
    for name, array in tensors.items():
        code = "U32" if array.dtype == np.uint32 else "F32"
        header[name] = {"dtype": code, "shape": array.shape, "data_offsets": [end, end := end + array.nbytes]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in tensors.values()))
    return path


def test_kernels_and_the_features_of_a_flatten_are_turned(tmp_path: Path) -> None:
    """Of PyTorch: (out, in, height, width), and after the flatten (channels, height, width)."""
    kernel, last, dense = random(6, 3, 2, 5), random(4, 6, 3), random(8, 6 * 2 * 2)
    torch = {
        "conv.weight": kernel,
        "conv.bias": random(6),
        "norm.weight": random(6),
        "norm.bias": random(6),
        "norm.running_mean": random(6),
        "norm.running_var": random(6),
        "hidden.weight": dense,
        "hidden.bias": random(8),
        "line.weight": last,
    }
    mlx = {
        **torch,
        "conv.weight": np.ascontiguousarray(kernel.transpose(0, 2, 3, 1)),
        "hidden.weight": np.ascontiguousarray(dense.reshape(8, 6, 2, 2).transpose(0, 2, 3, 1)).reshape(8, 24),
        "line.weight": np.ascontiguousarray(last.transpose(0, 2, 1)),
    }
    source = written(tmp_path / "net.safetensors", mlx)
    kinds = {"conv": "conv", "line": "conv"}
    report = converter.convert("mlx->torch", source, tmp_path / "net.npz", kind=kinds, flatten={"hidden": 6})
    stored = np.load(tmp_path / "net.npz")
    assert set(stored) == set(torch)
    for name, array in torch.items():
        np.testing.assert_array_equal(stored[name], array)
    assert len(report.plan.steps) == len(torch)


def test_the_kernel_of_a_transposed_convolution_is_turned(tmp_path: Path) -> None:
    kernel = random(3, 5, 2, 2)  # of PyTorch: in, out
    source = written(tmp_path / "net.safetensors", {"up.weight": np.ascontiguousarray(kernel.transpose(1, 2, 3, 0))})
    converter.convert("mlx->torch", source, tmp_path / "net.npz", kind={"up": "conv_transpose"})
    np.testing.assert_array_equal(np.load(tmp_path / "net.npz")["up.weight"], kernel)


def test_what_could_be_either_convolution_is_asked(tmp_path: Path) -> None:
    source = written(tmp_path / "net.safetensors", {"a.weight": random(6, 3, 3, 3), "a.bias": random(6)})
    with pytest.raises(ConversionError, match="could be conv or conv_transpose"):
        converter.convert("mlx->torch", source, strict=True)


@pytest.mark.parametrize("stated", ["torch", "flax", "tensorflow", "mxnet"])
def test_a_file_of_mlx_is_read_as_nothing_else(tmp_path: Path, stated: str) -> None:
    source = written(tmp_path / "net.safetensors", {"a.weight": random(6, 3, 3, 3)})
    with pytest.raises(ConversionError, match=r"channels last\. It looks like MLX; say 'mlx'"):
        converter.convert(f"{stated}->torch", source)


def test_no_file_of_mlx_is_written(tmp_path: Path) -> None:
    source = written(tmp_path / "net.safetensors", {"a.weight": random(6, 3)}, "pt")
    with pytest.raises(ConversionError, match="files of MLX are only read"):
        converter.convert("torch->mlx", source, tmp_path / "x.safetensors")


def test_packed_weights_are_named(tmp_path: Path) -> None:
    packed = {"a.weight": np.ones((6, 4), np.uint32), "a.scales": random(6, 1), "a.biases": random(6, 1)}
    source = written(tmp_path / "net.safetensors", packed)
    with pytest.raises(ConversionError, match="packed by MLX, and not plain weights: 'a'"):
        converter.convert("mlx->torch", source)


def sigmoid(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(1 / (1 + np.exp(-x)))


def lstm(w: Arrays, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """As mlx/python/mlx/nn/layers/recurrent.py."""
    h = c = np.zeros((x.shape[1], w["Wh"].shape[1]), np.float32)
    for step in x:
        i, f, g, o = np.split(step @ w["Wx"].T + w["bias"] + h @ w["Wh"].T, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return h


def gru(w: Arrays, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    h = np.zeros((x.shape[1], w["Wh"].shape[1]), np.float32)
    for step in x:
        xr, xz, xn = np.split(step @ w["Wx"].T + w["b"], 3, -1)
        hr, hz, hn = np.split(h @ w["Wh"].T, 3, -1)
        r, z = sigmoid(xr + hr), sigmoid(xz + hz)
        h = (1 - z) * np.tanh(xn + r * (hn + w["bhn"])) + z * h
    return h


def rnn(w: Arrays, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    h = np.zeros((x.shape[1], w["Whh"].shape[1]), np.float32)
    for step in x:
        h = np.tanh(step @ w["Wxh"].T + w["bias"] + h @ w["Whh"].T)
    return h


@pytest.mark.parametrize(
    ("own", "name", "tensors"),
    [
        (lstm, "LSTM", {"Wx": random(20, 3), "Wh": random(20, 5), "bias": random(20)}),
        (gru, "GRU", {"Wx": random(15, 3), "Wh": random(15, 5), "b": random(15), "bhn": random(5)}),
        (rnn, "RNN", {"Wxh": random(5, 3), "Whh": random(5, 5), "bias": random(5)}),
    ],
)
def test_recurrent_layers_compute_the_same(tmp_path: Path, own: Any, name: str, tensors: Arrays) -> None:
    import torch

    source = written(tmp_path / "net.safetensors", {f"rnn.{leaf}": array for leaf, array in tensors.items()})
    net = torch.nn.ModuleDict({"rnn": getattr(torch.nn, name)(3, 5)})
    converter.load_into(net, source)
    x = random(4, 2, 3)
    with torch.no_grad():
        _, last = net["rnn"](torch.from_numpy(x))
    theirs = last[0] if name == "LSTM" else last
    np.testing.assert_allclose(theirs[0].numpy(), own(tensors, x), atol=1e-6)
