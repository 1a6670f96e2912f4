"""Orbax, with orbax.checkpoint and flax.training.checkpoints as the oracles."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx, serialization
from flax.training import checkpoints

from converter.core.tensors import DTYPES
from converter.errors import ConversionError, FormatError, MissingLibraryError, OutputError, UnsafeFileError
from converter.formats import Contents, ReadOptions, by_name, open_reader, open_writer
from converter.formats.flax.orbax import FileReader
from converter.formats.flax.orbax_writer import UNKNOWN
from tests.formats.contract import FormatContract, random_array, same_bits, specs_of
from tests.formats.old_files import SAMPLES, expected_of

Arrays = dict[str, np.ndarray[Any, Any]]
KEPT = tuple(name for name in DTYPES if name not in UNKNOWN)


class TestContract(FormatContract):
    format = "orbax"
    file_name = "net.orbax"
    dtypes = KEPT
    names = ("params/hidden/kernel", "params/hidden/bias")
    containers = ("dict", "list")


def write(path: Path, tensors: Arrays, container: Any = "dict") -> Path:
    with open_writer(by_name("orbax"), path, Contents(specs_of(tensors), container)) as writer:
        for name in reversed(tensors):
            writer.write(name, tensors[name])
    return path


def read(path: Path, key: str | None = None) -> Arrays:
    _, reader = open_reader(path, ReadOptions(key=key))
    with reader:
        return {spec.name: reader.read(spec.name) for spec in reader.contents.specs}


def small() -> Arrays:
    return {"params/a/kernel": random_array((3, 4), "float32", 1), "params/a/bias": random_array((3,), "bfloat16", 2)}


def tree_of(tensors: Arrays) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for name, array in tensors.items():
        *parents, last = name.split("/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return root


def assert_same(tree: Any, tensors: Arrays) -> None:
    for name, array in tensors.items():
        found = tree
        for part in name.split("/"):
            found = found[part]
        assert same_bits(np.asarray(found), array), name


def test_orbax_and_flax_load_what_we_write(tmp_path: Path) -> None:
    tensors = small() | {"s": random_array((), "float32", 3), "e": random_array((0, 3), "float32")}
    path = write(tmp_path / "x.orbax", tensors)
    target = jax.tree.map(jnp.asarray, tree_of(tensors))
    assert_same(ocp.StandardCheckpointer().restore(path), tensors)
    assert_same(ocp.PyTreeCheckpointer().restore(path), tensors)
    assert_same(checkpoints.restore_checkpoint(path, None), tensors)
    assert_same(ocp.StandardCheckpointer().restore(path, target), tensors)
    assert_same(checkpoints.restore_checkpoint(path, target), tensors)
    write(tmp_path / "checkpoint_7", tensors)
    assert_same(checkpoints.restore_checkpoint(tmp_path, target), tensors)


def test_orbax_loads_every_dtype_we_write(tmp_path: Path) -> None:
    tensors = {name: random_array((2, 3), name, i) for i, name in enumerate(KEPT)}
    assert_same(ocp.StandardCheckpointer().restore(write(tmp_path / "x.orbax", tensors)), tensors)
    for name in UNKNOWN:
        with pytest.raises(OutputError, match="which Orbax cannot hold"):
            write(tmp_path / "y.orbax", {"w": random_array((2,), name)})


def test_orbax_loads_a_list(tmp_path: Path) -> None:
    arrays = [random_array((2, i + 1), "float32", i) for i in range(12)]
    back = ocp.StandardCheckpointer().restore(
        write(tmp_path / "x.orbax", {str(i): a for i, a in enumerate(arrays)}, "list")
    )
    assert isinstance(back, list) and all(same_bits(a, b) for a, b in zip(arrays, back, strict=True))


LIMITED = {
    "rows": random_array((50, 7), "float32", 1),
    "tall": random_array((1009, 3), "int16", 2),  # a prime number of rows
    "deep": random_array((2, 3, 400), "bfloat16", 3),
    "wide": random_array((300,), "complex128", 4),
    "bits": random_array((130, 5), "bool", 5),
    "scalar": random_array((), "float64", 6),
    "empty": random_array((0, 3), "float32"),
}


@pytest.mark.parametrize("limit", [100, 999, 6000])
def test_no_file_of_data_is_larger_than_asked(tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.orbax"
    with open_writer(by_name("orbax"), path, Contents(specs_of(LIMITED)), limit) as writer:
        for name in reversed(LIMITED):
            writer.write(name, np.array(LIMITED[name], order="F"))
    data = [file for file in path.glob("*/*") if file.name != ".zarray"]
    assert max(file.stat().st_size for file in data) <= limit
    most = sum(-(-array.nbytes // limit) for array in LIMITED.values())
    assert most <= len(data) <= 3 * most  # nor are there many more than that needs
    assert_same(ocp.StandardCheckpointer().restore(path), LIMITED)
    assert_same(ocp.PyTreeCheckpointer().restore(path), LIMITED)
    monkeypatch.setitem(__import__("sys").modules, "tensorstore", None)
    back = read(path)
    assert all(same_bits(back[name], array) for name, array in LIMITED.items())
    (path / "rows" / "1.0").unlink(missing_ok=True)
    if limit < 6000:
        with pytest.raises(FormatError, match="the data of 'rows' is missing"):
            read(path)


def test_limits_that_cannot_be(tmp_path: Path) -> None:
    specs = specs_of({"w": np.zeros(200_000, np.int8)})
    with pytest.raises(OutputError, match="'w' would be cut into 200000 files"):
        open_writer(by_name("orbax"), tmp_path / "x.orbax", Contents(specs), 1)
    with pytest.raises(OutputError, match="cannot be resumed"):
        open_writer(by_name("orbax"), tmp_path / "x.orbax", Contents(specs), 1000, "this work")
    assert not list(tmp_path.iterdir())


WRITERS: dict[str, Any] = {
    "standard": ocp.StandardCheckpointer,
    "pytree": ocp.PyTreeCheckpointer,
    "zarr2": lambda: ocp.PyTreeCheckpointer(use_ocdbt=False),
    "zarr3": lambda: ocp.PyTreeCheckpointer(use_ocdbt=False, use_zarr3=True),
    "ocdbt zarr3": lambda: ocp.PyTreeCheckpointer(use_zarr3=True),
}


def save(path: Path, tree: Any, how: str = "standard") -> Path:
    with WRITERS[how]() as checkpointer:
        checkpointer.save(path, tree)
    return path


@pytest.mark.parametrize("how", WRITERS)
def test_we_read_what_orbax_writes(tmp_path: Path, how: str) -> None:
    tensors = small() | {"zeros/w": np.zeros((40, 50), np.float32), "s": random_array((), "float32", 3)}
    for i, dtype in enumerate(("bool", "int8", "uint32", "float16", "complex64", "float8_e4m3fn", "float8_e5m2")):
        tensors[f"d/{dtype}"] = random_array((2, 3), dtype, i)
    tree = jax.tree.map(jnp.asarray, tree_of(tensors))
    tree |= {"l": [np.float32([1, 2]), (np.int8([3]),)], "none": None, "empty": {}, "n": 3}
    back = read(save(tmp_path / "x", tree, how))
    assert back.keys() == {*tensors, "l/0", "l/1/0", "n"}
    assert all(same_bits(back[name], tensors[name]) for name in tensors)
    assert back["n"] == 3 and back["n"].shape == ()
    with FileReader(tmp_path / "x") as reader:
        assert {line.name for line in reader.contents.left_out} == {"none", "empty"}


def test_nnx_states_keep_value_and_lose_their_random_numbers(tmp_path: Path) -> None:
    class Net(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.hidden = nnx.Linear(3, 2, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

    state = nnx.state(Net())
    path = save(tmp_path / "x", state)
    with FileReader(path) as reader:
        assert {spec.name for spec in reader.contents.specs} == {"hidden/kernel/value", "hidden/bias/value"}
        assert any("random numbers" in line.reason for line in reader.contents.left_out)
        assert same_bits(reader.read("hidden/kernel/value"), np.asarray(state["hidden"]["kernel"].get_value()))


def test_items_of_a_manager(tmp_path: Path) -> None:
    w = jnp.asarray(random_array((3, 2), "float32"))
    with ocp.CheckpointManager(tmp_path / "one") as manager:
        manager.save(5, args=ocp.args.StandardSave({"w": w}))
    with ocp.CheckpointManager(tmp_path / "many") as manager:
        items = {"params": {"w": w}, "opt_state": {"mu": w}, "batch_stats": {"m": w}}
        saves = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        manager.save(5, args=ocp.args.Composite(**saves, about=ocp.args.JsonSave({"a": 1})))
    assert list(read(tmp_path / "one" / "5")) == ["w"]
    path = tmp_path / "many" / "5"
    assert set(read(path)) == {"params/w", "batch_stats/m"}
    assert same_bits(read(path, key="params")["w"], np.asarray(w))
    with FileReader(path) as reader:
        reasons = {line.name: line.reason for line in reader.contents.left_out}
    assert reasons["opt_state"] == "the state of an optimizer"
    assert reasons["about"] == "an item that holds no arrays"


def edit(path: Path, **changes: Any) -> None:
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | changes))


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "terabytes": (
        {"shape": [1 << 40], "chunks": [1 << 40]},
        "'w' would take \\d+ bytes that the file does not store",
    ),
    "many chunks": ({"shape": [1 << 22], "chunks": [1]}, "claims .* chunks"),
    "large chunk": ({"chunks": [1 << 40]}, "'w' would take \\d+ bytes that the file does not store"),
    "overflow": ({"shape": [1 << 62], "chunks": [1]}, "impossible shape"),
    "no chunk": ({"chunks": [0]}, "the chunks"),
    "axes": ({"chunks": [3, 3]}, "the chunks"),
    "dtype": ({"dtype": "<O8"}, "unknown dtype"),
    "record": ({"dtype": [["a", "<f4"]]}, "unknown dtype"),
    "version": ({"zarr_format": 4}, "zarr_format 4"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_metadata_of_arrays(tmp_path: Path, case: str) -> None:
    path = save(tmp_path / "x", {"w": np.float32([1, 2, 3])}, "zarr2")
    changes, message = HOSTILE[case]
    edit(path / "w" / ".zarray", **changes)
    with pytest.raises(FormatError, match=message):
        read(path)


@pytest.mark.parametrize("key", ["../../secret", "/etc", "a/../../b", "..", ""])
def test_places_outside_of_the_checkpoint_are_refused(tmp_path: Path, key: str) -> None:
    path = write(tmp_path / "x.orbax", {"w": random_array((2,), "float32")})
    entry = {"key_metadata": [{"key": key, "key_type": 2}], "value_metadata": {"value_type": "np.ndarray"}}
    edit(path / "_METADATA", tree_metadata={"('w',)": entry})
    with pytest.raises(UnsafeFileError, match="outside of itself"):
        read(path)


def test_links_out_of_the_checkpoint_are_refused(tmp_path: Path) -> None:
    outside = write(tmp_path / "other.orbax", {"w": random_array((2,), "float32")})
    for how, victim in (("zarr2", "w/0"), ("zarr2", "w"), ("standard", "manifest.ocdbt")):
        path = tmp_path / "x"
        shutil.rmtree(path, ignore_errors=True)
        save(path, {"w": np.float32([1, 2])}, how)
        if (path / victim).is_dir():
            shutil.rmtree(path / victim)
            os.symlink(outside / "w", path / victim)
        else:
            (path / victim).unlink()
            os.symlink(outside / "w" / "0", path / victim)
        with pytest.raises(UnsafeFileError, match="leads out of"):
            read(path)


def test_names_that_orbax_cannot_hold(tmp_path: Path) -> None:
    for names in (("a.b/c", "a/b.c"), ("a", "a/b"), ("..",), ("_METADATA",), ("a//b",)):
        with pytest.raises(OutputError):
            write(tmp_path / "x.orbax", {name: np.zeros(2, np.float32) for name in names})
    with pytest.raises(OutputError, match="no bare tensor"):
        write(tmp_path / "x.orbax", {"0": np.zeros(2)}, "tensor")
    assert not list(tmp_path.iterdir())


def test_without_tensorstore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = save(tmp_path / "theirs", {"w": np.float32([1, 2])})
    ours = write(tmp_path / "x.orbax", small())
    monkeypatch.setitem(__import__("sys").modules, "tensorstore", None)
    assert read(ours).keys() == small().keys()
    with pytest.raises(MissingLibraryError, match=r"pip install 'weights-converter\[orbax\]'"):
        read(theirs)


@pytest.mark.parametrize("how", WRITERS)
def test_damaged_checkpoints_end_in_data_or_an_error(tmp_path: Path, how: str) -> None:
    whole, bad = save(tmp_path / "x", {"a": {"w": random_array((30, 20), "float32")}}, how), tmp_path / "bad"
    rng = random.Random(3)
    files = [file for file in sorted(whole.rglob("*")) if file.is_file()]
    refused = 0
    for _ in range(60):
        victim = rng.choice(files)
        data = bytearray(victim.read_bytes() or b"x")
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(whole, bad)
        (bad / victim.relative_to(whole)).write_bytes(data[: rng.choice([len(data), rng.randrange(len(data) + 1)])])
        try:
            read(bad)
        except ConversionError:
            refused += 1
    assert refused


SPLIT = sorted(path for path in (SAMPLES / "jax" / "orbax-0.12.8").iterdir() if path.is_dir())


@pytest.mark.parametrize("path", SPLIT, ids=lambda path: path.name)
def test_arrays_split_over_devices_and_processes(path: Path) -> None:
    back, expected = read(path), expected_of(path)
    assert len(SPLIT) == 10 and back.keys() == expected.keys()
    assert all(same_bits(back[name], array) for name, array in expected.items())


def test_a_missing_chunk_is_an_error(tmp_path: Path) -> None:
    for way, chunk in (("zarr2", "params.w/1.0"), ("zarr3", "params.w/c/1/0")):
        path = tmp_path / way
        shutil.copytree(SAMPLES / "jax" / "orbax-0.12.8" / f"devices-{way}", path)
        (path / chunk).unlink()
        with pytest.raises(FormatError, match="'params/w' cannot be read: 1 chunks are missing"):
            read(path)


def test_arrays_in_the_aggregate_file_of_old_orbax(tmp_path: Path) -> None:
    w, v = random_array((2, 3), "float32", 1), random_array((4,), "int8", 2)
    path = write(tmp_path / "old", {"a/w": w})
    (path / "_METADATA").unlink()
    tree = {"a": {"w": "PLACEHOLDER://a.w"}, "v": v, "n": None}
    (path / "checkpoint").write_bytes(serialization.msgpack_serialize(tree, in_place=True))
    back = read(path)
    assert same_bits(back["a/w"], w) and same_bits(back["v"], v) and back.keys() == {"a/w", "v"}
    for place in ("../old/a.w", "/etc", "a.w/../../x"):
        tree = {"a": {"w": "PLACEHOLDER://" + place}}
        (path / "checkpoint").write_bytes(serialization.msgpack_serialize(tree, in_place=True))
        with pytest.raises(UnsafeFileError, match="outside of itself"):
            read(path)


def test_databases_that_were_never_merged(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "jax" / "orbax-0.12.8" / "processes-ocdbt", tmp_path / "x")
    (tmp_path / "x" / "manifest.ocdbt").unlink()
    with pytest.raises(FormatError, match="never merged"):
        read(tmp_path / "x")


def test_pipes_and_links_in_circles_are_refused(tmp_path: Path) -> None:
    for how, victim in (("zarr2", "w/0"), ("standard", "manifest.ocdbt")):
        path = save(tmp_path / how.replace(" ", ""), {"w": np.float32([1, 2])}, how)
        (path / victim).unlink()
        os.mkfifo(path / victim)
        with pytest.raises(FormatError):
            read(path)
        (path / victim).unlink()
        os.symlink(path / victim, path / victim)
        with pytest.raises(FormatError):
            read(path)
