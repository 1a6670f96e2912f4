"""The nets of the comparison: each in PyTorch, Keras 3 and Flax linen, with the same names and hyper-parameters.

Nothing is left to defaults that differ, so that equal weights are an equal function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from flax import linen

from tests.parity.sides import Case, channels_last, keras_net, linen_net

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(4, 5)).astype(np.float32)
IMAGES = RNG.normal(size=(2, 4, 8, 6)).astype(np.float32)
SIGNALS = RNG.normal(size=(2, 3, 9)).astype(np.float32)
SEQUENCES = RNG.normal(size=(2, 7, 6)).astype(np.float32)
TOKENS = RNG.integers(0, 7, (3, 5)).astype(np.int32)
EPSILON = 1e-5
relu = {"torch": torch.relu, "keras": "relu", "linen": linen.relu}


class Torch(torch.nn.Module):
    def __init__(self, run: Callable[..., Any], layers: Mapping[str, torch.nn.Module]) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.run(self, *inputs)


class Linen(linen.Module):
    run: Callable[..., Any]

    @linen.compact
    def __call__(self, *inputs: Any) -> Any:
        return self.run(*inputs)


def case(
    name: str,
    inputs: np.ndarray,
    torch_layers: Callable[[], Mapping[str, torch.nn.Module]],
    torch_run: Callable[..., Any],
    keras: Callable[[Any], Any],
    flax: Callable[..., Any] | None,
    *,
    spatial: bool = False,
    **options: tuple[str, ...],
) -> Case:
    """options: words of this program's command line by target ("every" for all), for what no file can tell.

    flax: None where it has no such layer.
    """
    last = channels_last(inputs) if spatial else inputs
    words = {"" if target == "every" else target: said for target, said in options.items()}
    nets: dict[str, Callable[[], Any]] = {
        "torch": lambda: Torch(torch_run, torch_layers()),
        "keras": keras_net(keras, last.shape[1:]),
    }
    if flax:
        nets["linen"] = linen_net(lambda: Linen(flax), last)
    return Case(name, nets, (inputs,), options=words, spatial=spatial)


def one_after_another(net: Any, x: torch.Tensor) -> torch.Tensor:
    for layer in net.children():
        x = layer(x)
    return x


def mlp(name: str, hidden: int) -> Case:
    dense = linen.Dense
    return case(
        name,
        ROWS,
        lambda: {"hidden": torch.nn.Linear(5, hidden), "output": torch.nn.Linear(hidden, 5)},
        lambda net, x: net.output(torch.relu(net.hidden(x))),
        lambda k: lambda x: k.Dense(5, name="output")(k.Dense(hidden, activation="relu", name="hidden")(x)),
        lambda x: dense(5, name="output")(linen.relu(dense(hidden, name="hidden")(x))),
    )


def conv(name: str, groups: int = 1, multiplier: int = 0) -> Case:
    """Two convolutions, the first in groups or depthwise."""
    width = 4 * multiplier or 8

    def keras(k: Any) -> Any:
        first = (
            k.DepthwiseConv2D((3, 2), depth_multiplier=multiplier, name="first")
            if multiplier
            else k.Conv2D(width, (3, 2), groups=groups, name="first")
        )
        return lambda x: k.Conv2D(3, 2, name="second")(first(x))

    parts = 4 if multiplier else groups
    return case(
        name,
        IMAGES,
        lambda: {
            "first": torch.nn.Conv2d(4, width, (3, 2), groups=parts),
            "second": torch.nn.Conv2d(width, 3, 2),
        },
        one_after_another,
        keras,
        lambda x: linen.Conv(3, (2, 2), padding="VALID", name="second")(
            linen.Conv(width, (3, 2), padding="VALID", feature_group_count=parts, name="first")(x)
        ),
        spatial=True,
    )


def conv_1d() -> Case:
    return case(
        "conv 1-d",
        SIGNALS,
        lambda: {"first": torch.nn.Conv1d(3, 5, 4), "second": torch.nn.Conv1d(5, 2, 3, dilation=2)},
        one_after_another,
        lambda k: lambda x: k.Conv1D(2, 3, dilation_rate=2, name="second")(k.Conv1D(5, 4, name="first")(x)),
        lambda x: linen.Conv(2, (3,), kernel_dilation=(2,), padding="VALID", name="second")(
            linen.Conv(5, (4,), padding="VALID", name="first")(x)
        ),
        spatial=True,
    )


def conv_transpose(name: str, channels: int, kernel: tuple[int, int], gradient: bool) -> Case:
    """gradient: Flax's `transpose_kernel`, which stores the kernel as the others do."""

    def flax(x: Any) -> Any:
        layer = linen.ConvTranspose(channels, kernel, kernel, "VALID", transpose_kernel=gradient, name="up")
        return layer(x)

    return case(
        name,
        IMAGES,
        lambda: {"up": torch.nn.ConvTranspose2d(4, channels, kernel, stride=kernel)},
        one_after_another,
        lambda k: k.Conv2DTranspose(channels, kernel, strides=kernel, name="up"),
        flax,
        spatial=True,
        every=("--kind", "up=conv_transpose"),
        linen=("--kind", "up=transpose_kernel") if gradient else (),
    )


