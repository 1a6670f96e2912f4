"""The table of defaults says what the real frameworks do: their arguments by signature, all else by running layers."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import keras
import mxnet
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import torch
from flax import linen, nnx
from mxnet import autograd
from mxnet.gluon import nn as gluon
from mxnet.gluon import rnn as gluon_rnn
from torch.nn import functional

from converter.core.kinds import KINDS
from converter.frameworks.defaults import DEFAULTS, Default, Setting

Array = Any
RNG = np.random.default_rng(0)
ARGUMENTS = [
    pytest.param(setting, where, id=where)
    for row in DEFAULTS
    for setting in row.settings.values()
    for where in setting.where
]


def row(property: str) -> Default:
    (found,) = (row for row in DEFAULTS if row.property == property)
    return found


def values(property: str) -> dict[str, Any]:
    return {name: setting.value for name, setting in row(property).settings.items()}


def signature(where: str) -> tuple[str, inspect.Signature]:
    """``torch.nn.LayerNorm.eps`` -> eps, the signature of LayerNorm."""
    path, _, argument = where.rpartition(".")
    module, _, name = path.rpartition(".")
    *package, first = module.split(".")
    home = importlib.import_module(package[0] if package else first)
    owner = reduce(getattr, [*package[1:], first] if package else [], home)
    made = getattr(owner, name)
    return argument, inspect.signature(made.__init__ if isinstance(made, type) else made)


@pytest.mark.parametrize(("setting", "where"), ARGUMENTS)
def test_a_default_is_that_of_the_real_argument(setting: Setting, where: str) -> None:
    argument, found = signature(where)
    default = found.parameters[argument].default
    assert getattr(default, "__name__", default) == setting.default


def test_every_flavour_is_looked_at() -> None:
    packages = {".".join(where.split(".")[:2]) for _, where in (param.values for param in ARGUMENTS)}
    assert packages >= {"torch.nn", "flax.linen", "flax.nnx", "keras.layers", "tf_keras.layers", "mxnet.gluon"}
    assert len({row.property for row in DEFAULTS}) == len(DEFAULTS)
    assert all(row.kinds <= KINDS.keys() and len(row.settings) > 1 for row in DEFAULTS)


def test_a_remedy_is_an_argument_of_the_clone() -> None:
    seen = 0
    for row in DEFAULTS:
        for source, target in itertools.permutations(row.settings, 2):
            if row.settings[source].value != row.settings[target].value:
                remedy = row.settings[target].assigned(row.settings[source].value)
                named = re.match(r"(\w+)=", remedy)
                if named and row.settings[target].where:
                    assert all(named[1] in signature(where)[1].parameters for where in row.settings[target].where[:1])
                    seen += 1
    assert seen > 20


# -- what no signature tells ----------------------------------------------------------------------------------------


def same(found: Any, expected: Any) -> bool:
    return bool(np.allclose(np.asarray(found), expected, rtol=1e-4, atol=1e-5))


def nd(x: Array) -> Any:
    return mxnet.nd.array(x)


def trained_mean(flavour: str, x: Array) -> Array:
    """The running mean of a fresh BatchNorm, of mean 0, after one batch."""
    channels = x.shape[1]
    if flavour == "torch":
        layer = torch.nn.BatchNorm1d(channels)
        layer.train()(torch.tensor(x))
        return layer.running_mean.numpy()
    if flavour in ("keras", "tf_keras"):
        layer = {"keras": keras, "tf_keras": tf_keras}[flavour].layers.BatchNormalization()
        layer(tf.constant(x), training=True)
        return np.asarray(layer.moving_mean)
    if flavour == "linen":
        module = linen.BatchNorm(use_running_average=False)
        variables = module.init(jax.random.PRNGKey(0), x)
        return module.apply(variables, x, mutable=["batch_stats"])[1]["batch_stats"]["mean"]
    if flavour == "nnx":
        layer = nnx.BatchNorm(channels, rngs=nnx.Rngs(0))
        layer(jnp.asarray(x), use_running_average=False)
        return layer.mean.get_value()
    layer = gluon.BatchNorm()
    layer.initialize()
    with autograd.record():
        result = layer(nd(x))
    result.backward()  # MXNet updates the statistics on the way back
    return layer.running_mean.data().asnumpy()


FRAMEWORK = {
    "torch": "torch",
    "keras": "tensorflow",
    "tf_keras": "tensorflow",
    "linen": "flax",
    "nnx": "flax",
    "gluon": "mxnet",
}


@pytest.mark.parametrize("flavour", FRAMEWORK)
def test_momentum_is_the_share_of_the_old_statistics(flavour: str) -> None:
    x = RNG.uniform(1, 2, (5, 3)).astype(np.float32)
    kept = values("BatchNorm momentum (for training)")[FRAMEWORK[flavour]]
    assert same(trained_mean(flavour, x), (1 - kept) * x.mean(0))


def test_rms_norm_of_torch_has_the_epsilon_of_float32() -> None:
    x = RNG.normal(size=(4, 6)).astype(np.float32) * 1e-4
    epsilon = values("RMSNorm epsilon")["torch"]
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
    found = torch.nn.RMSNorm(6)(torch.tensor(x)).detach().numpy()
    assert same(found, expected) and not same(found, x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6))


RECURRENT: dict[str, Callable[[Array], Array]] = {
    "torch": lambda x: torch.nn.LSTM(4, 5)(torch.tensor(x))[0].detach().numpy(),
    "keras": keras.layers.LSTM(5, return_sequences=True),
    "tf_keras": tf_keras.layers.LSTM(5, return_sequences=True),
    "linen": lambda x: linen.RNN(linen.LSTMCell(5)).init_with_output(jax.random.PRNGKey(1), x)[0],
    "nnx": lambda x: nnx.RNN(nnx.LSTMCell(4, 5, rngs=nnx.Rngs(1)))(jnp.asarray(x)),
    "gluon": lambda x: _initialised(gluon_rnn.LSTM(5, input_size=4))(nd(x)).asnumpy(),
}


def _initialised(block: Any) -> Any:
    block.initialize()
    return block


def _seeded(run: Callable[[Array], Array], x: Array) -> Array:
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    tf_keras.utils.set_random_seed(0)
    mxnet.random.seed(0)
    return np.asarray(run(x))


@pytest.mark.parametrize("flavour", FRAMEWORK)
def test_the_first_axis_of_recurrent_inputs(flavour: str) -> None:
    x = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    other = x.copy()
    other[0] += 1
    before, after = _seeded(RECURRENT[flavour], x), _seeded(RECURRENT[flavour], other)
    assert not same(after[0], before[0])
    reaches_on = not same(after[1], before[1])  # from one step to the next, not from one of the batch to another
    assert reaches_on == (values("axes of recurrent inputs")[FRAMEWORK[flavour]] == "time first")


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("library", ["torch", "mxnet"])
def test_the_activations_that_torch_and_gluon_leave_no_choice_of(library: str) -> None:
    x = RNG.normal(size=(1, 2, 4)).astype(np.float32) * 3
    for kind, gates in (("LSTM", 4), ("GRU", 3)):
        if library == "torch":
            layer = getattr(torch.nn, kind)(4, 5, bias=False)
            found = layer(torch.tensor(x))[0].detach().numpy()[0]
            weight = layer.weight_ih_l0.detach().numpy()
        else:
            layer = _initialised(getattr(gluon_rnn, kind)(5, input_size=4))
            found = layer(nd(x)).asnumpy()[0]
            weight = layer.collect_params(".*i2h_weight")[f"{layer.prefix}l0_i2h_weight"].data().asnumpy()
        parts = np.split(x[0] @ weight.T, gates, axis=-1)  # from a state of zeros and without biases
        if kind == "LSTM":
            i, _, g, o = parts
            expected = sigmoid(o) * np.tanh(sigmoid(i) * np.tanh(g))
        else:
            _, z, n = parts
            expected = (1 - sigmoid(z)) * np.tanh(n)
        assert same(found, expected)
        assert values(f"{kind} activation")[library] == "tanh"
        assert values(f"{kind} recurrent activation")[library] == "sigmoid"


def test_the_activation_of_rnn_layers() -> None:
    assert torch.nn.RNN(2, 3).nonlinearity == values("RNN activation")["torch"]
    assert gluon_rnn.RNNCell(3)._activation == "tanh" != values("RNN activation")["mxnet"]  # as its words say


def test_what_a_padding_index_does() -> None:
    embedding = torch.nn.Embedding(4, 3, padding_idx=2)
    embedding(torch.tensor([1, 2])).sum().backward()
    assert embedding.weight.grad[1].any() and not embedding.weight.grad[2].any()
    for library in (keras, tf_keras):
        mask = library.layers.Embedding(4, 3, mask_zero=True).compute_mask(tf.constant([[0, 1]]))
        assert np.asarray(mask).tolist() == [[False, True]]
    for layer in (linen.Embed, nnx.Embed, gluon.Embedding):
        assert not [name for name in inspect.signature(layer.__init__).parameters if "pad" in name or "mask" in name]


#: A convolution of stride 2 with a kernel of ones over a row of 8, as it would be with "same" or k // 2 on both sides.
STRIDED: dict[str, Callable[[Array], Array]] = {
    "torch": lambda x: functional.conv1d(torch.tensor(x.T[None]), torch.ones(1, 1, 3), stride=2, padding=1)[0].T,
    "gluon": lambda x: (
        mxnet.nd.Convolution(
            nd(x.T[None]), mxnet.nd.ones((1, 1, 3)), kernel=(3,), stride=(2,), pad=(1,), num_filter=1, no_bias=True
        )
        .asnumpy()[0]
        .T
    ),
    "keras": lambda x: keras.layers.Conv1D(1, 3, 2, "same", kernel_initializer="ones")(x[None])[0],
    "tf_keras": lambda x: tf_keras.layers.Conv1D(1, 3, 2, "same", kernel_initializer="ones")(x[None])[0],
    "linen": lambda x: linen.Conv(1, 3, 2, kernel_init=linen.initializers.ones).init_with_output(
        jax.random.PRNGKey(0), x[None]
    )[0][0],
    "nnx": lambda x: nnx.Conv(1, 1, 3, 2, kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0))(jnp.asarray(x[None]))[0],
}


@pytest.mark.parametrize("flavour", FRAMEWORK)
def test_where_a_convolution_with_a_stride_is_padded(flavour: str) -> None:
    x = RNG.normal(size=8).astype(np.float32)
    sides = {"both": (1, 1), "end": (0, 1)}
    sums = {name: np.convolve(np.pad(x, pad), np.ones(3), "valid")[::2] for name, pad in sides.items()}
    found = np.asarray(STRIDED[flavour](x[:, None]))[:, 0]
    side = values("padding of a convolution with stride 2")[FRAMEWORK[flavour]]
    assert same(found, sums[side]) and not same(sums["both"], sums["end"])


def test_the_remedies_of_padding() -> None:
    x = RNG.normal(size=(8, 1)).astype(np.float32)
    like_torch = np.asarray(STRIDED["torch"](x))
    padded = keras.layers.ZeroPadding1D(1)(x[None])
    assert same(keras.layers.Conv1D(1, 3, 2, "valid", kernel_initializer="ones")(padded)[0], like_torch)
    module = linen.Conv(1, 3, 2, padding=((1, 1),), kernel_init=linen.initializers.ones)
    assert same(module.init_with_output(jax.random.PRNGKey(0), x[None])[0][0], like_torch)
    ahead = np.pad(x.T[None], ((0, 0), (0, 0), (0, 1)))
    there = functional.conv1d(torch.tensor(ahead), torch.ones(1, 1, 3), stride=2)[0].T
    assert same(there, np.asarray(STRIDED["keras"](x)))


POOLED: dict[str, Callable[[Array], Array]] = {
    "torch": lambda x: torch.nn.AvgPool2d(3, 1, padding=1)(torch.tensor(x)),
    "gluon": lambda x: gluon.AvgPool2D(3, 1, padding=1)(nd(x)).asnumpy(),
    "keras": lambda x: keras.layers.AveragePooling2D(3, 1, "same")(np.moveaxis(x, 1, -1)),
    "tf_keras": lambda x: tf_keras.layers.AveragePooling2D(3, 1, "same")(np.moveaxis(x, 1, -1)),
    "linen": lambda x: linen.avg_pool(np.moveaxis(x, 1, -1), (3, 3), padding="SAME"),
    "nnx": lambda x: nnx.avg_pool(np.moveaxis(x, 1, -1), (3, 3), padding="SAME"),
}


@pytest.mark.parametrize(("kernel", "stride", "padding", "more"), [(4, 2, 1, 0), (4, 2, 1, 1), (5, 2, 2, 1)])
@pytest.mark.parametrize("flavour", ["keras", "linen"])
def test_what_a_transposed_convolution_takes_off(
    flavour: str, kernel: int, stride: int, padding: int, more: int
) -> None:
    """With the remedy, each is the other: no padding, and cut as the other cuts."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(1, 2, 5, 5)).astype("f"), rng.normal(size=(2, 3, kernel, kernel)).astype("f")

    def torch_net(**settings: int) -> Array:
        given = torch.tensor(x), torch.tensor(weight)
        return np.moveaxis(torch.nn.functional.conv_transpose2d(*given, stride=stride, **settings).numpy(), 1, -1)

    def other(kind: str) -> Array:
        turned, image = weight.transpose(2, 3, 1, 0), np.moveaxis(x, 1, -1)
        if flavour == "keras":
            layer = keras.layers.Conv2DTranspose(3, kernel, stride, kind, use_bias=False)
            layer.build(image.shape)
            layer.set_weights([turned])
            return np.asarray(layer(image))
        size, steps = (kernel, kernel), (stride, stride)
        module = linen.ConvTranspose(3, size, steps, kind.upper(), use_bias=False, transpose_kernel=True)
        return np.asarray(module.apply({"params": {"kernel": turned}}, image))

    def cut(array: Array, start: int, end: int) -> Array:
        kept = slice(start, array.shape[1] - end)
        return array[:, kept, kept]

    assert same(cut(other("valid"), padding, padding - more), torch_net(padding=padding, output_padding=more))
    start = (kernel - stride) // 2
    assert same(cut(torch_net(), start, kernel - stride - start), other("same"))


