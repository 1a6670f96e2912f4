"""With an example input nothing of a live net is guessed: shapes, the order of calls, what is flattened, classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import keras
import mxnet
import numpy as np
import pytest
import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon

import converter
from converter.live import open_net
from converter.live.run import as_inputs
from converter.matching.partial import BY_CALLS
from tests.chapter import INPUTS, SIDES, FlaxMLP, GluonMLP, KerasMLP, TorchMLP, example_input, random_weights
from tests.live.nets import NnxMLP
from tests.parity.sides import channels_last

# -- nets that wait for an input ------------------------------------------------------------------------------------


class LazyTorchMLP(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.output = torch.nn.LazyLinear(256), torch.nn.LazyLinear(10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(torch.relu(self.hidden(x)))


def forward(net: Any, x: np.ndarray) -> np.ndarray:
    if isinstance(net, torch.nn.Module):
        with torch.no_grad():
            return net(torch.tensor(x)).numpy()
    if isinstance(net, tuple):
        return np.asarray(net[0].apply(net[1], x))
    found = net(mxnet.nd.array(x)) if isinstance(net, gluon.Block) else net(jnp.asarray(x))
    return found.asnumpy() if hasattr(found, "asnumpy") else np.asarray(found)


UNBUILT = {
    "torch": LazyTorchMLP,
    "keras": KerasMLP,
    "linen": FlaxMLP,
    "nnx": lambda: NnxMLP(nnx.Rngs(0)),
    "gluon": GluonMLP,
}


@pytest.mark.parametrize("flavour", UNBUILT)
def test_a_net_without_shapes_gets_them(flavour: str, tmp_path: Path) -> None:
    weights, x = random_weights(1), example_input()
    SIDES["torch"].save(SIDES["torch"].make(weights), tmp_path / "mlp.params")
    net = converter.load_into(UNBUILT[flavour](), tmp_path / "mlp.params", example_input=x[:2])
    expected = SIDES["torch"].forward(SIDES["torch"].make(weights), x)
    np.testing.assert_allclose(forward(net, x), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_an_input_that_the_net_does_not_take_is_said(tmp_path: Path) -> None:
    SIDES["torch"].save(SIDES["torch"].make(random_weights(1)), tmp_path / "mlp.params")
    for net in (TorchMLP(), FlaxMLP(), KerasMLP(), GluonMLP()):
        with pytest.raises(converter.ConversionError, match=r"net does not run on float32 \(\)"):
            converter.load_into(net, tmp_path / "mlp.params", example_input=np.float32(1))


# -- the order of calls ---------------------------------------------------------------------------------------------


class Backwards(torch.nn.Module):
    """Defined in another order than called."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.middle, self.first = (torch.nn.Linear(5, 5) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.middle(torch.tanh(self.first(x)))))


class InTurn(linen.Module):
    """The same under names that say nothing."""

    @linen.compact
    def __call__(self, x: Any) -> Any:
        for name in ("b", "c", "a"):
            x = linen.Dense(5, name=name)(x)
            x = x if name == "a" else jnp.tanh(x)
        return x


def randomised(net: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in net.state_dict().values():
            value.copy_(torch.rand(value.shape, generator=generator))
    return net.eval()


def test_the_order_of_calls_pairs_what_names_and_shapes_do_not() -> None:
    net, x = randomised(Backwards()), np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    variables = InTurn().init(jax.random.PRNGKey(0), x)
    with pytest.raises(converter.MatchError, match=r"could (each )?be .*\. Say map=\{"):
        converter.load_into(variables, net)
    filled = converter.load_into((InTurn(), variables), net, example_input=x)
    np.testing.assert_allclose(forward(filled, x), forward(net, x), rtol=1e-5)


def test_the_first_layers_are_those_that_are_called_first(tmp_path: Path) -> None:
    net, x = randomised(Backwards()), np.ones((1, 5), np.float32)
    new = torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.Tanh(), torch.nn.Linear(5, 5), torch.nn.Linear(5, 7))
    report = converter.reuse(net, into=new, first=2, example_input=x)
    assert report.order == BY_CALLS
    assert torch.equal(new[0].weight, net.first.weight) and torch.equal(new[2].weight, net.middle.weight)


# -- what is flattened ----------------------------------------------------------------------------------------------


class TwoPlaces(torch.nn.Module):
    """Seven channels in two places: by its sizes it could be several layers side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(3, 7, 3, padding=1), torch.nn.Linear(14, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).flatten(1))


def keras_two_places() -> Any:
    layers = [
        keras.layers.Conv2D(7, 3, padding="same", name="conv"),
        keras.layers.Flatten(),
        keras.layers.Dense(5, name="fc"),
    ]
    return keras.Sequential([keras.Input((2, 1, 3)), *layers])


def test_what_a_forward_flattens_is_seen() -> None:
    net, x = randomised(TwoPlaces()), np.random.default_rng(0).normal(size=(2, 3, 2, 1)).astype(np.float32)
    clone = converter.load_into(keras_two_places(), net, example_input=channels_last(x))
    np.testing.assert_allclose(forward(clone, channels_last(x)), forward(net, x), rtol=1e-4)


class Pooled(torch.nn.Module):
    """As many channels as features, for the places are pooled before: nothing is flattened in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix, self.fc = torch.nn.Conv2d(3, 4, 1), torch.nn.Linear(4, 8), torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.mix(self.conv(x).mean((2, 3))))


