"""Names and paths that a terminal would obey: whatever is printed has them as escapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from converter.core.contents import Contents
from converter.core.tensors import TensorSpec
from converter.errors import UNPRINTABLE
from converter.formats import by_name, open_writer
from tests.attacks.limits import harmless

#: A colour, the title of the window, a line of its own, a text that runs backwards, half a character.
EVIL = "\x1b[31m\x1b]0;owned\x07\r\nerror: forged\u202e\x9b2J"
FILE = f"net{EVIL}.safetensors"
COMMANDS = {
    "inspect": ("inspect", FILE),
    "inspect statistics": ("inspect", FILE, "--stats"),
    "inspect json": ("inspect", FILE, "--json"),
    "inspect missing": ("inspect", f"{EVIL}.pt"),
    "inspect text": ("inspect", f"text{EVIL}"),
    "convert": ("torch->torch", FILE, "-o", f"out{EVIL}.npz"),
    "convert across": ("torch->flax", FILE, "-o", "out.msgpack"),
    "dry run": ("torch->torch", FILE, "-o", "out.npz", "--dry-run"),
    "dry run json": ("torch->torch", FILE, "-o", "out.npz", "--dry-run", "--json"),
    "output exists": ("torch->torch", FILE, "-o", FILE),
    "no such layer": ("torch->torch", FILE, "-o", "out.npz", "--ignore", f"none{EVIL}"),
    "no such option": ("torch->torch", FILE, f"--none{EVIL}"),
    "no such direction": (f"torch->{EVIL}", FILE),
    "no such format": ("torch->torch", FILE, "--format", EVIL),
    "no such schema": ("torch->torch", FILE, "--schema", f"{EVIL}.yaml"),
    "verify": ("verify", FILE, FILE),
    "verify other": ("verify", FILE, "other.npz"),
    "reuse": ("reuse", FILE, "--into", "other.npz", "--first", "1"),
    "scaffold": ("scaffold", FILE, "--to", "torch"),
    "certificate": ("torch->torch", FILE, "-o", "out.npz", "--certificate", f"{EVIL}/c.json"),
}

WRONG_USAGE = ("no such option", "no such direction")


def _write(path: Path, form: str, names: list[str], metadata: dict[str, str]) -> None:
    specs = tuple(TensorSpec(name, (2, 3), np.dtype("float32")) for name in names)
    with open_writer(by_name(form), path, Contents(specs, metadata=metadata)) as writer:
        for spec in specs:
            writer.write(spec.name, np.ones(spec.shape, np.float32))


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_printed_is_escaped(tmp_path: Path, command: str) -> None:
    _write(tmp_path / FILE, "safetensors", [f"layer{EVIL}.weight", f"{EVIL}.strange"], {EVIL: EVIL})
    _write(tmp_path / "other.npz", "npz", ["other.weight"], {})
    (tmp_path / f"text{EVIL}").write_text(EVIL)
    words = COMMANDS[command]
    outcome = harmless(*words, cwd=tmp_path, code=2 if command in WRONG_USAGE else None)
    printed = outcome.out + outcome.err
    assert printed.strip()
    for line in printed.split("\n"):
        assert not UNPRINTABLE.search(line), repr(line)
        assert not line.startswith("error: forged"), printed
    if "json" in command:
        json.loads(outcome.out)


@pytest.mark.parametrize("form", ["npz", "flax-msgpack", "torch"])
def test_a_name_of_a_tensor_is_escaped(tmp_path: Path, form: str) -> None:
    _write(tmp_path / "net", form, [f"layer{EVIL}.kernel"], {})
    printed = harmless("inspect", "net", cwd=tmp_path, code=0).out
    assert "\\x1b[31m" in printed and not any(map(UNPRINTABLE.search, printed.split("\n")))
