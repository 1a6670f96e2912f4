"""A net of every known layer kind (embedding, linear, batch norm, norm), all pairs, run by the real frameworks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen
import flax.serialization
import jax
import jax.numpy as jnp
import keras
import mxnet
import numpy as np
import pytest
import torch
from mxnet.gluon import nn as gluon_nn

import converter
from tests.command import ok

WORDS, WIDTH, OUT = 6, 6, 3  # a square embedding: its shape tells nothing
EPS = 1e-5
TOKENS = np.array([0, 3, 5, 2], np.int32)


class TorchNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = torch.nn.Embedding(WORDS, WIDTH)
        self.fc = torch.nn.Linear(WIDTH, WIDTH)
        self.bn = torch.nn.BatchNorm1d(WIDTH, EPS)
        self.ln = torch.nn.LayerNorm(WIDTH, EPS)
        self.top = torch.nn.Linear(WIDTH, OUT, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.top(self.ln(self.bn(self.fc(self.emb(x)))))


class FlaxNet(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x: Any) -> Any:
        x = flax.linen.Embed(WORDS, WIDTH, name="emb")(x)
        x = flax.linen.Dense(WIDTH, name="fc")(x)
        x = flax.linen.BatchNorm(use_running_average=True, epsilon=EPS, name="bn")(x)
        x = flax.linen.LayerNorm(epsilon=EPS, name="ln")(x)
        return flax.linen.Dense(OUT, use_bias=False, name="top")(x)


class GluonNet(gluon_nn.Block):
    def __init__(self) -> None:
        super().__init__()
        self.emb = gluon_nn.Embedding(WORDS, WIDTH)
        self.fc = gluon_nn.Dense(WIDTH, in_units=WIDTH)
        self.bn = gluon_nn.BatchNorm(epsilon=EPS, in_channels=WIDTH)
        self.ln = gluon_nn.LayerNorm(epsilon=EPS, in_channels=WIDTH)
        self.top = gluon_nn.Dense(OUT, use_bias=False, in_units=WIDTH)

    def forward(self, x: Any) -> Any:
        return self.top(self.ln(self.bn(self.fc(self.emb(x)))))


def keras_net() -> Any:
    layers = keras.layers
    x = keras.Input((), dtype="int32")
    y = layers.Dense(WIDTH, name="fc")(layers.Embedding(WORDS, WIDTH, name="emb")(x))
    y = layers.LayerNormalization(epsilon=EPS, name="ln")(layers.BatchNormalization(epsilon=EPS, name="bn")(y))
    return keras.Model(x, layers.Dense(OUT, use_bias=False, name="top")(y))


def random_like(array: Any, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Positive, so that it may be a variance, too."""
    return rng.uniform(0.2, 1.5, np.shape(array)).astype(np.float32)


def torch_random(rng: np.random.Generator) -> TorchNet:
    net = TorchNet().eval()
    state = net.state_dict()
    net.load_state_dict({n: torch.tensor(random_like(v, rng)) if v.ndim else v for n, v in state.items()})
    return net


def keras_random(rng: np.random.Generator) -> Any:
    net = keras_net()
    net.set_weights([random_like(value, rng) for value in net.get_weights()])
    return net


def flax_random(rng: np.random.Generator) -> Any:
    tree = FlaxNet().init(jax.random.PRNGKey(0), jnp.asarray(TOKENS))
    return jax.tree.map(lambda value: jnp.asarray(random_like(value, rng)), tree)


def gluon_random(rng: np.random.Generator) -> GluonNet:
    net = GluonNet()
    net.initialize()
    for parameter in net.collect_params().values():
        parameter.set_data(mxnet.nd.array(random_like(parameter.data().asnumpy(), rng)))
    return net


def torch_load(path: Path) -> TorchNet:
    net = TorchNet()
    net.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return net.eval()


def keras_load(path: Path) -> Any:
    net = keras_net()
    net.load_weights(path)
    return net


def gluon_load(path: Path) -> GluonNet:
    net = GluonNet()
    net.load_parameters(str(path))
    return net


@dataclass(frozen=True)
class Side:
    file: str
    random: Callable[[np.random.Generator], Any]
    save: Callable[[Any, Path], Any]
    load: Callable[[Path], Any]
    run: Callable[[Any], np.ndarray[Any, Any]]


SIDES = {
    "torch": Side(
        "net.pt",
        torch_random,
        lambda net, path: torch.save(net.state_dict(), path),
        torch_load,
        lambda net: net(torch.tensor(TOKENS)).detach().numpy(),
    ),
    "tensorflow": Side(
        "net.weights.h5",
        keras_random,
        lambda net, path: net.save_weights(path),
        keras_load,
        lambda n: np.asarray(n(TOKENS)),
    ),
    "flax": Side(
        "net.msgpack",
        flax_random,
        lambda net, path: path.write_bytes(flax.serialization.to_bytes(net)),
        lambda path: flax.serialization.msgpack_restore(path.read_bytes()),
        lambda net: np.asarray(FlaxNet().apply(net, jnp.asarray(TOKENS))),
    ),
    "mxnet": Side(
        "net.params",
        gluon_random,
        lambda net, path: net.save_parameters(str(path)),
        gluon_load,
        lambda net: net(mxnet.nd.array(TOKENS)).asnumpy(),
    ),
}


@pytest.mark.parametrize("target", SIDES)
@pytest.mark.parametrize("source", SIDES)
def test_every_kind_computes_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, target: str
) -> None:
    ours, theirs = SIDES[source], SIDES[target]
    given, like, result = tmp_path / ours.file, tmp_path / f"like-{theirs.file}", tmp_path / f"result-{theirs.file}"
    net = ours.random(np.random.default_rng(1))
    ours.save(net, given)
    theirs.save(theirs.random(np.random.default_rng(2)), like)
    ok(capsys, f"{source}->{target}", given, "--like", like, "-o", result)
    expected = ours.run(net)
    np.testing.assert_allclose(theirs.run(theirs.load(result)), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("source", SIDES)
def test_every_kind_into_live_nets(tmp_path: Path, source: str) -> None:
    net = SIDES[source].random(np.random.default_rng(3))
    SIDES[source].save(net, tmp_path / SIDES[source].file)
    expected = SIDES[source].run(net)
    for side in SIDES.values():
        filled = converter.load_into(side.random(np.random.default_rng(4)), tmp_path / SIDES[source].file)
        np.testing.assert_allclose(side.run(filled), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
