"""Every example runs as a user would run it, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT

EXAMPLES = ROOT / "examples"
WALKS = sorted(EXAMPLES.glob("file_io_*.py"))
FILES = {"torch": "mlp.params", "tensorflow": "mlp.weights.h5", "jax": "mlp.msgpack", "mxnet": "mlp-mxnet.params"}


@pytest.mark.parametrize("script", WALKS, ids=lambda path: path.stem)
def test_the_chapter_s_walk_ends_in_equal_outputs(script: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    own = script.stem.removeprefix("file_io_")
    others = [file for name, file in FILES.items() if name != own]
    assert done.stdout.splitlines() == [f"{file}: Y_clone == Y" for file in others]
    assert not list(tmp_path.iterdir())


def test_the_first_layers_are_reused_and_frozen(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "reuse_first_layers.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "PyTorch, to freeze: hidden.weight, hidden.bias, output.weight, output.bias",
        "PyTorch, trained: more.weight, more.bias, head.weight, head.bias",
        "Flax, trained: head, more",
    ]
    assert not list(tmp_path.iterdir())


def test_any_file_goes_into_any_net(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "any_file_into_any_net.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    flatten, *lines = done.stdout.splitlines()
    assert flatten.startswith(
        "flatten: the 128 inputs of head are 8 flattened channels (as a forward of the net showed)"
    )
    assert lines == [
        "PyTorch, Flax: equal",
        "Flax, Keras: equal",
        "Keras, PyTorch: equal",
        "the first layer that differs: body.2",
    ]
    assert not list(tmp_path.iterdir())


def test_the_architecture_is_saved_and_is_a_net_again(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "save_architecture.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "steps:",
        "- {kind: linear, path: hidden, out: 256}",
        "- relu",
        "- {kind: linear, path: output, out: 10}",
        "input: [20]",
        "name: mlp",
        "names:",
        "  hidden:",
        "    tensorflow: [net.hidden]",
        "  output:",
        "    tensorflow: [net.output_layer]",
        "",
        "PyTorch: Y_clone == Y",
        "Keras: Y_clone == Y",
        "Flax: Y_clone == Y",
        "MXNet: Y_clone == Y",
        "the code for Flax: Y_clone == Y",
    ]
    assert not list(tmp_path.iterdir())


def test_there_is_a_walk_for_each_framework() -> None:
    assert {path.stem.removeprefix("file_io_") for path in WALKS} == set(FILES)
