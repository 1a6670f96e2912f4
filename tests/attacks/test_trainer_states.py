"""The state of a gluon Trainer is a pickle of its own: nothing in it is run, and it takes no memory that it has not."""

from __future__ import annotations

import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.formats.mxnet import record
from tests.attacks.handmade import named, number, plain, text
from tests.attacks.limits import refused
from tests.attacks.test_pickles import COPIES, TOO_MUCH
from tests.places import ROOT


def with_states(folder: Path, body: bytes) -> str:
    """What is said of parameters with this pickle beside them; nothing is written."""
    shutil.copy(ROOT / "examples" / "mlp-mxnet.params", folder / "a.params")
    plain(folder / "a.states", body)
    said = refused("mxnet->neutral", folder / "a.params", "-o", folder / "a.safetensors", "--training", cwd=folder)
    assert {path.name for path in folder.iterdir()} == {"a.params", "a.states"}
    return said


def ndarray(data: bytes) -> bytes:
    handle = named("builtins.bytearray") + b"B" + struct.pack("<I", len(data)) + data + b"\x85R"
    return named("mxnet.ndarray.ndarray.NDArray") + b"N\x85R}" + text("handle") + handle + b"sb"


class Runs:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_code_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    pickle.loads(pickle.dumps(Runs(ran)))
    assert ran.exists()
    ran.unlink()
    body = pickle.dumps(({0: Runs(ran)}, Runs(ran)), 2)
    with_states(tmp_path, body[2:-1])  # which would find the file


@pytest.mark.parametrize("kind", ["list", "tuple", "set", "frozenset", "deque", "text"])
def test_copies_of_one_container(tmp_path: Path, kind: str) -> None:
    assert TOO_MUCH in with_states(tmp_path, COPIES[kind])


def test_an_array_that_says_it_is_large(tmp_path: Path) -> None:
    header = record.header((1 << 40,), np.dtype(np.float32), record.V2)
    assert "a.states" in with_states(tmp_path, b"}K\0" + ndarray(header + bytes(64)) + b"s")


def test_a_parameter_of_a_number_without_end(tmp_path: Path) -> None:
    slot = ndarray(record.header((2,), np.dtype(np.float32), record.V2) + bytes(8))
    assert "a.states" in with_states(tmp_path, b"}" + number(1 << 4000) + slot + b"s")