def test_the_report_says_that_a_forward_showed_it(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 1)).astype(np.float32)
    report = converter.save(randomised(TwoPlaces()), tmp_path / "net.msgpack", example_input=x)
    assert "flatten: the 14 inputs of fc are 7 flattened channels (as a forward of the net showed)" in str(report)
    report = converter.save(randomised(Pooled()), tmp_path / "pooled.msgpack", example_input=x)
    assert [item.channels for item in report.plan.flattened if item.path == "fc"] == [0]


class Generator(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.up = torch.nn.Linear(6, 24), torch.nn.ConvTranspose2d(4, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(torch.relu(self.fc(x)).reshape(len(x), 4, 3, 2))


class LinearGenerator(Generator):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.fc(x).reshape(len(x), 4, 3, 2))


def test_outputs_that_become_channels_are_seen(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    report = converter.save(randomised(LinearGenerator()), tmp_path / "net.msgpack", example_input=x)
    assert "flatten: the 24 outputs of fc are 4 flattened channels (as a forward of the net showed)" in str(report)


# -- what a module of linen tells -----------------------------------------------------------------------------------


class Square(linen.Module):
    made: str

    @linen.compact
    def __call__(self, x: Any) -> Any:
        if self.made == "conv":
            return linen.Conv(4, (3, 3), padding="VALID", name="layer")(x)
        words = {"padding": "VALID", "transpose_kernel": self.made == "transpose_kernel", "name": "layer"}
        return linen.ConvTranspose(4, (3, 3), **words)(x)


@pytest.mark.parametrize("made", ["conv", "conv_transpose", "transpose_kernel"])
def test_a_module_of_linen_tells_how_its_square_kernels_run(made: str) -> None:
    layer = torch.nn.Conv2d(4, 4, 3) if made == "conv" else torch.nn.ConvTranspose2d(4, 4, 3)
    net = randomised(torch.nn.ModuleDict({"layer": layer}))
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype(np.float32)
    filled = converter.load_into(Square(made), net["layer"], example_input=channels_last(x), map={})
    found = np.moveaxis(forward(filled, channels_last(x)), -1, 1)
    np.testing.assert_allclose(found, forward(net["layer"], x), rtol=1e-4, atol=1e-4)
    back = randomised(torch.nn.ModuleDict({"layer": type(layer)(4, 4, 3)}))["layer"]
    converter.load_into(back, filled, example_input=x)
    np.testing.assert_allclose(forward(back, x), forward(net["layer"], x), rtol=1e-4, atol=1e-4)


class WithNorm(linen.Module):
    @linen.compact
    def __call__(self, x: Any, train: bool = True) -> Any:
        x = linen.BatchNorm(use_running_average=not train, epsilon=0.02, name="norm")(x)
        return linen.Dense(3, name="fc")(x)


class TorchWithNorm(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = torch.nn.BatchNorm1d(4, eps=0.01), torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(x))


def test_the_settings_of_a_linen_module_are_compared() -> None:
    with pytest.warns(
        converter.CloneWarning, match=r"'norm': BatchNorm epsilon is 0.02 in the clone, and the source has 0.01"
    ):
        converter.load_into(WithNorm(), TorchWithNorm(), example_input=np.ones((2, 4), np.float32))


def test_settings_of_linen_are_those_of_its_modules() -> None:
    live = open_net(WithNorm())
    live.make_concrete(as_inputs(np.ones((2, 4), np.float32)))
    assert live.settings()["norm"]["BatchNorm epsilon"] == 0.02


# -- Keras, whose automatic names go on counting --------------------------------------------------------------------


class Blocks(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = [keras.layers.Dense(5) for _ in range(3)]
        self.named = keras.Sequential([keras.layers.Dense(5, name="mine"), keras.layers.Dense(5)])

    def call(self, x: Any) -> Any:
        for block in self.blocks:
            x = keras.ops.tanh(block(x))
        return self.named(x)


def test_layers_in_lists_are_named_as_in_files() -> None:
    for _ in range(2):
        net = Blocks()
        net(np.ones((1, 5), np.float32))
        names = [spec.name for spec in open_net(net).contents().specs if spec.name.endswith("kernel")]
        assert names == [
            "blocks/dense/kernel",
            "blocks/dense_1/kernel",
            "blocks/dense_2/kernel",
            "named/mine/kernel",
            "named/dense_1/kernel",
        ]


def test_a_linen_tree_without_its_module_has_nothing_to_run(tmp_path: Path) -> None:
    tree = FlaxMLP().init(jax.random.PRNGKey(0), jnp.ones((1, INPUTS)))
    with pytest.raises(converter.ConversionError, match=r"give the pair \(module, variables\)"):
        converter.load_into(tree, TorchMLP(), example_input=np.ones((1, INPUTS), np.float32))
    assert flax.serialization.to_state_dict(tree)
