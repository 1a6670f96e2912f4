"""A store behind a URL that lies: of sizes, of ranges, without an end. No server is trusted with memory or paths."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from converter.core.contents import Contents
from converter.core.tensors import TensorSpec
from converter.errors import ConversionError
from converter.formats import by_name, open_reader, open_writer
from converter.formats.locations import location

LIES = (
    "larger",
    "smaller",
    "no size",
    "a size that is no number",
    "a folder",
    "more than asked",
    "less",
    "all",
    "error",
)


class Liar(MemoryFileSystem):
    """lie: of `LIES`."""

    protocol = "liar"
    store: dict[str, Any] = {}
    pseudo_dirs: list[str] = [""]
    lie = ""
    read = 0

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).replace("liar://", "memory://"))

    def info(self, path: str, **options: Any) -> Any:
        told = dict(super().info(path, **options))
        size = told["size"]
        sizes = {"larger": 10**15, "smaller": size // 2, "no size": None, "a size that is no number": "\x1b[31m"}
        told["size"] = sizes.get(self.lie, size)
        return {**told, "type": "directory" if self.lie == "a folder" else told["type"]}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        asked = bytes(super().cat_file(path, start, end, **options))
        type(self).read += len(asked)
        if self.lie == "error":
            raise RuntimeError("\x1b]0;owned\x07 503")
        given = {"more than asked": asked + b"x", "less": asked[:-1], "all": bytes(super().cat_file(path))}
        return given.get(self.lie, asked)


@pytest.fixture
def liar() -> Iterator[type[Liar]]:
    fsspec.register_implementation("liar", Liar, clobber=True)
    yield Liar
    Liar.store.clear()
    Liar.lie, Liar.read = "", 0


def _file(tmp_path: Path, name: str = "net.safetensors") -> bytes:
    specs = tuple(TensorSpec(f"{layer}.weight", (300, 200), np.dtype("float32")) for layer in "ab")
    with open_writer(by_name("safetensors"), tmp_path / name, Contents(specs)) as writer:
        for spec in specs:
            writer.write(spec.name, np.ones(spec.shape, np.float32))
    return (tmp_path / name).read_bytes()


def _read(url: str) -> None:
    _, reader = open_reader(location(url))
    with reader:
        for spec in reader.contents.specs:
            reader.read(spec.name)


@pytest.mark.parametrize("lie", LIES)
def test_a_store_that_lies(tmp_path: Path, liar: type[Liar], lie: str) -> None:
    fsspec.filesystem("liar").pipe("/net.safetensors", _file(tmp_path))
    _read("liar://net.safetensors")
    liar.lie = lie
    with pytest.raises(ConversionError) as raised:
        _read("liar://net.safetensors")
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "file:///etc/passwd", "http://there/x", "a/../../x", ""])
def test_an_index_at_a_url_leads_nowhere_else(tmp_path: Path, liar: type[Liar], name: str) -> None:
    store = fsspec.filesystem("liar")
    store.pipe("/net/model.safetensors.index.json", json.dumps({"weight_map": {"a.weight": name}}).encode())
    store.pipe("/secret", _file(tmp_path))
    liar.read = 0
    with pytest.raises(ConversionError, match=r"which is (not in its folder|missing)|not a file"):
        _read("liar://net/model.safetensors.index.json")
    assert liar.read < 2000