@pytest.mark.parametrize("flavour", FRAMEWORK)
def test_whether_average_pooling_counts_the_padding(flavour: str) -> None:
    found = np.asarray(POOLED[flavour](np.ones((1, 1, 4, 4), np.float32))).reshape(4, 4)
    counts = values("average pooling with padding")[FRAMEWORK[flavour]]
    assert same(found[0, 0], 4 / 9 if counts else 1) and same(found[1, 1], 1)


def test_keras_counts_the_zeros_that_are_put_before() -> None:
    x = RNG.normal(size=(1, 1, 4, 4)).astype(np.float32)
    padded = keras.layers.ZeroPadding2D(1)(np.moveaxis(x, 1, -1))
    found = keras.layers.AveragePooling2D(3, 1, "valid")(padded)
    assert same(np.moveaxis(np.asarray(found), -1, 1), POOLED["torch"](x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "torch": lambda x: torch.nn.GELU()(torch.tensor(x)),
    "gluon": lambda x: gluon.GELU()(nd(x)).asnumpy(),
    "keras": keras.layers.Activation("gelu"),
    "tf_keras": tf_keras.layers.Activation("gelu"),
    "linen": linen.gelu,
    "nnx": nnx.gelu,
}


@pytest.mark.parametrize("flavour", FRAMEWORK)
def test_gelu_is_exact_or_the_tanh_approximation(flavour: str) -> None:
    x = np.linspace(-4, 4, 33, dtype=np.float32)
    exact = torch.special.ndtr(torch.tensor(x, dtype=torch.float64)).numpy() * x
    approximation = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    found = np.asarray(ACTIVATIONS[flavour](x))
    errors = {"exact": np.abs(found - exact).max(), "tanh": np.abs(found - approximation).max()}
    assert min(errors, key=errors.__getitem__) == values("GELU")[FRAMEWORK[flavour]]
    assert min(errors.values()) < 1e-5 and max(errors.values()) > 1e-4


def test_the_slope_of_the_keras_function_is_another_than_that_of_its_layer() -> None:
    for library in (keras, tf_keras):
        assert same(library.layers.Activation("leaky_relu")(np.float32([[-1.0]])), -0.2)
        assert same(library.layers.LeakyReLU()(np.float32([[-1.0]])), -0.3)
    assert "0.2" in row("LeakyReLU slope").settings["tensorflow"].words
