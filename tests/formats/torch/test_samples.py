"""Files of PyTorch 1.0 to 1.12, of two processes and of hostile hands, read without PyTorch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.core.tensors import DTYPES
from converter.errors import FormatError, UnsafeFileError
from converter.formats import open_reader
from converter.formats.io.budget import Budget, Loan
from converter.formats.pickle.load import load
from converter.formats.pickle.nested import flatten
from converter.formats.pickled.torch import torch_globals
from tests.formats.contract import same_bits
from tests.places import SAMPLES

SAMPLES = SAMPLES / "torch"


def expected(name: str) -> Mapping[str, np.ndarray[Any, Any]]:
    with np.load(SAMPLES / f"{name}.expected.npz") as archive:
        arrays = {key: archive[key] for key in archive.files if key != "__dtypes__"}
    assert arrays
    return arrays


def read(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    _, reader = open_reader(path)
    with reader:
        return {spec.name: np.array(reader.read(spec.name)) for spec in reader.contents.specs}


def assert_holds(found: Mapping[str, np.ndarray[Any, Any]], name: str, extras: bool = False) -> None:
    """Dtypes without a NumPy type of their own stand as unsigned integers in the expected file."""
    wanted = expected(name)
    assert set(wanted) <= set(found) if extras else set(wanted) == set(found)
    for key, array in wanted.items():
        assert found[key].shape == array.shape and found[key].tobytes() == array.tobytes(), key
        assert found[key].dtype == array.dtype or found[key].dtype not in map(np.dtype, "?bhilBHILefdFD")


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("1.0.0/special.legacy.pt", "torch-legacy"),
        ("1.0.0/module.legacy.pt", "torch-legacy"),
        ("1.0.0/inner_name.weird.tar", "torch-legacy"),
        ("1.0.0/jit_trace_mlp.pt", "torch-script"),
        ("1.4.0/dtypes_plain.zip.pt", "torch"),
        ("1.4.0/module_convbn.zip.pt", "torch"),
        ("1.4.0/protocol5.legacy.pt", "torch-legacy"),
        ("1.4.0/jit_trace_lstm.pt", "torch"),
        ("1.6.0/empty.zip.pt", "torch"),
        ("1.6.0/tensors_list.legacy.pt", "torch-legacy"),
        ("1.6.0/module.zip.pt", "torch"),
        ("1.12.1/module.zip.pt", "torch"),
        ("1.12.1/jit_trace_mlp.pt", "torch"),
    ],
)
def test_files_of_old_releases(name: str, format: str) -> None:
    row, reader = open_reader(SAMPLES / name)
    reader.close()
    assert row.name == format
    assert_holds(read(SAMPLES / name), name)


def test_the_first_torchscript_says_its_writer() -> None:
    with open_reader(SAMPLES / "1.0.0/jit_trace_mlp.pt")[1] as reader:
        assert reader.contents.writer == "pytorch 1.0"


def test_what_stands_beside_tensors() -> None:
    """torch.Size, dtype, device, defaultdict, set, Counter, a large number, bytes."""
    found = {name.replace("/", "."): array for name, array in read(SAMPLES / "1.12.1/non_tensors.zip.pt").items()}
    assert_holds(found, "1.12.1/non_tensors.zip.pt", extras=True)


def test_a_quantized_tensor_is_named() -> None:
    with pytest.raises(FormatError, match="'q': it is quantized"):
        read(SAMPLES / "1.12.1/quant_tensor.legacy.pt")


@pytest.mark.parametrize("version", ["1.0.0", "1.12.1"])
def test_tensors_in_a_plain_pickle(version: str) -> None:
    path = SAMPLES / version / "plain.pkl"
    value, used = load(path.read_bytes(), path, torch_globals(path, Loan(Budget(path))))
    assert used == path.stat().st_size
    arrays = {entry.name: entry.value for entry in flatten(value, path).kept if isinstance(entry.value, np.ndarray)}
    assert_holds(arrays, f"{version}/plain.pkl")
    assert not any(array.flags.writeable for array in arrays.values())


def test_a_checkpoint_of_two_processes() -> None:
    found = read(SAMPLES / "two_ranks")
    assert_holds(found, "two_ranks")
    assert found["half"].dtype == DTYPES["bfloat16"]
    again = read(SAMPLES / "two_ranks" / ".metadata")
    assert all(same_bits(again[name], found[name]) for name in found)


def test_chunks_that_overlap(tmp_path: Path) -> None:
    """Rows 0 to 2 and 3 to 4; the second moved to 1 to 2 and the whole made smaller leaves no gap in their sum."""
    folder = tmp_path / "a"
    shutil.copytree(SAMPLES / "two_ranks", folder)
    data = (folder / ".metadata").read_bytes()
    assert data.count(b"K\x03K\x00\x86") >= 2
    (folder / ".metadata").write_bytes(data.replace(b"K\x03K\x00\x86", b"K\x02K\x00\x86"))
    with pytest.raises(FormatError, match=r"'rows': in chunks, the part at .* overlaps"):
        read(folder)


@pytest.mark.parametrize("victim", [".metadata", "__0_0.distcp", "__1_0.distcp"])
def test_a_cut_or_missing_part_of_it(tmp_path: Path, victim: str) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(SAMPLES / "two_ranks", folder)
    data = (folder / victim).read_bytes()
    for length in [*range(0, len(data), 97), len(data) - 1]:
        (folder / victim).write_bytes(data[:length])
        with pytest.raises(FormatError):
            read(folder)
    (folder / victim).unlink()
    with pytest.raises(FormatError, match="missing"):
        read(folder)


def test_links_that_lead_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "snapshots" / "revision"
    shutil.copytree(SAMPLES / "two_ranks", folder)
    outside = tmp_path / "outside"
    (folder / "__0_0.distcp").rename(outside)
    (folder / "__0_0.distcp").symlink_to(outside)
    with pytest.raises(UnsafeFileError, match="a link that leads out"):
        read(folder)
    blobs = tmp_path / "blobs"  # as in the cache of the Hugging Face hub
    blobs.mkdir()
    outside.rename(blobs / "hash")
    (folder / "__0_0.distcp").unlink()
    (folder / "__0_0.distcp").symlink_to("../../blobs/hash")
    assert_holds(read(folder), "two_ranks")


@pytest.mark.parametrize("name", ["../__0_0.distcp", "/etc/x.distcp12", "__0_0.distcq/"])
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a"
    shutil.copytree(SAMPLES / "two_ranks", folder)
    data = (folder / ".metadata").read_bytes()
    changed = data.replace(b"\x8c\x0c__0_0.distcp", b"\x8c" + bytes([len(name)]) + name.encode())
    assert changed != data
    (folder / ".metadata").write_bytes(changed)
    with pytest.raises(UnsafeFileError, match="not in its folder"):
        read(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"K\x05K\x03\x86", b"K\x09K\x03\x86", "do not make up the shape"),
        (b"K\x05K\x03\x86", b"K\x02K\x03\x86", "lies outside of"),
        (b"K\x05K\x03\x86", b"K\x05\x85N0N0", "lies outside of"),
        (b"float32", b"floot32", "dtype of 'model.rows' is unknown|calls|unknown"),
    ],
)
def test_metadata_that_do_not_fit(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    folder = tmp_path / "a"
    shutil.copytree(SAMPLES / "two_ranks", folder)
    data = (folder / ".metadata").read_bytes()
    assert old in data
    (folder / ".metadata").write_bytes(data.replace(old, new, 1))
    with pytest.raises(FormatError, match=message):
        read(folder)


@pytest.mark.parametrize("name", ["zip_partial.pt", "legacy_numpy_runstring.pt"])
def test_hostile_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafeFileError, match="Nothing of it was run"):
        read(SAMPLES / name)
    assert list(tmp_path.iterdir()) == []
