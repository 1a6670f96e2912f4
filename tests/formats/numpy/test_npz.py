"""NumPy archives, and MXNet 2's, with NumPy as the oracle."""

from __future__ import annotations

import collections
import io
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from converter.errors import ConversionError, FormatError, OutputError
from converter.formats import Contents, ReadOptions, by_name, open_reader, open_writer
from converter.formats.numpy import npy_header, npz
from converter.formats.zip.members import ZipMembers
from tests.formats.contract import FormatContract, random_array, same_bits, specs_of
from tests.formats.old_files import assert_reads_as_expected, sample_files

Arrays = dict[str, np.ndarray[Any, Any]]
NUMPY = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128".split()


class TestContract(FormatContract):
    format = "npz"
    file_name = "net.npz"
    dtypes = (*NUMPY, "bfloat16")


class TestMxnet2(FormatContract):
    format = "mxnet2"
    file_name = "net.params"
    dtypes = tuple(NUMPY)


def write(path: Path, tensors: Arrays, row: str = "npz", container: str = "dict") -> Path:
    with open_writer(by_name(row), path, Contents(specs_of(tensors), container=container)) as writer:  # type: ignore[arg-type]
        for name in reversed(tensors):
            writer.write(name, tensors[name])
    return path


def read(path: Path, row: str = "npz", **options: Any) -> Arrays:
    found, reader = open_reader(path, ReadOptions(**options))
    assert found.name == row
    with reader:
        return {spec.name: reader.read(spec.name) for spec in reader.contents.specs}


def same(found: Arrays, expected: Arrays) -> bool:
    return list(found) == list(expected) and all(same_bits(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_numpy_writes_and_we_read(tmp_path: Path, save: Any) -> None:
    arrays = {f"net/{name}": random_array((7, 300), name, i) for i, name in enumerate(NUMPY)}
    arrays |= {
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3)),
        "fortran": np.asfortranarray(random_array((4, 5), "float64")),
    }
    arrays["big"] = random_array((3, 4), "float32").astype(">f4")
    save(tmp_path / "x.npz", **arrays)
    expected = {name: np.ascontiguousarray(a, a.dtype.newbyteorder("=")).reshape(a.shape) for name, a in arrays.items()}
    assert same(read(tmp_path / "x.npz"), expected)


def test_numpy_loads_what_we_write(tmp_path: Path) -> None:
    arrays = {f"net/{name}": random_array((7, 30), name, i) for i, name in enumerate(NUMPY)}
    arrays |= {"scalar": np.array(2.5), "empty": np.zeros((0, 3)), "слой": np.arange(3.0)}
    path = write(tmp_path / "x.npz", arrays)
    with np.load(path) as loaded:
        assert same({name: loaded[name] for name in loaded.files}, arrays)
    assert zipfile.ZipFile(path).testzip() is None
    write(path, {"0": np.arange(3), "1": np.ones((2, 2))}, container="list")
    assert np.load(path).files == ["arr_0", "arr_1"]


def test_jax_and_bfloat16(tmp_path: Path) -> None:
    half = random_array((2, 3), "bfloat16")
    jnp.savez(tmp_path / "x.npz", jnp.asarray(half), w=jnp.ones(3))
    assert same(read(tmp_path / "x.npz"), {"w": np.ones(3, "float32"), "arr_0": half})
    with np.load(write(tmp_path / "y.npz", {"h": half})) as loaded:
        assert same_bits(loaded["h"].view(ml_dtypes.bfloat16), half)


