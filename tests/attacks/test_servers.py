"""A real HTTP server that lies: one sentence, in bounded memory and time, and never other bytes than the file's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from converter.core.contents import Contents
from converter.core.tensors import TensorSpec
from converter.errors import ConversionError
from converter.formats import by_name, http, open_reader, open_writer
from converter.formats.locations import location
from tests.attacks.limits import refused
from tests.attacks.server import LIES, SLOW, Server, serving

NAME = "net.safetensors"
#: Those that could take memory or time, for a process that is measured.
LARGE = (
    "an endless body",
    "endless chunks",
    "an endless line of a chunk",
    "a header without an end",
    "headers of 10 MB",
    "a gzip bomb",
    "a huge size",
    "no ranges",
    "in a circle",
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    _net(folder / NAME)
    with serving(folder) as server:
        yield server


def _net(path: Path) -> None:
    specs = tuple(TensorSpec(f"{layer}.weight", (300, 200), np.dtype("float32")) for layer in "ab")
    with open_writer(by_name("safetensors"), path, Contents(specs)) as writer:
        for seed, spec in enumerate(specs):
            writer.write(spec.name, np.random.default_rng(seed).standard_normal(spec.shape, np.float32))


def _read(url: str) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    _, reader = open_reader(location(url))
    with reader:
        return {spec.name: reader.read(spec.name) for spec in reader.contents.specs}


@pytest.mark.parametrize("lie", LARGE)
def test_it_lies_from_the_start(tmp_path: Path, server: Server, lie: str) -> None:
    server.lie = lie
    told = refused("convert", "torch->flax", f"{server.url}/{NAME}", "-o", tmp_path / "out.msgpack", cwd=tmp_path)
    assert told.count("\n") == 1 and told.strip().isprintable(), told
    assert NAME in told
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("lie", sorted(set(LIES) - set(SLOW)))
def test_it_lies_later(server: Server, lie: str) -> None:
    """Whatever request is the first that gets a wrong answer: an error, or the very numbers of the file."""
    right = _read(f"{server.url}/{NAME}")
    needed = len(server.requests)
    assert needed > 3
    for until in (0, 1, needed - 1, needed):
        server.lie, server.until = lie, until
        server.requests.clear()
        try:
            found = _read(f"{server.url}/{NAME}")
        except ConversionError as error:
            assert until < needed and str(error).isprintable()
        else:
            assert until == needed and all(np.array_equal(found[name], right[name]) for name in right)


@pytest.mark.parametrize("lie", SLOW)
def test_a_server_without_an_end(server: Server, lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PATIENCE", 0.5)
    server.lie = lie
    with pytest.raises(ConversionError, match=r"took more than \d+ s"):
        _read(f"{server.url}/{NAME}")


def test_an_index_names_no_other_file_of_the_server(server: Server) -> None:
    (server.folder / "net").mkdir()
    for name in ("%2e%2e%2fnet.safetensors", "net.safetensors?x", "x#/../net.safetensors"):
        index = {"weight_map": {"a.weight": name, "b.weight": name}}
        (server.folder / "net" / "model.safetensors.index.json").write_text(json.dumps(index))
        server.requests.clear()
        with pytest.raises(ConversionError):
            _read(f"{server.url}/net/model.safetensors.index.json")
        assert {path for path, _ in server.requests} == {"/net/model.safetensors.index.json"}
