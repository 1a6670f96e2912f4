"""A certificate comes from a stranger, as any file: it names no code, no URL, and no file outside of its folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import converter
from converter.commands import certificate
from converter.schema.loader import load_schema
from tests.attacks.limits import harmless, refused

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a certificate that holds, and beside the folder what is nobody's business."""
    here = tmp_path / "here"
    here.mkdir()
    rng = np.random.default_rng(0)
    tensors = {"hidden.weight": rng.normal(size=(5, 4)), "hidden.bias": rng.normal(size=5)}
    save_file(tensors, here / "mlp.safetensors")
    converter.convert("torch->flax", here / "mlp.safetensors", here / "mlp.msgpack", certificate=here / "cert.json")
    (tmp_path / "secret.yaml").write_text("name: secret\nlayers: [{path: hidden, kind: linear}]\n")
    return here


def change(folder: Path, made: Change) -> None:
    """As someone does who knows how the seal is made."""
    document = json.loads((folder / "cert.json").read_text())
    made(document)
    document["seal"] = sha256(json.dumps({**document, "seal": ""}, sort_keys=True).encode()).hexdigest()
    (folder / "cert.json").write_text(json.dumps(document))


#: What would run if it were imported, or leave a trace if it were called.
EVIL = "open('evil.txt', 'w').close()\ndef Net():\n    open('evil.txt', 'w').close()\n"


def test_it_names_no_code(folder: Path) -> None:
    (folder / "evil.py").write_text(EVIL)
    change(folder, lambda document: document["options"].update(like="evil:Net"))
    outcome = harmless("verify", "cert.json", cwd=folder, code=1)
    assert "cert.json does not hold" in outcome.out, outcome
    assert not (folder / "evil.txt").exists()


@pytest.mark.parametrize("option", ["like", "names_from", "schema"])
def test_what_looks_like_code_or_a_url_is_a_file(folder: Path, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    whole = Path("cert.json").read_bytes()
    for name in ("evil:Net", "os:abort", "evil.yaml:Net", "memory://x.yaml", "file:///etc/passwd", "../mlp"):
        Path("cert.json").write_bytes(whole)
        change(Path(), lambda document, name=name: document["options"].update({option: name}))  # type: ignore[misc]
        assert "evil" not in sys.modules
        try:
            assert "cannot be repeated: " in str(converter.verify("cert.json")), name
        except converter.UnsafeFileError as error:
            assert "which is not in its folder" in str(error) and name == "../mlp"


OUTSIDE = {
    "source": lambda d, name: d["source"].update(path=name),
    "a file of the source": lambda d, name: d["source"]["files"][0].update(path=name),
    "target": lambda d, name: d["target"].update(path=name),
    "a file of the target": lambda d, name: d["target"]["files"].append({**d["target"]["files"][0], "path": name}),
    "named": lambda d, name: d["named"].append({**d["target"]["files"][0], "path": name}),
    "clone": lambda d, name: d["options"].update(like=name),
    "names": lambda d, name: d["options"].update(names_from=name),
    "schema": lambda d, name: d["options"].update(schema=name),
}
SECRETS = [
    "/etc/passwd",
    "../secret.yaml",
    "a/../../secret.yaml",
    "out/secret.yaml",
    "link.yaml",
    "loop.yaml/../../x.yaml",
]


@pytest.mark.parametrize("where", OUTSIDE)
def test_no_path_leads_out_of_its_folder(folder: Path, where: str) -> None:
    (folder / "link.yaml").symlink_to(folder.parent / "secret.yaml")
    (folder / "out").symlink_to(folder.parent)
    (folder / "loop.yaml").symlink_to(folder / "loop.yaml")
    whole = (folder / "cert.json").read_bytes()
    for name in SECRETS if where != "schema" else [*SECRETS[1:], "../secret.yaml/"]:
        (folder / "cert.json").write_bytes(whole)
        change(folder, lambda document, name=name: OUTSIDE[where](document, name))  # type: ignore[misc]
        with pytest.raises(converter.UnsafeFileError, match="which is not in its folder"):
            converter.verify(folder / "cert.json")


def test_neither_sizes_nor_hashes_of_other_files_are_told(folder: Path) -> None:
    secret = folder.parent / "secret.yaml"
    change(folder, lambda document: document["named"].append({**document["target"]["files"][0], "path": str(secret)}))
    said = refused("verify", "cert.json", cwd=folder)
    assert sha256(secret.read_bytes()).hexdigest() not in said
    assert f"has {secret.stat().st_size} bytes" not in said


def test_a_shipped_schema_is_no_path() -> None:
    for name in ("../tests/../schemas/mlp", "./mlp", "/etc/mlp"):
        with pytest.raises(converter.ConversionError, match=f"no schema '{name}' is shipped"):
            load_schema(name)


def test_a_pipe_is_no_certificate_nor_what_it_names(folder: Path) -> None:
    os.mkfifo(folder / "pipe.json")
    assert "not a regular file" in refused("verify", "pipe.json", cwd=folder)
    change(folder, lambda document: document["source"].update(path="pipe.json"))
    assert "which cannot be read at any place" in harmless("verify", "cert.json", cwd=folder, code=1).out


def test_a_file_that_is_named_often_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    hashed = certificate.hashed
    monkeypatch.setattr(certificate, "hashed", lambda file, base: opened.append(file) or hashed(file, base))
    change(folder, lambda document: document["named"].extend([document["target"]["files"][0]] * 1000))
    assert converter.verify(folder / "cert.json").ok
    assert len(opened) == 2


LARGE = {
    "lists": (b"[],", 20_000_000),
    "short texts": (b'"a",', 15_000_000),
    "nested": (b"[", 100_000),
    "digits": (b"1", 5_000_000),
}


@pytest.mark.parametrize("what", LARGE)
def test_its_size_in_memory_is_bounded(tmp_path: Path, what: str) -> None:
    piece, count = LARGE[what]
    (tmp_path / "cert.json").write_bytes(b'{"certificate": 1, "options": {"map": [' + piece * count + b"]}}")
    assert "error: cert.json: " in refused("verify", "cert.json", cwd=tmp_path)


def test_none_is_written_for_files_elsewhere(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    source, made = folder / "mlp.safetensors", elsewhere / "b.msgpack"
    with pytest.raises(converter.ConversionError, match="is not in") as error:
        converter.convert("torch->flax", source, made, certificate=elsewhere / "c")
    assert not made.exists()
    (remedy,) = error.value.problems[0].remedies
    converter.convert("torch->flax", source, made, certificate=remedy.value)
    assert converter.verify(remedy.value).ok
