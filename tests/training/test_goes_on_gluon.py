"""A training goes on between gluon and the others; and no order of its numbers is guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mxnet
import numpy as np
import pytest
import safetensors.numpy
import torch

from tests.command import ok, refused
from tests.training.sides import Gluon, Torch, start
from tests.training.test_goes_on import goes_on

RATE, MU, B1, B2, EPS = 1 / 32, 0.875, 0.875, 63 / 64, 2.0**-27
CASES: dict[str, tuple[Any, Any, float]] = {
    "sgd": (lambda net: torch.optim.SGD(net.parameters(), RATE), lambda: ("sgd", {"learning_rate": RATE}), 1e-6),
    "momentum": (
        lambda net: torch.optim.SGD(net.parameters(), RATE, MU, weight_decay=0.125),
        lambda: ("sgd", {"learning_rate": RATE, "momentum": MU, "wd": 0.125}),
        1e-6,
    ),
    "nesterov": (
        lambda net: torch.optim.SGD(net.parameters(), RATE, MU, nesterov=True),
        lambda: ("nag", {"learning_rate": RATE, "momentum": MU}),
        1e-6,
    ),
    "adam": (
        lambda net: torch.optim.Adam(net.parameters(), RATE, (B1, B2), EPS, weight_decay=0.125),
        lambda: ("adam", {"learning_rate": RATE, "beta1": B1, "beta2": B2, "epsilon": EPS, "wd": 0.125}),
        2e-5,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_from_gluon_to_torch(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    torchs, gluons, most = CASES[name]
    source = Gluon(gluons, start())
    order = source.order(tmp_path / "order.txt")
    assert goes_on(capsys, tmp_path, source, Torch(torchs), "--parameter-order", str(order)) < most


@pytest.mark.parametrize("name", CASES)
def test_from_torch_to_gluon(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    torchs, gluons, most = CASES[name]
    target = Gluon(gluons)
    target.train(50, 1)
    order = target.order(tmp_path / "order.txt")
    assert goes_on(capsys, tmp_path, Torch(torchs, start()), target, "--clone-order", str(order)) < most


def dense(count: int, first: int) -> tuple[Any, Any]:
    """Square layers whose names count from there, trained twice."""
    net = mxnet.gluon.nn.HybridSequential(prefix="net_")
    for number in range(count):
        net.add(mxnet.gluon.nn.Dense(4, in_units=4, prefix=f"dense{first + number}_"))
    net.initialize(mxnet.initializer.Normal(0.5))
    trainer = mxnet.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.1, "momentum": 0.9}, kvstore=None)
    for _ in range(2):
        with mxnet.autograd.record():
            loss = (net(mxnet.nd.random.normal(shape=(3, 4))) ** 2).sum()
        loss.backward()
        trainer.step(1)
    return net, trainer


def test_names_that_cross_nine_are_asked_about(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """MXNet itself, whose next net counts from 11, gives the moments of one layer to the other."""
    net, trainer = dense(2, 9)
    net.save_parameters(str(tmp_path / "net.params"))
    trainer.save_states(str(tmp_path / "net.states"))
    args = ("mxnet->neutral", tmp_path / "net.params", "-o", tmp_path / "net.safetensors", "--training")
    said = refused(capsys, *args)
    assert "nothing says which number is which: '0.bias', '1.bias' all have the shape" in said
    order = tmp_path / "order.txt"
    order.write_text("1.bias\n1.weight\n0.bias\n0.weight\n")
    ok(capsys, *args, "--parameter-order", order)

    held = safetensors.numpy.load_file(tmp_path / "net.safetensors")
    states = trainer._updaters[0].states
    for number, parameter in enumerate(value for _, value in sorted(net.collect_params().items())):
        layer = "0" if parameter.name.startswith("dense9") else "1"
        leaf = parameter.name.rpartition("_")[2]
        np.testing.assert_allclose(held[f"opt/momentum/{layer}.{leaf}"], states[number].asnumpy() / -0.1, rtol=1e-6)


def test_full_names_in_the_file_prove_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net, trainer = dense(2, 9)
    net.collect_params().save(str(tmp_path / "net.params"))
    trainer.save_states(str(tmp_path / "net.states"))
    said = ok(capsys, "mxnet->neutral", tmp_path / "net.params", "-o", tmp_path / "n.safetensors", "--training")
    assert "the full names in the file, sorted" in said


def test_a_file_of_another_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    net, trainer = dense(1, 0)
    net.save_parameters(str(tmp_path / "net.params"))
    trainer.save_states(str(tmp_path / "saved"))
    args = ("mxnet->neutral", tmp_path / "net.params", "-o", tmp_path / "net.safetensors", "--training")
    assert "there is no net.states beside it. Say --optimizer-file FILE." in refused(capsys, *args)
    assert "the layers have shapes that allow one order" in ok(capsys, *args, "--optimizer-file", tmp_path / "saved")
