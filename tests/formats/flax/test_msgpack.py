"""Flax msgpack, with flax.serialization as the oracle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import flax.core
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from flax import serialization
from hypothesis import given
from hypothesis import strategies as st

import converter.formats.flax.msgpack_writer as module
from converter.core.tensors import DTYPES
from converter.errors import ConversionError, FormatError, OutputError
from converter.formats import Contents, ReadOptions, by_name, detect, open_reader, open_writer
from converter.formats.flax.msgpack import FileReader
from tests.formats.contract import FormatContract, random_array, same_bits, specs_of
from tests.formats.old_files import assert_reads_as_expected, sample_files

Arrays = dict[str, np.ndarray[Any, Any]]


class TestContract(FormatContract):
    format = "flax-msgpack"
    file_name = "net.msgpack"
    dtypes = tuple(DTYPES)
    names = ("params/hidden/kernel", "params/hidden/bias")
    containers = ("dict", "list", "tensor")


def write(path: Path, tensors: Arrays, container: Any = "dict") -> Path:
    with open_writer(by_name("flax-msgpack"), path, Contents(specs_of(tensors), container)) as writer:
        for name in reversed(tensors):
            writer.write(name, tensors[name])
    return path


def read(path: Path, key: str | None = None) -> Arrays:
    _, reader = open_reader(path, ReadOptions(key=key))
    with reader:
        return {spec.name: reader.read(spec.name) for spec in reader.contents.specs}


def save(path: Path, tree: Any) -> Path:
    path.write_bytes(serialization.to_bytes(tree))
    return path


def nested(tensors: Arrays) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for name, array in tensors.items():
        *parents, last = name.split("/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return root


def some_arrays() -> Arrays:
    shapes = [(), (0,), (0, 3), (3,), (2, 3, 4), (70000,), (300, 2), (1, 1), (16,), (2,)]
    found: Arrays = {}
    for i, dtype in enumerate(DTYPES):
        for j, shape in enumerate(shapes):
            found[f"z{i % 5}/{dtype}/s{j}"] = random_array(shape, dtype, i * 10 + j)
    return found


def test_the_bytes_are_those_of_flax(tmp_path: Path) -> None:
    tensors = some_arrays()
    ours = write(tmp_path / "x.msgpack", tensors).read_bytes()
    assert ours == serialization.msgpack_serialize(nested(tensors), in_place=True)
    one = random_array((2,), "float32", 1)
    wide = {f"k{i}": one for i in range(70_000)}
    ours = write(tmp_path / "x.msgpack", wide).read_bytes()
    assert ours == serialization.msgpack_serialize(dict(wide), in_place=True)


def test_a_list_and_a_bare_array_are_those_of_flax(tmp_path: Path) -> None:
    arrays = [random_array((i, 2), "float32", i) for i in range(20)]
    numbered = {str(i): array for i, array in enumerate(arrays)}
    assert write(tmp_path / "l", numbered, "list").read_bytes() == serialization.msgpack_serialize(arrays)
    assert write(tmp_path / "t", {"0": arrays[3]}, "tensor").read_bytes() == serialization.msgpack_serialize(arrays[3])


def test_flax_loads_what_we_write(tmp_path: Path) -> None:
    tensors = {name: array for name, array in some_arrays().items() if "4" not in name.split("/")[1][-4:]}
    back = serialization.msgpack_restore(write(tmp_path / "x.msgpack", tensors).read_bytes())
    for name, array in tensors.items():
        found = back
        for part in name.split("/"):
            found = found[part]
        assert same_bits(np.asarray(found), array), name
    target = {"params": {"hidden": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}}}
    ours = {
        "params/hidden/kernel": random_array((2, 3), "float32"),
        "params/hidden/bias": random_array((3,), "float32"),
    }
    loaded = serialization.from_bytes(target, write(tmp_path / "y.msgpack", ours).read_bytes())
    assert same_bits(np.asarray(loaded["params"]["hidden"]["kernel"]), ours["params/hidden/kernel"])


def test_we_read_what_flax_writes(tmp_path: Path) -> None:
    tensors = some_arrays()
    back = read(save(tmp_path / "x.msgpack", nested(tensors)))
    assert list(back) == sorted(back, key=lambda name: list(tensors).index(name)) or back.keys() == tensors.keys()
    assert all(same_bits(back[name], tensors[name]) for name in tensors)


def test_frozen_dicts_lists_tuples_and_scalars(tmp_path: Path) -> None:
    w = random_array((2, 3), "float32")
    tree = flax.core.freeze({"params": {"l": [w, (w + 1,)], "s": np.float32(2.5)}, "n": 3, "c": 1 + 2j, "x": None})
    path = save(tmp_path / "x.msgpack", tree)
    back = read(path)
    assert set(back) == {"params/l/0", "params/l/1/0", "params/s"}
    assert same_bits(back["params/s"], np.array(2.5, np.float32))
    with FileReader(path) as reader:
        assert {line.name: line.reason for line in reader.contents.left_out} == {
            "n": "the Python number 3",
            "c": "the Python number (1+2j)",
            "x": "None",
        }


@pytest.mark.parametrize("shape", [(33, 7), (40,), (5, 5, 5)])
def test_chunked_arrays(tmp_path: Path, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 100)
    monkeypatch.setattr(module, "MAX_CHUNK_SIZE", 100)
    tensors = {
        "a/big": random_array(shape, "float32"),
        "a/small": random_array((3,), "int8"),
        "b": random_array((60,), "bfloat16"),
    }
    path = write(tmp_path / "x.msgpack", tensors)
    assert path.read_bytes() == serialization.msgpack_serialize(nested(tensors), in_place=True)
    back = read(path)
    assert list(back) == list(tensors) and all(same_bits(back[name], tensors[name]) for name in tensors)
    bare = write(tmp_path / "bare.msgpack", {"0": tensors["a/big"]}, "tensor")
    assert bare.read_bytes() == serialization.msgpack_serialize(tensors["a/big"])
    with FileReader(bare) as reader:
        assert reader.contents.container == "tensor" and same_bits(reader.read("0"), tensors["a/big"])


def test_training_states(tmp_path: Path) -> None:
    w = random_array((2,), "float32")
    tree = {"step": np.int32(5), "params": {"w": w}, "opt_state": [{"mu": {"w": w}}, {}], "ema_params": {"w": w}}
    path = save(tmp_path / "x.msgpack", tree)
    assert list(read(path)) == ["params/w"]
    with FileReader(path) as reader:
        reasons = {line.name: line.reason for line in reader.contents.left_out}
    assert reasons["opt_state"] == "the state of an optimizer" and reasons["step"] == "the training step"
    assert "--key ema_params" in reasons["ema_params"] and len(reasons) == 3
    assert same_bits(read(path, key="ema_params")["w"], w)
    assert list(read(path, key="opt_state")) == ["0/mu/w"]
    with FileReader(path, ReadOptions(key="params/w")) as reader:
        assert reader.contents.container == "tensor" and same_bits(reader.read("0"), w)
    with pytest.raises(FormatError, match="holds nothing under 'nope'; at its top are step, params"):
        read(path, key="nope")
    old = save(tmp_path / "old.msgpack", {"target": {"w": w}, "state": {"step": 3, "param_states": {"w": w}}})
    assert list(read(old)) == ["target/w"]
    nnx = {
        "d": {"rngs": {"key": {"value": w}, "count": {"value": w[0]}}},
        "r": {"key": {"value": w}, "count": {"value": w[0]}},
    }
    assert list(read(save(tmp_path / "nnx.msgpack", nnx | {"l": {"kernel": {"value": w}}}))) == ["l/kernel/value"]


def test_samples_of_old_releases() -> None:
    for path in sample_files("jax"):
        if path.suffix == ".msgpack":
            assert_reads_as_expected(path, "flax-msgpack")


def test_a_name_that_is_tensor_and_container_is_refused(tmp_path: Path) -> None:
    for names in (("a", "a/b"), ("a/b", "a")):
        with pytest.raises(OutputError, match="tensor"):
            write(tmp_path / "x.msgpack", {name: np.zeros(2) for name in names})
    assert not list(tmp_path.iterdir())


def packed(shape: Any, dtype: Any = "float32", data: bytes = bytes(8)) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


DAMAGED: dict[str, tuple[Any, str]] = {
    "size": (packed([3]), "needs 12 bytes; 8 are announced"),
    "overflow": (packed([1 << 62, 1 << 62]), "impossible shape"),
    "hidden overflow": (packed([0, 1 << 62, 1 << 62], data=b""), "impossible shape"),
    "axes": (packed([1] * 99), "claims 99 axes"),
    "negative": (packed([-2]), "impossible shape"),
    "dtype": (packed([2], "float31"), "unknown dtype 'float31'"),
    "long dtype": (packed([2], "f" * 1000), "unknown dtype"),
    "tuple": (msgpack.ExtType(1, msgpack.packb([1, 2])), "not a packed"),
    "shape kind": (packed("ab"), "a msgpack str, expected array"),
    "float axis": (packed([2.0]), "a msgpack float, expected int"),
    "no chunks": ({module.CHUNKED: True, "shape": {"0": 2}, "chunks": {}}, "no chunks"),
    "chunk sizes": ({module.CHUNKED: True, "shape": {"0": 3}, "chunks": {"0": packed([2])}}, "do not fill"),
    "chunk shape": ({module.CHUNKED: True, "shape": {"0": "x"}, "chunks": {"0": packed([2])}}, "not whole numbers"),
    "twice": ({1: packed([2]), "1": packed([2])}, "occurs twice"),
    "twice by a slash": ({"a": {"b": packed([2])}, "a/b": packed([2])}, "occurs twice"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_arrays_are_refused(tmp_path: Path, case: str) -> None:
    value, message = DAMAGED[case]
    path = tmp_path / "x.msgpack"
    path.write_bytes(msgpack.packb({"w": packed([2]), "x": value}))
    with pytest.raises(FormatError, match=message):
        open_reader(path)


def test_a_slash_inside_of_a_key_stays_there(tmp_path: Path) -> None:
    """As flax.linen.WeightNorm has it."""
    tree = {"params": {"norm": {"fc/kernel/scale": np.arange(3.0)}, "norm/fc": {"kernel": np.arange(2.0)}}}
    path = tmp_path / "x.msgpack"
    path.write_bytes(serialization.msgpack_serialize(tree))
    form, reader = open_reader(path)
    with reader:
        names = [spec.name for spec in reader.contents.specs]
        assert names == ["params/norm/fc/kernel/scale", "params/norm/fc/kernel"]
        with open_writer(form, tmp_path / "y.msgpack", reader.contents) as writer:
            for name in names:
                writer.write(name, reader.read(name))
    assert (tmp_path / "y.msgpack").read_bytes() == path.read_bytes()


def test_bombs_are_refused(tmp_path: Path) -> None:
    bombs = {
        "deep": b"\x81\xa1a" * 100_000 + b"\xc0",
        "wide": b"\xdf" + b"\xff" * 4 + b"\xa1a\xc0",
        "long": b"\x81\xa1a\xc6\xff\xff\xff\xff",
        "nils": b"\xdd\x00\x10\x00\x00" + b"\xc0" * (1 << 20),
        "names": msgpack.packb({"k" * 4000: {str(i): 0 for i in range(100_000)}}),
        "trailing": serialization.to_bytes({"a": np.zeros(2)}) + b"x",
    }
    for name, data in bombs.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(FormatError):
            FileReader(path)


def test_other_files_are_not_taken_for_it(tmp_path: Path) -> None:
    for data in (
        b"\x80\x02}q\x00.",
        b"\x89PNG\r\n\x1a\n",
        b"\x93NUMPY\x01\x00",
        b"\x81\xa1a",
        b"\x90",
        b"\x80",
        b"\xc0",
    ):
        path = tmp_path / "x"
        path.write_bytes(data + bytes(30))
        with pytest.raises(FormatError):
            assert detect(path).name != "flax-msgpack"
            raise FormatError(path, "another format")


def calls_to_list(path: Path, count: int) -> int:
    """How many functions are called to open a file of so many tensors."""
    write(path, {f"params/layer_{i}/kernel": np.zeros((2, 3), np.float32) for i in range(count)})
    calls = 0

    def counted(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(counted)
    try:
        with FileReader(path) as reader:
            assert len(reader.contents.specs) == count
    finally:
        sys.setprofile(None)
    return calls


def test_the_work_of_listing_grows_with_the_number_of_tensors(tmp_path: Path) -> None:
    """Not with its square."""
    assert calls_to_list(tmp_path / "many.msgpack", 2000) < 2.2 * calls_to_list(tmp_path / "few.msgpack", 1000)


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=3), st.binary(max_size=3)
)
exts = st.builds(msgpack.ExtType, st.integers(0, 3), st.binary(max_size=12))
arrays = st.builds(
    packed, st.lists(st.integers(-1, 1 << 40), max_size=3), st.sampled_from([*DTYPES, "x"]), st.binary(max_size=9)
)
keys = st.sampled_from(["a", "0", "1", "shape", "chunks", module.CHUNKED, "params", "opt_state"])
trees = st.recursive(
    st.one_of(leaves, exts, arrays),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=8,
)


@given(st.one_of(trees.map(msgpack.packb), st.binary(max_size=60)), st.binary(max_size=2), st.integers(0, 200))
def test_any_bytes_end_in_data_or_a_format_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, tail: bytes, cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.msgpack"
    path.write_bytes((data + tail)[:cut] if cut < 40 else data)
    try:
        reader = FileReader(path)
    except ConversionError:
        return
    with reader:
        for spec in reader.contents.specs:
            array = reader.read(spec.name)
            assert array.shape == spec.shape and array.dtype == spec.dtype
