"""A training goes on between Keras 3 and the others: the whole model, and weights with their optimizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import optax
import pytest
import torch

from tests.training.sides import Keras, Linen, Torch, start
from tests.training.test_goes_on import goes_on, hyper

Make = Callable[..., Any]
#: Numbers that float32 holds as they are: Keras takes its settings through it.
RATE, MU = 1 / 32, 0.875
B1, B2, EPS = 0.875, 63 / 64, 2.0**-27


def adam(kind: Any) -> Make:
    return lambda net: kind(
        net.parameters(), RATE, (B1, B2), EPS, weight_decay=0.125 if kind is torch.optim.AdamW else 0
    )


#: Optimizer of PyTorch, of Keras, and the greatest error of the updates.
CASES: dict[str, tuple[Make, Make, float]] = {
    "sgd": (lambda net: torch.optim.SGD(net.parameters(), RATE), lambda: keras.optimizers.SGD(RATE), 1e-6),
    "momentum": (
        lambda net: torch.optim.SGD(net.parameters(), RATE, MU),
        lambda: keras.optimizers.SGD(RATE, MU),
        1e-6,
    ),
    "nesterov": (
        lambda net: torch.optim.SGD(net.parameters(), RATE, MU, nesterov=True),
        lambda: keras.optimizers.SGD(RATE, MU, nesterov=True),
        1e-6,
    ),
    "adam": (adam(torch.optim.Adam), lambda: keras.optimizers.Adam(RATE, B1, B2, EPS), 2e-5),
    "amsgrad": (
        lambda net: torch.optim.Adam(net.parameters(), RATE, (B1, B2), EPS, amsgrad=True),
        lambda: keras.optimizers.Adam(RATE, B1, B2, EPS, amsgrad=True),
        2e-5,
    ),
    "adamw": (adam(torch.optim.AdamW), lambda: keras.optimizers.AdamW(RATE, 0.125, B1, B2, EPS), 2e-5),
    "rmsprop": (
        lambda net: torch.optim.RMSprop(net.parameters(), RATE, MU, 1e-10, momentum=0.5, centered=True),
        lambda: keras.optimizers.RMSprop(RATE, MU, 0.5, 1e-20, centered=True),
        2e-5,
    ),
    "adadelta": (
        lambda net: torch.optim.Adadelta(net.parameters(), RATE, MU, 2.0**-10),
        lambda: keras.optimizers.Adadelta(RATE, MU, 2.0**-10),
        1e-6,
    ),
    "adagrad": (
        lambda net: torch.optim.Adagrad(net.parameters(), RATE),
        lambda: keras.optimizers.Adagrad(RATE, epsilon=1e-20),
        1e-6,
    ),
    "adamax": (
        lambda net: torch.optim.Adamax(net.parameters(), RATE, (B1, B2), 1e-12),
        lambda: keras.optimizers.Adamax(RATE, B1, B2, 1e-12),
        2e-5,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_from_torch_to_keras(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    torchs, kerass, most = CASES[name]
    assert goes_on(capsys, tmp_path, Torch(torchs, start()), Keras(kerass)) < most


@pytest.mark.parametrize("name", ["nesterov", "amsgrad", "adamw", "adadelta", "adagrad"])
def test_from_keras_to_torch(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    torchs, kerass, most = CASES[name]
    assert goes_on(capsys, tmp_path, Keras(kerass, start()), Torch(torchs)) < most


def test_between_optax_and_keras(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    linen, kerass = (
        lambda: optax.rmsprop(RATE, MU, 2.0**-20, momentum=0.5),
        lambda: keras.optimizers.RMSprop(RATE, MU, 0.5, 2.0**-20),
    )
    assert goes_on(capsys, tmp_path, Keras(kerass, start()), Linen(linen)) < 1e-6
    settings = hyper(learning_rate=RATE, rho=MU, momentum=0.5, epsilon=2.0**-20)
    (tmp_path / "back").mkdir()
    assert goes_on(capsys, tmp_path / "back", Linen(linen, start()), Keras(kerass), *settings) < 1e-6


def test_weights_alone_with_their_optimizer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Without settings in the file: the optimizer has to be made with the epsilon that the report prints."""
    torchs, kerass, most = CASES["adam"]
    printed = EPS * (1 - B2**6) ** 0.5
    made = Keras(lambda: keras.optimizers.Adam(RATE, B1, B2, printed), whole=False)
    assert goes_on(capsys, tmp_path, Torch(torchs, start()), made) < most
    settings = hyper(beta1=B1, beta2=B2, epsilon=EPS)
    (tmp_path / "back").mkdir()
    assert goes_on(capsys, tmp_path / "back", Keras(kerass, start(), whole=False), Torch(torchs), *settings) < most
