"""Shards of safetensors with an index, with the hub's own library form as the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from converter.errors import ConversionError, FormatError, OutputError, UnsafeFileError
from converter.formats import Contents, open_reader
from converter.formats.safetensors.sharded import FileReader, FileWriter
from tests.formats.contract import FormatContract, random_array, same_bits, specs_of

Arrays = dict[str, np.ndarray[Any, Any]]
INDEX = "model.safetensors.index.json"


class TestContract(FormatContract):
    format = "safetensors-sharded"
    file_name = INDEX
    dtypes = ("float32", "bfloat16", "int64", "bool")


def write(folder: Path, tensors: Arrays, limit: int) -> Path:
    with FileWriter(folder / INDEX, Contents(specs_of(tensors), metadata={"format": "pt"}), limit) as writer:
        for name in reversed(tensors):
            writer.write(name, tensors[name])
    return folder / INDEX


def read(path: Path) -> Arrays:
    row, reader = open_reader(path)
    assert row.name == "safetensors-sharded"
    with reader:
        return {spec.name: reader.read(spec.name) for spec in reader.contents.specs}


def test_what_is_packed_is_written_whole(tmp_path: Path) -> None:
    tensors = {"packed": random_array((2, 8), "float4_e2m1fn", 0), "plain": random_array((2, 8), "float32", 1)}
    writer = FileWriter(tmp_path / INDEX, Contents(specs_of(tensors), metadata={"format": "pt"}), 1 << 20)
    assert [writer.takes_joined(name) for name in tensors] == [False, True]
    writer.abort()


ARRAYS = {f"layer.{i}": random_array((i + 1, 10), "float32", i) for i in range(6)}  # 40, 80, ... 240 bytes


def test_shards_hold_no_more_than_asked_and_torch_loads_them(tmp_path: Path) -> None:
    index = json.loads(write(tmp_path, ARRAYS, 250).read_text())
    assert index["metadata"]["total_size"] == 40 * 21 and list(index["weight_map"]) == list(ARRAYS)
    shards = sorted(set(index["weight_map"].values()))
    assert shards[0] == "model-00001-of-00004.safetensors" and len(shards) == 4
    loaded: dict[str, torch.Tensor] = {}
    for shard in shards:
        part = load_file(tmp_path / shard)
        assert len(part) == 1 or sum(tensor.nbytes for tensor in part.values()) <= 250
        loaded |= part
    assert all(loaded[name].numpy().tobytes() == array.tobytes() for name, array in ARRAYS.items())
    for path in (tmp_path, tmp_path / INDEX):
        back = read(path)
        assert list(back) == list(ARRAYS) and all(same_bits(back[name], ARRAYS[name]) for name in ARRAYS)
    with FileReader(tmp_path) as reader:
        assert reader.contents.metadata == {"format": "pt"}


def test_shards_of_torch_and_tensors_beside_the_index(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3), "stray": torch.ones(1)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(2, 2, dtype=torch.bfloat16)}, tmp_path / "two.safetensors")
    index(tmp_path, {"b": "two.safetensors", "a": "one.safetensors"})
    with FileReader(tmp_path) as reader:
        assert [spec.name for spec in reader.contents.specs] == ["b", "a"]
        assert [(left.name, left.reason) for left in reader.contents.left_out] == [
            ("stray", "in 'one.safetensors', but not in the index")
        ]
        assert reader.read("a").tolist() == [1, 1, 1]


def index(folder: Path, weight_map: object) -> Path:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return folder / INDEX


def test_hostile_and_broken_sets_are_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "set", tmp_path / "outside.safetensors"
    inside.mkdir()
    save_file({"a": torch.ones(3)}, outside)
    save_file({"a": torch.ones(3)}, inside / "real.safetensors")
    (inside / "link.safetensors").symlink_to(outside)
    (inside / "loop.safetensors").symlink_to(inside / "loop.safetensors")
    (inside / "folder").mkdir()
    for name in ("../outside.safetensors", str(outside), "..", "", "a\0b"):
        with pytest.raises(UnsafeFileError, match=INDEX):
            read(index(inside, {"a": name}))
    with pytest.raises(UnsafeFileError, match=r"link\.safetensors: a link that leads out of the folder"):
        read(index(inside, {"a": "link.safetensors"}))
    for name in ("missing.safetensors", "loop.safetensors", "folder"):
        with pytest.raises(FormatError, match=name):
            read(index(inside, {"a": name}))
    for weight_map in ([], {"a": 1}, None, "x"):
        with pytest.raises(FormatError, match="'weight_map' must map tensors to file names"):
            read(index(inside, weight_map))
    with pytest.raises(FormatError, match=r"says that 'b' is in 'real.safetensors', which does not hold it"):
        read(index(inside, {"b": "real.safetensors"}))
    (inside / INDEX).write_text('{"weight_map": ' + "[" * 100_000)
    with pytest.raises(FormatError, match="is not JSON"):
        read(inside / INDEX)


def test_the_cache_of_the_hub_is_read_through_its_links(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "revision"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save_file({"a": torch.ones(3)}, blobs / "123")
    (snapshot / "model-1.safetensors").symlink_to("../../blobs/123")
    assert read(index(snapshot, {"a": "model-1.safetensors"}))["a"].tolist() == [1, 1, 1]


def test_a_failure_leaves_no_shard_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="never written"):
        with FileWriter(tmp_path / INDEX, Contents(specs_of(ARRAYS)), 250) as writer:
            writer.write("layer.0", ARRAYS["layer.0"])
    with pytest.raises(OutputError, match="which safetensors cannot hold"):
        write(tmp_path, {**ARRAYS, "c": np.zeros(2, "complex128")}, 250)
    with pytest.raises(OutputError, match="must end in"):
        FileWriter(tmp_path / "x.json", Contents(()))
    assert not list(tmp_path.iterdir())


@given(
    st.dictionaries(
        st.text(max_size=3),
        st.sampled_from(["real.safetensors", "..", "x", "real.safetensors\0", "./real.safetensors"]),
        max_size=3,
    )
)
def test_any_index_ends_in_data_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, weight_map: dict[str, str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz_shards"
    folder.mkdir(exist_ok=True)
    save_file({"a": torch.ones(3)}, folder / "real.safetensors")
    try:
        found = read(index(folder, weight_map))
    except ConversionError:
        return
    assert set(found) <= {"a"}
