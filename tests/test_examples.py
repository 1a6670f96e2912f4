"""Every example runs as a script, in a folder of its own; all in one process, which imports each framework once."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import mxnet
import pytest

from tests.places import ROOT

EXAMPLES = ROOT / "examples"
WALKS = sorted(EXAMPLES.glob("file_io_*.py"))
FILES = {"torch": "mlp.params", "tensorflow": "mlp.weights.h5", "jax": "mlp.msgpack", "mxnet": "mlp-mxnet.params"}


class Run:
    """Runs a script in an empty folder, in which it has to leave nothing but what it says."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._folder = folder
        self._capsys = capsys

    def __call__(self, script: Path, *leaves: str) -> list[str]:
        """The lines that it prints."""
        runpy.run_path(str(script), run_name="__main__")
        assert [path.name for path in self._folder.iterdir()] == list(leaves)
        return self._capsys.readouterr().out.splitlines()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    monkeypatch.chdir(tmp_path)
    yield Run(tmp_path, capsys)
    mxnet.npx.reset_np()  # the book's examples switch MXNet to the ways of NumPy


@pytest.mark.parametrize("script", WALKS, ids=lambda path: path.stem)
def test_the_chapter_s_walk_ends_in_equal_outputs(script: Path, run: Run) -> None:
    own = script.stem.removeprefix("file_io_")
    others = [file for name, file in FILES.items() if name != own]
    assert run(script) == [f"{file}: Y_clone == Y" for file in others]


def test_the_first_layers_are_reused_and_frozen(run: Run) -> None:
    assert run(EXAMPLES / "reuse_first_layers.py") == [
        "PyTorch, to freeze: hidden.weight, hidden.bias, output.weight, output.bias",
        "PyTorch, trained: more.weight, more.bias, head.weight, head.bias",
        "Flax, trained: head, more",
    ]


def test_any_file_goes_into_any_net(run: Run) -> None:
    flatten, *lines = run(EXAMPLES / "any_file_into_any_net.py")
    assert flatten.startswith(
        "flatten: the 128 inputs of head are 8 flattened channels (as a forward of the net showed)"
    )
    assert lines == [
        "PyTorch, Flax: equal",
        "Flax, Keras: equal",
        "Keras, PyTorch: equal",
        "the first layer that differs: body.2",
    ]


def test_the_architecture_is_saved_and_is_a_net_again(run: Run) -> None:
    assert run(EXAMPLES / "save_architecture.py") == [
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


def test_a_training_goes_on_in_another_framework(run: Run, tmp_path: Path) -> None:
    lines = run(EXAMPLES / "training_goes_on.py", "training_goes_on.png")
    said = re.compile(r"Flax, (.+): the losses differ by (\S+) at most")
    differ = {found[1]: float(found[2]) for found in map(said.fullmatch, lines) if found}
    assert differ.keys() == {"carried over", "weights alone"}
    assert differ["carried over"] < 1e-5
    assert differ["weights alone"] > 0.01
    assert (tmp_path / "training_goes_on.png").read_bytes().startswith(b"\x89PNG")


def test_there_is_a_walk_for_each_framework() -> None:
    assert {path.stem.removeprefix("file_io_") for path in WALKS} == set(FILES)
