"""MXNet ``.params``, with MXNet 1.9.1 as the oracle."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import converter.mxnet_numpy2  # noqa: F401  # before mxnet

import mxnet as mx  # isort: skip
from mxnet import gluon, npx  # isort: skip

from converter.commands.convert import convert
from converter.errors import ConversionError, FormatError, OutputError
from converter.formats import Contents, by_name, open_reader, open_writer
from converter.formats.mxnet import record as mxnet_record
from converter.formats.mxnet.params import FileReader
from tests.formats.contract import FormatContract, random_array, same_bits, specs_of
from tests.formats.old_files import assert_reads_as_expected, sample_files

Arrays = dict[str, np.ndarray[Any, Any]]


class TestContract(FormatContract):
    format = "mxnet"
    file_name = "net.params"
    dtypes = ("float32", "float64", "float16", "bfloat16", "uint8", "int8", "int32", "int64", "bool")
    containers = ("tensor", "list", "dict")


@pytest.fixture(params=[False, True], ids=["legacy", "np"])
def np_mode(request: pytest.FixtureRequest) -> Iterator[bool]:
    if request.param:
        npx.set_np()
    yield request.param
    npx.reset_np()


def write(path: Path, tensors: Arrays, container: str = "dict") -> Path:
    with open_writer(by_name("mxnet"), path, Contents(specs_of(tensors), container=container)) as writer:  # type: ignore[arg-type]
        for name, array in tensors.items():
            writer.write(name, array)
    return path


def read(path: Path) -> tuple[str, Arrays]:
    row, reader = open_reader(path)
    assert row.name == "mxnet"
    with reader:
        return reader.contents.container, {spec.name: reader.read(spec.name) for spec in reader.contents.specs}


def net(prefix: str | None = None) -> gluon.nn.HybridSequential:
    made = gluon.nn.HybridSequential(prefix=prefix)
    with made.name_scope():
        made.add(gluon.nn.Dense(5, in_units=4), gluon.nn.BatchNorm(in_channels=5), gluon.nn.Dense(2, in_units=5))
    made.initialize(mx.init.Normal(1.0))
    return made


def parameters(block: gluon.Block) -> Arrays:
    return {name: value.data().asnumpy() for name, value in block._collect_params_with_prefix().items()}


def random_like(arrays: Arrays) -> Arrays:
    return {
        name: np.random.default_rng(i).standard_normal(a.shape).astype(a.dtype)
        for i, (name, a) in enumerate(arrays.items())
    }


def test_gluon_saves_and_we_read(tmp_path: Path, np_mode: bool) -> None:
    block = net()
    block.save_parameters(str(tmp_path / "x.params"))
    container, found = read(tmp_path / "x.params")
    assert container == "dict" and list(found) == list(parameters(block))
    assert all(same_bits(found[name], array) for name, array in parameters(block).items())


def test_we_write_and_gluon_loads_strictly(tmp_path: Path, np_mode: bool) -> None:
    block = net()
    values = random_like(parameters(block))
    block.load_parameters(str(write(tmp_path / "x.params", values)))
    assert all(same_bits(array, values[name]) for name, array in parameters(block).items())


def test_the_file_is_the_one_that_gluon_writes(tmp_path: Path) -> None:
    block = net()
    block.save_parameters(str(tmp_path / "theirs.params"))
    ours = write(tmp_path / "ours.params", parameters(block))
    assert ours.read_bytes() == (tmp_path / "theirs.params").read_bytes()


def test_npx_files_are_the_ones_that_mxnet_writes_and_loads(tmp_path: Path) -> None:
    npx.set_np()
    try:
        x, y = random_array((3, 4), "float32", 1), random_array((2,), "float32", 2)
        theirs, ours = tmp_path / "theirs", tmp_path / "ours"
        cases: list[tuple[Any, Arrays, str]] = [
            (mx.np.array(x), {"0": x}, "tensor"),
            ([mx.np.array(x), mx.np.array(y)], {"0": x, "1": y}, "list"),
            ({"x": mx.np.array(x), "y": mx.np.array(y)}, {"x": x, "y": y}, "dict"),
            (
                {"s": mx.np.array(3.5), "e": mx.np.zeros((0, 3))},
                {"s": np.array(3.5, "f"), "e": np.zeros((0, 3), "f")},
                "dict",
            ),
        ]
        for value, arrays, container in cases:
            npx.save(str(theirs), value)
            found_container, found = read(theirs)
            assert found_container == container and found.keys() == arrays.keys()
            assert all(same_bits(found[name], array) for name, array in arrays.items())
            write(ours, arrays, container)
            assert ours.read_bytes() == theirs.read_bytes()
            loaded = npx.load(str(ours))
            items = loaded if isinstance(loaded, list) else [loaded[name] for name in arrays]
            assert all(same_bits(a.asnumpy(), b) for a, b in zip(items, arrays.values(), strict=True))
    finally:
        npx.reset_np()


def test_mx_nd_save_and_every_dtype_of_mxnet(tmp_path: Path) -> None:
    dtypes = ("float32", "float64", "float16", "uint8", "int8", "int32", "int64", "bool")
    arrays = {f"net.{name}": random_array((3, 5), name, i) for i, name in enumerate(dtypes)}
    mx.nd.save(str(tmp_path / "theirs"), {name: mx.nd.array(a, dtype=a.dtype) for name, a in arrays.items()})
    _, found = read(tmp_path / "theirs")
    assert found.keys() == arrays.keys()
    # nd.array passes halves through float32, which quiets signalling NaNs: compare with what MXNet then holds
    held = {name: value.asnumpy() for name, value in mx.nd.load(str(tmp_path / "theirs")).items()}
    assert all(same_bits(found[name], held[name]) for name in arrays)
    loaded = mx.nd.load(str(write(tmp_path / "ours", arrays)))
    assert all(same_bits(loaded[name].asnumpy(), array) for name, array in arrays.items())


def test_bfloat16(tmp_path: Path, np_mode: bool) -> None:
    array = np.arange(-6, 6).reshape(3, 4).astype(ml_dtypes.bfloat16)
    path = write(tmp_path / "x.params", {"x" if np_mode else "a.x": array})
    loaded = next(iter((npx.load if np_mode else mx.nd.load)(str(path)).values()))
    assert same_bits(loaded.astype("float32").asnumpy(), array.astype("float32"))


def test_sparse_arrays_come_out_dense(tmp_path: Path) -> None:
    dense = np.zeros((6, 4), "float32")
    dense[[1, 2, 5]] = random_array((3, 4), "float32")
    dense = np.nan_to_num(dense)
    dense[2, 1] = 0
    rows = mx.nd.array(dense).tostype("row_sparse")
    csr = mx.nd.array(dense).tostype("csr")
    cube = mx.nd.array(np.repeat(dense[:, :, None], 2, 2)).tostype("row_sparse")
    mx.nd.save(str(tmp_path / "x"), {"rows": rows, "csr": csr, "cube": cube, "dense": mx.nd.array(dense)})
    _, found = read(tmp_path / "x")
    assert list(found) == ["rows", "csr", "cube", "dense"]
    assert all(np.array_equal(found[name], dense) for name in ("rows", "csr", "dense"))
    assert np.array_equal(found["cube"], np.repeat(dense[:, :, None], 2, 2))
    assert not found["csr"].flags.writeable and not found["rows"].flags.writeable


def test_sparse_arrays_that_were_not_computed_yet_when_their_shape_was_written(tmp_path: Path) -> None:
    """`mx.nd.save` waits for an array after it wrote the shape of the stored part: too many rows, or none."""
    values = np.arange(1, 7, dtype="float32").reshape(2, 3)
    late = []
    for first in (0, 3):
        record = bytearray(rows((3, 3), [0, 2], values))
        record[12:20] = struct.pack("<q", first)
        late.append(bytes(record))
    record = bytearray(csr((2, 3), [0, 1, 3], [1, 0, 2], [5, 6, 7]))
    record[12:20] = bytes(8)
    path = tmp_path / "x"
    path.write_bytes(file_of(*late, bytes(record)))
    _, found = read(path)
    assert [array.tolist() for array in found.values()] == [array.asnumpy().tolist() for array in mx.nd.load(str(path))]
    assert found["0"].tolist() == found["1"].tolist() == [[1, 2, 3], [0, 0, 0], [4, 5, 6]]
    dense = mx.nd.array(random_array((40, 30), "int8"))
    for _ in range(20):
        mx.nd.save(str(path), {"csr": dense.tostype("csr"), "rows": dense.tostype("row_sparse")})
        _, found = read(path)
        assert all(np.array_equal(array, dense.asnumpy()) for array in found.values())


def test_prefixed_names_and_exported_graphs(tmp_path: Path) -> None:
    block = net("net0_")
    block.collect_params().save(str(tmp_path / "prefixed.params"))
    _, found = read(tmp_path / "prefixed.params")
    assert set(found) == set(block.collect_params().keys()) and "net0_dense0_weight" in found
    values = random_like(found)
    block.collect_params().load(str(write(tmp_path / "ours.params", values)))
    assert all(same_bits(p.data().asnumpy(), values[name]) for name, p in block.collect_params().items())

    block.hybridize()
    x = mx.nd.array(np.random.default_rng(0).standard_normal((3, 4)).astype("float32"))
    block(x)
    block.export(str(tmp_path / "graph"))
    _, found = read(tmp_path / "graph-0000.params")
    assert {name.partition(":")[0] for name in found} == {"arg", "aux"}
    clone = gluon.SymbolBlock.imports(
        str(tmp_path / "graph-symbol.json"), ["data"], str(write(tmp_path / "g.params", found))
    )
    assert same_bits(clone(x).asnumpy(), block(x).asnumpy())


def test_arrays_without_a_shape_are_left_out(tmp_path: Path) -> None:
    records = (
        struct.pack("<Iii", mxnet_record.V2, 0, 0) + struct.pack("<Iii", mxnet_record.V3, 0, -1) + struct.pack("<I", 0)
    )
    (tmp_path / "x").write_bytes(struct.pack("<QQQ", 0x112, 0, 3) + records + struct.pack("<Q", 0))
    with FileReader(tmp_path / "x") as reader:
        assert reader.contents.specs == () and [left.name for left in reader.contents.left_out] == ["0", "1", "2"]


def test_what_mxnet_cannot_load_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="'w' is uint16, which MXNet cannot load"):
        write(tmp_path / "x", {"w": np.zeros(2, "uint16")})
    assert not list(tmp_path.iterdir())


BINARY = [path for path in sample_files("mxnet") if path.read_bytes()[:2] != b"PK"]


@pytest.mark.parametrize("path", BINARY, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_files_of_old_releases(path: Path) -> None:
    assert_reads_as_expected(path, "mxnet")


def file_of(*records: bytes, names: bytes = b"\0" * 8, count: int | None = None) -> bytes:
    return struct.pack("<QQQ", 0x112, 0, len(records) if count is None else count) + b"".join(records) + names


def csr(shape: tuple[int, ...], starts: list[int], columns: list[int], values: list[float]) -> bytes:
    head = struct.pack("<Iiiq", mxnet_record.V2, 2, 1, len(values)) + struct.pack(
        f"<i{len(shape)}q", len(shape), *shape
    )
    head += struct.pack("<iii", 1, 0, 0)
    head += b"".join(struct.pack("<iiq", 6, 1, len(index)) for index in (starts, columns))
    return head + np.array(values, "<f4").tobytes() + np.array([*starts, *columns], "<i8").tobytes()


def rows(shape: tuple[int, ...], where: list[int], values: np.ndarray[Any, Any]) -> bytes:
    head = struct.pack(f"<Iii{values.ndim}q", mxnet_record.V2, 1, values.ndim, *values.shape)
    head += struct.pack(f"<i{len(shape)}q", len(shape), *shape) + struct.pack("<iii", 1, 0, 0)
    head += struct.pack("<iiq", 6, 1, len(where))
    return head + values.astype("<f4").tobytes() + np.array(where, "<i8").tobytes()


GOOD = mxnet_record.header((2,), np.dtype("float32"), mxnet_record.V2) + bytes(8)
DAMAGED: dict[str, tuple[bytes, str]] = {
    "reserved": (struct.pack("<QQQ", 0x112, 1, 0) + bytes(8), "not a weight file|does not start"),
    "terabytes": (file_of(mxnet_record.header((1 << 40,), np.dtype("float32"), mxnet_record.V2)), "needs bytes"),
    "overflow": (file_of(mxnet_record.header((1 << 40, 1 << 40), np.dtype("float32"), mxnet_record.V2)), "impossible"),
    "negative": (file_of(mxnet_record.header((-2, 3), np.dtype("float32"), mxnet_record.V2)), "impossible shape"),
    "unknown": (file_of(mxnet_record.header((-1, 3), np.dtype("float32"), mxnet_record.V2)), "impossible shape"),
    "axes": (file_of(struct.pack("<Iii", mxnet_record.V2, 0, 1000)), "claims 1000 axes"),
    "negative axes": (file_of(struct.pack("<Iii", mxnet_record.V2, 0, -7)), "claims -7 axes"),
    "magic": (file_of(b"\xff" * 16), "claims 4294967295 axes"),
    "storage": (file_of(struct.pack("<Ii", mxnet_record.V2, 9)), "storage type 9"),
    "dtype": (file_of(struct.pack("<Iiiqiii", mxnet_record.V2, 0, 1, 2, 1, 0, 99)), "dtype flag 99"),
    "count": (file_of(GOOD, count=1 << 60), "array 3 of"),
    "names": (file_of(GOOD, names=struct.pack("<QQ1s", 2, 1, b"a")), "1 arrays but 2 names"),
    "name length": (file_of(GOOD, names=struct.pack("<QQ1s", 1, 1 << 50, b"a")), "name 0 needs bytes"),
    "name bytes": (file_of(GOOD, names=struct.pack("<QQ1s", 1, 1, b"\xff")), "not UTF-8"),
    "same names": (file_of(GOOD, GOOD, names=struct.pack("<QQ1sQ1s", 2, 1, b"a", 1, b"a")), "only 1 different names"),
    "trailing": (file_of(GOOD) + b"x", "goes on for 1 bytes"),
    "csr columns": (file_of(csr((2, 3), [0, 1, 2], [0, 3], [1, 2])), "an index is not below 3"),
    "csr negative": (file_of(csr((2, 3), [0, 1, 2], [0, -1], [1, 2])), "an index is not below 3"),
    "csr starts": (file_of(csr((2, 3), [0, 2, 1], [0, 1], [1, 2])), "row starts"),
    "csr start count": (file_of(csr((2, 3), [0, 2], [0, 1], [1, 2])), "row starts"),
    "csr falling": (file_of(csr((2, 3), [0, 2, 2], [1, 0], [1, 2])), "columns of a row do not rise"),
    "csr axes": (file_of(csr((2, 3, 4), [0, 1, 2], [0, 1], [1, 2])), "values of shape"),
    "csr bomb": (file_of(csr((1 << 30, 1 << 30), [0], [], [])), "as a dense array"),
    "rows": (file_of(rows((4, 2), [1, 4], np.ones((2, 2)))), "an index is not below 4"),
    "rows twice": (file_of(rows((4, 2), [1, 1], np.ones((2, 2)))), "rows do not rise"),
    "rows width": (file_of(rows((4, 2), [1, 2], np.ones((2, 3)))), "values of shape"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_refused(tmp_path: Path, case: str) -> None:
    data, message = DAMAGED[case]
    (tmp_path / "x.params").write_bytes(data)
    with pytest.raises(FormatError, match=message):
        read(tmp_path / "x.params")


def test_sound_hand_made_sparse_arrays(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(
        file_of(
            csr((3, 3), [0, 2, 2, 3], [0, 2, 1], [1, 2, 3]),
            rows((3, 2), [0, 2], np.ones((2, 2))),
            csr((2, 2), [0, 0, 0], [], []),
        )
    )
    _, found = read(tmp_path / "x")
    assert [array.tolist() for array in found.values()] == [
        [[1, 0, 2], [0, 0, 0], [0, 3, 0]],
        [[1, 1], [0, 0], [1, 1]],
        [[0, 0], [0, 0]],
    ]


@given(st.data())
def test_any_record_ends_in_data_or_a_format_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    number = st.one_of(
        st.integers(-2, 12),
        st.sampled_from([1 << 31, (1 << 31) - 1, mxnet_record.V1, mxnet_record.V2, mxnet_record.V3]),
    )
    words = data.draw(st.lists(number, max_size=40))
    record = b"".join(struct.pack("<q" if data.draw(st.booleans()) else "<I", word % (1 << 32)) for word in words)
    path = tmp_path_factory.getbasetemp() / "fuzz.params"
    path.write_bytes(file_of(record, names=data.draw(st.binary(max_size=20)), count=data.draw(st.integers(0, 3))))
    try:
        reader = FileReader(path)
        with reader:
            for spec in reader.contents.specs:
                assert reader.read(spec.name).shape == spec.shape
    except ConversionError as error:
        assert str(error).startswith(str(path))


@pytest.mark.parametrize("prefix", ["model_", "encoder_left_", None])
def test_a_clone_of_collect_params_gets_a_file_that_mxnet_loads(tmp_path: Path, prefix: str | None) -> None:
    """Its names may be any, so that they do not tell; the records of the clone do."""
    saved = net(prefix)
    saved.collect_params().save(str(tmp_path / "clone.params"))
    names = [name for name, _ in saved.collect_params().items()]
    tensors = {name: saved.collect_params()[name].data().asnumpy() + 1 for name in names}
    source = tmp_path / "net.npz"
    np.savez(source, **tensors)
    for like in (tmp_path / "clone.params", None):
        out = tmp_path / f"out-{like is None}.params"
        convert("mxnet->mxnet", source, out, like=like)
        for parameter in saved.collect_params().values():
            parameter.set_data(parameter.data() * 0)
        saved.collect_params().load(str(out))  # without a prefix, another net has names with another number
        for name in names:
            np.testing.assert_array_equal(saved.collect_params()[name].data().asnumpy(), tensors[name])


@pytest.mark.parametrize("version", [mxnet_record.V2, mxnet_record.V3])
def test_the_version_of_a_clone_is_kept(tmp_path: Path, version: int) -> None:
    specs = specs_of({"weight": random_array((2, 3), "float32", 1)})
    contents = Contents(specs, writer=mxnet_record.WRITERS[version])
    with open_writer(by_name("mxnet"), tmp_path / "x.params", contents) as writer:
        writer.write("weight", random_array((2, 3), "float32", 1))
    assert (tmp_path / "x.params").read_bytes()[24:28] == struct.pack("<I", version)
