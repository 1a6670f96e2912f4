"""With both nets alive and an input, what the layers take and give tells which is which, or where the nets part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon

import converter
from converter.core.tensors import Array
from converter.live import open_net
from tests.command import ok, refused
from tests.live.test_example_input import forward

SIZE = 6
X = np.random.default_rng(5).normal(size=(4, SIZE)).astype(np.float32)


def branches(a: Any, b: Any, c: Any, d: Any, x: Any, tanh: Callable[[Any], Any]) -> Any:
    """Two layers of one input, one behind them, and one that is used twice; all of one shape."""
    return d(tanh(d(tanh(c(tanh(a(x)) - 2 * b(x))))))


def swapped(a: Any, b: Any, c: Any, d: Any, x: Any, tanh: Callable[[Any], Any]) -> Any:
    """The same, but that the second branch is called first."""
    second = 2 * b(x)
    return d(tanh(d(tanh(c(tanh(a(x)) - second)))))


def another(a: Any, b: Any, c: Any, d: Any, x: Any, tanh: Callable[[Any], Any]) -> Any:
    """Something else from the third layer on."""
    return d(tanh(d(tanh(c(tanh(a(x)) + b(x))))))


class Torch(torch.nn.Module):
    def __init__(self, compute: Any) -> None:
        super().__init__()
        self.compute = compute
        self.up, self.left, self.down, self.right = (torch.nn.Linear(SIZE, SIZE) for _ in range(4))

    def forward(self, x: Any) -> Any:
        return self.compute(self.left, self.right, self.up, self.down, x, torch.tanh)


class Keras(keras.Model):
    def __init__(self, compute: Any) -> None:
        super().__init__()
        self.compute = compute
        self.m, self.i, self.w, self.k = (keras.layers.Dense(SIZE) for _ in range(4))

    def call(self, x: Any) -> Any:
        return self.compute(self.m, self.i, self.w, self.k, x, keras.ops.tanh)


class Linen(linen.Module):
    compute: Any

    @linen.compact
    def __call__(self, x: Any) -> Any:
        return self.compute(*(linen.Dense(SIZE, name=name) for name in "miwk"), x, jnp.tanh)


class Nnx(nnx.Module):
    def __init__(self, compute: Any) -> None:
        self.compute = compute
        rngs = nnx.Rngs(0)
        self.m, self.i, self.w, self.k = (nnx.Linear(SIZE, SIZE, rngs=rngs) for _ in range(4))

    def __call__(self, x: Any) -> Any:
        return self.compute(self.m, self.i, self.w, self.k, x, jnp.tanh)


class Gluon(gluon.HybridBlock):
    def __init__(self, compute: Any) -> None:
        super().__init__()
        self.compute = compute
        self.m, self.i, self.w, self.k = (gluon.Dense(SIZE, in_units=SIZE) for _ in range(4))

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        return self.compute(self.m, self.i, self.w, self.k, x, F.tanh)


def of_keras(compute: Any) -> Any:
    net = Keras(compute)
    net(X)
    return net


def of_linen(compute: Any) -> Any:
    module = Linen(compute)
    return module, module.init(jax.random.PRNGKey(0), X)


def of_gluon(compute: Any) -> Any:
    net = Gluon(compute)
    net.initialize()
    return net


MAKERS = {"torch": Torch, "keras": of_keras, "linen": of_linen, "nnx": Nnx, "gluon": of_gluon}


def randomised(net: Any) -> Any:
    live, rng = open_net(net), np.random.default_rng(1)
    return live.fill([(s.name, rng.normal(size=s.shape).astype(np.float32)) for s in live.contents().specs])


def values(net: Any) -> dict[str, Array]:
    live = open_net(net)
    return {spec.name: live.read(spec.name) for spec in live.contents().specs}


def assert_same(one: Array, other: Array) -> None:
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(other).max())


OTHERS = [name for name in MAKERS if name != "torch"]
WAYS = [*(("torch", name) for name in OTHERS), *((name, "torch") for name in OTHERS)]


@pytest.mark.parametrize(("source", "target"), WAYS)
def test_layers_of_one_shape_and_names_that_say_nothing(source: str, target: str) -> None:
    net, clone = randomised(MAKERS[source](branches)), MAKERS[target](swapped)
    with pytest.raises(converter.MatchError):
        converter.load_into(clone, net)
    filled = converter.load_into(clone, net, example_input=X)
    assert_same(forward(filled, X), forward(net, X))
    assert_same(forward(filled, 1 - 2 * X), forward(net, 1 - 2 * X))


@pytest.mark.parametrize(("source", "target"), WAYS)
def test_nets_that_compute_something_else(source: str, target: str) -> None:
    net, clone = randomised(MAKERS[source](branches)), MAKERS[target](another)
    former = values(clone)
    with pytest.raises(converter.ConversionError, match=r"up to '\w+' they compute the same.* part at '(up|w)'"):
        converter.load_into(clone, net, example_input=X)
    assert all(np.array_equal(former[name], value) for name, value in values(clone).items())


class OtherNames(Torch):
    """The names of `Torch`, for other layers."""

    def forward(self, x: Any) -> Any:
        return self.compute(self.up, self.down, self.left, self.right, x, torch.tanh)


def test_the_same_names_for_other_layers() -> None:
    net, clone = randomised(Torch(branches)), OtherNames(swapped)
    converter.load_into(clone, net)
    assert not np.allclose(forward(clone, X), forward(net, X), atol=1e-2)
    converter.load_into(clone, net, example_input=X)
    assert_same(forward(clone, X), forward(net, X))


def summed(a: Any, b: Any, c: Any, d: Any, x: Any, tanh: Callable[[Any], Any]) -> Any:
    return d(tanh(c(tanh(a(x) + b(x)))))


def test_what_an_input_does_not_tell_is_asked() -> None:
    net, clone = randomised(Torch(summed)), of_keras(summed)
    former = values(clone)
    with pytest.raises(converter.MatchError, match=r"could be 'left' or 'right': .* the outputs are the same. Say"):
        converter.load_into(clone, net, example_input=X)
    assert all(np.array_equal(former[name], value) for name, value in values(clone).items())
    converter.load_into(clone, net, example_input=X, map={"left": "m"})
    assert_same(forward(clone, X), forward(net, X))


def test_a_file_of_a_net_that_is_run_beside_a_live_clone(tmp_path: Path) -> None:
    net, clone = randomised(Torch(branches)), of_keras(swapped)
    former = values(clone)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    with pytest.raises(converter.MatchError):
        converter.convert("torch->keras", tmp_path / "net.pt", like=clone)
    converter.convert("torch->keras", tmp_path / "net.pt", net=Torch(branches), like=clone, example_input=X)
    assert all(np.array_equal(former[name], value) for name, value in values(clone).items())
    clone.load_weights(tmp_path / "net.weights.h5")
    assert_same(forward(clone, X), forward(net, X))
    converter.save(net, tmp_path / "saved.weights.h5", like=of_keras(swapped), example_input=X)
    clone = of_keras(swapped)
    clone.load_weights(tmp_path / "saved.weights.h5")
    assert_same(forward(clone, X), forward(net, X))


def test_nets_by_name_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lockstep_nets.py").write_text(
        "from tests.live import test_lockstep as nets\n"
        "def theirs(): return nets.Torch(nets.branches)\n"
        "def ours(): return nets.of_keras(nets.swapped)\n"
        "def others(): return nets.of_keras(nets.another)\n"
    )
    net = randomised(Torch(branches))
    torch.save(net.state_dict(), "net.pt")
    np.save("x.npy", X)
    np.savez("x.npz", x=X)
    words = ["torch->keras", "net.pt", "--net", "lockstep_nets:theirs", "--example-input"]
    for example in ("4,6", "x.npy", "x.npz"):
        said = ok(capsys, *words, example, "--like", "lockstep_nets:ours", "--force", "--report", "page.html")
        assert "lockstep" in said
        assert "both nets were run: the outputs of a (PyTorch) and b (TensorFlow) agree" in said
        assert "Proof: the two agree" in Path("page.html").read_text()
        clone = of_keras(swapped)
        clone.load_weights("net.weights.h5")
        assert_same(forward(clone, X), forward(net, X))
    found = json.loads(ok(capsys, *words, "x.npy", "--like", "lockstep_nets:ours", "--force", "--json"))["proof"]
    assert found["ok"] and len(found["layers"]) == 4
    Path("net.weights.h5").unlink()
    assert "they part at" in refused(capsys, *words, "4,6", "--like", "lockstep_nets:others")
    assert "'missing.npy' is no example input" in refused(capsys, *words, "missing.npy", "--like", "lockstep_nets:ours")
    alone = refused(capsys, *words, "4,6", "--like", "lockstep_nets:ours", "--certificate", "c.json")
    assert "--net NET: a certificate is of what files alone tell." in alone
    assert not Path("net.weights.h5").exists()


# -- a flatten ------------------------------------------------------------------------------------------------------

IMAGE = np.random.default_rng(6).normal(size=(3, 2, 4, 5)).astype(np.float32)
LAST = np.ascontiguousarray(np.moveaxis(IMAGE, 1, -1))


class Flattening(torch.nn.Module):
    """change: of what comes out of a convolution, before or behind the flatten."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change
        self.conv, self.fc = torch.nn.Conv2d(2, 3, 1), torch.nn.Linear(60, 4)

    def forward(self, x: Any) -> Any:
        return self.fc(self.change(torch.tanh(self.conv(x))))