def batch_norm() -> Case:
    return case(
        "conv and batch norm, twice",
        IMAGES,
        lambda: {
            "conv1": torch.nn.Conv2d(4, 5, 3),
            "norm1": torch.nn.BatchNorm2d(5, eps=EPSILON),
            "conv2": torch.nn.Conv2d(5, 5, 3),
            "norm2": torch.nn.BatchNorm2d(5, eps=EPSILON),
        },
        one_after_another,
        lambda k: (
            lambda x: k.BatchNormalization(epsilon=EPSILON, name="norm2")(
                k.Conv2D(5, 3, name="conv2")(
                    k.BatchNormalization(epsilon=EPSILON, name="norm1")(k.Conv2D(5, 3, name="conv1")(x))
                )
            )
        ),
        lambda x: _flax_norm("norm2")(
            linen.Conv(5, (3, 3), padding="VALID", name="conv2")(
                _flax_norm("norm1")(linen.Conv(5, (3, 3), padding="VALID", name="conv1")(x))
            )
        ),
        spatial=True,
        every=("--kind", "conv2=conv"),
    )


def _flax_norm(name: str) -> linen.BatchNorm:
    return linen.BatchNorm(use_running_average=True, epsilon=EPSILON, name=name)


def layer_norm() -> Case:
    return case(
        "layer norm and linear",
        ROWS,
        lambda: {"norm": torch.nn.LayerNorm(5, eps=EPSILON), "linear": torch.nn.Linear(5, 3)},
        one_after_another,
        lambda k: lambda x: k.Dense(3, name="linear")(k.LayerNormalization(epsilon=EPSILON, name="norm")(x)),
        lambda x: linen.Dense(3, name="linear")(linen.LayerNorm(epsilon=EPSILON, name="norm")(x)),
    )


def embedding(name: str, size: int) -> Case:
    return case(
        name,
        TOKENS,
        lambda: {"words": torch.nn.Embedding(7, size), "linear": torch.nn.Linear(size, 3)},
        one_after_another,
        lambda k: lambda x: k.Dense(3, name="linear")(k.Embedding(7, size, name="words")(x)),
        lambda x: linen.Dense(3, name="linear")(linen.Embed(7, size, name="words")(x)),
        every=("--kind", "words=embedding"),
    )


def flatten(name: str, pooled: bool) -> Case:
    """A convolution, then everything flattened, or pooled over space, into a linear layer."""
    inputs = 5 if pooled else 5 * 6 * 4

    def keras(k: Any) -> Any:
        gather = k.GlobalAveragePooling2D() if pooled else k.Flatten()
        return lambda x: k.Dense(3, name="linear")(gather(k.Conv2D(5, 3, activation="relu", name="conv")(x)))

    def flax(x: Any) -> Any:
        x = linen.relu(linen.Conv(5, (3, 3), padding="VALID", name="conv")(x))
        return linen.Dense(3, name="linear")(x.mean((1, 2)) if pooled else x.reshape(len(x), -1))

    def run(net: Any, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(net.conv(x))
        return net.linear(x.mean((2, 3)) if pooled else x.flatten(1))

    return case(
        name,
        IMAGES,
        lambda: {"conv": torch.nn.Conv2d(4, 5, 3), "linear": torch.nn.Linear(inputs, 3)},
        run,
        keras,
        flax,
        spatial=True,
        every=("--flatten", f"linear={0 if pooled else 5}"),
    )


def recurrent(name: str, kind: str, bias: bool = True) -> Case:
    """A recurrent layer, its last layer linear. Flax's cells have biases in any case."""
    torch_cell = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "SimpleRNN": torch.nn.RNN}[kind]
    cells = {"LSTM": linen.OptimizedLSTMCell, "GRU": linen.GRUCell, "SimpleRNN": linen.SimpleCell}
    return case(
        name,
        SEQUENCES,
        lambda: {"rnn": torch_cell(6, 5, batch_first=True, bias=bias), "linear": torch.nn.Linear(5, 3)},
        lambda net, x: net.linear(net.rnn(x)[0]),
        lambda k: (
            lambda x: k.Dense(3, name="linear")(
                getattr(k, kind)(5, return_sequences=True, use_bias=bias, name="rnn")(x)
            )
        ),
        (lambda x: linen.Dense(3, name="linear")(linen.RNN(cells[kind](5), name="rnn")(x))) if bias else None,
        every=("--kind", f"rnn={torch_cell.__name__.lower()}"),
    )


