"""What people give by mistake is named, with the next step: pointers, web pages, archives, folders, other nets."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from converter import FormatError, read
from converter.formats import FORMATS, detect
from tests.places import ROOT, SAMPLES

MLP = ROOT / "examples" / "mlp-mxnet.params"


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(MLP, "mlp.params")


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(MLP, "inner/mlp.params")


def cut_zip(path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.write(MLP, "inner/mlp.params")
    path.write_bytes(buffer.getvalue()[:2000])


def with_weights(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.params").write_bytes(MLP.read_bytes())


def without_weights(path: Path) -> None:
    path.mkdir()
    for i in range(7):
        (path / f"{i}.txt").write_text("notes")


def holding(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 440473133\n"
WHAT: dict[str, tuple[Callable[[Path], object], str]] = {
    "pytorch_model.bin": (holding(LFS), "a pointer of Git LFS to 440,473,133 bytes, not the weights; .*'git lfs pull'"),
    "model.safetensors": (holding(LFS), "a pointer of Git LFS to 440,473,133 bytes"),
    "page.pth": (
        holding(b"\n<!DOCTYPE html><html><head><title>404"),
        "a web page, not weights; the download went wrong",
    ),
    "xml.h5": (holding(b'<?xml version="1.0"?><Error><Code>AccessDenied'), "a web page"),
    "mlp.params.gz": (holding(gzip.compress(MLP.read_bytes())), "packed with gzip; unpack it first"),
    "mlp.params.bz2": (holding(bz2.compress(MLP.read_bytes())), "packed with bzip2"),
    "mlp.params.xz": (holding(lzma.compress(MLP.read_bytes())), "packed with xz"),
    "mlp.tar": (tar, "a tar archive; unpack it first"),
    "mlp.zip": (zipped, "a zip archive of an unknown format; .*'inner/mlp.params'"),
    "cut.zip": (cut_zip, "a zip archive that is cut off or damaged"),
    "net.onnx": (holding(b"\x08\x07\x12\x07pytorch" + bytes(60)), r"a net of another kind \(ONNX\)"),
    "config.json": (holding(json.dumps({"hidden": 3}).encode()), "not a weight file of any known format: it is JSON"),
    "model.json": (
        holding(json.dumps({"format": "layers-model", "modelTopology": {}, "weightsManifest": []}).encode()),
        "the manifest of a TensorFlow.js model, which is not read; take the Keras model or SavedModel",
    ),
    "bert.json": (
        holding(json.dumps({"architectures": ["Bert"], "model_type": "bert"}).encode()),
        "the configuration of a net, without its weights; name the weight file beside it",
    ),
    "pipe": (os.mkfifo, "a pipe or a device, which cannot be read at any place; write its bytes to a file"),
    "notes.txt": (holding("größer".encode() * 1000), "not a weight file of any known format: it is text"),
    "noise.pt": (holding(bytes(range(256)) * 3), "not a weight file of any known format, or it is damaged or cut off"),
    "bert": (with_weights, "a folder, not a checkpoint; name the file to read in it: 'model.params'$"),
    "folder": (without_weights, ".*nothing in it is a weight file: '0.txt', .*'4.txt' and 2 more"),
    "nothing": (Path.mkdir, "the folder is empty"),
    "empty.pt": (holding(b""), "the file is empty"),
}


@pytest.mark.parametrize("name", WHAT)
def test_it_is_named(name: str, tmp_path: Path) -> None:
    make, reason = WHAT[name]
    make(tmp_path / name)
    with pytest.raises(FormatError, match=f"{name}: {reason}"):
        read(tmp_path / name)


def test_an_ending_that_lies_does_not_matter(tmp_path: Path) -> None:
    """Nobody has to rename a file: the content says what it is."""
    for ending in {extension for row in FORMATS for extension in row.extensions} | {"", ".onnx", ".zip"}:
        path = tmp_path / f"mlp{ending}"
        path.write_bytes(MLP.read_bytes())
        assert detect(path).name == "mxnet", path


PARTS = {
    "tensorflow/1.15.0/sm_v1/saved_model.pb": "a part of the TensorFlow SavedModel '.*sm_v1'; name the folder",
    "jax/orbax-0.12.8/devices-ocdbt/_METADATA": "a part of the Orbax checkpoint '.*devices-ocdbt'; name the folder",
    "jax/orbax-0.12.8/devices-ocdbt/ocdbt.process_0/manifest.ocdbt": "a part of the Orbax checkpoint '.*devices-ocdbt'",
    "jax/orbax-0.12.8/processes-zarr2/params.w/.zarray": "a part of the Orbax checkpoint '.*processes-zarr2'",
    "torch/two_ranks/__0_0.distcp": "a part of the PyTorch distributed checkpoint '.*two_ranks'; name the folder",
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_checkpoint_names_the_whole(name: str) -> None:
    with pytest.raises(FormatError, match=PARTS[name]):
        read(SAMPLES / name)
