"""PyTorch's form before 1.6, beyond what test_torch_zip.py tests for both forms."""

from __future__ import annotations

import io
import pickle
import random
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from converter.errors import ConversionError, FormatError, OutputError
from converter.formats import open_reader
from converter.formats.torch.description import LEGACY_DTYPES
from converter.formats.torch.tensors import TORCH_DTYPES
from tests.formats.contract import FormatContract, random_array, same_bits
from tests.formats.torch.test_zip import assert_same, net, random_tensor, read, save, to_numpy

LEGACY = tuple(name for name, dtype in TORCH_DTYPES.items() if dtype in LEGACY_DTYPES)


class TestContract(FormatContract):
    format = "torch-legacy"
    file_name = "net.legacy.pt"
    dtypes = LEGACY
    containers = ("tensor", "list", "dict")


@pytest.mark.parametrize("container", ["tensor", "list", "dict"])
def test_torch_loads_what_is_written(tmp_path: Path, container: str) -> None:
    names = {"tensor": ["0"], "list": [str(i) for i in range(len(LEGACY))], "dict": list(LEGACY)}[container]
    tensors = {name: random_array((3, 2), dtype, 7) for name, dtype in zip(names, LEGACY, strict=False)}
    path = TestContract().write(tmp_path, tensors, container)
    loaded = torch.load(path, weights_only=True)
    found = {"0": loaded} if container == "tensor" else dict(enumerate(loaded)) if container == "list" else loaded
    assert [str(name) for name in found] == names
    assert all(same_bits(to_numpy(tensor), tensors[str(name)]) for name, tensor in found.items())


def test_dtypes_that_the_old_form_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="'w' is uint16, which PyTorch's form before"):
        TestContract().write(tmp_path, {"w": random_array((2,), "uint16")})
    assert list(tmp_path.iterdir()) == []


def test_a_net_loads_strictly_what_is_written(tmp_path: Path) -> None:
    source, clone = net(), net()
    arrays = {name: to_numpy(tensor) for name, tensor in source.state_dict().items()}
    path = TestContract().write(tmp_path, arrays)
    for tensor in clone.state_dict().values():
        tensor.zero_()
    clone.load_state_dict(torch.load(path, weights_only=True), strict=True)
    wanted, got = source.state_dict(), clone.state_dict()
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)


def test_the_tar_archives_before_0_1_10_are_refused_by_name(tmp_path: Path) -> None:
    weight = np.random.default_rng(8).standard_normal((2, 3), "float32")
    storages = b"".join(map(pickled, (1, (7, "cpu", torch.FloatStorage)))) + struct.pack("<q", 6) + weight.tobytes()
    tensors = pickled(1) + pickled((9, 7, torch.FloatTensor)) + struct.pack("<ii5q", 2, 0, 2, 3, 3, 1, 0)
    described = b"\x80\x02}X\x01\x00\x00\x00wX\x01\x00\x00\x009Qs."  # {"w": the tensor 9}
    members = {"sys_info": pickled({}), "pickle": described, "tensors": tensors, "storages": storages + pickled([])}
    path = tmp_path / "old.pth"
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert np.array_equal(torch.load(path, weights_only=False)["w"].numpy(), weight)
    with pytest.raises(FormatError, match=r"tar archive of PyTorch before 0\.1\.10, which is not read"):
        open_reader(path)


def pickled(value: object) -> bytes:
    return pickle.dumps(value, 2)


def legacy(path: Path, value: object, protocol: int = 2) -> Path:
    return save(path, value, _use_new_zipfile_serialization=False, pickle_protocol=protocol)


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    tensors = {"wé\n": random_tensor((3, 2), "float32", 1), "b": random_tensor((300,), "bfloat16", 2)}
    assert_same(read(legacy(tmp_path / "a", tensors, protocol)), tensors)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = legacy(tmp_path / "a", {"w": random_tensor((3,), "float32", 1)}).read_bytes()
    cut = tmp_path / "cut"
    for length in [0, *range(2, len(data))]:  # the first byte alone is a whole file of msgpack
        cut.write_bytes(data[:length])
        with pytest.raises(FormatError):
            read(cut)


def test_flipped_bits_end_in_data_or_an_error(tmp_path: Path) -> None:
    data = legacy(tmp_path / "a", net().state_dict()).read_bytes()
    bad, rng, errors = tmp_path / "bad", random.Random(5), 0
    for _ in range(400):
        flipped = bytearray(data)
        flipped[rng.randrange(min(len(data), 3000))] ^= 1 << rng.randrange(8)
        bad.write_bytes(flipped)
        try:
            read(bad)
        except ConversionError:
            errors += 1
    assert errors > 20


def test_a_storage_of_another_size_than_described(tmp_path: Path) -> None:
    path = legacy(tmp_path / "a", {"w": random_tensor((3,), "float32", 1)})
    data = path.read_bytes()
    path.write_bytes(data[:-20] + b"\xff\xff\xff\xff\xff\xff\xff\x0f" + data[-12:])
    with pytest.raises(FormatError, match="should have 3 elements"):
        read(path)


def test_arrays_are_mapped(tmp_path: Path) -> None:
    path = legacy(tmp_path / "a", {"w": torch.arange(1 << 20)})
    _, reader = open_reader(path)
    with reader:
        array = reader.read("w")
        assert not array.flags.owndata and not array.flags.writeable and array[-1] == (1 << 20) - 1


def test_old_storage_views(tmp_path: Path) -> None:
    """Before 0.4 a storage could be a view on another: (key, offset, count) at the end of the persistent id."""
    path = legacy(tmp_path / "a", {"w": torch.arange(6.0)})
    data = path.read_bytes()
    buffer = io.BytesIO(data)
    assert buffer.read(2) == b"\x80\x02"
    described = data.index(b"K\x06Nt")  # count 6, no view
    changed = data.replace(b"K\x06Nt", b"K\x06(X\x01\x00\x00\x00vK\x02K\x03tt", 1)
    size = changed.index(b"K\x06\x85", described)
    changed = changed[:size] + b"K\x03\x85" + changed[size + 3 :]
    path.write_bytes(changed)
    assert read(path)["w"].tolist() == [2, 3, 4]
