"""PyTorch's zip form: what torch writes is read bit for bit, what is written torch loads strictly."""

from __future__ import annotations

import io
import mmap
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import converter
from converter.errors import FormatError, OutputError, UnsafeFileError
from converter.formats import Contents, ReadOptions, by_name, open_reader, open_writer
from converter.formats.torch.tensors import TORCH_DTYPES, VERSIONS
from tests.formats.contract import FormatContract, random_array, same_bits, specs_of


class TestContract(FormatContract):
    format = "torch"
    file_name = "net.pt"
    dtypes = tuple(TORCH_DTYPES)
    containers = ("tensor", "list", "dict")


def to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The values of a tensor of any dtype, by its bytes."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    raw = (
        np.frombuffer(bytes(plain.flatten().view(torch.uint8).numpy()), np.uint8)
        if plain.numel()
        else np.empty(0, np.uint8)
    )
    return raw.view(TORCH_DTYPES[str(tensor.dtype).removeprefix("torch.")]).reshape(tuple(tensor.shape))


def random_tensor(shape: tuple[int, ...], dtype: str, seed: int) -> torch.Tensor:
    array = random_array(shape, dtype, seed)
    raw = (
        torch.from_numpy(np.frombuffer(bytearray(array.tobytes()), np.uint8))
        if array.size
        else torch.empty(0, dtype=torch.uint8)
    )
    return raw.view(getattr(torch, dtype)).reshape(shape)


def net() -> torch.nn.Module:
    torch.manual_seed(3)
    made = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3),
        torch.nn.BatchNorm2d(3),
        torch.nn.Flatten(),
        torch.nn.LSTM(4, 5),
        torch.nn.Linear(5, 2),
    )
    for tensor in made.state_dict().values():
        if tensor.is_floating_point():
            torch.nn.init.normal_(tensor)
    return made


