"""The closed vocabulary of architectures: a step for each thing that a net may do, with its options.

Strict and typed: an unknown option is an error, and a size that follows from the weights is optional. Each option has
one default for all frameworks; where a framework's own default differs, its code sets the option explicitly.

Spatial sizes (``kernel``, ``stride``, ``padding`` …) are one number for all axes, or a list with one for each. An
option that follows from the weights (``out``, ``groups`` …) counts only for a net without weights; inside repeated
steps it may be a list with a value for each repetition, ``null`` where the layer is absent.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias, Union, get_args

import msgspec
from msgspec import Meta

Size = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Amount = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Number = Annotated[float, Meta(ge=0, le=1e6)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Text = Annotated[str, Meta(max_length=1000)]
SizePerAxis: TypeAlias = Union[Size, tuple[Size, ...]]  # noqa: UP007 - one object, which msgspec reads
AmountPerAxis: TypeAlias = Union[Amount, tuple[Amount, ...]]  # noqa: UP007
#: A size that follows from the weights; in repeated steps a list with one for each, outermost index first.
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
    """One operation of a net. only_if, unless: the path of a layer that must, or must not, exist for it to run."""

    only_if: Text = ""
    unless: Text = ""


class WithWeights(NetStep, frozen=True, kw_only=True):
    """A layer that holds tensors. path: its neutral path, after those of the sequentials around it."""

    path: Text = ""


# -- layers with weights --------------------------------------------------------------------------------------------


class Linear(WithWeights, frozen=True, kw_only=True):
    """A linear layer on the last axis (features)."""

    out: SizeInWeights = None
    bias: bool = True


class Embedding(WithWeights, frozen=True, kw_only=True):
    """A vector of ``out`` values for each of ``num`` indices."""

    num: SizeInWeights = None
    out: SizeInWeights = None


class Conv(WithWeights, frozen=True, kw_only=True):
    """A convolution over 1, 2 or 3 axes; zero padding, the same on both sides."""

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
    """Over the channels. momentum: the weight of the old running statistics in a training step."""

    epsilon: Number = 1e-5
    momentum: Share = 0.9
    scale: bool = True
    offset: bool = True


class LayerNorm(WithWeights, frozen=True, kw_only=True):
    """Over the last axis (features)."""

    epsilon: Number = 1e-5


class GroupNorm(WithWeights, frozen=True, kw_only=True):
    """Over the spatial axes and groups of channels; a scale for each channel."""

    groups: Size
    epsilon: Number = 1e-5


class InstanceNorm(WithWeights, frozen=True, kw_only=True):
    """Over the spatial axes, for each channel."""

    epsilon: Number = 1e-5


class RmsNorm(WithWeights, frozen=True, kw_only=True):
    """Over the last axis (features), without subtracting the mean."""

    epsilon: Number = 1e-6


class Prelu(WithWeights, frozen=True, kw_only=True):
    """A slope below zero for each channel, or one for all. out: the number of slopes."""

    out: SizeInWeights = 1


class Rnn(WithWeights, frozen=True, kw_only=True):
    """One recurrent layer in one direction, over (time, features); returns every state. out: hidden units."""

    out: SizeInWeights = None
    activation: Literal["tanh", "relu"] = "tanh"


class Lstm(WithWeights, frozen=True, kw_only=True):
    """As `Rnn`."""

    out: SizeInWeights = None


class Gru(WithWeights, frozen=True, kw_only=True):
    """As `Rnn`; the reset gate is applied after the recurrent matrix, as in PyTorch."""

    out: SizeInWeights = None


class Attention(WithWeights, frozen=True, kw_only=True):
    """Multi-head self-attention over (time, features), without a mask."""

    heads: Size


# -- without weights ------------------------------------------------------------------------------------------------


class Relu(NetStep, frozen=True, kw_only=True):
    """max(0, x)"""


class Sigmoid(NetStep, frozen=True, kw_only=True):
    """1 / (1 + exp(-x))"""


class Tanh(NetStep, frozen=True, kw_only=True):
    """The hyperbolic tangent"""


class Gelu(NetStep, frozen=True, kw_only=True):
    """x times the normal distribution function of x, or its tanh approximation"""

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
    """The maximum of each window; padding never wins."""

    size: SizePerAxis
    stride: SizePerAxis | None = None
    padding: AmountPerAxis = 0


class AveragePool(NetStep, frozen=True, kw_only=True):
    """The mean of each window. count_padding: whether padded zeros count."""

    size: SizePerAxis
    stride: SizePerAxis | None = None
    padding: AmountPerAxis = 0
    count_padding: bool = True


class GlobalMaxPool(NetStep, frozen=True, kw_only=True):
    """The maximum over all spatial axes, which stay with size 1."""


class GlobalAveragePool(NetStep, frozen=True, kw_only=True):
    """The mean over all spatial axes, which stay with size 1."""


class Flatten(NetStep, frozen=True, kw_only=True):
    """All axes into one, in the order of each framework, which the weights of the next linear layer follow."""


class Dropout(NetStep, frozen=True, kw_only=True):
    """Sets the fraction ``rate`` of the values to zero in training."""

    rate: Share


class ZeroPad(NetStep, frozen=True, kw_only=True):
    """Zero padding of the spatial axes: for each the number before and after."""

    padding: tuple[tuple[Amount, Amount], ...]


class Last(NetStep, frozen=True, kw_only=True):
    """Of (time, features), the last time step."""


# -- containers -----------------------------------------------------------------------------------------------------


class Sequential(NetStep, frozen=True, kw_only=True):
    """Steps one after the other. path: a prefix of their paths. each: an index over which they are repeated."""

    steps: Steps
    path: Text = ""
    each: Annotated[str, Meta(pattern="^[a-z]?$", max_length=1)] = ""


class Residual(NetStep, frozen=True, kw_only=True):
    """The sum of two branches of the same input; an empty branch is the identity."""

    body: Steps
    shortcut: Steps = ()


class Concat(NetStep, frozen=True, kw_only=True):
    """Several branches of the same input, concatenated along the channels or features."""

    branches: Annotated[tuple[Steps, ...], Meta(min_length=2)]


Norm: TypeAlias = BatchNorm | LayerNorm | GroupNorm | InstanceNorm | RmsNorm
Recurrent: TypeAlias = Rnn | Lstm | Gru
Activation: TypeAlias = Relu | Sigmoid | Tanh | Gelu | LeakyRelu | Elu | Silu | Softplus | Softmax
Pool: TypeAlias = MaxPool | AveragePool | GlobalMaxPool | GlobalAveragePool
Layer: TypeAlias = Linear | Embedding | Conv | ConvTranspose | Norm | Prelu | Recurrent | Attention
#: One object, whose names msgspec resolves where it is used.
AnyStep: TypeAlias = Layer | Activation | Pool | Flatten | Dropout | ZeroPad | Last | Sequential | Residual | Concat
#: A step without options may be written as its name alone: ``relu``.
Steps: TypeAlias = "tuple[str | AnyStep, ...]"

VOCABULARY: tuple[type[NetStep], ...] = get_args(AnyStep)
CONTAINERS = (Sequential, Residual, Concat)


def label(step: NetStep) -> str:
    """The step in a message: ``'hidden' (linear)``, or ``max_pool`` where it has no path."""
    return f"'{step.path}' ({kind_of(step)})" if isinstance(step, WithWeights) else kind_of(step)


def kind_of(step: NetStep | type[NetStep]) -> str:
    """Its name in a file: ``batch_norm``."""
    return str(step.__struct_config__.tag)
