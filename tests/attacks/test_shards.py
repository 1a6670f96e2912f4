"""Checkpoints of many files, of which each is harmless and all together are not: they share one budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.attacks.handmade import memo, recall, tensor, text, torch_zip
from tests.attacks.limits import harmless, refused

TOO_MUCH = "bytes that the file does not store, after"
#: Tensors without elements: a name in the file, and in memory all that belongs to a tensor.
EACH, FEW, MANY = 25_000, 1, 6


def _safetensors(path: Path, names: list[str]) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps(dict.fromkeys(names, entry)).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def _torch(path: Path, names: list[str]) -> None:
    shared = tensor("0", 0, (0,), (1,)) + memo(0) + b"0"
    torch_zip(path, shared + b"}(" + b"".join(text(name) + recall(0) for name in names) + b"u", {"0": b""})


Write = Callable[[Path, list[str]], None]
KINDS: Mapping[str, tuple[str, Write]] = {
    "safetensors": ("model.safetensors.index.json", _safetensors),
    "torch": ("pytorch_model.bin.index.json", _torch),
}


def _checkpoint(folder: Path, kind: str, shards: int) -> Path:
    index, write = KINDS[kind]
    extension = index.removesuffix(".index.json").rpartition(".")[2]
    weight_map = {}
    for shard in range(shards):
        names = [f"layer{shard}.{number}" for number in range(EACH)]
        file = f"model-{shard + 1:05}-of-{shards:05}.{extension}"
        write(folder / file, names)
        weight_map |= dict.fromkeys(names, file)
    (folder / index).write_text(json.dumps({"weight_map": weight_map}))
    return folder / index


@pytest.mark.parametrize("kind", KINDS)
def test_shards_share_one_budget(tmp_path: Path, kind: str) -> None:
    path = _checkpoint(tmp_path, kind, MANY)
    assert TOO_MUCH in refused("inspect", path, cwd=tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_one_such_shard_is_read(tmp_path: Path, kind: str) -> None:
    harmless("inspect", _checkpoint(tmp_path, kind, FEW), "--json", cwd=tmp_path, code=0)


def test_files_of_one_run_of_many_share_one_budget(tmp_path: Path) -> None:
    """Shards without an index, as PyTorch writes distributed safetensors."""
    for shard in range(MANY):
        _safetensors(
            tmp_path / f"shard-{shard + 1:05}-model-00001-of-00001.safetensors", [f"{shard}.{n}" for n in range(EACH)]
        )
    assert TOO_MUCH in refused("inspect", tmp_path, cwd=tmp_path)
