"""The closed vocabulary of architectures: a step for each thing that a net may do, with its options.

Strict and typed; an option that is not here is none, and a number that weights tell is optional. One default for all
frameworks: what they set otherwise is written out in their code (`converter.architectures.codegen`).

Sizes of space (``kernel``, ``stride``, ``padding`` …) are one number for all axes, or a list of one for each. An
option that weights tell (``out``, ``groups`` …) counts only for a net without weights; inside of steps that are
repeated it may be a list with a value for each, ``null`` where there is no such layer.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias, Union

import msgspec
from msgspec import Meta

Size = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Amount = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Number = Annotated[float, Meta(ge=0, le=1e6)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Text = Annotated[str, Meta(max_length=1000)]
SizePerAxis: TypeAlias = Union[Size, tuple[Size, ...]]  # noqa: UP007 - one object, which msgspec reads
AmountPerAxis: TypeAlias = Union[Amount, tuple[Amount, ...]]  # noqa: UP007
#: A size that weights tell; in repeated steps one for each, by the outermost index first.
SizeInWeights: TypeAlias = Union[Size, tuple[Union[Size, tuple[Union[Size, None], ...], None], ...], None]  # noqa: UP007


def snake(name: str) -> str:
    """``BatchNorm`` -> ``batch_norm``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class NetStep(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag=snake,
    rename={"only_if": "if"},
):
    """Something that a net does. only_if, unless: the path of a layer with which, or without which, it is done."""

    only_if: Text = ""
    unless: Text = ""


class WithWeights(NetStep, frozen=True, kw_only=True):
    """A layer that holds tensors. path: its neutral path, behind those of the sequentials around it."""

    path: Text = ""


# -- layers with weights --------------------------------------------------------------------------------------------


class Linear(WithWeights, frozen=True, kw_only=True):
    """A linear layer on the last axis (features)."""

    out: SizeInWeights = None
    bias: bool = True


class Embedding(WithWeights, frozen=True, kw_only=True):
    """A row of ``out`` numbers for each of ``num`` whole numbers."""

    num: SizeInWeights = None
    out: SizeInWeights = None


class Conv(WithWeights, frozen=True, kw_only=True):
    """A convolution over 1, 2 or 3 axes; padding is of zeros, on both sides."""

    out: SizeInWeights = None
    kernel: SizePerAxis | None = None
    stride: SizePerAxis = 1
    padding: AmountPerAxis = 0
    dilation: SizePerAxis = 1
    groups: SizeInWeights = None
    bias: bool = True


class ConvTranspose(WithWeights, frozen=True, kw_only=True):
    """The transpose (gradient) of a convolution; output_padding makes the output larger at the end."""

    out: SizeInWeights = None
    kernel: SizePerAxis | None = None
    stride: SizePerAxis = 1
    padding: AmountPerAxis = 0
    output_padding: AmountPerAxis = 0
    bias: bool = True


class BatchNorm(WithWeights, frozen=True, kw_only=True):
    """Over the channels. momentum: the share of the old statistics at a step of training."""

    epsilon: Number = 1e-5
    momentum: Share = 0.9
    scale: bool = True
    offset: bool = True


class LayerNorm(WithWeights, frozen=True, kw_only=True):
    """Over the last axis (features)."""

    epsilon: Number = 1e-5


class GroupNorm(WithWeights, frozen=True, kw_only=True):
    """Over space and groups of channels; a scale for each channel."""

    groups: Size
    epsilon: Number = 1e-5


class InstanceNorm(WithWeights, frozen=True, kw_only=True):
    """Over space, for each channel."""

    epsilon: Number = 1e-5


class RmsNorm(WithWeights, frozen=True, kw_only=True):
    """Over the last axis (features), without taking the mean off."""

    epsilon: Number = 1e-6


class Prelu(WithWeights, frozen=True, kw_only=True):
    """A slope below zero for each channel, or one for all. out: how many."""

    out: SizeInWeights = 1


class Rnn(WithWeights, frozen=True, kw_only=True):
    """One recurrent layer in one direction, over (time, features); gives every state. out: units."""

    out: SizeInWeights = None
    activation: Literal["tanh", "relu"] = "tanh"


class Lstm(WithWeights, frozen=True, kw_only=True):
    """As `Rnn`."""

    out: SizeInWeights = None


class Gru(WithWeights, frozen=True, kw_only=True):
    """As `Rnn`; the reset gate is applied behind the recurrent matrix, as in PyTorch."""

    out: SizeInWeights = None


class Attention(WithWeights, frozen=True, kw_only=True):
    """Multi-head attention of what comes in to itself, over (time, features), without a mask."""

    heads: Size


