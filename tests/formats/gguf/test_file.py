"""GGUF: the contract, hostile headers, and the package of that name as the oracle (by samples of `tests.quantized`)."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

import converter
from converter.core.tensors import DTYPES
from converter.errors import FormatError, OutputError
from converter.formats import Contents, by_name, open_reader, open_writer
from converter.formats.gguf.header import NUMBER_OF, SCALARS, TYPES
from tests.formats.contract import FormatContract, random_array, specs_of
from tests.places import SAMPLES

PLAIN, QUANTIZED = (SAMPLES / "quantized" / name / "model.gguf" for name in ("gguf_plain", "gguf"))


class TestContract(FormatContract):
    format = "gguf"
    file_name = "net.gguf"
    dtypes = tuple(dtype.name for dtype in NUMBER_OF)
    names = ("blk.0.attn_q.weight", "blk.0.attn_q.bias")

    @pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (1, 1), (2, 3, 4), (2, 1, 2, 1)])
    def test_every_shape_comes_back(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        super().test_every_shape_comes_back(tmp_path, shape)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, dims: tuple[int, ...], kind: int = 0, start: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, start)


def made(
    path: Path, tensors: list[bytes], values: list[bytes] | None = None, data: bytes = b"", version: int = 3
) -> Path:
    values = values or []
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values)) + b"".join(values) + b"".join(tensors)
    path.write_bytes(head.ljust(-(-len(head) // 32) * 32, b"\0") + data)
    return path


def test_a_file_of_plain_elements_is_written_as_the_package_writes_it(tmp_path: Path) -> None:
    converter.convert("torch->torch", PLAIN, tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == PLAIN.read_bytes()


def test_metadata_of_all_types_goes_along_and_the_type_of_the_file_is_told_anew(tmp_path: Path) -> None:
    values = [entry(f"k.{kind}", kind, struct.pack(form, 1)) for kind, form in SCALARS.items()]
    values += [entry("k.text", 8, text("ü")), entry("k.texts", 9, struct.pack("<IQ", 8, 2) + text("a") + text(""))]
    values += [entry("general.file_type", 4, struct.pack("<I", 15)), entry("general.alignment", 4, b"\x40\0\0\0")]
    head = made(tmp_path / "a.gguf", [tensor("x.weight", (32, 2), 2)], values).read_bytes()
    (tmp_path / "a.gguf").write_bytes(head.ljust(-(-len(head) // 64) * 64, b"\0") + bytes(36))
    converter.convert("torch->torch", tmp_path / "a.gguf", tmp_path / "b.gguf", dtype="float16")
    with open_reader(tmp_path / "b.gguf")[1] as reader:
        metadata = dict(reader.contents.metadata)
        assert reader.contents.by_name["x.weight"].dtype == np.float16 and not reader.contents.quantized
    assert metadata["general.file_type"] == "1" and "general.alignment" not in metadata
    assert metadata["k.text"] == "ü" and metadata["k.7"] == "True" and metadata["k.12"] == "1.0"
    assert (tmp_path / "b.gguf").read_bytes().count(values[-3]) == 1


def test_what_is_no_weight_is_listed_and_shapes_are_turned_round() -> None:
    with converter.open(QUANTIZED) as weights:
        assert weights.framework == "torch"
        assert weights.contents.by_name["float32.weight"].shape == (3, 5)
        assert {item.name for item in weights.net.left_out} == {"tokenizer.ggml.tokens"}
        assert weights.contents.metadata["llama.attention.head_count"] == "4"
        assert weights.contents.quantized["Q4_K.weight"] == "GGUF, Q4_K"


HUGE = 1 << 62
HOSTILE = {
    "version 1": ([], [], {"version": 1}),
    "big-endian": ([], [], {"version": 3 << 24}),
    "axes": ([tensor("a", (1,) * 5)], [], {}),
    "type": ([tensor("a", (32,), 16)], [], {}),
    "unknown type": ([tensor("a", (32,), 5)], [], {}),
    "impossible shape": ([tensor("a", (HUGE, HUGE))], [], {}),
    "impossible empty shape": ([tensor("a", (0, HUGE, HUGE))], [], {}),
    "rows that are no blocks": ([tensor("a", (31, 2), 2)], [], {"data": bytes(100)}),
    "no rows": ([tensor("a", (), 2)], [], {"data": bytes(100)}),
    "overlap": ([tensor("a", (8,)), tensor("b", (8,))], [], {"data": bytes(64)}),
    "gap": ([tensor("a", (8,)), tensor("b", (8,), 0, 64)], [], {"data": bytes(128)}),
    "not aligned": ([tensor("a", (7,)), tensor("b", (8,), 0, 28)], [], {"data": bytes(96)}),
    "beyond the end": ([tensor("a", (9,))], [], {"data": bytes(32)}),
    "the same name": ([tensor("a", (8,)), tensor("a", (8,), 0, 32)], [], {"data": bytes(64)}),
    "long name": ([text("a" * 9000) + bytes(16)], [], {}),
    "no text": ([struct.pack("<Q", 2) + b"\xff\xfe" + bytes(16)], [], {}),
    "name beyond the end": ([struct.pack("<Q", 1 << 63) + bytes(16)], [], {}),
    "key twice": ([], [entry("k", 0, b"\1")] * 2, {}),
    "type of a value": ([], [entry("k", 13, bytes(8))], {}),
    "array of arrays": ([], [entry("k", 9, struct.pack("<IQ", 9, 1) + bytes(12))], {}),
    "array beyond the end": ([], [entry("k", 9, struct.pack("<IQ", 4, HUGE))], {}),
    "texts beyond the end": ([], [entry("k", 9, struct.pack("<IQ", 8, HUGE))], {}),
    "alignment of zero": ([], [entry("general.alignment", 4, bytes(4))], {}),
    "alignment of three": ([], [entry("general.alignment", 4, b"\3\0\0\0")], {}),
    "alignment of a text": ([], [entry("general.alignment", 8, text("32"))], {}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_an_error(tmp_path: Path, name: str) -> None:
    tensors, values, more = HOSTILE[name]
    path = made(tmp_path / "a.gguf", tensors, values, **more)  # type: ignore[arg-type]
    with pytest.raises(FormatError) as raised, converter.open(path) as weights:
        list(weights.values())
    assert "a.gguf" in str(raised.value)


@pytest.mark.parametrize("counts", [(1 << 63, 0), (0, 1 << 63), (1 << 40, 1 << 40), (3, 0), (0, 3)])
def test_counts_of_more_than_the_file_can_hold_are_an_error(tmp_path: Path, counts: tuple[int, int]) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts))
    with pytest.raises(FormatError, match="claims"):
        converter.open(tmp_path / "a.gguf")


def test_version_2_is_read(tmp_path: Path) -> None:
    path = made(tmp_path / "a.gguf", [tensor("a.weight", (2,))], [], np.float32([1, 2]).tobytes(), version=2)
    with converter.open(path) as weights:
        assert weights["a.weight"].tolist() == [1, 2]


def test_a_type_that_is_not_read_is_named(tmp_path: Path) -> None:
    for number, name in TYPES.items():
        if name.startswith(("IQ1", "IQ2", "IQ3", "NVFP4", "Q1_0", "Q8_1")):
            path = made(tmp_path / "a.gguf", [tensor("a", (256,), number)], [], bytes(512))
            with pytest.raises(FormatError, match=f"'a' has the type {name} of ggml, which is not read"):
                converter.open(path)


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "what"),
    [
        ("a", "uint8", (2,), "is uint8, which ggml does not have"),
        ("a", "float32", (1,) * 5, "has 5 axes"),
        ("a" * 64, "float32", (2,), "has a name of 64 bytes"),
    ],
)
def test_what_ggml_cannot_hold_is_not_written(
    tmp_path: Path, name: str, dtype: str, shape: tuple[int, ...], what: str
) -> None:
    specs = specs_of({name: random_array(shape, dtype)})
    with pytest.raises(OutputError, match=what):
        open_writer(by_name("gguf"), tmp_path / "a.gguf", Contents(specs))
    assert not list(tmp_path.iterdir()) and DTYPES[dtype].itemsize
