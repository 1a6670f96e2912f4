"""NumPy files and plain pickles of every framework's arrays, with the frameworks as the oracle."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
import torch
from hypothesis import given
from hypothesis import strategies as st

import converter.mxnet_numpy2  # noqa: F401  # before mxnet

import mxnet as mx  # isort: skip

from converter.errors import ConversionError, FormatError, OutputError, UnsafeFileError
from converter.formats import Contents, by_name, open_reader, open_writer
from converter.formats.numpy import npy_header
from tests.formats.contract import FormatContract, random_array, same_bits, specs_of
from tests.formats.old_files import assert_reads_as_expected, sample_files

Arrays = dict[str, np.ndarray[Any, Any]]
NUMPY = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128".split()
SMALL = "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu int4 uint4".split()


class TestDict(FormatContract):
    format = "npy"
    file_name = "net.npy"
    dtypes = (*NUMPY, "bfloat16", *SMALL)
    containers: ClassVar[tuple[str, ...]] = ("dict", "list", "tensor")


class TestOneArray(FormatContract):
    """The suite again, on a list of two arrays of one shape: `np.save` stacks them into one array."""

    format = "npy"
    file_name = "net.npy"
    dtypes = (*NUMPY, "bfloat16")
    names = ("0", "1")

    def write(self, folder: Path, tensors: Any, container: str = "list") -> Path:
        return super().write(folder, tensors, "list" if container == "dict" else container)

    def small(self) -> Arrays:
        return {name: random_array((3, 2), "float32", seed) for seed, name in enumerate(self.names)}

    def read(self, path: Path) -> Arrays:
        found = super().read(path)
        stacked = found["0"]
        if list(found) == ["0"] and stacked.ndim > 1 and len(stacked) == 2:
            return {"0": stacked[0], "1": stacked[1]}
        return found

    def test_arrays_are_read_only_and_outlive_the_reader(self, tmp_path: Path) -> None:
        _, reader = open_reader(self.write(tmp_path, self.small()))
        with reader:
            assert reader.contents.container == "tensor" and reader.contents.specs[0].shape == (2, 3, 2)
            assert not reader.read("0").flags.writeable

    def test_containers_and_order_come_back(self, tmp_path: Path) -> None:
        arrays = {str(index): random_array((2, 3), "float32", index) for index in range(12)}
        _, reader = open_reader(self.write(tmp_path, arrays))
        with reader:
            assert reader.contents.container == "tensor"
            assert same_bits(reader.read("0"), np.stack(list(arrays.values())))

    def test_a_failed_write_leaves_the_old_file_and_nothing_new(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, self.small())
        before = path.read_bytes()
        with pytest.raises(RuntimeError, match="stop here"):
            with open_writer(by_name("npy"), path, Contents(specs_of(self.small()), container="list")) as writer:
                writer.write("0", self.small()["0"])
                raise RuntimeError("stop here")
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def write(path: Path, tensors: Arrays, container: str = "dict") -> Path:
    with open_writer(by_name("npy"), path, Contents(specs_of(tensors), container=container)) as writer:  # type: ignore[arg-type]
        for name in reversed(tensors):
            writer.write(name, tensors[name])
    return path


def read(path: Path, row: str = "npy") -> Arrays:
    found, reader = open_reader(path)
    assert found.name == row
    with reader:
        return {spec.name: reader.read(spec.name) for spec in reader.contents.specs}


def same(found: Arrays, expected: Arrays) -> bool:
    return list(found) == list(expected) and all(same_bits(found[name], expected[name]) for name in expected)


X, Y = random_array((3, 4), "float32", 1), random_array((2, 2), "int32", 2)
#: framework -> how it makes a tensor of an array
TENSORS: dict[str, Any] = {
    "numpy": np.array,
    "tensorflow": tf.constant,
    "variable": tf.Variable,
    "jax": jnp.asarray,
    "torch": torch.from_numpy,
    "mxnet": lambda a: mx.nd.array(a, dtype=a.dtype),
    "mxnet np": lambda a: mx.np.array(a, dtype=a.dtype),
}


@pytest.mark.parametrize("dtype", NUMPY)
def test_numpy_writes_what_we_write(tmp_path: Path, dtype: str) -> None:
    for shape in ((), (0,), (5,), (3, 4), (1, 2, 3)):
        array = random_array(shape, dtype)
        np.save(tmp_path / "theirs.npy", array)
        assert same(read(tmp_path / "theirs.npy"), {"0": array})
        ours = write(tmp_path / "ours.npy", {"0": array}, "tensor")
        assert same_bits(np.load(ours), array)
        assert ours.read_bytes() == (tmp_path / "theirs.npy").read_bytes()


def test_other_orders_of_bytes_and_axes(tmp_path: Path) -> None:
    for array in (X.astype(">f4"), np.asfortranarray(X), np.asfortranarray(X.astype(">f4")), X[::2, ::-1]):
        for version in ((1, 0), (2, 0), (3, 0)):
            with (tmp_path / "x.npy").open("wb") as file:
                np.lib.format.write_array(file, array, version)
            assert same(read(tmp_path / "x.npy"), {"0": np.ascontiguousarray(array, "float32")})
    (tmp_path / "x.npy").write_bytes(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3L, 4L), }", X.tobytes()))
    assert same(read(tmp_path / "x.npy"), {"0": X})


def npy(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + data


@pytest.mark.parametrize("framework", [name for name in TENSORS if "mxnet" not in name])
def test_a_tensor_and_a_list_of_each_framework(tmp_path: Path, framework: str) -> None:
    tensor = TENSORS[framework]
    np.save(tmp_path / "one.npy", tensor(X))
    assert same(read(tmp_path / "one.npy"), {"0": X})
    np.save(tmp_path / "list.npy", [tensor(X), tensor(2 * X)])
    assert same(read(tmp_path / "list.npy"), {"0": np.stack([X, 2 * X])})


@pytest.mark.parametrize("framework", TENSORS)
def test_a_dict_of_each_framework(tmp_path: Path, framework: str) -> None:
    tensor = TENSORS[framework]
    expected = {"x": X, "nested/y": Y, "nested/deep/0": X}
    value = {"x": tensor(X), "nested": {"y": tensor(Y), "deep": [tensor(X)]}}
    np.save(tmp_path / "dict.npy", value)  # type: ignore[arg-type]
    assert same(read(tmp_path / "dict.npy"), expected)
    for protocol in range(2 if "mxnet" not in framework else 3, 6):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol))
        assert same(read(tmp_path / "x.pkl", "pickle"), expected)


def test_bfloat16_of_jax_and_tensorflow(tmp_path: Path) -> None:
    half = random_array((3, 4), "bfloat16")
    jnp.save(tmp_path / "one.npy", jnp.asarray(half))
    assert same(read(tmp_path / "one.npy"), {"0": half})
    np.save(tmp_path / "dict.npy", {"j": jnp.asarray(half), "t": tf.constant(half)})  # type: ignore[arg-type]
    assert same(read(tmp_path / "dict.npy"), {"j": half, "t": half})
    ours = write(tmp_path / "ours.npy", {"0": half}, "tensor")
    assert same_bits(np.load(ours).view(ml_dtypes.bfloat16), half)
    assert ours.read_bytes()[128:] == half.tobytes()


def test_numpy_loads_our_dict_and_list_with_its_own_arrays(tmp_path: Path) -> None:
    arrays = {f"net/{name}": random_array((2, 3), name, i) for i, name in enumerate((*NUMPY, "bfloat16", *SMALL))}
    arrays |= {"scalar": np.array(1.5), "empty": np.zeros((0, 2)), "slašh": X}
    loaded = np.load(write(tmp_path / "x.npy", arrays), allow_pickle=True).item()
    flat = {f"net/{name}": array for name, array in loaded.pop("net").items()} | loaded
    assert all(type(array) is np.ndarray for array in flat.values()) and same(flat, arrays)
    ragged = np.load(write(tmp_path / "x.npy", {"0": X, "1": Y}, "list"), allow_pickle=True)
    assert ragged.shape == (2,) and same_bits(ragged[0], X) and same_bits(ragged[1], Y)
    assert same(read(tmp_path / "x.npy"), {"0": X, "1": Y})
    stacked = np.load(write(tmp_path / "x.npy", {"0": X, "1": 2 * X}, "list"))
    assert same_bits(stacked, np.stack([X, 2 * X]))


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"'0' is float8_e4m3fn, which an \.npy cannot name.*\.safetensors"):
        write(tmp_path / "x.npy", {"0": random_array((2,), "float8_e4m3fn")}, "tensor")
    for names in (("a", "a/b"), ("a/b", "a")):
        with pytest.raises(OutputError, match="Rename one of them"):
            write(tmp_path / "x.npy", dict.fromkeys(names, X))
    with pytest.raises(OutputError, match="nested more than 100 deep"):
        write(tmp_path / "x.npy", {"/".join("a" * 5000): X})
    assert not list(tmp_path.iterdir())


def test_training_state_and_other_things_are_left_out(tmp_path: Path) -> None:
    value = {
        "params": {"linear": {"w": X}},
        "opt_state": [X, {"mu": X}],
        "step": 3,
        "name": "net",
        "rng": jax.random.PRNGKey(0),
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value))
    _, reader = open_reader(tmp_path / "x.pkl")
    with reader:
        assert [spec.name for spec in reader.contents.specs] == ["params/linear/w"]
        assert {left.name for left in reader.contents.left_out} == {"opt_state", "step", "name", "rng"}


def test_the_containers_of_a_pickle(tmp_path: Path) -> None:
    for value, container in (
        (X, "tensor"),
        ([X, Y], "list"),
        ((X,), "list"),
        ({"x": X}, "dict"),
        ([X, {"y": Y}], "dict"),
    ):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(value))
        _, reader = open_reader(tmp_path / "x.pkl")
        assert reader.contents.container == container


@pytest.mark.parametrize(
    "path", [p for p in sample_files("numpy") if p.suffix != ".npz"], ids=lambda p: f"{p.parent.name}-{p.name}"
)
def test_files_of_old_releases(path: Path) -> None:
    assert_reads_as_expected(path, "npy" if path.suffix == ".npy" else "pickle")


def test_several_arrays_in_one_file_are_a_list(tmp_path: Path) -> None:
    arrays = {"0": X, "1": np.array(2.5), "2": random_array((3,), "bfloat16"), "3": np.zeros((0, 2)), "4": np.arange(5)}
    with (tmp_path / "x.eqx").open("wb") as file:
        for array in arrays.values():
            jnp.save(file, array) if array.dtype == ml_dtypes.bfloat16 else np.save(file, array)
    assert same(read(tmp_path / "x.eqx"), arrays)
    data = (tmp_path / "x.eqx").read_bytes()
    for broken in (
        data[:-1],
        data + b"x",
        data + npy_header.MAGIC,
        data + npy_header.build((), "|O") + pickle.dumps(X),
    ):
        (tmp_path / "x.eqx").write_bytes(broken)
        with pytest.raises(FormatError, match=r"x\.eqx: "):
            read(tmp_path / "x.eqx")


class Evil:
    def __init__(self, call: Any, *args: Any) -> None:
        self.reduced = (call, args)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "call", [(os.system, "touch PWNED"), (eval, "open('PWNED', 'w')"), (np.load, "x"), (open, "PWNED", "w")]
)
def test_hostile_pickles_are_refused_and_create_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, call: tuple[Any, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = pickle.dumps({"x": X, "evil": Evil(*call)}, protocol)
    for name, data in (("x.pkl", evil), ("x.npy", npy_header.build((), "|O") + evil)):
        Path(name).write_bytes(data)
        with pytest.raises((UnsafeFileError, FormatError), match=r"x\.(pkl|npy): "):
            read(Path(name))
        Path(name).unlink()
    assert not list(tmp_path.iterdir())


DAMAGED = {
    "terabytes": (
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"),
        "needs 4398046511104 bytes",
    ),
    "overflow": (
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }"),
        "impossible shape",
    ),
    "negative": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"), "impossible shape"),
    "axes": (npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(1,) * 65}, }}"), "claims 65 axes"),
    "shape": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': [3], }"), r"has the shape \[3\]"),
    "bool": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (True,), }"), "has the shape"),
    "order": (npy("{'descr': '<f4', 'fortran_order': 0, 'shape': (3,), }"), "the order 0"),
    "keys": (npy("{'descr': '<f4', 'shape': (3,), }"), "must give descr, fortran_order and shape"),
    "code": (npy("__import__('os').system('touch PWNED')"), "is damaged"),
    "deep": (npy("(" * 9000), "is damaged"),
    "long": (b"\x93NUMPY\2\0" + struct.pack("<I", 1 << 30), "needs 1073741836 bytes"),
    "version": (b"\x93NUMPY\x09\0" + bytes(100), "does not start as a NumPy array"),
    "text": (
        npy("{'descr': '<U5', 'fortran_order': False, 'shape': (), }", bytes(20)),
        "the elements at byte 0 are text",
    ),
    "records": (npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (), }", bytes(4)), "are records"),
    "wide": (
        npy("{'descr': '<f16', 'fortran_order': False, 'shape': (), }", bytes(16)),
        "wider than those of any framework",
    ),
    "unclear": (npy("{'descr': '<V1', 'fortran_order': False, 'shape': (), }", bytes(1)), "does not say of which"),
    "unknown": (npy("{'descr': 'zz', 'fortran_order': False, 'shape': (), }", bytes(1)), "unknown type 'zz'"),
    "trailing": (
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", bytes(5)),
        "needs 4 bytes; 5 are in the file",
    ),
    "no arrays": (
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (), }", pickle.dumps({"a": "b"})),
        "holds no numeric arrays",
    ),
    "after the pickle": (
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (), }", pickle.dumps({"a": X}) + b"x"),
        "goes on for 1",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    data, message = DAMAGED[case]
    Path("x.npy").write_bytes(data)
    with pytest.raises(FormatError, match=message):
        read(Path("x.npy"))
    assert [file.name for file in tmp_path.iterdir()] == ["x.npy"]


@given(st.data())
def test_any_header_ends_in_data_or_a_format_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.npy"
    codes = st.sampled_from(["<f4", ">f8", "|b1", "|O", "<V2", "V1", "<U3", "i4", "?", "<c32", "|i0"])
    fields = {
        "descr": codes,
        "fortran_order": st.booleans(),
        "shape": st.lists(st.integers(-1, 1 << 70) | st.integers(0, 3)).map(tuple),
    }
    text = data.draw(st.one_of(st.fixed_dictionaries(fields).map(repr), st.text(max_size=40)))
    path.write_bytes(npy(text, data.draw(st.binary(max_size=40))))
    try:
        read_any(path)
    except ConversionError as error:
        assert str(error).startswith(str(path))


@given(st.data())
def test_any_damaged_pickle_ends_in_data_or_a_format_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.pkl"
    raw = bytearray(data.draw(st.sampled_from(PICKLES)))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(2, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(2, len(raw)))] if data.draw(st.booleans()) else raw)
    try:
        read_any(path)
    except ConversionError as error:
        assert str(error).startswith(str(path))


PICKLES = [
    pickle.dumps({"x": make(X), "y": [make(Y)]}, protocol) for make in TENSORS.values() for protocol in (2, 4, 5)
]


def read_any(path: Path) -> None:
    _, reader = open_reader(path)
    with reader:
        for spec in reader.contents.specs:
            assert reader.read(spec.name).shape == spec.shape
