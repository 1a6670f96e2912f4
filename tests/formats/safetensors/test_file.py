"""safetensors, with the library of that name as the oracle."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # lets the library name bfloat16
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

from converter.core.tensors import DTYPES
from converter.errors import ConversionError, FormatError, OutputError
from converter.formats import Contents, ReadOptions, by_name, open_reader, open_writer
from converter.formats.safetensors.file import FileReader
from converter.formats.safetensors.header import CODES, PACKED
from tests.formats.contract import FormatContract, random_array, same_bits, specs_of
from tests.formats.old_files import assert_reads_as_expected, sample_files


class TestContract(FormatContract):
    format = "safetensors"
    file_name = "net.safetensors"
    dtypes = tuple(name for code, name in CODES.items() if code not in PACKED)


def write(path: Path, tensors: dict[str, np.ndarray[Any, Any]], **metadata: str) -> Path:
    with open_writer(by_name("safetensors"), path, Contents(specs_of(tensors), metadata=metadata)) as writer:
        for name, array in tensors.items():
            writer.write(name, array)
    return path


def read(path: Path, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    _, reader = open_reader(path, ReadOptions(**options))
    with reader:
        return {spec.name: reader.read(spec.name) for spec in reader.contents.specs}


def raw_file(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


TORCH = {name: getattr(torch, name) for name in (set(DTYPES) & set(CODES.values())) if hasattr(torch, name)}


def as_torch(array: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.frombuffer(bytearray(array.tobytes()), dtype=TORCH[array.dtype.name]).reshape(array.shape)


def test_torch_writes_every_dtype_and_we_read_it(tmp_path: Path) -> None:
    assert len(TORCH) >= 19
    arrays = {f"t.{name}": random_array((3, 5), name, i) for i, name in enumerate(TORCH) if name != "float4_e2m1fn"}
    save_torch({name: as_torch(array) for name, array in arrays.items()}, tmp_path / "x.safetensors", {"format": "pt"})
    back = read(tmp_path / "x.safetensors")
    assert back.keys() == arrays.keys()
    assert all(same_bits(back[name], arrays[name]) for name in arrays)
    with FileReader(tmp_path / "x.safetensors") as reader:
        assert reader.contents.metadata == {"format": "pt"}


def test_we_write_every_dtype_and_torch_loads_it(tmp_path: Path) -> None:
    arrays = {f"t.{name}": random_array((3, 5), name, i) for i, name in enumerate(TORCH) if name != "float4_e2m1fn"}
    loaded = load_torch(write(tmp_path / "x.safetensors", arrays, format="pt"))
    assert loaded.keys() == arrays.keys()
    for name, tensor in loaded.items():
        assert tensor.shape == arrays[name].shape and tensor.dtype == TORCH[arrays[name].dtype.name]
        assert bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy()) == arrays[name].tobytes()
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert set(file.metadata()) == {"format", "xxh3_128"}


def test_the_numpy_binding_writes_and_we_read_in_the_order_of_the_data(tmp_path: Path) -> None:
    arrays = {
        "b": random_array((2, 3), "float64"),
        "a": random_array((), "float16"),
        "c": random_array((0, 4), "int32"),
    }
    save_numpy(arrays, tmp_path / "x.safetensors")
    back = read(tmp_path / "x.safetensors")
    assert list(back) == ["b", "c", "a"]
    assert all(same_bits(back[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize("path", sample_files("safetensors"), ids=lambda path: path.name)
def test_the_sample_with_every_dtype(path: Path) -> None:
    assert_reads_as_expected(path, "safetensors")


def test_four_bit_floats_are_packed_as_torch_packs_them(tmp_path: Path) -> None:
    array = np.arange(16, dtype=np.uint8).view(DTYPES["float4_e2m1fn"]).reshape(2, 8)
    path = write(tmp_path / "x.safetensors", {"w": array})
    assert same_bits(read(path)["w"], array)
    packed = torch.from_numpy(np.array([[0x10, 0x32, 0x54, 0x76], [0x98, 0xBA, 0xDC, 0xFE]], np.uint8))
    assert torch.equal(load_torch(path)["w"].view(torch.uint8), packed)
    save_torch({"w": packed.view(torch.float4_e2m1fn_x2)}, tmp_path / "t.safetensors")
    assert same_bits(read(tmp_path / "t.safetensors")["w"], array)
    with pytest.raises(OutputError, match="fill no whole byte"):
        write(tmp_path / "odd.safetensors", {"w": array[0, :3]})


@pytest.mark.parametrize("code", ["F6_E2M3", "F6_E3M2"])
def test_six_bit_floats_are_packed_lowest_bits_first(tmp_path: Path, code: str) -> None:
    packed = np.random.default_rng(5).integers(0, 256, 24, np.uint8)
    source = raw_file(
        tmp_path / "s.safetensors", {"w": {"dtype": code, "shape": [4, 8], "data_offsets": [0, 24]}}, packed.tobytes()
    )
    array = read(source)["w"]
    bits = np.unpackbits(packed, bitorder="little").reshape(32, 6)
    assert array.shape == (4, 8) and array.dtype == DTYPES[CODES[code]]
    assert array.tobytes() == np.packbits(bits, axis=1, bitorder="little").tobytes()
    copy = write(tmp_path / "x.safetensors", {"w": array})
    assert copy.read_bytes().endswith(packed.tobytes())
    with safe_open(copy, "np") as file:  # the library reads none of six bits, but checks the header
        assert file.get_slice("w").get_dtype() == code and file.get_slice("w").get_shape() == [4, 8]
    with pytest.raises(OutputError, match="'w' has 6 elements of 6 bits, which fill no whole byte"):
        write(tmp_path / "odd.safetensors", {"w": array[0, :6]})


def test_values_of_six_bit_floats(tmp_path: Path) -> None:
    header = {"w": {"dtype": "F6_E3M2", "shape": [4], "data_offsets": [0, 3]}}
    word = 0b011111_100001_001100_110000  # the last element first
    found = read(raw_file(tmp_path / "x.safetensors", header, word.to_bytes(3, "little")))["w"]
    assert found.astype(float).tolist() == [-2.0, 1.0, -0.0625, 28.0]


def test_bits_over_those_of_a_packed_element_are_passed_over(tmp_path: Path) -> None:
    for name in ("float4_e2m1fn", "float6_e2m3fn"):
        codes = np.random.default_rng(6).integers(0, 256, 8, np.uint8)
        back = read(write(tmp_path / f"{name}.safetensors", {"w": codes.view(DTYPES[name])}))["w"]
        assert back.view(np.uint8).tolist() == (codes & (15 if name == "float4_e2m1fn" else 63)).tolist()


def test_the_order_of_the_names_and_the_alignment_of_the_data(tmp_path: Path) -> None:
    arrays = {"z": random_array((3,), "int8"), "a": random_array((3,), "float64"), "m": random_array((1,), "float16")}
    path = write(tmp_path / "x.safetensors", arrays)
    assert list(read(path)) == ["z", "a", "m"]
    with safe_open(path, "np") as file:
        assert sorted(file.keys()) == ["a", "m", "z"]
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_a_changed_byte_is_found_unless_told_not_to_look(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", {"w": random_array((300, 1000), "float32")})
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match="the data of 'w' was changed: its xxh3-128 is"):
        read(path)
    assert read(path, checksums=False)["w"].shape == (300, 1000)


def test_metadata_and_non_ascii_names_come_back(tmp_path: Path) -> None:
    arrays = {"слой/重み": random_array((2,), "float32"), 'a"b\\': random_array((2,), "float32")}
    with FileReader(write(tmp_path / "x.safetensors", arrays, converter='{"version": 1}')) as reader:
        assert reader.contents.metadata == {"converter": '{"version": 1}'}
        assert [spec.name for spec in reader.contents.specs] == list(arrays)
    assert set(load_torch(tmp_path / "x.safetensors")) == set(arrays)


def test_dtypes_without_a_code_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="'w' is complex128, which safetensors cannot hold"):
        write(tmp_path / "x.safetensors", {"w": np.zeros(2, np.complex128)})
    with pytest.raises(OutputError, match="reserved name"):
        write(tmp_path / "x.safetensors", {"__metadata__": np.zeros(2)})
    assert not list(tmp_path.iterdir())


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DAMAGED: dict[str, tuple[Any, bytes, str]] = {
    "gap": (
        {"a": F32, "b": {**F32, "data_offsets": [12, 20]}},
        bytes(20),
        "'b' starts at 12; the data before it ends at 8",
    ),
    "overlap": ({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, bytes(12), "'b' starts at 4"),
    "same place": ({"a": F32, "b": F32}, bytes(8), "starts at 0"),
    "trailing": ({"a": F32}, bytes(9), "describes"),
    "cut": ({"a": F32}, bytes(7), "it is cut or damaged"),
    "size": ({"a": {**F32, "shape": [3]}}, bytes(8), "needs 12 bytes, not 8"),
    "overflow": ({"a": {**F32, "shape": [1 << 62, 1 << 62]}}, bytes(8), "impossible shape"),
    "hidden overflow": (
        {"a": {**F32, "shape": [0, 1 << 62, 1 << 62], "data_offsets": [0, 0]}},
        b"",
        "impossible shape",
    ),
    "axes": ({"a": {**F32, "shape": [1] * 99, "data_offsets": [0, 4]}}, bytes(4), "claims 99 axes"),
    "negative": ({"a": {**F32, "shape": [-2]}}, bytes(8), "not valid sizes"),
    "float": ({"a": {**F32, "shape": [2.0]}}, bytes(8), "not valid sizes"),
    "bool": ({"a": {**F32, "shape": [True, 2]}}, bytes(8), "not valid sizes"),
    "three offsets": ({"a": {**F32, "data_offsets": [0, 8, 8]}}, bytes(8), "not valid sizes"),
    "dtype": ({"a": {**F32, "dtype": "F31"}}, bytes(8), "has the dtype 'F31'"),
    "dtype kind": ({"a": {**F32, "dtype": ["F32"]}}, bytes(8), "has the dtype"),
    "key": ({"a": {**F32, "more": 1}}, bytes(8), "and no more"),
    "entry": ({"a": 1}, b"", "must have dtype, shape and data_offsets"),
    "metadata": ({"__metadata__": {"a": 1}}, b"", "must map names to texts"),
    "array": ([1], b"", "not a JSON object"),
    "twice": (b'{"a":{},"a":{}}', b"", "occurs twice"),
    "deep": (b'{"a":' * 100_000, b"", "not JSON"),
    "digits": (b'{"a":' + b"9" * 10_000 + b"}", b"", "."),
    "utf-8": (b'{"\xff":1}', b"", "not JSON"),
    "digests": ({"a": F32, "__metadata__": {"xxh3_128": "{}"}}, bytes(8), "different names"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_headers_are_refused(tmp_path: Path, case: str) -> None:
    header, data, message = DAMAGED[case]
    with pytest.raises(FormatError, match=message):
        FileReader(raw_file(tmp_path / "x.safetensors", header, data))


def test_a_header_that_claims_terabytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="claims a header of"):
        FileReader(raw_file(tmp_path / "x.safetensors", {}, length=1 << 62))
    with pytest.raises(FormatError, match="needs bytes 8 to"):
        FileReader(raw_file(tmp_path / "x.safetensors", {}, length=99_000_000))


@given(st.data())
def test_any_bytes_end_in_data_or_a_format_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    sizes = st.lists(st.one_of(st.integers(-1, 9), st.integers(0, 1 << 70)), max_size=4)
    values = st.fixed_dictionaries({"dtype": st.sampled_from([*CODES, "X"]), "shape": sizes, "data_offsets": sizes})
    header = data.draw(
        st.one_of(
            st.binary(max_size=60),
            st.dictionaries(st.text(max_size=3), st.one_of(values, st.none(), st.integers()), max_size=3).map(
                lambda found: json.dumps(found).encode()
            ),
        )
    )
    path = raw_file(tmp_path_factory.getbasetemp() / "fuzz.safetensors", header, data.draw(st.binary(max_size=40)))
    try:
        reader = FileReader(path)
    except ConversionError:
        return
    with reader:
        for spec in reader.contents.specs:
            assert reader.read(spec.name).shape == spec.shape
