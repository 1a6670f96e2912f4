"""Weights of an HTTP server that does as it should: read in ranges, without a library for it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import converter
from converter.errors import ConversionError, OutputError
from converter.formats.io.remote import RemoteSource
from converter.formats.locations import location
from tests.attacks.server import LIES, Answer, Server, serving
from tests.command import ok


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    with serving(folder) as server:
        yield server


def _state(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {
        "a.weight": torch.randn(300, 200),
        "a.bias": torch.randn(300),
        "b.weight": torch.randn(20, 300),
        "b.bias": torch.randn(20),
    }


def test_the_same_file_comes_of_it(tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(_state(), server.folder / "net one.pt")
    ok(
        capsys,
        "convert",
        "torch->flax",
        f"{server.url}/net%20one.pt?download=true",
        "-o",
        str(tmp_path / "url.msgpack"),
    )
    ok(capsys, "convert", "torch->flax", str(server.folder / "net one.pt"), "-o", str(tmp_path / "file.msgpack"))
    assert (tmp_path / "url.msgpack").read_bytes() == (tmp_path / "file.msgpack").read_bytes()


def test_shards(tmp_path: Path, server: Server) -> None:
    state = _state()
    weight_map = {}
    for number, name in enumerate(state):
        file = f"model-0000{number + 1}-of-00003.safetensors"
        save_file({name: state[name]}, server.folder / file)
        weight_map[name] = file
    (server.folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with converter.open(f"{server.url}/model.safetensors.index.json") as source:
        for name, tensor in state.items():
            assert np.array_equal(source.reader.read(name), tensor.numpy())


def test_a_redirect_is_followed_without_the_password(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    (server.folder / "x").write_bytes(b"abcdef")
    seen: list[str | None] = []

    def asked(answer: Answer) -> None:
        seen.append(answer.headers.get("Authorization"))
        if answer.path == "/first":
            answer.say(302, {"Location": f"http://localhost:{server.server_port}/x", "Content-Length": "0"})
        else:
            answer.right()

    (server.folder / "first").touch()
    monkeypatch.setitem(LIES, "first", asked)
    server.lie = "first"
    source = RemoteSource(location(f"http://me:p%40ss@127.0.0.1:{server.server_port}/first"))
    assert source.take(1, 3, "it") == b"bcd"
    secret = f"Basic {base64.b64encode(b'me:p@ss').decode()}"
    assert seen == [secret, None, secret, None]


def test_connections_are_kept(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    (server.folder / "x").write_bytes(bytes(range(256)) * 1000)
    connections = []
    monkeypatch.setattr(server, "verify_request", lambda request, address: connections.append(address) or True)
    source = RemoteSource(location(f"{server.url}/x"))
    for start in (0, 100_000, 200_000):
        assert source.take(start, 3, "it") == bytes((start + i) % 256 for i in range(3))
    assert len(connections) == 1 and len(server.requests) == 4


def test_a_connection_that_was_closed_meanwhile_is_made_again(server: Server) -> None:
    (server.folder / "x").write_bytes(b"abcdef")

    class Closing(Answer):
        def right(self, **headers: str) -> None:
            super().right(**headers)
            self.close_connection = True  # without saying so

    server.RequestHandlerClass = Closing
    source = RemoteSource(location(f"{server.url}/x"))
    assert source.take(1, 3, "it") == b"bcd"


def test_what_is_not_there(server: Server) -> None:
    with pytest.raises(ConversionError, match="does not exist"):
        converter.open(f"{server.url}/none.safetensors")


def test_an_empty_file(server: Server) -> None:
    (server.folder / "x.safetensors").touch()
    with pytest.raises(ConversionError, match="empty"):
        converter.open(f"{server.url}/x.safetensors")


def test_nothing_is_written_to_it(tmp_path: Path, server: Server) -> None:
    torch.save(_state(), tmp_path / "net.pt")
    with pytest.raises(OutputError, match="only read from"):
        converter.convert("torch->flax", tmp_path / "net.pt", f"{server.url}/out.msgpack")


@pytest.mark.parametrize(
    "url", ["http://[::1/x.pt", "http://127.0.0.1:99999/x.pt", "http://127.0.0.1:1/x.pt", "http:///x"]
)
def test_a_url_that_leads_nowhere_is_one_sentence(url: str) -> None:
    with pytest.raises(ConversionError) as raised:
        converter.open(url)
    assert str(raised.value).isprintable()
