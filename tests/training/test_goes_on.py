"""A training that was stopped in one framework goes on in another with the same updates; weights alone do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optax
import pytest
import torch

from tests.command import ok
from tests.training.sides import PLACES, WIDTH, Linen, Torch, apart, start, updates


@dataclass(frozen=True)
class Case:
    """The same optimizer in each framework. options: what the file of optax does not say, for the command line."""

    torch: Callable[[Any], Any]
    optax: Callable[[], Any]
    options: tuple[str, ...] = ()
    tolerance: float = 1e-6


def hyper(**values: float) -> tuple[str, ...]:
    return tuple(word for name, value in values.items() for word in ("--hyper", f"{name}={value!r}"))


FLATTEN = ("--flatten", f"hidden={WIDTH}x{PLACES}+{WIDTH}")
CASES = {
    "sgd": Case(lambda net: torch.optim.SGD(net.parameters(), 0.05), lambda: optax.sgd(0.05), ("--optimizer", "sgd")),
    "momentum": Case(
        lambda net: torch.optim.SGD(net.parameters(), 0.05, 0.9), lambda: optax.sgd(0.05, 0.9), hyper(momentum=0.9)
    ),
    "nesterov": Case(
        lambda net: torch.optim.SGD(net.parameters(), 0.05, 0.9, nesterov=True),
        lambda: optax.sgd(0.05, 0.9, nesterov=True),
        hyper(momentum=0.9, nesterov=1),
    ),
    "decay": Case(
        lambda net: torch.optim.SGD(net.parameters(), 0.05, 0.9, weight_decay=0.1),
        lambda: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.05, 0.9)),
        hyper(momentum=0.9, weight_decay=0.1),
    ),
    "adam": Case(
        lambda net: torch.optim.Adam(net.parameters(), 0.01, (0.8, 0.95), 1e-7),
        lambda: optax.adam(0.01, 0.8, 0.95, 1e-7),
        ("--optimizer", "adam", *hyper(beta1=0.8, beta2=0.95, epsilon=1e-7)),
    ),
    "adamw": Case(
        lambda net: torch.optim.AdamW(net.parameters(), 0.01, weight_decay=0.1),
        lambda: optax.adamw(0.01, weight_decay=0.1),
        ("--optimizer", "adamw", *hyper(beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.1)),
    ),
    "rmsprop": Case(
        lambda net: torch.optim.RMSprop(net.parameters(), 0.01, 0.9, 1e-4),
        lambda: optax.rmsprop(0.01, 0.9, 1e-4, eps_in_sqrt=False),
        hyper(rho=0.9, epsilon=1e-4, epsilon_in_root=0),
    ),
    "rmsprop momentum": Case(
        lambda net: torch.optim.RMSprop(net.parameters(), 0.01, 0.9, 1e-4, momentum=0.8, centered=True),
        lambda: optax.rmsprop(0.01, 0.9, 1e-4, centered=True, momentum=0.8, eps_in_sqrt=False),
        hyper(rho=0.9, epsilon=1e-4, epsilon_in_root=0, momentum=0.8, learning_rate=0.01),
    ),
    "adadelta": Case(
        lambda net: torch.optim.Adadelta(net.parameters(), 0.9, 0.8, 1e-4),
        lambda: optax.adadelta(0.9, 0.8, 1e-4),
        hyper(rho=0.8, epsilon=1e-4),
    ),
    "adamax": Case(
        lambda net: torch.optim.Adamax(net.parameters(), 0.01),
        lambda: optax.adamax(0.01),
        ("--optimizer", "adamax", *hyper(beta1=0.9, beta2=0.999, epsilon=1e-8)),
    ),
    "radam": Case(
        lambda net: torch.optim.RAdam(net.parameters(), 0.01, (0.875, 63 / 64), 1e-12),
        lambda: optax.radam(0.01, 0.875, 63 / 64, 1e-12),
        ("--optimizer", "radam", *hyper(beta1=0.875, beta2=63 / 64, epsilon=1e-12)),
    ),
    "adagrad into torch": Case(
        lambda net: torch.optim.Adagrad(net.parameters(), 0.05, eps=0),
        lambda: optax.adagrad(0.05, eps=1e-5),
        hyper(epsilon=1e-5),
    ),
}


def goes_on(capsys: Any, tmp_path: Path, source: Any, target: Any, *options: str) -> float:
    """How far the three updates after the hand-over are from those of the run that never stopped."""
    before = source.train(0, 5)
    stopped = source.save(tmp_path / f"stopped{source.ending}")
    truth = updates(before, source.train(5, 3))
    clone = target.save(tmp_path / f"clone{target.ending}")
    way = f"{source.framework}->{target.framework}"
    carried = tmp_path / f"carried{target.ending}"
    ok(capsys, way, stopped, "-o", carried, "--like", clone, "--training", *FLATTEN, *options)
    target.load(carried)
    assert max(abs(target.values()[name] - value).max() for name, value in before.items()) == 0
    return apart(updates(before, target.train(5, 3)), truth)


@pytest.mark.parametrize("name", CASES)
def test_from_torch_to_optax(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    case = CASES[name]
    if name == "adagrad into torch":
        case = Case(lambda net: torch.optim.Adagrad(net.parameters(), 0.05), lambda: optax.adagrad(0.05, eps=1e-20))
    assert goes_on(capsys, tmp_path, Torch(case.torch, start()), Linen(case.optax)) < 1e-6


@pytest.mark.parametrize("name", CASES)
def test_from_optax_to_torch(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    case = CASES[name]
    assert goes_on(capsys, tmp_path, Linen(case.optax, start()), Torch(case.torch), *case.options) < 1e-6


@pytest.mark.parametrize("name", ["momentum", "nesterov", "adam", "adamw", "rmsprop", "adadelta"])
def test_weights_alone_are_far_off(name: str) -> None:
    """What the others are measured against: a new optimizer on the weights of the same moment."""
    case = CASES[name]
    source = Torch(case.torch, start())
    before = source.train(0, 5)
    truth = updates(before, source.train(5, 3))
    assert apart(updates(before, Torch(case.torch, before).train(5, 3)), truth) > 0.05
