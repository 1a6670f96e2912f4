"""HDF5 files that were made to crash libhdf5, to fill the memory, or to take for ever."""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from converter.errors import FormatError
from converter.formats import open_reader
from converter.formats.io import child as io_child
from converter.formats.keras import hdf5_child
from converter.formats.keras.hdf5_file import H5File
from tests.attacks.limits import harmless, refused

_UNDEFINED = b"\xff" * 8


def random_values(*shape: int) -> np.ndarray:
    return np.random.default_rng(8).normal(size=shape).astype(np.float32)


def patched(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) >= 1
    path.write_bytes(data.replace(old, new))


def zeros_of_deflate(megabytes: int) -> bytes:
    """Deflate of so many MB of zeros: the same block again and again, made at once."""
    machine = zlib.compressobj(9)
    head = machine.compress(bytes(1 << 20)) + machine.flush(zlib.Z_FULL_FLUSH)
    block = machine.compress(bytes(1 << 20)) + machine.flush(zlib.Z_FULL_FLUSH)
    adler = (megabytes << 20) % 65521 << 16 | 1
    return head + block * (megabytes - 1) + b"\x03\x00" + struct.pack(">I", adler)


def one_chunk(path: Path, chunk: bytes, side: int = 1 << 18, **options: object) -> None:
    with h5py.File(path, "w", **options) as file:
        dataset = file.create_dataset("layers/dense/vars/0", (side,), "f4", chunks=(side,), compression="gzip")
        dataset.id.write_direct_chunk((0,), chunk)


@pytest.mark.parametrize("layout", [{}, {"libver": "latest"}], ids=["plain", "new"])
def test_a_chunk_that_unpacks_to_more_than_it_declares(tmp_path: Path, layout: dict[str, object]) -> None:
    one_chunk(tmp_path / "m.weights.h5", zeros_of_deflate(700), **layout)
    assert (tmp_path / "m.weights.h5").stat().st_size < 1_000_000
    said = refused("convert", "tf->torch", "m.weights.h5", "-o", "m.safetensors", cwd=tmp_path)
    assert "damaged" in said
    assert not (tmp_path / "m.safetensors").exists()


def test_a_dataset_of_nothing_but_packed_zeros(tmp_path: Path) -> None:
    one_chunk(tmp_path / "m.weights.h5", zeros_of_deflate(1024), side=1 << 28)
    assert "at most" in refused("inspect", "m.weights.h5", cwd=tmp_path)