# -- without weights ------------------------------------------------------------------------------------------------


class Relu(NetStep, frozen=True, kw_only=True):
    """max(0, x)"""


class Sigmoid(NetStep, frozen=True, kw_only=True):
    """1 / (1 + exp(-x))"""


class Tanh(NetStep, frozen=True, kw_only=True):
    """The hyperbolic tangent"""


class Gelu(NetStep, frozen=True, kw_only=True):
    """x times the normal distribution up to x, or its approximation by tanh"""

    approximate: bool = False


class LeakyRelu(NetStep, frozen=True, kw_only=True):
    """max(slope * x, x)"""

    slope: Share = 0.01


class Elu(NetStep, frozen=True, kw_only=True):
    """x, and alpha * (exp(x) - 1) below zero"""

    alpha: Number = 1.0


class Silu(NetStep, frozen=True, kw_only=True):
    """x * sigmoid(x), also called swish"""


class Softplus(NetStep, frozen=True, kw_only=True):
    """log(1 + exp(x))"""


class Softmax(NetStep, frozen=True, kw_only=True):
    """Over the channels or features"""


class MaxPool(NetStep, frozen=True, kw_only=True):
    """The largest in each window; padding takes no part."""

    size: SizePerAxis
    stride: SizePerAxis | None = None
    padding: AmountPerAxis = 0


class AveragePool(NetStep, frozen=True, kw_only=True):
    """The mean of each window. count_padding: whether its zeros count."""

    size: SizePerAxis
    stride: SizePerAxis | None = None
    padding: AmountPerAxis = 0
    count_padding: bool = True


class GlobalMaxPool(NetStep, frozen=True, kw_only=True):
    """The largest in all of space, which keeps its axes, of size 1."""


class GlobalAveragePool(NetStep, frozen=True, kw_only=True):
    """The mean over all of space, which keeps its axes, of size 1."""


class Flatten(NetStep, frozen=True, kw_only=True):
    """All of it in one axis. Each framework has its own order, which the next linear layer's weights follow."""


class Dropout(NetStep, frozen=True, kw_only=True):
    """Sets the share ``rate`` to zero, in training."""

    rate: Share


class ZeroPad(NetStep, frozen=True, kw_only=True):
    """Zeros around space: for each axis how many before and behind."""

    padding: tuple[tuple[Amount, Amount], ...]


class Last(NetStep, frozen=True, kw_only=True):
    """Of (time, features), the last time step."""


# -- containers -----------------------------------------------------------------------------------------------------


class Sequential(NetStep, frozen=True, kw_only=True):
    """Steps one after the other. path: stands before theirs. each: an index, for which they are repeated."""

    steps: Steps
    path: Text = ""
    each: Annotated[str, Meta(pattern="^[a-z]?$", max_length=1)] = ""


class Residual(NetStep, frozen=True, kw_only=True):
    """The sum of what two rows of steps make of the same; an empty one leaves it as it is."""

    body: Steps
    shortcut: Steps = ()


class Concat(NetStep, frozen=True, kw_only=True):
    """What several rows of steps make of the same, side by side along the channels or features."""

    branches: Annotated[tuple[Steps, ...], Meta(min_length=2)]


AnyStep: TypeAlias = Union[  # noqa: UP007 - msgspec resolves the names of it where it is used
    Linear,
    Embedding,
    Conv,
    ConvTranspose,
    BatchNorm,
    LayerNorm,
    GroupNorm,
    InstanceNorm,
    RmsNorm,
    Prelu,
    Rnn,
    Lstm,
    Gru,
    Attention,
    Relu,
    Sigmoid,
    Tanh,
    Gelu,
    LeakyRelu,
    Elu,
    Silu,
    Softplus,
    Softmax,
    MaxPool,
    AveragePool,
    GlobalMaxPool,
    GlobalAveragePool,
    Flatten,
    Dropout,
    ZeroPad,
    Last,
    Sequential,
    Residual,
    Concat,
]
#: A step with no options may be its name alone: ``relu``.
Steps: TypeAlias = "tuple[str | AnyStep, ...]"

VOCABULARY: tuple[type[NetStep], ...] = AnyStep.__args__  # type: ignore[attr-defined]
CONTAINERS = (Sequential, Residual, Concat)
ACTIVATIONS = (Relu, Sigmoid, Tanh, Gelu, LeakyRelu, Elu, Silu, Softplus, Softmax)


def kind_of(step: NetStep | type[NetStep]) -> str:
    """The name of it in a file: ``batch_norm``."""
    return str(step.__struct_config__.tag)