def keras_flattening() -> Any:
    layers = [keras.layers.Conv2D(3, 1), keras.layers.Activation("tanh"), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((4, 5, 2)), *layers, keras.layers.Dense(4)])


class LinenFlattening(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = jnp.tanh(linen.Conv(3, (1, 1))(x))
        return linen.Dense(4)(x.reshape(len(x), -1))


SHUFFLED = np.random.default_rng(0).permutation(60)
CHANGES = {
    "axes": lambda x: x.permute(0, 3, 1, 2).flatten(1),
    "reversed": lambda x: x.flip(3).flatten(1),
    "shuffled": lambda x: x.flatten(1)[:, SHUFFLED],
    "rolled": lambda x: x.roll(1, 2).transpose(1, 2).flatten(1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_order_of_flattened_features(change: str) -> None:
    net = randomised(Flattening(CHANGES[change]))
    clone = converter.load_into(keras_flattening(), net, example_input=LAST)
    assert_same(forward(clone, 1 - LAST), forward(net, 1 - IMAGE))
    back = converter.load_into(Flattening(CHANGES[change]), clone, example_input=IMAGE)
    assert_same(forward(back, 1 - IMAGE), forward(net, 1 - IMAGE))
    clone = converter.load_into(LinenFlattening(), net, example_input=LAST)
    assert_same(forward(clone, 1 - LAST), forward(net, 1 - IMAGE))


# -- recurrent layers and attention ---------------------------------------------------------------------------------

SERIES = np.random.default_rng(7).normal(size=(3, 5, SIZE)).astype(np.float32)


class Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.b, self.a = (torch.nn.LSTM(SIZE, SIZE, batch_first=True) for _ in range(2))
        self.d, self.c = (torch.nn.Linear(SIZE, SIZE) for _ in range(2))

    def forward(self, x: Any) -> Any:
        return self.c(torch.tanh(self.d(self.b(self.a(x)[0])[0])) - 2 * self.d(x))


class KerasRecurrent(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.p = (keras.layers.LSTM(SIZE, return_sequences=True) for _ in range(2))
        self.s, self.r = (keras.layers.Dense(SIZE) for _ in range(2))

    def call(self, x: Any) -> Any:
        skipped = 2 * self.s(x)
        return self.r(keras.ops.tanh(self.s(self.p(self.q(x)))) - skipped)


class LinenRecurrent(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        one, other = (linen.RNN(linen.OptimizedLSTMCell(SIZE, name=name)) for name in "zy")
        first, last = (linen.Dense(SIZE, name=name) for name in "xw")
        skipped = 2 * first(x)
        return last(jnp.tanh(first(other(one(x)))) - skipped)


def test_recurrent_layers_and_one_that_is_shared() -> None:
    net, clone = randomised(Recurrent()), KerasRecurrent()
    clone(SERIES)
    converter.load_into(clone, net, example_input=SERIES)
    assert_same(forward(clone, SERIES), forward(net, SERIES))
    back = converter.load_into(Recurrent(), clone, example_input=SERIES)
    assert_same(forward(back, SERIES), forward(net, SERIES))
    filled = converter.load_into(LinenRecurrent(), net, example_input=SERIES)
    module, variables = filled
    assert_same(np.asarray(module.apply(variables, SERIES)), forward(net, SERIES))


class Attending(torch.nn.Module):
    """Queries, keys and values in one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.b, self.a = (torch.nn.MultiheadAttention(SIZE, 2, batch_first=True) for _ in range(2))

    def forward(self, x: Any) -> Any:
        x = x + self.a(x, x, x, need_weights=False)[0]
        return x + self.b(x, x, x, need_weights=False)[0]


class KerasAttending(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.p, self.q = (keras.layers.MultiHeadAttention(2, SIZE // 2) for _ in range(2))

    def call(self, x: Any) -> Any:
        x = x + self.p(x, x)
        return x + self.q(x, x)


def test_attention_with_joined_queries_keys_and_values() -> None:
    net, clone = randomised(Attending()), KerasAttending()
    clone(SERIES)
    converter.load_into(clone, net, example_input=SERIES)
    assert_same(forward(clone, SERIES), forward(net, SERIES))
    back = converter.load_into(Attending(), clone, example_input=SERIES)
    assert_same(forward(back, SERIES), forward(net, SERIES))


class ByHand(torch.nn.Module):
    """Attention of four linear layers, whose names say nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three, self.four = (torch.nn.Linear(SIZE, SIZE) for _ in range(4))

    def forward(self, x: Any) -> Any:
        scores = self.two(x) @ self.four(x).transpose(1, 2)
        return self.one(torch.softmax(scores, -1) @ self.three(x))


class KerasByHand(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.e, self.n, self.o, self.x = (keras.layers.Dense(SIZE) for _ in range(4))

    def call(self, x: Any) -> Any:
        given, keys, asked = self.n(x), self.x(x), self.o(x)
        scores = asked @ keras.ops.transpose(keys, (0, 2, 1))
        return self.e(keras.ops.softmax(scores) @ given)


def test_queries_keys_and_values_by_what_they_lead_to() -> None:
    net, clone = randomised(ByHand()), KerasByHand()
    clone(SERIES)
    converter.load_into(clone, net, example_input=SERIES)
    assert_same(forward(clone, 1 - SERIES), forward(net, 1 - SERIES))
    with pytest.raises(converter.MatchError, match="the outputs are the same"):  # of one step alone all are attended to
        converter.load_into(clone, net, example_input=SERIES[:, :1])