def save(path: Path, value: object, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def read(path: Path, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    _, reader = open_reader(path, ReadOptions(**options))
    with reader:
        return {spec.name: np.array(reader.read(spec.name)) for spec in reader.contents.specs}


def contents(path: Path, **options: Any) -> Contents:
    _, reader = open_reader(path, ReadOptions(**options))
    with reader:
        return reader.contents


def assert_same(found: dict[str, np.ndarray[Any, Any]], tensors: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert same_bits(found[name], to_numpy(tensor)), name


# Both forms of torch.save; the tests of the legacy form live here, since everything but the bytes is the same.
BOTH = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@BOTH
def test_a_state_dict_is_read_bit_for_bit(tmp_path: Path, zipped: bool) -> None:
    state = net().state_dict()
    path = save(tmp_path / "net.params", state, _use_new_zipfile_serialization=zipped)
    assert_same(read(path), dict(state))
    assert open_reader(path)[0].name == ("torch" if zipped else "torch-legacy")
    assert contents(path).left_out == () and contents(path).container == "dict"


@BOTH
def test_every_dtype_is_read(tmp_path: Path, zipped: bool) -> None:
    tensors = {dtype: random_tensor((3, 5), dtype, seed) for seed, dtype in enumerate(TORCH_DTYPES)}
    assert_same(read(save(tmp_path / "a", tensors, _use_new_zipfile_serialization=zipped)), tensors)


@BOTH
def test_a_tensor_a_list_and_nested_containers(tmp_path: Path, zipped: bool) -> None:
    x, y = random_tensor((4,), "float32", 1), random_tensor((2, 2), "int64", 2)
    cases: list[tuple[object, str, dict[str, torch.Tensor]]] = [
        (x, "tensor", {"0": x}),
        ([x, y], "list", {"0": x, "1": y}),
        ((x, y), "list", {"0": x, "1": y}),
        ({"x": x, "y": y}, "dict", {"x": x, "y": y}),
        ({"a": {"b": [x, {"c": y}]}}, "dict", {"a/b/0": x, "a/b/1/c": y}),
        ({"a": {"b": x}, 3: y}, "dict", {"a/b": x, "3": y}),
    ]
    for value, container, expected in cases:
        path = save(tmp_path / "a", value, _use_new_zipfile_serialization=zipped)
        assert_same(read(path), expected)
        assert contents(path).container == container


@BOTH
def test_views_of_all_kinds(tmp_path: Path, zipped: bool) -> None:
    base = random_tensor((6, 8), "float32", 3)
    wave = random_tensor((5,), "complex64", 4).nan_to_num()
    tensors = {
        "whole": base,
        "transposed": base.T,
        "rows": base[2:4],
        "strided": base[::2, 1::3],
        "expanded": base[:1].expand(4, 8),
        "scalar": base[3, 4],
        "zero_d": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "empty_view": base[6:],
        "conjugated": wave.conj(),
        "imaginary": wave.clone().conj().imag,
        "parameter": torch.nn.Parameter(base[1]),
    }
    assert_same(read(save(tmp_path / "a", tensors, _use_new_zipfile_serialization=zipped)), tensors)


def test_sparse_tensors_become_dense(tmp_path: Path) -> None:
    dense = random_tensor((4, 6), "float64", 5)
    dense = torch.where(torch.arange(24).reshape(4, 6) % 5 == 0, dense, 0.0)
    tensors = {
        "coo": dense.to_sparse(),
        "hybrid": dense.to_sparse(1),
        "csr": dense.to_sparse_csr(),
        "csc": dense.to_sparse_csc(),
        "bsr": dense.to_sparse_bsr((2, 3)),
        "bsc": dense.to_sparse_bsc((1, 2)),
        "none": torch.zeros(2, 3).to_sparse(),
    }
    found = read(save(tmp_path / "a", tensors))
    assert_same(found, {name: tensor.to_dense() for name, tensor in tensors.items()})


@BOTH
@pytest.mark.filterwarnings("ignore:torch.quantize_per")
def test_quantized_tensors_become_plain_where_that_is_exact(tmp_path: Path, zipped: bool) -> None:
    values = torch.randn(4, 3)
    halves, steps = torch.tensor([0.5, 0.25, 3 * 2.0**-5]).double(), torch.tensor([0, 3, -2])
    tensors = {
        "signed": torch.quantize_per_tensor(values, 2.0**-4, 3, torch.qint8),
        "unsigned": torch.quantize_per_tensor(values, 3 * 2.0**-6, 128, torch.quint8),
        "wide": torch.quantize_per_tensor(values, 2.0**-10, 0, torch.qint32),
        "rows": torch.quantize_per_channel(values.T, halves, steps, 0, torch.qint8),
        "columns": torch.quantize_per_channel(values, halves, steps, 1, torch.qint8),
        "turned": torch.quantize_per_tensor(values, 2.0**-4, 3, torch.qint8).t(),
        "part": torch.quantize_per_tensor(values, 2.0**-4, 3, torch.qint8)[1:3, ::2],
        "empty": torch.quantize_per_tensor(torch.zeros(0, 2), 0.5, 0, torch.qint8),
        "scalar": torch.quantize_per_tensor(torch.tensor(1.3), 2.0**-4, 3, torch.qint8),
    }
    found = read(save(tmp_path / "a", tensors, _use_new_zipfile_serialization=zipped))
    assert_same(found, {name: tensor.dequantize() for name, tensor in tensors.items()})


def test_what_cannot_be_dense_exactly_is_named(tmp_path: Path) -> None:
    pair = torch.ones(2, 2)
    twice = torch.sparse_coo_tensor([[0, 0]], [1.5, 2.5], (3,))
    tensors = {
        "twice": (twice, "coalesce"),
        "batch": (torch.ones(2, 3, 4).to_sparse_csr(), "to_dense"),
        "quantized": (torch.quantize_per_tensor(torch.ones(3), 0.1, 2, torch.qint8), "dequantize"),
        "channels": (
            torch.quantize_per_channel(
                pair, torch.tensor([0.5, 0.3]).double() + 1e-12, torch.tensor([0, 1]), 0, torch.quint8
            ),
            "not all .* exact in float32.*dequantize",
        ),
        "floats": (
            torch.quantize_per_channel(pair, torch.ones(2), torch.full((2,), 0.5), 0, torch.quint8),
            "packed or by floats.*dequantize",
        ),
        "packed": (
            torch.quantize_per_channel(pair, torch.ones(2), torch.zeros(2), 0, torch.quint4x2),
            "packed or by floats.*dequantize",
        ),
        "half": (torch.zeros(2, dtype=torch.complex32), "complex32"),
    }
    path = save(tmp_path / "a", {"fine": torch.ones(2)} | {name: tensor for name, (tensor, _) in tensors.items()})
    _, reader = open_reader(path)
    with reader:
        assert reader.read("fine").tolist() == [1, 1]
        for name, (_, advice) in tensors.items():
            with pytest.raises(FormatError, match=f"'{name}'.*{advice}"):
                reader.read(name)


@pytest.mark.parametrize("container", ["tensor", "list", "dict"])
def test_torch_loads_what_is_written(tmp_path: Path, container: str) -> None:
    names = {"tensor": ["0"], "list": [str(i) for i in range(len(TORCH_DTYPES))], "dict": list(TORCH_DTYPES)}[container]
    tensors = {name: random_array((3, 2), dtype, 7) for name, dtype in zip(names, TORCH_DTYPES, strict=False)}
    path = TestContract().write(tmp_path, tensors, container)
    loaded = torch.load(path, weights_only=True)
    found = {"0": loaded} if container == "tensor" else dict(enumerate(loaded)) if container == "list" else loaded
    assert [str(name) for name in found] == names
    assert all(same_bits(to_numpy(tensor), tensors[str(name)]) for name, tensor in found.items())
    assert all(tensor.is_contiguous() for tensor in found.values())


@pytest.mark.parametrize("mmap", [False, True])
def test_a_net_loads_strictly_what_is_written(tmp_path: Path, mmap: bool) -> None:
    source, clone = net(), net()
    arrays = {name: to_numpy(tensor) for name, tensor in source.state_dict().items()}
    path = TestContract().write(tmp_path, arrays)
    for tensor in clone.state_dict().values():
        tensor.zero_()
    clone.load_state_dict(torch.load(path, weights_only=True, mmap=mmap), strict=True)
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), clone.state_dict().values(), strict=True)
    )


