"""GPT-2's Conv1D, whose matrix runs the other way in PyTorch and in Flax, beside square layers and embeddings."""

from __future__ import annotations

from pathlib import Path

import flax.serialization
import numpy as np
import pytest
import torch

import converter
from tests.command import ok, refused

RNG = np.random.default_rng(0)
#: As PyTorch stores it; Flax stores both matrices of Conv1D turned.
STATE = {
    "wte.weight": RNG.standard_normal((11, 4), dtype="float32"),
    "wpe.weight": RNG.standard_normal((4, 4), dtype="float32"),
    "h.0.c_fc.weight": RNG.standard_normal((4, 9), dtype="float32"),
    "h.0.c_fc.bias": RNG.standard_normal(9, dtype="float32"),
    "h.0.c_proj.weight": RNG.standard_normal((5, 5), dtype="float32"),
    "h.0.c_proj.bias": RNG.standard_normal(5, dtype="float32"),
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    torch.save({name: torch.tensor(value) for name, value in STATE.items()}, tmp_path / "net.pt")
    tree = {
        "wte": {"embedding": STATE["wte.weight"]},
        "wpe": {"embedding": STATE["wpe.weight"]},
        "h": {
            "0": {
                part: {"kernel": STATE[f"h.0.{part}.weight"].T, "bias": STATE[f"h.0.{part}.bias"]}
                for part in ("c_fc", "c_proj")
            }
        },
    }
    (tmp_path / "net.msgpack").write_bytes(flax.serialization.msgpack_serialize(tree))
    return {"torch": tmp_path / "net.pt", "flax": tmp_path / "net.msgpack"}


@pytest.mark.parametrize("form", ["linear_in_out", "linear_out_in"])
@pytest.mark.parametrize(("source", "target"), [("torch", "flax"), ("flax", "torch")])
def test_one_pattern_tells_it_of_both_nets_and_leaves_the_embeddings(
    files: dict[str, Path], source: str, target: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / f"out{files[target].suffix}"
    command = [f"{source}->{target}", files[source], "--like", files[target], "-o", output]
    assert "'h.0.c_proj'" in refused(capsys, *command, "--strict")
    ok(capsys, *command, "--kind", f"*={form}")
    made, wanted = converter.read(output), converter.read(files[target])
    assert made.keys() == wanted.keys()
    assert all(np.array_equal(made[name], wanted[name]) for name in wanted)
