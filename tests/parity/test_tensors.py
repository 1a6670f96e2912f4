"""The chapter's tensors, lists and dicts of tensors: saved by one framework, read by another after conversion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import mxnet
import numpy as np
import pytest
import tensorflow as tf
import torch

import converter
from tests.command import ok

npx = mxnet.npx


def values() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=4).astype(np.float32), "y": rng.normal(size=(2, 3)).astype(np.float32)}


@dataclass(frozen=True)
class Chapter:
    """How the chapter saves in one framework, and what its loader then gives."""

    file: str
    tensor: Callable[[Any], Any]
    save: Callable[[Path, Any], None]
    load: Callable[[Path], Any]


def torch_save(path: Path, value: Any) -> None:
    torch.save(value, path)


def torch_load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def npx_save(path: Path, value: Any) -> None:
    npx.save(str(path), value)


def np_load(path: Path) -> Any:
    loaded = np.load(path, allow_pickle=True)
    return loaded.item() if loaded.dtype == object and loaded.ndim == 0 else loaded


CHAPTER = {
    "torch": Chapter("x-file", torch.tensor, torch_save, torch_load),
    "tensorflow": Chapter("x-file.npy", tf.constant, np.save, np_load),
    "flax": Chapter("x-file.npy", jnp.asarray, jnp.save, np_load),
    "mxnet": Chapter("x-file", lambda a: mxnet.np.array(a, dtype=a.dtype), npx_save, lambda p: npx.load(str(p))),
}  # fmt: skip


def as_numpy(value: Any) -> np.ndarray[Any, Any]:
    return value.asnumpy() if hasattr(value, "asnumpy") else np.asarray(value)


PAIRS = [(a, b) for a in CHAPTER for b in CHAPTER]


@pytest.fixture(autouse=True)
def np_semantics() -> Any:
    npx.set_np()
    yield
    npx.reset_np()


def converted(capsys: pytest.CaptureFixture[str], folder: Path, source: str, target: str, value: Any) -> Any:
    side = CHAPTER[source]
    given = folder / side.file
    side.save(given, value)
    out = folder / f"result{Path(CHAPTER[target].file).suffix}"
    ok(capsys, f"{source}->{target}", given, "-o", out, "--json")
    return CHAPTER[target].load(out)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_tensor(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, target: str) -> None:
    x = values()["x"]
    found = converted(capsys, tmp_path, source, target, CHAPTER[source].tensor(x))
    found = found[0] if target == "mxnet" else found  # npx.load gives every file without names as a list
    assert as_numpy(found).tobytes() == x.tobytes() and as_numpy(found).shape == (4,)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, target: str) -> None:
    """np.save and jnp.save stack a list of equal shapes into one array; what they wrote is what can be read."""
    x = values()["x"]
    pair = [x, x * 2]
    found = converted(capsys, tmp_path, source, target, [CHAPTER[source].tensor(a) for a in pair])
    stacked = source in ("tensorflow", "flax")
    rows = found[0] if stacked and target == "mxnet" else found
    assert len(rows) == 2
    assert all(as_numpy(row).tobytes() == a.tobytes() for row, a in zip(rows, pair, strict=True))


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_dict(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, target: str) -> None:
    found = converted(
        capsys, tmp_path, source, target, {name: CHAPTER[source].tensor(a) for name, a in values().items()}
    )
    assert list(found) == ["x", "y"]
    assert all(as_numpy(found[name]).tobytes() == a.tobytes() for name, a in values().items())
    assert all(as_numpy(found[name]).shape == a.shape for name, a in values().items())


@pytest.mark.parametrize("source", CHAPTER)
@pytest.mark.parametrize("container", ["tensor", "list", "dict"])
def test_neutral_keeps_the_container(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, container: str
) -> None:
    side, data = CHAPTER[source], values()
    value = {"tensor": data["x"], "list": list(data.values()), "dict": data}[container]
    tensors = {
        "tensor": lambda: side.tensor(value),
        "list": lambda: [side.tensor(a) for a in value],
        "dict": lambda: {name: side.tensor(a) for name, a in value.items()},
    }[container]()
    if container == "list" and source in ("tensorflow", "flax"):
        tensors = [tensors[0], tensors[0]]  # unequal shapes cannot be saved by them
        container = "tensor"
    given, neutral, back = tmp_path / side.file, tmp_path / "n.safetensors", tmp_path / "back.pt"
    side.save(given, tensors)
    ok(capsys, f"{source}->neutral", given, "-o", neutral)
    with converter.read(neutral) as weights:
        assert weights.framework == "neutral" and weights.net.container == container
    ok(capsys, "neutral->torch", neutral, "-o", back)
    loaded = torch.load(back, weights_only=True)
    assert {"tensor": torch.Tensor, "list": list, "dict": dict}[container] is type(loaded)
