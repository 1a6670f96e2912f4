"""Damaged and hostile checkpoints and Keras files: data or a FormatError, never anything else."""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from converter.core.tensors import DTYPES
from converter.errors import ConversionError, FormatError
from converter.formats import Contents, ReadOptions, by_name, open_reader, open_writer
from converter.formats.io.budget import Budget
from converter.formats.io.checksums import masked_crc32c
from converter.formats.tensorflow import snappy
from converter.formats.tensorflow.object_graph import GRAPH_KEY, SUFFIX, ObjectGraph, escape, unescape
from converter.formats.tensorflow.protowire import (
    Message,
    WireError,
    put_bytes,
    put_fixed32,
    put_integer,
    put_text,
    varint,
)
from converter.formats.tensorflow.table import FOOTER, MAGIC, TableWriter
from converter.formats.tensorflow.tensor_proto import read_values
from converter.formats.tensorflow.types import slice_key, write_shape
from tests.formats.contract import random_array, same_bits, specs_of
from tests.places import SAMPLES

HEADER = put_integer(1, 1) + put_bytes(3, put_integer(1, 1))
VALUES = np.arange(4, dtype="float32")


def entry(code=1, shape=(4,), offset=0, size=16, shard=0, crc=None, extra=b"") -> bytes:
    crc = masked_crc32c(VALUES.tobytes()) if crc is None else crc
    fields = put_integer(1, code) + put_bytes(2, write_shape(shape)) + put_integer(3, shard)
    return fields + put_integer(4, offset) + put_integer(5, size) + put_fixed32(6, crc) + extra


def index_of(pairs) -> bytes:
    file = io.BytesIO()
    table = TableWriter(file)
    for key, value in pairs:
        table.add(key, value)
    table.finish()
    return file.getvalue()


def table_of(block: bytes, compression: int = 0) -> bytes:
    """A table of one data block, whatever its bytes are, with right checksums."""

    def framed(data: bytes, kind: int = 0) -> bytes:
        data += bytes([kind])
        return data + struct.pack("<I", masked_crc32c(data))

    data = framed(block, compression)
    handle = varint(0) + varint(len(block))
    index = pair(b"z", handle) + struct.pack("<2I", 0, 1)
    end = framed(index)
    footer = varint(len(data)) + varint(0) + varint(len(data)) + varint(len(index))
    return data + end + footer.ljust(FOOTER - 8, b"\0") + MAGIC


def pair(key: bytes, value: bytes, shared: int = 0) -> bytes:
    return varint(shared) + varint(len(key)) + varint(len(value)) + key + value


def block_of(*pairs: bytes) -> bytes:
    return b"".join(pairs) + struct.pack("<2I", 0, 1)


def checkpoint(folder: Path, index: bytes, data: bytes = VALUES.tobytes()) -> Path:
    (folder / "m.index").write_bytes(index)
    (folder / "m.data-00000-of-00001").write_bytes(data)
    return folder / "m"


def read(path: Path, **options):
    _, reader = open_reader(path, ReadOptions(**options))
    with reader:
        return {spec.name: np.array(reader.read(spec.name)) for spec in reader.contents.specs}


