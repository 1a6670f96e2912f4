"""Pickles and archives, written opcode by opcode: no library would write such files."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def named(name: str) -> bytes:
    module, _, symbol = name.rpartition(".")
    return f"c{module}\n{symbol}\n".encode()


def memo(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def recall(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def number(value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8b" + struct.pack("<I", len(raw)) + raw


def array(values: np.ndarray) -> bytes:  # type: ignore[type-arg]
    """``numpy.core.numeric._frombuffer`` of the bytes."""
    raw = values.tobytes()
    stored = b"B" + struct.pack("<I", len(raw)) + raw
    dtype = (
        named("numpy.dtype") + text(values.dtype.str[1:]) + b"\x89\x88\x87R(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xff"
    )
    dtype += b"J\xff\xff\xff\xffK\0tb"
    shape = b"(" + b"".join(map(number, values.shape)) + b"t"
    return named("numpy.core.numeric._frombuffer") + b"(" + stored + dtype + shape + text("C") + b"tR"


def tensor(key: str, count: int, shape: tuple[int, ...], stride: tuple[int, ...], kind: str = "FloatStorage") -> bytes:
    """``torch._utils._rebuild_tensor_v2``."""
    storage = b"(" + text("storage") + named(f"torch.{kind}") + text(key) + text("cpu") + number(count) + b"tQ"
    sizes, strides = (b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (shape, stride))
    hooks = named("collections.OrderedDict") + b")R"
    return (
        named("torch._utils._rebuild_tensor_v2") + b"(" + storage + b"K\0" + sizes + strides + b"\x89" + hooks + b"tR"
    )


def plain(path: Path, body: bytes) -> Path:
    path.write_bytes(b"\x80\x02" + body + b".")
    return path


def torch_zip(path: Path, body: bytes, storages: Mapping[str, bytes] = {}, packed: bool = False) -> Path:
    """A file as of ``torch.save``."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + body + b".")
        for key, data in storages.items():
            archive.writestr(f"a/data/{key}", data)
        archive.writestr("a/version", b"3\n")
    return path
