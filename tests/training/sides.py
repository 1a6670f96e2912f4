"""One small net in each framework, trained by the framework's own optimizer, saved and loaded by its own means.

It has a convolution, a BatchNorm, an embedding and dense layers, two of them square, so that slots of one shape
could be swapped. Everything is float64, so that an update is seen to 1e-6 and better. Weights, batches and targets
are random.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.serialization
import flax.training.train_state
import jax
import jax.numpy as jnp
import keras
import mxnet
import numpy as np
import tensorflow as tf
import torch

Array = np.ndarray[Any, Any]
#: Parameter -> its values, in the axes of PyTorch.
Values = dict[str, Array]
SIZE, WORDS, WIDTH = 6, 11, 8
#: Positions of the convolution's outputs, and the features that they are when flattened.
PLACES = (SIZE - 2) ** 2
FLAT = WIDTH * PLACES
DENSE = ("hidden", "middle", "last", "output")


def batches(first: int, count: int) -> Iterator[tuple[Array, Array, Array]]:
    """Images (4, 3, 6, 6), words (4, 5), targets (4, 2); the same for every framework."""
    for number in range(first, first + count):
        rng = np.random.default_rng(1000 + number)
        images = rng.normal(size=(4, 3, SIZE, SIZE))
        yield images, rng.integers(0, WORDS, (4, 5)), rng.normal(size=(4, 2))


def start(seed: int = 0) -> Values:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "conv.weight": (WIDTH, 3, 3, 3),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "embed.weight": (WORDS, WIDTH),
        "hidden.weight": (2 * WIDTH, FLAT + WIDTH),
        "hidden.bias": (2 * WIDTH,),
        "middle.weight": (2 * WIDTH, 2 * WIDTH),
        "middle.bias": (2 * WIDTH,),
        "last.weight": (2 * WIDTH, 2 * WIDTH),
        "last.bias": (2 * WIDTH,),
        "output.weight": (2, 2 * WIDTH),
        "output.bias": (2,),
    }
    return {name: rng.uniform(0.1, 0.6, shape) * rng.choice([-1, 1], shape) for name, shape in shapes.items()}


class TorchNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, WIDTH, 3, bias=False)
        self.norm = torch.nn.BatchNorm2d(WIDTH)
        self.embed = torch.nn.Embedding(WORDS, WIDTH)
        self.hidden = torch.nn.Linear(FLAT + WIDTH, 2 * WIDTH)
        self.middle = torch.nn.Linear(2 * WIDTH, 2 * WIDTH)
        self.last = torch.nn.Linear(2 * WIDTH, 2 * WIDTH)
        self.output = torch.nn.Linear(2 * WIDTH, 2)

    def forward(self, images: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        seen = torch.tanh(self.norm(self.conv(images))).flatten(1)
        x = torch.cat([seen, self.embed(words).mean(1)], 1)
        for layer in (self.hidden, self.middle, self.last):
            x = torch.tanh(layer(x))
        result: torch.Tensor = self.output(x)
        return result


class Torch:
    """make: of the net its optimizer."""

    framework, ending = "torch", ".pt"

    def __init__(self, make: Callable[[Any], Any], values: Values | None = None) -> None:
        self.net = TorchNet().double().train()
        for name, value in (values or start(7)).items():
            dict(self.net.named_parameters())[name].data.copy_(torch.tensor(value))
        self.optimizer = make(self.net)

    def train(self, first: int, count: int) -> Values:
        for images, words, targets in batches(first, count):
            self.optimizer.zero_grad()
            given = self.net(torch.tensor(images), torch.tensor(words))
            ((given - torch.tensor(targets)) ** 2).mean().backward()
            self.optimizer.step()
        return self.values()

    def values(self) -> Values:
        return {name: value.detach().numpy().copy() for name, value in self.net.named_parameters()}

    def save(self, path: Path) -> Path:
        torch.save({"net": self.net.state_dict(), "optim": self.optimizer.state_dict(), "epoch": 3}, path)
        return path

    def load(self, path: Path) -> None:
        checkpoint = torch.load(path, weights_only=True)
        weights, state = list(checkpoint)[:2]
        self.net.load_state_dict(checkpoint[weights], strict=True)
        self.optimizer.load_state_dict(checkpoint[state])


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, images: Any, words: Any) -> Any:
        wide = functools.partial(nn.Dense, 2 * WIDTH, param_dtype=jnp.float64)
        x = nn.Conv(WIDTH, (3, 3), padding="VALID", use_bias=False, name="conv", param_dtype=jnp.float64)(images)
        x = nn.BatchNorm(use_running_average=False, momentum=0.9, name="norm", param_dtype=jnp.float64)(x)
        seen = jnp.tanh(x).reshape(len(x), -1)
        x = jnp.concatenate([seen, nn.Embed(WORDS, WIDTH, name="embed", param_dtype=jnp.float64)(words).mean(1)], 1)
        for name in ("hidden", "middle", "last"):
            x = jnp.tanh(wide(name=name)(x))
        return nn.Dense(2, name="output", param_dtype=jnp.float64)(x)


class State(flax.training.train_state.TrainState):  # type: ignore[misc,no-untyped-call]
    batch_stats: Any = None


@contextmanager
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


#: Name in PyTorch -> (layer, leaf) in flax, and the axes of PyTorch as positions in flax.
_IN_FLAX = {
    "conv.weight": ("conv", "kernel", (3, 2, 0, 1)),
    "norm.weight": ("norm", "scale", (0,)),
    "norm.bias": ("norm", "bias", (0,)),
    "embed.weight": ("embed", "embedding", (0, 1)),
    **{f"{name}.weight": (name, "kernel", (1, 0)) for name in DENSE},
    **{f"{name}.bias": (name, "bias", (0,)) for name in DENSE},
}


def to_last(name: str, value: Array) -> Array:
    """The features of a flatten as nets with the channels last have them."""
    if name != "hidden.weight":
        return value
    seen = value[:, :FLAT].reshape(-1, WIDTH, PLACES).swapaxes(1, 2).reshape(-1, FLAT)
    return np.concatenate([seen, value[:, FLAT:]], 1)


def to_first(name: str, value: Array) -> Array:
    """The inverse of `to_last`."""
    if name != "hidden.weight":
        return value
    seen = value[:, :FLAT].reshape(-1, PLACES, WIDTH).swapaxes(1, 2).reshape(-1, FLAT)
    return np.concatenate([seen, value[:, FLAT:]], 1)


class Linen:
    """make: the transformation of optax."""

    framework, ending = "flax", ".msgpack"

    def __init__(self, make: Callable[[], Any], values: Values | None = None) -> None:
        with float64():
            images, words, _ = next(batches(0, 1))
            key, images = jax.random.PRNGKey(0), images.transpose(0, 2, 3, 1)
            variables = jax.eval_shape(LinenNet().init, key, images, words)  # every value is set below
            params = jax.tree.map(lambda one: np.ones(one.shape, one.dtype), variables["params"])
            statistics = jax.tree.map(lambda one: jnp.ones(one.shape, one.dtype), variables["batch_stats"])
            for name, value in (values or start(7)).items():
                layer, leaf, axes = _IN_FLAX[name]
                params[layer][leaf] = jnp.asarray(to_last(name, value).transpose(np.argsort(axes)))
            self.state = State.create(apply_fn=LinenNet().apply, params=params, tx=make(), batch_stats=statistics)

    def train(self, first: int, count: int) -> Values:
        with float64():
            for images, words, targets in batches(first, count):
                self.state = self._step(self.state, jnp.asarray(images).transpose(0, 2, 3, 1), words, targets)
        return self.values()

    @staticmethod
    @jax.jit
    def _step(state: Any, images: Any, words: Any, targets: Any) -> Any:
        def loss(params: Any) -> Any:
            variables = {"params": params, "batch_stats": state.batch_stats}
            given, changed = state.apply_fn(variables, images, words, mutable=["batch_stats"])
            return ((given - targets) ** 2).mean(), changed

        (_, changed), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=gradients, batch_stats=changed["batch_stats"])

    def values(self) -> Values:
        return {
            name: to_first(name, np.asarray(self.state.params[layer][leaf]).transpose(axes)).copy()
            for name, (layer, leaf, axes) in _IN_FLAX.items()
        }

    def save(self, path: Path) -> Path:
        path.write_bytes(flax.serialization.to_bytes(self.state))
        return path

    def load(self, path: Path) -> None:
        with float64():
            loaded = flax.serialization.from_bytes(self.state, path.read_bytes())
            self.state = jax.tree.map(jnp.asarray, loaded)


def keras_net() -> Any:
    same = {"dtype": "float64"}
    images, words = keras.Input((SIZE, SIZE, 3), name="images"), keras.Input((5,), dtype="int32", name="words")
    x = keras.layers.Conv2D(WIDTH, 3, use_bias=False, name="conv", **same)(images)
    x = keras.layers.BatchNormalization(epsilon=1e-5, name="norm", **same)(x)
    x = keras.layers.Flatten(**same)(keras.layers.Activation("tanh", **same)(x))
    seen = keras.layers.Embedding(WORDS, WIDTH, name="embed", **same)(words)
    x = keras.layers.Concatenate(**same)([x, keras.layers.GlobalAveragePooling1D(**same)(seen)])
    for name in DENSE[:-1]:
        x = keras.layers.Dense(2 * WIDTH, activation="tanh", name=name, **same)(x)
    return keras.Model([images, words], keras.layers.Dense(2, name="output", **same)(x))


#: Name in PyTorch -> (layer, number of the weight) in Keras, and the axes of PyTorch as positions there.
_IN_KERAS = {
    **{name: (layer, 0, axes) for name, (layer, _, axes) in _IN_FLAX.items() if name.endswith("weight")},
    **{name: (layer, 1, axes) for name, (layer, _, axes) in _IN_FLAX.items() if name.endswith("bias")},
}


class Keras:
    """make: the optimizer. whole: whether the file is the whole model, or its weights alone."""

    framework = "tensorflow"

    def __init__(self, make: Callable[[], Any], values: Values | None = None, whole: bool = True) -> None:
        self.ending, self.net = ".keras" if whole else ".weights.h5", keras_net()
        self.net.compile(make())
        for name, value in (values or start(7)).items():
            layer, number, axes = _IN_KERAS[name]
            self.net.get_layer(layer).weights[number].assign(to_last(name, value).transpose(np.argsort(axes)))
        self.net.optimizer.build(self.net.trainable_variables)

    def train(self, first: int, count: int) -> Values:
        for images, words, targets in batches(first, count):
            with tf.GradientTape() as tape:
                given = self.net([tf.constant(images.transpose(0, 2, 3, 1)), tf.constant(words)], training=True)
                loss = tf.reduce_mean((given - tf.constant(targets)) ** 2)
            variables = self.net.trainable_variables
            gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]
            self.net.optimizer.apply(gradients, variables)
        return self.values()

    def values(self) -> Values:
        return {
            name: to_first(name, self.net.get_layer(layer).weights[number].numpy().transpose(axes)).copy()
            for name, (layer, number, axes) in _IN_KERAS.items()
        }

    def save(self, path: Path) -> Path:
        self.net.save(path) if self.ending == ".keras" else self.net.save_weights(path)
        return path

    def load(self, path: Path) -> None:
        if self.ending == ".keras":
            self.net = keras.models.load_model(path)
        else:
            self.net.load_weights(path)


class GluonNet(mxnet.gluon.nn.HybridBlock):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        with self.name_scope():
            self.conv = mxnet.gluon.nn.Conv2D(WIDTH, 3, use_bias=False, in_channels=3)
            self.norm = mxnet.gluon.nn.BatchNorm(in_channels=WIDTH)
            self.embed = mxnet.gluon.nn.Embedding(WORDS, WIDTH)
            self.hidden = mxnet.gluon.nn.Dense(2 * WIDTH, in_units=FLAT + WIDTH)
            self.middle = mxnet.gluon.nn.Dense(2 * WIDTH, in_units=2 * WIDTH)
            self.last = mxnet.gluon.nn.Dense(2 * WIDTH, in_units=2 * WIDTH)
            self.output = mxnet.gluon.nn.Dense(2, in_units=2 * WIDTH)

    def hybrid_forward(self, F: Any, images: Any, words: Any) -> Any:  # noqa: N803
        seen = F.flatten(F.tanh(self.norm(self.conv(images))))
        x = F.concat(seen, F.mean(self.embed(words), axis=1), dim=1)
        for layer in (self.hidden, self.middle, self.last):
            x = F.tanh(layer(x))
        return self.output(x)


#: Name in PyTorch -> that of gluon.
_IN_GLUON = {name: name for name in start()} | {"norm.weight": "norm.gamma", "norm.bias": "norm.beta"}


class Gluon:
    """make: the name of the optimizer and its settings."""

    framework, ending = "mxnet", ".params"

    def __init__(self, make: Callable[[], tuple[str, dict[str, Any]]], values: Values | None = None) -> None:
        self.net = GluonNet()
        self.net.cast("float64")
        self.net.initialize()
        self.parameters = self.net._collect_params_with_prefix()
        for name, value in (values or start(7)).items():
            self.parameters[_IN_GLUON[name]].set_data(mxnet.nd.array(value, dtype="float64"))
        self.trainer = mxnet.gluon.Trainer(self.net.collect_params(), *make(), kvstore=None)

    def train(self, first: int, count: int) -> Values:
        for images, words, targets in batches(first, count):
            with mxnet.autograd.record():
                given = self.net(mxnet.nd.array(images, dtype="float64"), mxnet.nd.array(words, dtype="float64"))
                loss = ((given - mxnet.nd.array(targets, dtype="float64")) ** 2).mean()
            loss.backward()
            self.trainer.step(1)
        return self.values()

    def values(self) -> Values:
        return {name: self.parameters[own].data().asnumpy() for name, own in _IN_GLUON.items()}

    def order(self, path: Path) -> Path:
        """The names of the parameters as the Trainer numbers them, in a file."""
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        path.write_text("\n".join(names[id(value)] for _, value in sorted(self.net.collect_params().items())))
        return path

    def save(self, path: Path) -> Path:
        self.net.save_parameters(str(path))
        self.trainer.save_states(str(path.with_suffix(".states")))
        return path

    def load(self, path: Path) -> None:
        self.net.load_parameters(str(path))
        self.trainer.load_states(str(path.with_suffix(".states")))


def updates(before: Values, after: Values) -> Values:
    return {name: after[name] - before[name] for name in before}


def apart(ours: Values, theirs: Values) -> float:
    """The largest difference of an update, as a part of the largest one of that parameter."""
    return max(float(np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max()) for name in theirs)