def attention() -> Case:
    """Two heads of three; queries, keys and values are the same sequence."""
    return case(
        "multi-head attention",
        SEQUENCES,
        lambda: {"attention": torch.nn.MultiheadAttention(6, 2, batch_first=True)},
        lambda net, x: net.attention(x, x, x, need_weights=False)[0],
        lambda k: lambda x: k.MultiHeadAttention(2, 3, name="attention")(x, x),
        lambda x: linen.MultiHeadDotProductAttention(2, name="attention")(x, x),
        every=("--heads", "attention.*=2"),
    )


def block() -> Case:
    """A transformer block made of linear layers: attention of one head, and an MLP."""
    width, names = 6, ("query", "key", "value", "project")

    def run(dense: Any, norm1: Any, norm2: Any, softmax: Any, act: Any, turned: Any, x: Any) -> Any:
        h = norm1(x)
        q, k, v = (dense(name, width)(h) for name in names[:3])
        x = x + dense("project", width)(softmax(q @ turned(k)) @ v)
        return x + dense("down", width)(act(dense("up", 2 * width)(norm2(x))))

    def in_torch(net: Any, x: torch.Tensor) -> torch.Tensor:
        dense = lambda name, size: getattr(net, name)  # noqa: E731
        return run(dense, net.norm1, net.norm2, lambda s: s.softmax(-1), torch.relu, lambda k: k.mT, x)

    def in_keras(k: Any) -> Any:
        import keras

        ops = keras.ops
        dense = lambda name, size: k.Dense(size, name=name)  # noqa: E731
        norms = [k.LayerNormalization(epsilon=EPSILON, name=f"norm{i}") for i in (1, 2)]
        return lambda x: run(dense, *norms, ops.softmax, ops.relu, lambda a: ops.transpose(a, (0, 2, 1)), x)

    def in_flax(x: Any) -> Any:
        dense = lambda name, size: linen.Dense(size, name=name)  # noqa: E731
        norms = [linen.LayerNorm(epsilon=EPSILON, name=f"norm{i}") for i in (1, 2)]
        return run(dense, *norms, linen.softmax, linen.relu, lambda a: a.swapaxes(1, 2), x)

    return case(
        "transformer block of linear layers",
        SEQUENCES,
        lambda: {
            "norm1": torch.nn.LayerNorm(width, eps=EPSILON),
            **{name: torch.nn.Linear(width, width) for name in names},
            "norm2": torch.nn.LayerNorm(width, eps=EPSILON),
            "up": torch.nn.Linear(width, 2 * width),
            "down": torch.nn.Linear(2 * width, width),
        },
        in_torch,
        in_keras,
        in_flax,
    )


CASES = (
    mlp("MLP", 7),
    mlp("MLP of square matrices", 5),
    conv("conv 2-d"),
    conv_1d(),
    conv("conv in groups", groups=2),
    conv("depthwise conv", multiplier=1),
    conv("depthwise conv, multiplier 2", multiplier=2),
    conv_transpose("transposed conv", 3, (2, 3), gradient=False),
    conv_transpose("transposed conv, transpose_kernel", 3, (2, 3), gradient=True),
    conv_transpose("transposed conv, in = out", 4, (2, 2), gradient=False),
    batch_norm(),
    layer_norm(),
    embedding("embedding", 4),
    embedding("square embedding", 7),
    flatten("conv, flatten, linear", pooled=False),
    flatten("conv, global pooling, linear", pooled=True),
    recurrent("RNN", "SimpleRNN"),
    recurrent("LSTM", "LSTM"),
    recurrent("GRU", "GRU"),
    recurrent("LSTM without biases", "LSTM", bias=False),
    recurrent("GRU without biases", "GRU", bias=False),
    attention(),
    block(),
)