def test_data_is_aligned_and_stored(tmp_path: Path) -> None:
    path = TestContract().write(tmp_path, {"a": random_array((3,), "int8"), "b": random_array((700,), "float32")})
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        entries = [entry for entry in archive.infolist() if entry.filename.startswith("archive/data/")]
    data = path.read_bytes()
    assert len(entries) == 2
    for entry in entries:
        name, extra = struct.unpack_from("<2H", data, entry.header_offset + 26)
        assert (entry.header_offset + 30 + name + extra) % 64 == 0
        assert entry.compress_type == zipfile.ZIP_STORED


def test_dtypes_that_torch_does_not_have_are_refused(tmp_path: Path) -> None:
    tensors = {"w": random_array((2,), "int4")}
    with pytest.raises(OutputError, match="'w' is int4"):
        open_writer(by_name("torch"), tmp_path / "a.pt", Contents(specs_of(tensors)))
    assert list(tmp_path.iterdir()) == []


def test_more_members_than_a_narrow_directory_counts(tmp_path: Path) -> None:
    tensors = {f"w{i}": np.full((1,), i, np.int32) for i in range(66_000)}
    path = TestContract().write(tmp_path, tensors)
    loaded = torch.load(path, weights_only=True)
    assert len(loaded) == 66_000 and loaded["w65999"].item() == 65_999
    assert len(contents(path).specs) == 66_000


class Hostile:
    def __init__(self, call: object, *args: object) -> None:
        self.parts = (call, args)

    def __reduce__(self) -> Any:
        return self.parts


@BOTH
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    victim = tmp_path / "PWNED"
    for call, args in [
        (open, (str(victim), "w")),
        (exec, (f"open({str(victim)!r}, 'w')",)),
        (getattr, (list, "append")),
    ]:
        for value in (Hostile(call, *args), {"w": torch.ones(2), "x": [Hostile(call, *args)]}):
            path = save(tmp_path / "bad.pt", value, _use_new_zipfile_serialization=zipped)
            with pytest.raises(UnsafeFileError, match="which is not data"):
                read(path)
            assert not victim.exists()


