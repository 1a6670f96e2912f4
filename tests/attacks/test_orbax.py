"""Orbax and msgpack files that claim or unpack to more than they hold."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import msgpack
import numpy as np
import pytest

from tests.attacks.limits import harmless, refused
from tests.places import SAMPLES

RANDOM = np.random.default_rng(5)


def orbax(folder: Path, chunk: bytes | None, shape: list[int], **more: Any) -> Path:
    """A checkpoint of one array of float32 in zarr v2, in one chunk with these bytes."""
    array = folder / "a"
    array.mkdir(parents=True)
    metadata = {
        "chunks": shape,
        "compressor": None,
        "dimension_separator": ".",
        "dtype": "<f4",
        "fill_value": None,
        "filters": None,
        "order": "C",
        "shape": shape,
        "zarr_format": 2,
        **more,
    }
    (array / ".zarray").write_text(json.dumps(metadata))
    if chunk is not None:
        (array / ".".join("0" * len(shape))).write_bytes(chunk)
    value = {"value_type": "jax.Array", "skip_deserialize": False}
    entry = {"key_metadata": [{"key": "a", "key_type": 2}], "value_metadata": value}
    whole = {"use_zarr3": False, "store_array_data_equal_to_fill_value": chunk is not None}
    (folder / "_METADATA").write_text(json.dumps({"tree_metadata": {"('a',)": entry}, **whole}))
    return folder


def blosc(size: int, packed: bytes) -> bytes:
    """A frame of version 2 that claims so many bytes."""
    return struct.pack("<BBBBIII", 2, 1, 0x21, 4, size, 1 << 18, 16 + len(packed)) + packed


def zstd(blocks: int, size: int = 128 << 10) -> bytes:
    """A frame of blocks that repeat one byte each: four bytes for 128 KiB."""
    frame = b"\x28\xb5\x2f\xfd" + bytes([0x00, 0x38])  # no size of the whole, a window of 128 KiB
    for number in range(blocks):
        frame += ((size << 3) | 0b10 | (number == blocks - 1)).to_bytes(3, "little") + b"\0"
    return frame


BLOSC = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
BOMBS: dict[str, tuple[bytes | None, list[int], dict[str, Any]]] = {
    "a small chunk of blosc that claims a gigabyte": (blosc(1_100_000_000, bytes(58_000)), [16], BLOSC),
    "a chunk of zstd that unpacks to a gigabyte": (zstd(9_000), [16], {"id": "zstd", "level": 1}),
    "a chunk of gzip that unpacks to a gigabyte": (
        gzip.compress(bytes(1 << 20)) * 1000,
        [16],
        {"id": "gzip", "level": 1},
    ),
    "a large chunk that is all of one value": (zstd(2_000), [1000, 65536], {"id": "zstd", "level": 1}),
    "an array of the fill value": (None, [1000, 275_000], {"id": "zstd", "level": 1}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_a_chunk_unpacks_to_is_limited(tmp_path: Path, name: str) -> None:
    chunk, shape, compressor = BOMBS[name]
    more = {"fill_value": 1.0, "chunks": [1, 100]} if chunk is None else {}
    folder = orbax(tmp_path / "in", chunk, shape, compressor=compressor, **more)
    if chunk is None:
        (folder / "a" / "zeros").write_bytes(bytes(300_000))
    said = refused("flax->neutral", folder, "-o", "out.safetensors", cwd=tmp_path)
    assert "'a'" in said, said
    assert not (tmp_path / "out.safetensors").exists()


def test_what_is_right_is_read(tmp_path: Path) -> None:
    values = RANDOM.normal(size=(50, 40)).astype("<f4")
    orbax(tmp_path / "in", gzip.compress(values.tobytes()), [50, 40], compressor={"id": "gzip", "level": 5})
    harmless("flax->neutral", "in", "-o", "out.npz", "--format", "safetensors", cwd=tmp_path, code=0)
    assert values.tobytes() in (tmp_path / "out.npz").read_bytes()


@pytest.mark.parametrize("seed", range(3))
def test_forged_tables_of_ocdbt(tmp_path: Path, seed: int) -> None:
    """Bytes of the database changed at random: whatever the library does with it, this program ends with a sentence."""
    shutil.copytree(SAMPLES / "jax/orbax-0.12.8/devices-ocdbt", tmp_path / "in")
    random = np.random.default_rng(seed)
    for file in [path for path in (tmp_path / "in").rglob("*") if path.parent.name == "d" or "manifest" in path.name]:
        data = bytearray(file.read_bytes())
        for at in random.integers(0, len(data), 3):
            data[at] = random.integers(256)
        file.write_bytes(data)
    refused("flax->neutral", "in", "-o", "out.safetensors", cwd=tmp_path)


def manifest(body: bytes, compression: int = 0, version: int = 0) -> bytes:
    """A manifest of OCDBT of the right length and with the right checksum: only what is in it is forged."""
    head = bytes.fromhex("0cdb3a2a") + (18 + len(body)).to_bytes(8, "little")
    data = head + bytes([version, compression]) + body
    return data + google_crc32c.value(data).to_bytes(4, "little")


MANIFESTS = {
    "nothing in it": manifest(b""),
    "all bits set": manifest(b"\xff" * 200),
    "endless numbers": manifest(b"\x80" * 5000),
    "random": manifest(RANDOM.bytes(400)),
    "a zstd frame of a gigabyte": manifest(zstd(9_000), compression=1),
    "a zstd frame that is cut": manifest(zstd(3)[:-3], compression=1),
    "a version of the future": manifest(b"\0" * 60, version=127),
    "a compression that is none": manifest(b"\0" * 60, compression=99),
    "a length that lies": manifest(b"\0" * 60)[:4] + (1 << 62).to_bytes(8, "little") + bytes(60),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_forged_manifests_of_ocdbt(tmp_path: Path, name: str) -> None:
    shutil.copytree(SAMPLES / "jax/orbax-0.12.8/devices-ocdbt", tmp_path / "in")
    for file in (tmp_path / "in").rglob("manifest.ocdbt"):
        file.write_bytes(MANIFESTS[name])
    refused("flax->neutral", "in", "-o", "out.safetensors", cwd=tmp_path)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_manifest_that_leads_out(tmp_path: Path) -> None:
    """The names of its data files are those of another folder: of as many letters, and with the right checksum."""
    shutil.copytree(SAMPLES / "jax/orbax-0.12.8/devices-ocdbt", tmp_path / "in")
    for file in (tmp_path / "in").rglob("manifest.ocdbt"):
        data = file.read_bytes()[:-4].replace(b"d/", b"..")
        file.write_bytes(data + google_crc32c.value(data).to_bytes(4, "little"))
    refused("flax->neutral", "in", "-o", "out.safetensors", cwd=tmp_path)


# -- msgpack ----------------------------------------------------------------------------------------------------


def tree_of_names(depth: int, length: int, leaves: int) -> bytes:
    """So many arrays below keys of so many characters, one in the other."""
    array = msgpack.packb(((2,), "float32", RANDOM.normal(size=2).astype("<f4").tobytes()))
    packed = msgpack.packb({f"{number:04}": msgpack.ExtType(1, array) for number in range(leaves)})
    for level in range(depth):
        key = chr(ord("a") + level % 26) * length
        packed = b"\x81" + msgpack.packb(key) + packed
    return bytes(packed)


@pytest.mark.parametrize("command", [("inspect",), ("flax->torch", "-o", "x.pt")])
def test_long_names_are_charged(tmp_path: Path, command: tuple[str, ...]) -> None:
    """98 KB each, of a file of 200 KB."""
    (tmp_path / "net.msgpack").write_bytes(tree_of_names(24, 4090, 2600))
    outcome = harmless(command[0], "net.msgpack", *command[1:], cwd=tmp_path, code=1)
    assert outcome.err.startswith("error: net.msgpack")


def test_some_long_names_are_read_in_time(tmp_path: Path) -> None:
    (tmp_path / "net.msgpack").write_bytes(tree_of_names(2, 4000, 300))
    harmless("inspect", "net.msgpack", "--json", cwd=tmp_path, code=0)


def test_many_subtrees_that_are_left_out(tmp_path: Path) -> None:
    """Each a reason of its own, beside as many values that could be in one of them."""
    array = msgpack.ExtType(1, msgpack.packb(((1,), "float32", bytes(4))))
    tree: dict[str, Any] = {f"a{number}": {"rngs": {"x": array}} for number in range(30_000)}
    tree |= {f"b{number}": number for number in range(30_000)}
    (tmp_path / "net.msgpack").write_bytes(msgpack.packb(tree))
    harmless("inspect", "net.msgpack", "--json", cwd=tmp_path)