def test_arrays_are_mapped_and_aligned_and_the_rest_is_not_touched(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", {"a": random_array((3,), "uint8"), "b": random_array((600, 600), "float64")})
    data = bytearray(path.read_bytes())
    place = data.index(b"b.npy") - 30
    assert (place + 30 + 5 + int.from_bytes(data[place + 28 : place + 30], "little") + 128) % 64 == 0
    _, reader = open_reader(path)
    with reader:
        assert reader.read("b").base is not None and reader.read("b").flags.aligned


def test_a_wrong_crc_is_found_unless_told_not_to_look(tmp_path: Path) -> None:
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", w=np.arange(10.0))
        data = bytearray((tmp_path / "x.npz").read_bytes())
        for place in (data.index(b"PK\x03\x04") + 14, data.index(b"PK\x01\x02") + 16):
            data[place] ^= 1
        (tmp_path / "x.npz").write_bytes(data)
        with pytest.raises(FormatError, match="its CRC is"):
            read(tmp_path / "x.npz")
        assert same(read(tmp_path / "x.npz", checksums=False), {"w": np.arange(10.0)})


def test_pickled_members_are_read_as_data(tmp_path: Path) -> None:
    params = {"linear": {"w": np.ones((2, 2)), "b": np.zeros(2)}}
    np.savez(tmp_path / "x.npz", params=np.array(params, object), step=np.array(7))
    found = read(tmp_path / "x.npz")
    assert same(found, {"params/linear/w": np.ones((2, 2)), "params/linear/b": np.zeros(2), "step": np.array(7)})


def test_texts_are_left_out_and_unnamed_types_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", w=np.ones(2), note=np.array("a text"))
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("README", "no array")
    _, reader = open_reader(tmp_path / "x.npz")
    with reader:
        assert [spec.name for spec in reader.contents.specs] == ["w"]
        assert [(left.name, left.reason) for left in reader.contents.left_out] == [
            ("README", "not an array"),
            ("note", "its elements are text"),
        ]
    np.savez(tmp_path / "x.npz", w=np.ones(2, ml_dtypes.float8_e4m3fn))
    with pytest.raises(FormatError, match="'w' are of an 8-bit or 4-bit type of ml_dtypes, and the file does not say"):
        read(tmp_path / "x.npz")
    with pytest.raises(OutputError, match=r"'w' is float8_e4m3fn, which this format has no name for.*\.safetensors"):
        write(tmp_path / "y.npz", {"w": np.ones(2, ml_dtypes.float8_e4m3fn)})


def test_scipy_csr_comes_out_dense(tmp_path: Path) -> None:
    dense = np.random.default_rng(0).integers(0, 3, (6, 5)).astype("float32")
    for compressed in (True, False):
        scipy.sparse.save_npz(tmp_path / "x.npz", scipy.sparse.csr_matrix(dense), compressed=compressed)
        assert same(read(tmp_path / "x.npz"), {"0": dense})


def mxnet_member(descr: str, shape: tuple[int, ...], data: bytes) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape!r}, }}"
    text += " " * (64 - (10 + len(text) + 1) % 64) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text.encode() + data


def mxnet_archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name.replace("__", "/") + ".npy")
            archive.writestr(info, data)
    data = path.read_bytes()  # libzip leaves the dates zero
    for sign, at in ((b"PK\x03\x04", 12), (b"PK\x01\x02", 14)):
        place = data.find(sign)
        while place >= 0:
            data = data[: place + at] + b"\0\0" + data[place + at + 2 :]
            place = data.find(sign, place + 4)
    path.write_bytes(data)
    return path


def test_mxnet_2_sparse_arrays_and_bfloat16(tmp_path: Path) -> None:
    half = np.array([1, -2], ml_dtypes.bfloat16)
    broken = "'|s10{'descr': '<i8', 'fortran_order': False, 'shape': (), }"  # what MXNet 2 really writes
    text = lambda name: mxnet_member(broken, (), name)[:-64] + b"\n" + name  # noqa: E731
    i8 = lambda *values: mxnet_member("'<i8'", (len(values),), struct.pack(f"<{len(values)}q", *values))  # noqa: E731
    f4 = lambda shape, *values: mxnet_member("'<f4'", shape, struct.pack(f"<{len(values)}f", *values))  # noqa: E731
    path = mxnet_archive(
        tmp_path / "x.params",
        half=mxnet_member("[('bfloat16', '<u2')]", (2,), half.tobytes()),
        c__data=f4((3,), 1, 2, 3),
        c__indptr=i8(0, 2, 2, 3),
        c__indices=i8(0, 2, 1),
        c__shape=i8(3, 3),
        c__format=text(b"csr"),
        r__data=f4((1, 2), 4, 5),
        r__indices=i8(1),
        r__shape=i8(3, 2),
        r__format=text(b"row_sparse"),
        w=f4((), 7),
    )
    found = read(path, "mxnet2")
    assert list(found) == ["half", "c", "r", "w"] and same_bits(found["half"], half)
    assert found["c"].tolist() == [[1, 0, 2], [0, 0, 0], [0, 3, 0]] and found["r"].tolist() == [[0, 0], [4, 5], [0, 0]]
    with pytest.raises(OutputError, match="'half' is bfloat16"):
        write(tmp_path / "y.params", {"half": half}, "mxnet2")


@pytest.mark.parametrize(
    "path", [p for p in sample_files("mxnet") if p.read_bytes()[:2] == b"PK"], ids=lambda p: p.name
)
def test_files_of_mxnet_2(path: Path) -> None:
    assert_reads_as_expected(path, "mxnet2")
    _, reader = open_reader(path)
    with reader:
        assert reader.contents.writer == "MXNet 2"