def rewrite(path: Path, change: dict[str, bytes | None], extra: tuple[tuple[str, bytes], ...] = ()) -> Path:
    """The archive again, with members changed (None: left away) or added."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (members | change).items():
            if data is not None:
                archive.writestr(name, data)
        for name, data in extra:
            archive.writestr(name, data)
    return path


def test_big_endian_files(tmp_path: Path) -> None:
    tensors = {dtype: random_tensor((4, 3), dtype, seed) for seed, dtype in enumerate(TORCH_DTYPES)}
    path = save(tmp_path / "a", tensors)
    swapped: dict[str, bytes | None] = {"a/byteorder": b"big"}
    for key, tensor in enumerate(tensors.values()):
        width = tensor.element_size() // (2 if tensor.is_complex() else 1)
        words = np.frombuffer(to_numpy(tensor).tobytes(), f"u{width}")
        swapped[f"a/data/{key}"] = words.byteswap().tobytes()
    assert_same(read(rewrite(path, swapped)), tensors)


@pytest.mark.parametrize(
    ("change", "extra", "message"),
    [
        ({"a/data/0": None}, (), "no member 'a/data/0'"),
        ({"a/data/0": b"short"}, (), "its storage has 24 bytes, the file 5"),
        ({"a/byteorder": b"middle"}, (), "not little or big"),
        ({}, (("../../evil", b"x"),), "outside of it"),
        ({}, (("/evil", b"x"),), "outside of it"),
        ({}, (("b/data.pkl", b"x"),), "2 members 'data.pkl'"),
        ({"a/data.pkl": b"\x80\x02K\x01"}, (), "ends without a STOP"),
    ],
)
def test_damaged_archives(tmp_path: Path, change: Any, extra: Any, message: str) -> None:
    path = rewrite(save(tmp_path / "a", {"w": random_tensor((2, 3), "float32", 1)}), change, extra)
    with pytest.raises(FormatError, match=message):
        read(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_stands_twice(tmp_path: Path) -> None:
    path = rewrite(save(tmp_path / "a", torch.ones(2)), {}, (("a/data/0", b"12345678"),))
    with pytest.raises(FormatError, match="'a/data/0' twice"):
        read(path)


def test_members_that_overlap(tmp_path: Path) -> None:
    path = save(tmp_path / "a", {"v": torch.ones(2), "w": torch.ones(2)})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("a/data/0")
    place = data.rindex(b"a/data/0") - 46
    struct.pack_into("<2I", data, place + 20, entry.file_size + 500, entry.file_size + 500)
    path.write_bytes(data)
    with pytest.raises(FormatError, match="reaches into"):
        read(path)


def test_a_bomb_does_not_unpack(tmp_path: Path) -> None:
    path = save(tmp_path / "a", torch.ones(2))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data/9", bytes(40 << 20))
    rewritten = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(rewritten, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name not in ("a/data/9", "a/data.pkl"):
                new.writestr(name, old.read(name))
        new.writestr("a/data.pkl", b"\x80\x02}" + b"0}" * (12 << 20) + b".")
    path.write_bytes(rewritten.getvalue())
    with pytest.raises(FormatError, match="bytes that the file does not store"):
        read(path)


def test_an_expanded_tensor_larger_than_the_file_justifies(tmp_path: Path) -> None:
    path = save(tmp_path / "a", {"w": torch.ones(1).expand(1 << 20, 1 << 12)})
    with pytest.raises(FormatError, match=r"'w'.*bytes that the file does not store"):
        contents(path)
    path = save(tmp_path / "a", {f"w{i}": torch.ones(1).expand(1 << 12, 1 << 12) for i in range(40)})
    with pytest.raises(FormatError, match="all expanded from a few"):
        contents(path)


def test_the_crc_is_verified_unless_told_not_to(tmp_path: Path) -> None:
    path = save(tmp_path / "a", {"w": torch.full((1000,), 1.5)})
    data = path.read_bytes()
    path.write_bytes(data.replace(np.full(3, 1.5, "f4").tobytes(), np.full(3, 2.5, "f4").tobytes(), 1))
    with pytest.raises(FormatError, match="'a/data/0' is damaged: its CRC"):
        read(path)
    assert read(path, checksums=False)["w"][0] == 2.5


def test_archives_without_crc(tmp_path: Path) -> None:
    tensors = {"w": random_tensor((5,), "float32", 1)}
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path / "a", tensors)
    finally:
        torch.serialization.set_crc32_options(before)
    assert_same(read(path), tensors)


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    big = {f"w{i}": torch.zeros(1 << 20) for i in range(4)}
    save(path, big)
    data = bytearray(path.read_bytes())
    place = data.rindex(b"a/data.pkl")
    assert place > 0
    with open_reader(path)[1] as reader:
        array = reader.read("w2")
        base: object = array
        while isinstance(base, np.ndarray | memoryview):
            base = base.base if isinstance(base, np.ndarray) else base.obj
        assert isinstance(base, mmap.mmap)
        assert array.nbytes == 4 << 20 and not array.flags.writeable


def test_python_2_pickles(tmp_path: Path) -> None:
    path = save(tmp_path / "a", {"w": torch.arange(3)})
    pickled = zipfile.ZipFile(path).read("a/data.pkl").replace(b"X\x01\x00\x00\x00w", b"U\x01w")
    assert read(rewrite(path, {"a/data.pkl": pickled}))["w"].tolist() == [0, 1, 2]
    assert pickle.PROTO in pickled


class Versioned(torch.nn.Linear):
    """As MNASNet of torchvision: it loads nothing that does not say of which version it is."""

    _version = 2

    def _load_from_state_dict(self, state: Any, prefix: str, local: dict[str, Any], *rest: Any) -> None:
        if local.get("version") != 2:
            raise ValueError(f"a version of {local.get('version')}")
        super()._load_from_state_dict(state, prefix, local, *rest)


class Named(torch.nn.Module):
    def __init__(self, linear: str, norm: str) -> None:
        super().__init__()
        self.add_module(linear, Versioned(3, 4))
        self.add_module(norm, torch.nn.BatchNorm1d(4))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("names", [("0", "1"), ("fc", "bn")])
def test_the_versions_of_modules_are_those_of_the_clone(tmp_path: Path, names: tuple[str, str], inside: bool) -> None:
    """A norm whose count of batches is not converted, as between other names, must not say that it has one."""
    source, clone = Named("0", "1"), Named(*names)
    files = [tmp_path / name for name in ("source.pt", "clone.pt", "made.pt")]
    torch.nn.init.normal_(source.get_submodule("1").running_mean)
    torch.save(source.state_dict(), files[0])
    state = clone.state_dict()
    torch.save({"epoch": 3, "state_dict": state} if inside else state, files[1])
    converter.convert("torch->torch", files[0], files[2], like=files[1])
    made = torch.load(files[2], weights_only=True)
    assert made._metadata[""] == {"version": 1} and made._metadata[names[0]] == {"version": 2}
    clone.load_state_dict(made, strict=True)
    for ours, theirs in zip(("0", "1"), names, strict=True):
        assert torch.equal(clone.get_submodule(theirs).weight, source.get_submodule(ours).weight)
    assert torch.equal(clone.get_submodule(names[1]).running_mean, source.get_submodule("1").running_mean)


@pytest.mark.parametrize("text", ['{"0": -1}', '{"0": "x"}', "[", '{"0": 99999999999}'])
def test_versions_that_are_none_are_not_written(tmp_path: Path, text: str) -> None:
    """The header of a safetensors file is anybody's."""
    array = random_array((2, 3), "float32", 1)
    contents = Contents(specs_of({"w": array}), metadata={VERSIONS: text})
    with open_writer(by_name("torch"), tmp_path / "x.pt", contents) as writer:
        writer.write("w", array)
    assert isinstance(torch.load(tmp_path / "x.pt", weights_only=True)["w"], torch.Tensor)
