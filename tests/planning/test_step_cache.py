"""Layers that differ in nothing but names are settled once: the plan is that of settling each of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

import converter
from converter.matching.pairs import Pair
from converter.planning.plan import TensorPlan
from converter.planning.step_cache import StepCache

ENDINGS = {"torch": ".pt", "flax": ".msgpack", "mxnet": ".params", "neutral": ".safetensors", "tensorflow": ".ckpt"}


def block() -> torch.nn.Module:
    """Layers of every sort that is settled otherwise than by a move."""
    return torch.nn.ModuleDict(
        {
            "dense": torch.nn.Linear(4, 6),
            "bare": torch.nn.Linear(4, 6, bias=False),
            "conv": torch.nn.Conv2d(3, 5, 2),
            "norm": torch.nn.BatchNorm1d(5),
            "plain": torch.nn.BatchNorm1d(5, affine=False),
            "layer_norm": torch.nn.LayerNorm(6),
            "attention": torch.nn.MultiheadAttention(8, 2),
            "apart": torch.nn.MultiheadAttention(8, 2, kdim=6, vdim=4),
            "lstm": torch.nn.LSTM(3, 4, num_layers=2, bidirectional=True),
            "gru": torch.nn.GRU(3, 4),
            "folded": torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 5)),
        }
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    state = torch.nn.ModuleList([block(), block(), block()]).state_dict()
    path = tmp_path_factory.mktemp("settling") / "net.pt"
    torch.save({name: torch.rand(t.shape) if t.is_floating_point() else t for name, t in state.items()}, path)
    return path


@pytest.mark.parametrize(
    ("into", "target"), [*(("new", t) for t in ENDINGS if t != "torch"), *(("clone", t) for t in ENDINGS)]
)
def test_the_plan_is_that_of_each_layer_by_itself(
    source: Path, into: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: dict[str, Any] = {"heads": {"*.attention": 2, "*.apart": 2}, "kind": {"*.bare": "linear"}}
    like = tmp_path / f"like{ENDINGS[target]}"
    converter.convert(f"torch->{target}", source, like, **settled)

    def planned(name: str) -> TensorPlan:
        given = settled | ({"like": like} if into == "clone" else {})
        return converter.convert(f"torch->{target}", source, tmp_path / f"{name}{ENDINGS[target]}", **given).plan

    repeated: list[bool] = []
    once = StepCache.repeats

    def counted(self: StepCache, pair: Pair) -> bool:
        repeated.append(once(self, pair))
        return repeated[-1]

    monkeypatch.setattr(StepCache, "repeats", counted)
    found = planned("found")
    assert sum(repeated) >= 10  # most of the second and the third block
    monkeypatch.setattr(StepCache, "repeats", lambda self, pair: False)
    expected = planned("expected")
    assert found.steps == expected.steps and found.contents == expected.contents


def equal_ones(arrays: dict[str, np.ndarray]) -> dict[str, str]:  # type: ignore[type-arg]
    """Each name -> the first whose array is the same, if it tells anything."""
    first: dict[object, str] = {}
    found = {}
    for name, array in arrays.items():
        home = first.setdefault((array.shape, array.dtype, array.tobytes()), name)
        if home != name and array.size > 1 and (array != array.flat[0]).any():
            found[name] = home
    return found


def embeddings() -> dict[str, torch.Tensor]:
    """Equal ones in storages of their own, in one storage, in a part of one, and ones whose ends alone are equal."""
    torch.manual_seed(3)
    wide, base = torch.randn(3, 20, 50), torch.randn(20, 50)
    near = base.clone()
    near[10] += 1
    return {
        "a.weight": base,
        "b.weight": base.clone(),
        "c.weight": base,
        "d.weight": near,
        "e.weight": wide[1],
        "f.weight": wide[1].clone(),
        "g.weight": torch.ones(20, 50),
        "h.weight": torch.ones(20, 50),
        "i.weight": torch.randn(21, 50),
        "j.weight": base.t().contiguous().t(),
    }


@pytest.mark.parametrize("kind", ["torch", "torch without CRC", "safetensors", "neutral", "torch without views"])
def test_equal_tensors_are_found_however_the_file_tells(kind: str, tmp_path: Path) -> None:
    state = embeddings()
    if kind == "torch without views":  # every storage has a CRC that is of one tensor
        state = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    path = tmp_path / ("in.safetensors" if kind in ("safetensors", "neutral") else "in.pt")
    crc = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(kind != "torch without CRC")
    try:
        if kind == "safetensors":
            safetensors.numpy.save_file({name: tensor.contiguous().numpy() for name, tensor in state.items()}, path)
        elif kind == "neutral":  # one that has digests, with the names of PyTorch
            torch.save(state, tmp_path / "first.pt")
            converter.convert("torch->torch", tmp_path / "first.pt", path, format="safetensors")
        else:
            torch.save(state, path)
    finally:
        torch.serialization.set_crc32_options(crc)
    output = tmp_path / "out.safetensors"
    converter.convert("torch->neutral", path, output, kind={"*": "embedding"})
    with safetensors.safe_open(output, "np") as file:
        document = json.loads(file.metadata()["converter"])
        written = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # a file is no mapping
    expected = equal_ones({name: tensor.contiguous().numpy() for name, tensor in state.items()})
    assert document["aliases"] == expected and len(expected) == 4
    for name, tensor in state.items():
        np.testing.assert_array_equal(written[document["aliases"].get(name, name)], tensor.numpy())