@pytest.mark.parametrize(
    "path", [p for p in sample_files("numpy") if p.suffix == ".npz"], ids=lambda p: f"{p.parent.name}"
)
def test_files_of_old_releases(path: Path) -> None:
    assert_reads_as_expected(path, "npz")


def npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def archive(path: Path, *members: tuple[str, bytes], packed: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def test_a_truncated_archive_is_named_as_such(tmp_path: Path) -> None:
    data = write(tmp_path / "x.npz", {"w": np.arange(9.0)}).read_bytes()
    (tmp_path / "x.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(FormatError, match="not a whole zip archive"):
        read(tmp_path / "x.npz")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_archives_are_refused(tmp_path: Path) -> None:
    good, path = npy(np.arange(3.0)), tmp_path / "x.npz"
    cases: list[tuple[list[tuple[str, bytes]], bool, str]] = [
        ([("../../a.npy", good)], False, "outside of it"),
        ([("/etc/a.npy", good)], False, "outside of it"),
        ([("a.npy", good), ("a.npy", good)], False, "twice"),
        ([("a.npy", good[:-1])], False, "needs 24 bytes; 23"),
        ([("a.npy", good + b"x")], True, "needs 24 bytes; 25"),
        ([("a.npy", b"\x93NUMPY\1\0" + bytes(100))], False, "header of 'a.npy' is damaged"),
        ([("a.npy", b"")], False, "does not start as a NumPy array"),
    ]
    for members, packed, message in cases:
        archive(path, *members, packed=packed)
        with pytest.raises(FormatError, match=message):
            read(path)


def test_a_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    claimed = npy(np.zeros(4, "uint8")).replace(b"(4,), }" + b" " * 12, b"(4294967296,), }   ")
    archive(tmp_path / "x.npz", ("a.npy", claimed), packed=True)
    with pytest.raises(FormatError, match="needs 4294967296 bytes"):
        read(tmp_path / "x.npz")
    archive(tmp_path / "x.npz", ("a.npy", npy(np.zeros(200 << 20, "uint8"))), packed=True)
    with pytest.raises(FormatError, match="would unpack"):
        read(tmp_path / "x.npz")


def test_weights_that_are_nearly_all_zeros_are_no_bomb(tmp_path: Path) -> None:
    """Deflate makes 1000 bytes of one of them."""
    pruned = np.zeros((1000, 10_000), "float32")
    pruned[::100, ::1000] = np.random.default_rng(3).standard_normal((10, 10), "float32")
    np.savez_compressed(tmp_path / "x.npz", pruned=pruned, fortran=pruned.T, zeros=np.zeros_like(pruned))
    assert (tmp_path / "x.npz").stat().st_size < 3 * pruned.nbytes / 500
    back = read(tmp_path / "x.npz")
    assert same_bits(back["pruned"], pruned) and same_bits(back["fortran"], pruned.T) and not back["zeros"].any()


def test_the_largest_that_a_small_file_unpacks_stays_below_500_mb(tmp_path: Path) -> None:
    array = np.zeros((1 << 10, 30 << 10), "float32")  # 120 MB, about as much as is allowed
    np.savez_compressed(tmp_path / "x.npz", a=array.T, b=array.T)
    code = """
import sys
from pathlib import Path
from converter.formats import open_reader
_, reader = open_reader(Path(sys.argv[1]))
for spec in reader.contents.specs:
    array = reader.read(spec.name)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.npz")], capture_output=True, check=True)
    assert 200_000 < int(done.stdout) < 500_000


def test_more_may_unpack_out_of_a_larger_file(tmp_path: Path) -> None:
    archive(tmp_path / "x.npz", ("a.npy", npy(np.zeros(140 << 20, "uint8"))), packed=True)
    with pytest.raises(FormatError, match="would unpack"):
        read(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as file:
        file.writestr("b.npy", npy(random_array((10 << 20,), "uint8")))
    assert read(tmp_path / "x.npz")["a"].shape == (140 << 20,)


def test_a_packed_model_is_read_as_ordinary_ones_are(tmp_path: Path) -> None:
    """Deflate takes a tenth of random weights, and half of those that were rounded."""
    weights = {"large": random_array((3000, 1000), "float32"), "b": np.round(random_array((500, 500), "float32"), 2)}
    np.savez_compressed(tmp_path / "x.npz", **weights)
    assert all(same_bits(read(tmp_path / "x.npz")[name], array) for name, array in weights.items())


class Wrapped:
    """Its pickle calls the class with the list, as that of TensorFlow's ``ListWrapper`` does."""

    def __init__(self, items: object) -> None:
        self.items = items

    def __reduce__(self) -> object:
        return Wrapped, (self.items,)


Pair = collections.namedtuple("Pair", "kernel bias")


def test_what_an_object_array_holds_is_read_and_listed_as_in_an_npy(tmp_path: Path) -> None:
    w, b = random_array((3, 2), "float32", 1), random_array((2,), "float32", 2)
    value = {"list": Wrapped([w, b]), "pair": Pair(w, b), "text": "hello", "set": {1.5}, "opt_state": {"m": w}}
    np.save(tmp_path / "x.npy", np.array(value, object))
    np.savez(tmp_path / "x.npz", net=np.array(value, object), words=np.array(["a", None], object), plain=w)
    with open_reader(tmp_path / "x.npy")[1] as alone, open_reader(tmp_path / "x.npz")[1] as inside:
        names = [spec.name for spec in alone.contents.specs]
        assert names == ["list/0", "list/1", "pair/0", "pair/1"]
        assert [spec.name for spec in inside.contents.specs] == [f"net/{name}" for name in names] + ["plain"]
        assert all(same_bits(inside.read(f"net/{name}"), alone.read(name)) for name in names)
        listed = {(f"net/{item.name}", item.reason) for item in alone.contents.left_out}
        assert {name for name, _ in listed} == {"net/text", "net/set", "net/opt_state"}
        rest = {(item.name, item.reason) for item in inside.contents.left_out} - listed
        assert {name for name, _ in rest} == {"words/0", "words/1"}


@pytest.mark.parametrize(
    ("change", "message"),
    [(-1, "does not unpack to"), (1, "does not unpack to"), (5 << 20, "would unpack")],  # the last no deflate can reach
)
def test_a_member_that_unpacks_to_another_size_is_refused(tmp_path: Path, change: int, message: str) -> None:
    array = np.zeros(30 << 20, "uint8")
    archive(tmp_path / "x.npz", ("a.npy", npy(array)), packed=True)
    data = (tmp_path / "x.npz").read_bytes()
    at = data.index(b"PK\x01\x02") + 24
    size = int.from_bytes(data[at : at + 4], "little")
    (tmp_path / "x.npz").write_bytes(data[:at] + (size + change).to_bytes(4, "little") + data[at + 4 :])
    members = ZipMembers(tmp_path / "x.npz")
    with pytest.raises(FormatError, match=message):
        members.array("a.npy", 0, 1)
    members.close()


def test_a_packed_pickle_may_not_grow_as_data_may(tmp_path: Path) -> None:
    header = npy_header.build((), "|O")
    archive(tmp_path / "x.npz", ("a.npy", header + b"\x80\x02" + b"]0" * (20 << 20) + b"N."), packed=True)
    with pytest.raises(FormatError, match="bytes that the file does not store"):
        read(tmp_path / "x.npz")


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    good = npy(np.arange(300.0))
    archive(tmp_path / "x.npz", ("a.npy", good), ("b.npy", good))
    data = (tmp_path / "x.npz").read_bytes()
    first, second = data.index(b"PK\x01\x02"), data.rindex(b"PK\x01\x02")
    (tmp_path / "x.npz").write_bytes(data[: second + 42] + data[first + 42 : first + 46] + data[second + 46 :])
    with pytest.raises(FormatError, match=r"reaches into|another name|Overlap"):
        read(tmp_path / "x.npz")


@given(st.data())
def test_any_member_ends_in_data_or_a_format_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.npz"
    names = st.sampled_from(
        ["a", "b", "data", "shape", "indices", "indptr", "format", "f/data", "f/shape", "f/indices", "f/format"]
    )
    arrays = st.sampled_from(
        [npy(np.arange(3)), npy(np.ones((2, 2), "f4")), npy(np.array("csr")), npy(np.array(b"row_sparse"))]
    )
    members = data.draw(st.dictionaries(names, st.one_of(arrays, st.binary(max_size=30)), min_size=1, max_size=6))
    archive(path, *((name + ".npy", body) for name, body in members.items()), packed=data.draw(st.booleans()))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 2))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        with npz.FileReader(path) as reader:
            for spec in reader.contents.specs:
                assert reader.read(spec.name).shape == spec.shape
    except ConversionError as error:
        assert str(error).startswith(str(path))
