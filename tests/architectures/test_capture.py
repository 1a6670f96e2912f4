"""The architecture of a live net: read from it, kept in a neutral file, and a net again in every framework."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np
import pytest
import torch
from flax import linen, nnx
from mxnet.gluon import nn as gluon
from torch import nn

import converter
from converter.errors import ConversionError
from tests.architectures.nets import FRAMEWORKS, output, taken, written
from tests.book.convolutional import CASES
from tests.book.runs import FLAVOURS, RING
from tests.command import ok
from tests.parity.sides import SIDES, Array, Case, Linen, assert_same, channels_last, linen_net

#: Deep nets take long to run, so that each is tried in one framework.
DEEP = {"densenet": "torch", "resnet": "keras", "googlenet": "linen", "resnext": "gluon"}
CAPTURED = [(name, flavour) for name in CASES for flavour in FLAVOURS if DEEP.get(name, flavour) == flavour]


def live(net: Any) -> Any:
    """As `converter` takes it."""
    return (net.module, net.variables) if isinstance(net, Linen) else net


@pytest.mark.parametrize(("name", "flavour"), CAPTURED)
def test_the_book_s_nets_tell_their_architecture(name: str, flavour: str, tmp_path: Path) -> None:
    """The file alone is the net again, in its own framework and in others."""
    case = CASES[name]
    net = case.random(flavour, 1)
    architecture = converter.architecture(live(net), example_input=taken(case, flavour))
    report = converter.save(live(net), tmp_path / "net.safetensors", architecture=architecture)
    assert not any("architecture" in item.name for item in report.plan.left_out)
    expected = case.run(flavour, net)
    for other in (flavour, dict(RING)[flavour]):
        clone = converter.build(tmp_path / "net.safetensors", SIDES[other].framework)
        assert_same(output(case, other, clone), expected, 1e-6 if other == flavour else case.tolerance)


@pytest.mark.parametrize(
    ("name", "source", "flavour", "framework"),
    [
        (*made, *into)
        for made, into in zip(
            [("resnet", "torch"), ("lenet", "keras"), ("lenet", "gluon"), ("alexnet", "linen")],
            [*FRAMEWORKS[1:], FRAMEWORKS[0]],
            strict=True,
        )
    ],
)
def test_what_convert_writes_of_such_a_file_fits_the_written_code(
    name: str, source: str, flavour: str, framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a schema: the architecture tells the names of the layers and what is flattened."""
    case = CASES[name]
    net = case.random(source, 1)
    path, result = tmp_path / "net.safetensors", tmp_path / f"net{SIDES[flavour].ending}"
    architecture = converter.architecture(live(net), example_input=taken(case, source))
    converter.save(live(net), path, architecture=architecture)
    ok(capsys, f"neutral->{framework}", path, "-o", result)
    clone = written(case, flavour, ok(capsys, "scaffold", path, "--to", framework), tmp_path)
    assert_same(output(case, flavour, SIDES[flavour].load(clone, result)), case.run(source, net))


# -- steps that the book's nets do not have -------------------------------------------------------------------------