def test_the_made_checkpoint_is_right_when_nothing_is_wrong_with_it(tmp_path: Path) -> None:
    back = read(checkpoint(tmp_path, index_of([(b"", HEADER), (b"v", entry())])))
    assert same_bits(back["v"], VALUES)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(b"v", entry())], "the header entry is missing"),
        ([(b"", put_integer(1, 0))], "the header claims 0 data files"),
        ([(b"", put_integer(1, 1 << 40))], "the header claims 1099511627776 data files"),
        ([(b"", HEADER), (b"v", entry(offset=1))], "lies at offset 1 with 16 bytes, but the file ends at 16"),
        ([(b"", HEADER), (b"v", entry(offset=1 << 63))], "but the file ends at 16"),
        ([(b"", HEADER), (b"v", entry(size=12))], "4 elements of float32 take 16 bytes, it says 12"),
        ([(b"", HEADER), (b"v", entry(shape=(1 << 60,)))], "elements of float32 take"),
        ([(b"", HEADER), (b"v", entry(shape=(-1,)))], "is impossible"),
        ([(b"", HEADER), (b"v", entry(shard=7))], "it lies in data file 7 of 1"),
        ([(b"", HEADER), (b"v", entry(crc=1))], "'v' is damaged: wrong checksum"),
        ([(b"", HEADER), (b"v", b"\xff" * 11)], "the entry of 'v' is damaged: a number has more than ten bytes"),
        ([(b"", HEADER), (b"\xfe", entry())], "is not UTF-8 text"),
        ([(b"", HEADER), (b"v", entry(extra=put_bytes(7, b"")))], "a slice of 0 axes in a tensor of 1"),
        ([(b"", HEADER), (b"v", entry(extra=put_bytes(7, put_bytes(1, b""))))], "is missing"),
        ([(b"", HEADER), (GRAPH_KEY.encode(), entry(code=7, shape=(), size=16))], "claims 0 bytes, it has 16"),
    ],
)
def test_entries_that_cannot_be_are_refused(tmp_path: Path, pairs, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read(checkpoint(tmp_path, index_of(pairs)))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (block_of(pair(b"a", b"", shared=5)), "shares 5 bytes with a key of 0"),
        (block_of(varint(0) + varint(1 << 40) + varint(0)), "runs over the end"),
        (block_of(pair(b"b", b""), pair(b"a", b"")), "is out of order or occurs twice"),
        (block_of(pair(b"a", b""), pair(b"a", b"")), "is out of order or occurs twice"),
        (struct.pack("<I", 1 << 30), "1073741824 restart points do not fit"),
        (b"\0", "too short"),
        (
            block_of(
                pair(b"a" * 60_000, b""), *(pair(b"%c" % (98 + i // 99), b"", shared=60_000 + i) for i in range(900))
            ),
            "the names in it would take",
        ),
    ],
)
def test_tables_that_cannot_be_are_refused(tmp_path: Path, block: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read(checkpoint(tmp_path, table_of(block)))


def test_an_index_that_points_outside_is_refused(tmp_path: Path) -> None:
    for footer in (varint(1 << 50) * 4, varint(0) * 2 + varint(0) + varint(1 << 62), b"\xff" * 40):
        with pytest.raises(FormatError, match=r"over the end of the file|is damaged"):
            read(checkpoint(tmp_path, b"x" * 100 + footer.ljust(40, b"\0")[:40] + MAGIC))


def test_a_compressed_index_is_read(tmp_path: Path) -> None:
    block = block_of(pair(b"", HEADER), pair(b"v", entry()))
    literal = varint(len(block)) + bytes([60 << 2, len(block) - 1]) + block
    assert same_bits(read(checkpoint(tmp_path, table_of(literal, 1)))["v"], VALUES)


def test_snappy_copies_of_every_kind() -> None:
    def ops(*parts: bytes) -> bytes:
        return b"".join(parts)

    abc = bytes([2 << 2]) + b"abc"
    assert snappy.decompress(memoryview(varint(3) + abc)) == b"abc"
    assert snappy.decompress(memoryview(varint(10) + ops(abc, bytes([1 | (7 - 4) << 2, 3])))) == b"abcabcabca"
    assert snappy.decompress(memoryview(varint(5) + ops(abc, bytes([2 | 1 << 2, 2, 0])))) == b"abcbc"
    assert snappy.decompress(memoryview(varint(4) + ops(abc, bytes([3, 3, 0, 0, 0])))) == b"abca"
    for bad in (
        varint(1 << 40) + abc,
        varint(4) + abc,
        varint(5) + abc + b"\x01\x09",
        varint(9) + b"\xf4\xff",
        b"\xff" * 12,
    ):
        with pytest.raises(WireError):
            snappy.decompress(memoryview(bad))


def test_a_graph_of_loops_and_of_depth_ends() -> None:
    child = put_bytes(1, put_bytes(1, put_text(2, "self")))
    assert ObjectGraph(child, Budget(Path("m"))).other_paths() == {"self": ""}
    deep = b"".join(put_bytes(1, put_bytes(1, put_integer(1, i + 1) + put_text(2, "x"))) for i in range(30_000))
    with pytest.raises(FormatError, match="the paths in its object graph would take"):
        ObjectGraph(deep + put_bytes(1, b""), Budget(Path("m")))
    with pytest.raises(WireError, match="refers to node 9"):
        ObjectGraph(put_bytes(1, put_bytes(1, put_integer(1, 9))), Budget(Path("m")))


@pytest.mark.parametrize("name", ["a", "a/b", "z.", ".S", "/", "..", "a.b/c.S", "é"])
def test_names_survive_the_escape(name: str) -> None:
    assert unescape(escape(name)) == name and "/" not in escape(name)


def test_values_of_a_tensor_proto_packed_and_one_by_one() -> None:
    numbers = [0, -1, 300, -(1 << 40), (1 << 62)]
    packed = put_bytes(10, b"".join(map(varint, numbers)))
    single = b"".join(varint(10 << 3) + varint(number) for number in numbers)
    for data in (packed, single):
        assert read_values(Message(data), DTYPES["int64"], 5).tolist() == numbers
    for bad in (put_bytes(10, b"\x80"), put_bytes(10, b"\xff" * 12 + b"\1"), packed + single):
        with pytest.raises(WireError):
            read_values(Message(bad), DTYPES["int64"], 5)


def test_slice_keys_are_those_of_tensorflow() -> None:
    """From a checkpoint of TensorFlow 2.13; and the ordered code of numbers of more than one byte."""
    assert slice_key(b"t", [(0, 2), (0, -1)]) == b"\0t\0\x01\x01\x02\x80\x82\x80\x7f"
    assert slice_key(b"", [(64, 8191)]) == b"\0\0\x01\x01\x01\xc0\x40\xdf\xff"


def test_a_pipe_instead_of_a_data_file_does_not_block(tmp_path: Path) -> None:

    prefix = checkpoint(tmp_path, index_of([(b"", HEADER), (b"v", entry())]))
    (tmp_path / "m.data-00000-of-00001").unlink()
    os.mkfifo(tmp_path / "m.data-00000-of-00001")
    with pytest.raises(FormatError, match="not a regular file"):
        read(prefix)


def test_big_endian_checkpoints_are_read(tmp_path: Path) -> None:
    values = random_array((2, 3), "complex64", 4)
    data = values.astype(">c8").tobytes()
    header = put_integer(1, 1) + put_integer(2, 1)
    index = index_of([(b"", header), (b"v", entry(8, (2, 3), 0, len(data), crc=masked_crc32c(data)))])
    assert same_bits(read(checkpoint(tmp_path, index, data))["v"], values)


def made(format_name: str, path: Path, tensors) -> None:
    with open_writer(by_name(format_name), path, Contents(specs_of(tensors))) as writer:
        for name, array in tensors.items():
            writer.write(name, array)


def seed_file(kind: str, folder: Path) -> tuple[Path, str]:
    """(what is opened, the name of the file that is damaged)."""
    two = [random_array((3, 2), "float32", seed) for seed in (0, 1)]
    if kind in ("index", "unverified"):
        made("tf-checkpoint", folder / "m", dict(zip((f"a/b{SUFFIX}", f"a/c{SUFFIX}"), two, strict=True)))
        return folder / "m", "m.index"
    if kind == "keras":
        made("keras-h5", folder / "m.weights.h5", dict(zip(("layers/a/vars/0", "layers/a/vars/1"), two, strict=True)))
        return folder / "m.weights.h5", "m.weights.h5"
    if kind == "keras2":
        made("keras2-h5", folder / "m.h5", dict(zip(("a/a/k:0", "b/b/k:0"), two, strict=True)))
        return folder / "m.h5", "m.h5"
    source = {"first": "tensorflow/1.15.0/saver_v1_part/model.ckpt-5", "zip": "keras/3.0.5/nested_seq.keras"}[kind]
    shutil.copy(SAMPLES / source, folder / "m.keras")
    return folder / "m.keras", "m.keras"


@pytest.mark.parametrize("kind", ["index", "unverified", "first", "zip", "keras", "keras2"])
def test_fuzzed_files_end_in_data_or_a_format_error(tmp_path: Path, kind: str) -> None:
    path, victim = seed_file(kind, tmp_path)
    whole = (tmp_path / victim).read_bytes()
    rng = random.Random(20)
    outcomes = {"data": 0, "error": 0}
    for _ in range(400):
        (tmp_path / victim).write_bytes(damaged(whole, rng))
        try:
            read(path, checksums=kind not in ("unverified", "first"))
            outcomes["data"] += 1
        except ConversionError:
            outcomes["error"] += 1
    assert outcomes["error"] > 50


def damaged(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, size = rng.randrange(len(out)), rng.choice((1, 2, 4, 8))
        kind = rng.randrange(4)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at : at + size] = rng.choice((b"\xff", b"\0", b"\x7f")) * size
        elif kind == 2:
            out[at : at + size] = rng.randbytes(size)
        else:
            del out[at : at + size]
    return bytes(out)


def test_texts_of_a_damaged_heap_end_in_an_error(tmp_path: Path) -> None:
    """libhdf5 1.14.6 never returns from such a file."""
    path = tmp_path / "m.weights.h5"
    contents = Contents(specs_of({"a/vars/0": VALUES}), labels={"a/vars": "the name of the layer"})
    with open_writer(by_name("keras-h5"), path, contents) as writer:
        writer.write("a/vars/0", VALUES)
    whole = path.read_bytes()
    heap = whole.index(b"GCOL")
    assert open_reader(path)[1].contents.labels == {"a/vars": "the name of the layer"}
    for at, value in [(heap, b"X"), (heap + 8, b"\xff" * 8), (heap + 16, b"\x09"), (heap + 24, b"\x01" + bytes(7))]:
        path.write_bytes(whole[:at] + value + whole[at + len(value) :])
        with pytest.raises(FormatError, match="the attribute 'name' of '/a/vars'"):
            read(path)
