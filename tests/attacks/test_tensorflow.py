"""TensorFlow checkpoints that say much in few bytes."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from converter.errors import FormatError
from converter.formats import open_reader
from converter.formats.io.budget import Budget
from converter.formats.io.checksums import masked_crc32c
from converter.formats.tensorflow import snappy
from converter.formats.tensorflow.object_graph import ObjectGraph
from converter.formats.tensorflow.paths import state_of
from converter.formats.tensorflow.protowire import Message, WireError, put_bytes, put_fixed32, put_integer, varint
from converter.formats.tensorflow.table import FOOTER, MAGIC, TableWriter
from converter.formats.tensorflow.types import slice_key, write_shape
from tests.attacks.limits import harmless, refused

HEADER = put_integer(1, 1) + put_bytes(3, put_integer(1, 1))


def entry(shape: tuple[int, ...], offset: int, size: int, crc: int = 0, extra: bytes = b"") -> bytes:
    place = put_integer(4, offset) + put_integer(5, size) + put_fixed32(6, crc)
    return put_integer(1, 1) + put_bytes(2, write_shape(shape)) + place + extra


def checkpoint(folder: Path, pairs: list[tuple[bytes, bytes]], data: bytes) -> None:
    file = io.BytesIO()
    table = TableWriter(file)
    for key, value in sorted(pairs):
        table.add(key, value)
    table.finish()
    (folder / "m.index").write_bytes(file.getvalue())
    (folder / "m.data-00000-of-00001").write_bytes(data)


def block_table(block: bytes, compression: int) -> bytes:
    def framed(data: bytes, kind: int = 0) -> bytes:
        data += bytes([kind])
        return data + struct.pack("<I", masked_crc32c(data))

    index = varint(0) + varint(1) + varint(len(varint(0) + varint(len(block)))) + b"z" + varint(0) + varint(len(block))
    index += struct.pack("<2I", 0, 1)
    data = framed(block, compression)
    footer = varint(len(data)) + varint(0) + varint(len(data)) + varint(len(index))
    return data + framed(index) + footer.ljust(FOOTER - 8, b"\0") + MAGIC


def test_thousands_of_slices_of_the_same_bytes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=1 << 18).astype(np.float32)
    count, crc = 3000, masked_crc32c(values.tobytes())
    pairs, slices = [(b"", HEADER)], b""
    for number in range(count):
        extents = ((number, 1), (0, 1 << 18))
        slices += put_bytes(7, b"".join(put_bytes(1, put_integer(1, at) + put_integer(2, n)) for at, n in extents))
        pairs.append((slice_key(b"v", extents), entry((1, 1 << 18), 0, values.nbytes, crc)))
    pairs.append((b"v", entry((count, 1 << 18), 0, 0, extra=slices)))
    checkpoint(tmp_path, pairs, values.tobytes())
    said = refused("convert", "tf->neutral", "m", "-o", "m.safetensors", cwd=tmp_path)
    assert "where another tensor lies too" in said


def test_thousands_of_tensors_of_the_same_bytes(tmp_path: Path) -> None:
    pairs = [(b"", HEADER), *((b"v%d" % number, entry((4,), 0, 16)) for number in range(3000))]
    checkpoint(tmp_path, pairs, bytes(16))
    with pytest.raises(FormatError, match="where another tensor lies too"):
        open_reader(tmp_path / "m")


def test_a_long_name_that_thousands_share_in_the_index(tmp_path: Path) -> None:
    def pair(key: bytes, value: bytes, shared: int = 0) -> bytes:
        return varint(shared) + varint(len(key)) + varint(len(value)) + key + value

    long = pair(b"a" * 1_000_000, entry((), 0, 4))
    rest = b"".join(pair(b"b%05d" % number, entry((), 0, 4), 999_000) for number in range(5000))
    block = pair(b"", HEADER) + long + rest + struct.pack("<2I", 0, 1)
    (tmp_path / "m.index").write_bytes(block_table(block, 0))
    (tmp_path / "m.data-00000-of-00001").write_bytes(bytes(4))
    assert "the names in it would take" in refused("inspect", "m", cwd=tmp_path)


def test_one_long_name_beside_thousands_of_short_ones(tmp_path: Path) -> None:
    names = [b"a" * 1_000_000, *(b"b%05d" % number for number in range(5000))]
    pairs = [(b"", HEADER), *((name, entry((), 4 * number, 4)) for number, name in enumerate(names))]
    checkpoint(tmp_path, pairs, bytes(4 * len(names)))
    outcome = harmless("inspect", "--no-checksums", "m", cwd=tmp_path)
    assert len(outcome.out) < 20_000_000


def test_a_packed_table_that_unpacks_to_too_much(tmp_path: Path) -> None:
    size = 360_000_000
    copies = bytes([63 << 2 | 2, 1, 0]) * (size // 64)
    packed = varint(size + 1) + bytes([0]) + b"\0" + copies
    assert snappy.unpacked_size(memoryview(packed)) > size
    (tmp_path / "m.index").write_bytes(block_table(packed, 1))
    assert "a table in it would take" in refused("inspect", "m", cwd=tmp_path)


def test_a_message_of_millions_of_fields() -> None:
    with pytest.raises(WireError, match="fields"):
        Message(b"\x0a\x00" * 300_000)
    nodes = put_bytes(1, b"\x0a\x00" * 1000) * 20
    with pytest.raises(FormatError, match="its object graph would take"):
        ObjectGraph(nodes, Budget(Path("m"), 20 * 1000 * 200))


def test_a_state_file_of_empty_lines_is_looked_through_once(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(b"\n" * (1 << 20))
    assert state_of(tmp_path) is None