class Many(nn.Module):
    """A sum of three, branches inside of branches, and many functions."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 6, 3, stride=2, padding=1, output_padding=1)
        self.norm = nn.GroupNorm(2, 6)
        self.one = nn.Conv2d(6, 6, 3, padding="same", dilation=2, groups=3, bias=False)
        self.two = nn.Conv2d(6, 6, (1, 3), padding=(0, 1))
        self.instance = nn.InstanceNorm2d(6, affine=True)
        self.slope = nn.PReLU()
        self.head = nn.Linear(12 * 4 * 3, 5)

    def forward(self, x: Any) -> Any:
        f = nn.functional
        x = f.leaky_relu(self.norm(self.up(x)), 0.2)
        y = f.silu(self.one(x)) + f.elu(self.two(x), 0.7) + x
        y = torch.cat([self.slope(self.instance(y)), torch.tanh(x)], 1)
        y = f.avg_pool2d(f.gelu(y, approximate="tanh"), 2, 2, 0) + f.max_pool2d(y, 2)
        y = f.dropout(f.softplus(y), 0.3, training=self.training)
        return torch.softmax(self.head(y.view(y.size(0), -1)), -1)


class Sequence(nn.Module):
    def __init__(self, cell: type[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.rnn = cell(8, 6, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        x = self.norm(self.rnn(self.embedding(x))[0])
        x = x + self.attention(x, x, x)[0]
        return torch.sigmoid(self.head(x[:, -1]))


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, x: Any) -> Any:
        return self.head(self.norm(self.conv(x).mean((2, 3)))).relu()


def image(*shape: int) -> Array:
    return np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)


def tokens() -> Array:
    return np.random.default_rng(1).integers(0, 11, (2, 7)).astype(np.int32)


NETS: dict[str, tuple[Callable[[], nn.Module], Array]] = {
    "many": (Many, image(3, 4, 3)),
    "rnn": (lambda: Sequence(nn.RNN), tokens()),
    "lstm": (lambda: Sequence(nn.LSTM), tokens()),
    "gru": (lambda: Sequence(nn.GRU), tokens()),
    "mean": (Mean, image(2, 5, 4)),
    "1d": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.MaxPool1d(2)), image(3, 9)),
    "3d": (
        lambda: nn.Sequential(nn.Conv3d(2, 4, 2), nn.AdaptiveMaxPool3d(1), nn.Flatten(), nn.Linear(4, 2)),
        image(2, 4, 3, 3),
    ),
    "padding": (lambda: nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(2, 4, 3)), image(2, 5, 4)),
}


@pytest.mark.parametrize("name", NETS)
def test_other_steps(name: str) -> None:
    make, x = NETS[name]
    case = Case(name, {"torch": make}, (x,), spatial=x.dtype == np.float32)
    net = case.random("torch", 1)
    expected = output(case, "torch", net)
    architecture = converter.architecture(net, example_input=x)
    for flavour, framework in FRAMEWORKS:
        assert_same(output(case, flavour, converter.build(architecture, framework, net)), expected, 2e-5)


def keras_functional() -> Any:
    """A depthwise convolution, uneven padding, a functional model inside of a Sequential."""
    kl = keras.layers
    inputs = keras.Input((9, 8, 3))
    x = kl.DepthwiseConv2D(3, strides=2, padding="same", activation="elu")(inputs)
    y = kl.LeakyReLU(0.1)(kl.Conv2D(3, 1)(x))
    inner = keras.Model(inputs, kl.Concatenate()([kl.Add()([x, y]), kl.AveragePooling2D(1)(x)]))
    return keras.Sequential([keras.Input((9, 8, 3)), inner, kl.GlobalMaxPooling2D(), kl.Dense(4, activation="softmax")])


def test_a_functional_model_of_keras() -> None:
    x = np.moveaxis(image(3, 9, 8), 1, -1)
    case = Case("functional", {"keras": keras_functional}, (np.moveaxis(x, -1, 1),), spatial=True)
    net = case.random("keras", 1)
    noted = [len(layer._inbound_nodes) for layer in net.layers]
    architecture = converter.architecture(net)
    assert [len(layer._inbound_nodes) for layer in net.layers] == noted
    for flavour, framework in FRAMEWORKS:
        clone = converter.build(architecture, framework, net)
        assert_same(output(case, flavour, clone), output(case, "keras", net))


class Jax(linen.Module):
    """Padding, strides, means and branches as jax has them."""

    @linen.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        x = linen.Conv(6, (3, 3), strides=2)(linen.Conv(3, (2, 3), kernel_dilation=(1, 2))(x))
        x = linen.BatchNorm(use_running_average=not train)(x)
        y = linen.ConvTranspose(4, (2, 2), strides=(2, 2), padding="VALID")(linen.silu(x))
        y = linen.Dropout(0.5, deterministic=not train)(linen.elu(y))
        y = linen.GroupNorm(2)(jax.numpy.pad(y, ((0, 0), (1, 1), (0, 1), (0, 0))))
        y = linen.avg_pool(linen.leaky_relu(y, 0.3), (2, 2), (1, 2), ((1, 1), (0, 0)))
        z = jax.numpy.concatenate([linen.tanh(y), linen.softplus(y)], -1)
        z = z.mean((1, 2)) + z.max((1, 2))
        return linen.sigmoid(linen.Dense(3, use_bias=False)(z))


def test_a_compact_module_of_flax() -> None:
    case = Case("jax", {"linen": linen_net(Jax, channels_last(image(2, 7, 6)))}, (image(2, 7, 6),), spatial=True)
    net = case.random("linen", 1)
    architecture = converter.architecture(live(net), example_input=taken(case, "linen"))
    for flavour, framework in FRAMEWORKS:
        clone = converter.build(architecture, framework, live(net))
        assert_same(output(case, flavour, clone), output(case, "linen", net))


# -- what cannot be read --------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """Computes what it is told."""

    def __init__(self, forward: Callable[[Any, Any], Any], **inside: Any) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.compute = forward
        for name, value in inside.items():
            setattr(self, name, value)

    def forward(self, x: Any) -> Any:
        return self.compute(self, x)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Hardswish()), r"'1' is torch.nn.Hardswish, which has no counterpart"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(0)), r"a softmax of 4 is over the axes \[0\]"),
        (Odd(lambda net, x: net.b(x)[0], b=nn.LSTM(4, 4)), "'b' is torch.nn.LSTM, which has batch_first=False"),
        (Odd(lambda net, x: net.a(x) * 2), "calls mul, which has no counterpart"),
        (Odd(lambda net, x: net.a(x) + 1), "calls add, which adds a number"),
        (
            Odd(lambda net, x: net.a(x) + net.shift, shift=nn.Parameter(torch.randn(4))),
            "'shift' is a tensor that the net uses by itself",
        ),
        (Odd(lambda net, x: net.a(net.a(x))), "'a' is called twice"),
        (Odd(lambda net, x: x, b=nn.Linear(4, 4)), "no step of the architecture uses the layer 'a'"),
        (Odd(lambda net, x: net.a(x) if x.sum() > 0 else x), "cannot be traced by torch.fx"),
        (Odd(lambda net, x: (net.a(x), x)), "which is not a single tensor"),
        (Odd(lambda net, x: net.a(x).view(-1, 2)), "a flatten of 4 is to give 2 features"),
        (Odd(lambda net, x: net.a(x).mean(0)), "takes channels with spatial axes"),
        (
            Odd(lambda net, x: net.b(x).mean(3), b=nn.Conv2d(4, 4, 1), a=nn.Identity()),
            r"over the axes \[3\], the batch being 0: .* has it over all of space alone",
        ),
    ],
)
def test_what_the_vocabulary_does_not_have_is_refused_by_name(net: nn.Module, message: str) -> None:
    x = image(4, 3, 3) if hasattr(net, "b") and isinstance(net.b, nn.Conv2d) else image(4)
    with pytest.raises(ConversionError, match=message):
        converter.architecture(net, example_input=x)


class MapsItself(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return keras.ops.exp(x)


def gluon_net(last: Any) -> Any:
    net = gluon.Sequential()
    net.add(gluon.Dense(4, in_units=4), last)
    net.initialize()
    return net


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), MapsItself()]), "keras.ops.exp"),
        (
            lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, activation="selu")]),
            "keras.layers.Dense, which has activation=selu",
        ),
        (lambda: gluon_net(gluon.HybridLambda("erf")), "calls the operator erf, which has no counterpart"),
        (lambda: gluon_net(gluon.Lambda("erf")), "cannot be called on symbols"),
        (
            lambda: nnx.Linear(4, 4, rngs=nnx.Rngs(0)),
            "what a nnx module computes .* cannot be read. Describe it in a schema",
        ),
        (lambda: {"params": {"a": {"kernel": image(4)}}}, "the params tree of a Flax linen net cannot be run alone"),
        (lambda: linen.Sequential([linen.Dense(4), lambda x: x * 2]), "calls 'mul' of jax, which has no counterpart"),
        (lambda: linen.Sequential([linen.Dense(4), linen.WeightNorm(linen.Dense(4))]), "flax.linen.WeightNorm, which"),
    ],
)
def test_other_frameworks_refuse_by_name_as_well(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        converter.architecture(make(), example_input=image(4))


def test_an_architecture_goes_into_a_neutral_file_alone_and_fits_its_weights(tmp_path: Path) -> None:
    net, other = nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    architecture = converter.architecture(net)
    with pytest.raises(ConversionError, match="stored in a neutral file alone"):
        converter.save(net, tmp_path / "net.pt", architecture=architecture)
    with pytest.raises(ConversionError, match="no step of the architecture uses the layer '1'"):
        converter.save(other, tmp_path / "net.safetensors", architecture=architecture)
    with pytest.raises(ConversionError, match="an architecture is captured from a live net"):
        converter.architecture(tmp_path / "net.pt")
    assert not list(tmp_path.iterdir())
