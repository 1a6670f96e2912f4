"""What weights do not carry: the defaults of hyper-parameters, which differ between frameworks.

Equal weights are not an equal function where these differ. Every default is named with the arguments of the real
framework that have it, and the tests look each of them up there, or run the layers where there is no argument
(torch 2.13, Keras 3.15, tf_keras 2.21, flax 0.12, mxnet 1.9).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

Value = float | str | bool


class Setting(msgspec.Struct, frozen=True):
    """How one framework sets a property.

    default: what the argument says. where: that argument, in each class and flavour, as ``torch.nn.LayerNorm.eps``;
        none where the framework leaves no choice.
    means: the value in terms that all frameworks share (0.9 for torch's momentum of 0.1), where that is another.
    words: how the default is said to people. complement: whether the argument is one minus what it means.
    remedy: what gives a clone the ``{value}`` of another framework; by default, the argument with that value.
    """

    default: Any
    where: tuple[str, ...] = ()
    means: Value | None = None
    words: str = ""
    remedy: str = ""
    complement: bool = False

    @property
    def value(self) -> Value:
        value: Value = self.default if self.means is None else self.means
        return value

    def said(self, value: Value) -> str:
        """A value as people know it from this framework."""
        if self.words and value == self.value:
            return self.words
        return f"{self._argument(value)} (one minus the others')" if self.complement else shown(value)

    def assigned(self, value: Value) -> str:
        """What to do in a clone of this framework, so that it has the value: ``epsilon=1e-05``."""
        if self.remedy or not self.where:
            return self.remedy.format(value=shown(value))
        return f"{self.where[0].rpartition('.')[2]}={self._argument(value)}"

    def _argument(self, value: Value) -> str:
        if self.complement and isinstance(value, float):
            value = round(1 - value, 12)
        return repr(value)


class Default(msgspec.Struct, frozen=True):
    """A property, and how each framework sets it; those that have no default for it are left out.

    kinds: the layer kinds of `converter.core.kinds.KINDS` that it concerns; none where no weights tell that a net has
        such layers, so that only live nets are compared. together: whether a net must have all of the kinds.
    roles: how many tensors the layer has, where that tells.
    """

    property: str
    kinds: frozenset[str]
    settings: Mapping[str, Setting]
    together: bool = False
    roles: int | None = None


def shown(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _row(
    property: str, kinds: str, *, together: bool = False, roles: int | None = None, **settings: Setting
) -> Default:
    return Default(property, frozenset(kinds.split()), settings, together, roles)


def _arguments(modules: tuple[str, ...], names: str, argument: str) -> tuple[str, ...]:
    return tuple(f"{module}.{name}.{argument}" for name in names.split() for module in modules)


_torch = partial(_arguments, ("torch.nn",))
_flax = partial(_arguments, ("flax.linen", "flax.nnx"))
_keras = partial(_arguments, ("keras.layers", "tf_keras.layers"))
_gluon = partial(_arguments, ("mxnet.gluon",))
_KERAS_ACTIVATIONS = ("keras.activations", "tf_keras.activations")
_BATCH_NORMS = "BatchNorm1d BatchNorm2d BatchNorm3d"
#: How the places of a transposed convolution are got at, kernel k and stride s.
_CROP = "no padding, then p off the start, and p - output_padding off the end"
_CROPPED = "no padding, then (k - s) // 2 off the start, and the rest of k - s off the end"
_RECURRENT = "rnn lstm gru gru_reset_before"
_CONVS = "conv conv_transpose"

DEFAULTS: tuple[Default, ...] = (
    _row(
        "BatchNorm epsilon",
        "batch_norm",
        torch=Setting(1e-5, _torch(_BATCH_NORMS, "eps")),
        flax=Setting(1e-5, _flax("BatchNorm", "epsilon")),
        tensorflow=Setting(1e-3, _keras("BatchNormalization", "epsilon")),
        mxnet=Setting(1e-5, _gluon("nn.BatchNorm", "epsilon")),
    ),
    # The share of the old statistics; torch states that of the new ones.
    _row(
        "BatchNorm momentum (for training)",
        "batch_norm",
        torch=Setting(0.1, _torch(_BATCH_NORMS, "momentum"), 0.9, complement=True),
        flax=Setting(0.99, _flax("BatchNorm", "momentum")),
        tensorflow=Setting(0.99, _keras("BatchNormalization", "momentum")),
        mxnet=Setting(0.9, _gluon("nn.BatchNorm", "momentum")),
    ),
    # One row, for the weights do not tell the three apart, and each framework has one default for all.
    _row(
        "LayerNorm, GroupNorm, InstanceNorm epsilon",
        "norm",
        torch=Setting(1e-5, _torch("LayerNorm GroupNorm InstanceNorm1d InstanceNorm2d InstanceNorm3d", "eps")),
        flax=Setting(1e-6, _flax("LayerNorm GroupNorm InstanceNorm", "epsilon")),
        tensorflow=Setting(1e-3, _keras("LayerNormalization GroupNormalization", "epsilon")),
        mxnet=Setting(1e-5, _gluon("nn.LayerNorm nn.GroupNorm nn.InstanceNorm", "epsilon")),
    ),
    _row(
        "RMSNorm epsilon",
        "norm",
        roles=1,
        torch=Setting(None, _torch("RMSNorm", "eps"), 2.0**-23, "1.19e-07 (that of float32)"),
        flax=Setting(1e-6, _flax("RMSNorm", "epsilon")),
        tensorflow=Setting(1e-6, ("keras.layers.RMSNormalization.epsilon",)),
    ),
    _row(
        "GroupNorm groups",
        "",
        flax=Setting(32, _flax("GroupNorm", "num_groups")),
        tensorflow=Setting(32, _keras("GroupNormalization", "groups")),
        mxnet=Setting(1, _gluon("nn.GroupNorm", "num_groups")),
    ),
    _row(
        "axes of recurrent inputs",
        _RECURRENT,
        torch=Setting(False, _torch("RNNBase", "batch_first"), "time first", remedy="batch_first=True"),
        flax=Setting(False, _flax("RNN", "time_major"), "batch first", remedy="time_major=True"),
        tensorflow=Setting("batch first", remedy="transpose the inputs"),
        mxnet=Setting("TNC", _gluon("rnn.RNN rnn.LSTM rnn.GRU", "layout"), "time first", remedy="layout='NTC'"),
    ),
    _row(
        "RNN activation",
        "rnn",
        torch=Setting("tanh", _torch("RNNCell", "nonlinearity")),
        flax=Setting("tanh", _flax("SimpleCell", "activation_fn")),
        tensorflow=Setting("tanh", _keras("SimpleRNN SimpleRNNCell", "activation")),
        mxnet=Setting("relu", _gluon("rnn.RNN", "activation"), words="relu (RNNCell: tanh)"),
    ),
    *(
        _row(
            f"{keras} {words}activation",
            kinds,
            torch=Setting(value),
            flax=Setting(value, _flax(cells, argument)),
            tensorflow=Setting(value, _keras(f"{keras} {keras}Cell", f"{words.replace(' ', '_')}activation")),
            mxnet=Setting(value),
        )
        for keras, kinds, cells in (
            ("LSTM", "lstm", "LSTMCell OptimizedLSTMCell"),
            ("GRU", "gru gru_reset_before", "GRUCell"),
        )
        for words, argument, value in (("", "activation_fn", "tanh"), ("recurrent ", "gate_fn", "sigmoid"))
    ),
    # Of this no weight tells that a net has it.
    _row(
        "attention to a key of zeros",
        "",
        torch=Setting(False, _torch("MultiheadAttention", "add_zero_attn")),
        flax=Setting(False),
        tensorflow=Setting(False),
        mxnet=Setting(False),
    ),
    _row(
        "Embedding padding index",
        "embedding",
        torch=Setting(None, _torch("Embedding", "padding_idx"), "none"),
        flax=Setting("none"),
        tensorflow=Setting(False, _keras("Embedding", "mask_zero"), "none", remedy="mask_zero={value}"),
        mxnet=Setting("none"),
    ),
    # Nobody's default, but where a source has one, it means something else in the clone.
    _row(
        "Embedding padding index, if any",
        "embedding",
        torch=Setting("no gradient", words="keeps a row from training (padding_idx)"),
        flax=Setting("none", words="has none"),
        tensorflow=Setting("mask", words="masks the layers after it (mask_zero)"),
        mxnet=Setting("none", words="has none"),
    ),
    _row(
        "padding of a convolution",
        _CONVS,
        torch=Setting(0, _torch("Conv2d ConvTranspose2d", "padding"), "none", "0", "pad as {value} does"),
        flax=Setting("SAME", _flax("Conv ConvTranspose", "padding"), words="'SAME'", remedy="padding='VALID'"),
        tensorflow=Setting("valid", _keras("Conv2D Conv2DTranspose", "padding"), "none", "'valid'", "padding='same'"),
        mxnet=Setting((0, 0), _gluon("nn.Conv2D nn.Conv2DTranspose", "padding"), "none", "0", "pad as {value} does"),
    ),
    _row(
        "padding of a convolution with stride 2",
        "conv",
        torch=Setting("both", words="padding=1 is on both sides", remedy="pad before it"),
        flax=Setting("end", words="'SAME' is more at the end", remedy="pad before it, or padding=((1, 1), ...)"),
        tensorflow=Setting("end", words="'same' is more at the end", remedy="ZeroPadding before it"),
        mxnet=Setting("both", words="padding=1 is on both sides", remedy="pad before it"),
    ),
    # Of all sizes of kernels, strides, paddings and output paddings no weight tells (torch/nn/modules/conv.py,
    # jax/_src/lax/convolution.py, keras/src/backend/common/backend_utils.py).
    _row(
        "cropping of a transposed convolution, and output_padding",
        "conv_transpose",
        torch=Setting("both", words="padding=p takes p off both ends, output_padding adds to the end", remedy=_CROPPED),
        flax=Setting("end", words="'SAME' takes more off the end", remedy=_CROP),
        tensorflow=Setting("end", words="'same' takes more off the end", remedy=_CROP),
        mxnet=Setting("both", words="padding=p takes p off both ends, output_padding adds to the end", remedy=_CROPPED),
    ),
    _row(
        "average pooling with padding",
        _CONVS,
        torch=Setting(True, _torch("AvgPool2d", "count_include_pad"), words="counts the zeros"),
        flax=Setting(True, _flax("avg_pool", "count_include_pad"), words="counts the zeros"),
        tensorflow=Setting(False, words="leaves them out", remedy="ZeroPadding before it"),
        mxnet=Setting(True, _gluon("nn.AvgPool2D", "count_include_pad"), words="counts the zeros"),
    ),
    _row(
        "LeakyReLU slope",
        _CONVS,
        torch=Setting(0.01, _torch("LeakyReLU", "negative_slope")),
        flax=Setting(0.01, _flax("leaky_relu", "negative_slope")),
        tensorflow=Setting(
            0.3,
            ("keras.layers.LeakyReLU.negative_slope", "tf_keras.layers.LeakyReLU.alpha"),
            words="0.3 (0.2 as activation='leaky_relu')",
        ),
    ),
    # Of a transformer block, which has both kinds.
    _row(
        "GELU",
        "norm linear",
        together=True,
        torch=Setting("none", _torch("GELU", "approximate"), "exact", remedy="approximate='{value}'"),
        flax=Setting(True, _flax("gelu", "approximate"), "tanh", "tanh approximation", "approximate=False"),
        tensorflow=Setting(
            False, _arguments(_KERAS_ACTIVATIONS, "gelu", "approximate"), "exact", remedy="approximate=True"
        ),
        mxnet=Setting("exact", remedy="spell out the tanh approximation"),
    ),
)