def test_two_tensors_of_packed_zeros_stay_in_the_memory(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for name in ("a", "b"):
            dataset = file.create_dataset(f"{name}/vars/0", (300 << 18,), "f4", chunks=(1 << 18,), compression="gzip")
            for start in range(0, 300 << 18, 1 << 18):
                dataset.id.write_direct_chunk((start,), zeros_of_deflate(1))
    harmless("convert", "tf->neutral", "m.weights.h5", "-o", "m.safetensors", cwd=tmp_path)


def test_a_filter_that_claims_another_number_of_elements(tmp_path: Path) -> None:
    """libhdf5 1.14.6 dies of it."""
    count = 1 << 12
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        values = np.random.default_rng(1).integers(0, 999, count)
        file.create_dataset("layers/dense/vars/0", data=values.astype("i4"), chunks=(count,), scaleoffset=0)
    harmless("inspect", "--stats", path.name, cwd=tmp_path, code=None)
    patched(path, struct.pack("<3I", 2, 0, count), struct.pack("<3I", 2, 0, 200_000_000))
    refused("convert", "tf->neutral", path.name, "-o", "m.safetensors", cwd=tmp_path)


def test_groups_in_groups_with_long_names(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        group = file
        for number in range(1500):
            group = group.create_group(f"{number}" * 1000)
        group["x"] = random_values(2)
    assert "the names in it would take" in refused("inspect", "m.weights.h5", cwd=tmp_path)


def test_a_heap_that_many_names_refer_to_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["dense/dense/kernel:0"] = random_values(2, 3)
        file.attrs["layer_names"] = ["dense"]
        file["dense"].attrs["weight_names"] = [f"dense/kernel:{i}" for i in range(4000)]
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL")
    (size,) = struct.unpack_from("<Q", data, heap + 8)
    reference = struct.pack("<I", len("dense/kernel:0"))
    first = next(at for at in range(len(data)) if data[at : at + 4] == data[at + 16 : at + 20] == reference)
    # all names are the one text of a heap of 8 MB at the end of the file
    text = b"dense/kernel:0".ljust(8_000_000, b"\0")
    extra = b"GCOL" + struct.pack("<B3xQ", 1, 32 + len(text)) + struct.pack("<HH4xQ", 1, 1, len(text)) + text
    for i in range(4000):
        struct.pack_into("<IQI", data, first + 16 * i, 14, len(data), 1)
    assert size < len(text)
    data += extra
    struct.pack_into("<Q", data, 40, len(data))
    path.write_bytes(data)
    outcome = harmless("inspect", "m.h5", cwd=tmp_path, code=0)
    assert "dense/dense/kernel:0" in outcome.out or "dense" in outcome.out


def test_datasets_that_share_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        for number in range(40):
            file[f"layers/dense_{number}/vars/0"] = random_values(64, 64)
        offsets = [file[f"layers/dense_{number}/vars/0"].id.get_offset() for number in range(40)]
    data = path.read_bytes()
    for offset in offsets[1:]:
        data = data.replace(struct.pack("<QQ", offset, 1 << 14), struct.pack("<QQ", offsets[0], 1 << 14))
    path.write_bytes(data[: max(offsets) - 30 * (1 << 14)].ljust(offsets[1] + 1000, b"\0"))
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, 40, len(data))
    path.write_bytes(data)
    assert "error: " in refused("convert", "tf->torch", path.name, "-o", "m.safetensors", cwd=tmp_path)


def test_a_tree_of_nodes_that_lead_to_each_other(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        for number in range(600):
            file[f"layers/dense_{number:04}/vars/0"] = random_values(2)
    data = bytearray(path.read_bytes())
    nodes = [at for at in range(len(data)) if data.startswith(b"TREE\0\1", at)]
    (node,) = nodes  # of the second level
    for child in range(struct.unpack_from("<H", data, node + 6)[0]):
        struct.pack_into("<Q", data, node + 24 + 8 + 16 * child, node)
    path.write_bytes(data)
    assert "damaged HDF5" in refused("inspect", path.name, cwd=tmp_path)


def test_the_process_of_the_library_imports_nothing_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = random_values(3, 2)
    with h5py.File(tmp_path / "m.weights.h5", "w", libver="latest") as file:
        file["layers/dense/vars/0"] = values
    for name in ("h5py", "numpy", "json", "msgspec", "converter"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')\nraise SystemExit(9)\n")
    monkeypatch.chdir(tmp_path)
    _, reader = open_reader(Path("m.weights.h5"))
    with reader:
        assert np.array_equal(reader.read("layers/dense/vars/0"), values)
    assert not (tmp_path / "ran").exists()


def test_a_library_that_crashes_or_never_ends_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "m.weights.h5", "w", libver="latest") as file:
        file["layers/dense/vars/0"] = random_values(2)
    start = hdf5_child._START
    ends = {
        "import os; os.kill(os.getpid(), 11) #": "the library crashes on it",
        "import resource as r; r.setrlimit(r.RLIMIT_CPU, (1, -1))\nwhile True: pass #": "does not come to an end",
    }
    for code, said in ends.items():
        monkeypatch.setattr(hdf5_child, "_START", code + start)
        file = H5File(tmp_path / "m.weights.h5")
        with pytest.raises(FormatError, match=said):
            file.tree()
        file.close()


def test_ordinary_files_cost_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = random_values(50, 40)
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        file["layers/dense/vars/0"] = values
        options = {"compression": "gzip", "shuffle": True, "fletcher32": True, "chunks": (7, 9)}
        file.create_dataset("layers/dense_1/vars/0", data=values, **options)
        file["layers/dense/vars"].attrs["name"] = "hidden"
    monkeypatch.setattr(io_child.subprocess, "Popen", None)
    _, reader = open_reader(tmp_path / "m.weights.h5")
    with reader:
        assert reader.contents.labels == {"layers/dense/vars": "hidden"}
        assert all(np.array_equal(reader.read(spec.name), values) for spec in reader.contents.specs)
        assert len(reader.contents.specs) == 2


def test_thousands_of_tensors_and_of_recurrent_layers(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for number in range(2000):
            file[f"layers/gru_{number}/cell/vars/0"] = np.float32(number)
    layers = [{"class_name": "GRU", "config": {"name": f"g{i}", "reset_after": True}} for i in range(100_000)]
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.write(tmp_path / "w.h5", "model.weights.h5")
        archive.writestr("config.json", json.dumps({"config": {"layers": layers}}))
        archive.writestr("metadata.json", "{}")
    harmless("inspect", "--json", "m.keras", cwd=tmp_path)


def test_a_pipe_of_any_name_does_not_block(tmp_path: Path) -> None:
    for name in ("checkpoint", "m.h5", "m.index", "m.keras", "model.safetensors"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        os.mkfifo(folder / name)
        refused("inspect", f"{folder.name}/{name}", cwd=tmp_path)
        refused("inspect", folder.name, cwd=tmp_path)
