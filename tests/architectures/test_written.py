"""The code that `converter scaffold` writes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import converter
from converter.errors import ConversionError
from tests.architectures.nets import FRAMEWORKS, taken
from tests.book.convolutional import CASES
from tests.command import ok, refused
from tests.parity.sides import SIDES, assert_same, channels_first
from tests.places import ROOT

#: What a user types around the recipe of the written code, which has `net`, or in Flax `y` of `x`.
AROUND = {
    "torch": ("import torch", "y = net(torch.tensor(x)).detach()"),
    "keras": ("", "y = net(x)"),
    "linen": ("import flax", ""),
    "gluon": ("import mxnet", "y = net(mxnet.nd.array(x)).asnumpy()"),
}


@pytest.mark.parametrize(("flavour", "framework"), FRAMEWORKS)
def test_the_code_runs_alone_as_it_says_itself(
    flavour: str, framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a process that knows no converter, with the file that it names."""
    case = CASES["lenet"]
    net = case.random("torch", 1)
    converter.save(net, tmp_path / "source.pt")
    result = tmp_path / f"lenet{SIDES[flavour].ending}"
    ok(capsys, f"torch->{framework}", tmp_path / "source.pt", "-o", result, "--schema", "lenet")
    sizes = ",".join(map(str, case.inputs[0].shape[1:]))
    code = ok(capsys, "scaffold", "lenet", "--to", framework, "--input", sizes)
    (tmp_path / "clone.py").write_text(code)
    np.save(tmp_path / "x.npy", taken(case, flavour))
    before, behind = AROUND[flavour]
    recipe = textwrap.dedent(code.split('"""')[1].rpartition("numbers.\n\n")[2])
    lines = [before, "import numpy", "from clone import make_net", "x = numpy.load('x.npy')", recipe, behind]
    script = "\n".join([*lines, "numpy.save('y.npy', numpy.asarray(y))"])
    if flavour == "gluon":  # MXNet asks for a NumPy that is not here
        script = f"import sys\nsys.path.append({str(ROOT)!r})\nimport converter.mxnet_numpy2\nsys.path.pop()\n{script}"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "y.npy")
    assert_same(channels_first(found) if found.ndim > 2 else found, case.run("torch", net))


@pytest.mark.parametrize(("flavour", "framework"), FRAMEWORKS)
@pytest.mark.parametrize("name", CASES)
def test_the_code_of_the_book_s_nets_is_short(name: str, flavour: str, framework: str) -> None:
    """No line is too long; blocks that are alike are one class."""
    lines = converter.scaffold(name, framework).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) <= {"googlenet": 165, "densenet": 125}.get(name, 105)
    assert sum(line.startswith("class ") for line in lines) <= 6


def test_the_code_is_as_one_would_write_it() -> None:
    assert (
        converter.scaffold("mlp", "torch")
        == '''"""mlp in PyTorch, written by `converter scaffold`.

It takes (batch, 20) numbers.

    net = make_net()
    net.load_state_dict(torch.load("mlp.pt"))
    net.eval()
"""

from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(20, 256)
        self.output = nn.Linear(256, 10)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.output(self.relu(self.hidden(x)))


def make_net():
    return Net()
'''
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("lenet", "--to", "neutral"), "neutral is not a framework. Choose torch, tensorflow, flax or mxnet."),
        (("lenet", "--to", "torhc"), "torhc"),
        (("lenett", "--to", "torch"), "no schema 'lenett' is shipped"),
        (("lenet", "--to", "torch", "--input", "1,2,2"), "does not fit into"),
        (("lenet", "--to", "torch", "--input", "28"), "'conv1' (conv) takes channels with spatial axes, and gets 28"),
    ],
)
def test_what_cannot_be_written_is_refused(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, "scaffold", *words)
    message = "expected an integer of at least 1"
    assert message in refused(capsys, "scaffold", "lenet", "--to", "torch", "--size", "output=0", code=2)
    assert "is not an input" in refused(capsys, "scaffold", "lenet", "--to", "torch", "--input", "1,x", code=2)


@pytest.mark.parametrize(
    ("framework", "steps", "message"),
    [
        ("torch", [{"kind": "batch_norm", "path": "a", "offset": False}], "has a scale and an offset, or neither"),
        ("mxnet", [{"kind": "batch_norm", "path": "a", "offset": False}], "its files have both a scale and an offset"),
        ("flax", [{"kind": "prelu", "path": "a", "out": 4}], "its PReLU has one slope for all channels"),
        (
            "tensorflow",
            [{"kind": "average_pool", "size": 3, "padding": 1, "count_padding": False}],
            "can pad only as 'same'",
        ),
        ("torch", [{"kind": "linear", "path": "a", "out": 4}], "with spatial axes: a flatten is missing before it"),
        ("torch", [{"kind": "max_pool", "size": [2, 2, 2]}], r"\[2, 2, 2\] is for 3 spatial axes, and there are 2"),
    ],
)
def test_what_a_framework_cannot_have_is_refused(
    framework: str, steps: list[dict[str, object]], message: str, tmp_path: Path
) -> None:
    import json

    conv = {"kind": "conv", "path": "conv", "out": 4, "kernel": 3}
    layers = [{"path": step["path"], "kind": step["kind"]} for step in (conv, *steps) if "path" in step]
    document = {"name": "net", "layers": layers, "architecture": {"input": [1, 8, 8], "steps": [conv, *steps]}}
    (tmp_path / "net.yaml").write_text(json.dumps(document))
    with pytest.raises(ConversionError, match=message):
        converter.build(tmp_path / "net.yaml", framework)
