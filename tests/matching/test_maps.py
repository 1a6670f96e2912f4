"""What an entry of ``map`` leaves open: a module that the clone has in part, and a layer that two of the clone take."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import converter
from converter.errors import MatchError
from tests.parity.sides import Array


def file(path: Path, names: Iterable[str]) -> dict[str, Array]:
    tensors = {f"{name}.weight": np.full((6, 4), number, np.float32) for number, name in enumerate(names, 1)}
    save_file(tensors, path)
    return tensors


def test_a_module_that_the_clone_has_in_part(tmp_path: Path) -> None:
    ours = file(tmp_path / "a.safetensors", [f"m.{i}.{name}" for i in range(2) for name in ("fc", "out")])
    file(tmp_path / "b.safetensors", [f"n.{i}.{name}" for i in range(2) for name in ("fc", "last")])
    source, clone = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    converter.convert("torch->torch", source, tmp_path / "m.safetensors", like=clone, map={"m": "n"})
    with converter.open(tmp_path / "m.safetensors") as made:
        for name, value in made.items():
            given = name.replace("n.", "m.", 1).replace("last", "out")
            np.testing.assert_array_equal(value, ours[given])
    with pytest.raises(MatchError, match="is not in the clone"):
        converter.plan(source, like=clone, map={"m": "other"})
    with pytest.raises(MatchError, match="is not in the clone"):
        converter.plan(source, like=clone, map={"m.0.out": "n.0.out"})


def test_a_tied_file_into_a_clone_that_is_not(tmp_path: Path) -> None:
    ours = file(tmp_path / "a.safetensors", ["emb"])
    file(tmp_path / "b.safetensors", ["emb", "out"])
    source, clone = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    with pytest.raises(MatchError, match=r"map=\{'emb': 'out'\}"):
        converter.plan(source, like=clone)
    converter.convert("torch->torch", source, tmp_path / "m.safetensors", like=clone, map={"emb": "out"})
    with converter.open(tmp_path / "m.safetensors") as made:
        np.testing.assert_array_equal(made["emb.weight"], ours["emb.weight"])
        np.testing.assert_array_equal(made["out.weight"], ours["emb.weight"])
