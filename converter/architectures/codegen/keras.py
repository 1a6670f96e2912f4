"""The code of Keras 3 (TensorFlow).

Its layers have no padding by a number, only ``same``, which with a stride depends on the size of the input. A padding
that equals ``same`` for every size becomes that; any other becomes a padding layer, as in keras.applications.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import msgspec
from msgspec import structs
from msgspec.structs import replace

from converter.architectures import vocabulary as v
from converter.architectures.codegen.code import CallExpression, Expression, Option, call
from converter.architectures.codegen.dialect import Dialect, activation, bias, outputs, window
from converter.architectures.units import Shape, Unit, Units, axes, per_axis


class MaxPad(msgspec.Struct, frozen=True):
    """Padding with minus infinity before a max pool."""

    padding: tuple[int, ...]


class Crop(msgspec.Struct, frozen=True):
    """Crop spatial axes: for each the number before and after."""

    cropping: tuple[tuple[int, int], ...]


def _conv(unit: Unit) -> CallExpression:
    step: v.Conv = unit.step
    return call(
        f"layers.Conv{unit.space}D",
        outputs(unit),
        ("kernel", axes(unit.kernel)),
        strides=Option(axes(step.stride), 1),
        padding=Option("same" if axes(step.padding) != 0 else "valid", "valid"),
        dilation_rate=Option(axes(step.dilation), 1),
        groups=Option(unit.groups, 1),
        **activation(unit),
        use_bias=bias(unit),
    )


def _conv_transpose(unit: Unit) -> CallExpression:
    return call(
        f"layers.Conv{unit.space}DTranspose",
        outputs(unit),
        ("kernel", axes(unit.kernel)),
        strides=Option(axes(unit.step.stride), 1),
        **activation(unit),
        use_bias=bias(unit),
    )


def _batch_norm(unit: Unit) -> CallExpression:
    step: v.BatchNorm = unit.step
    parts = {
        "center": Option("offset" in unit.roles, True),
        "scale": Option("scale" in unit.roles, True),
    }
    return call("layers.BatchNormalization", momentum=step.momentum, epsilon=step.epsilon, **parts)


def _group_norm(unit: Unit) -> CallExpression:
    groups = unit.step.groups if isinstance(unit.step, v.GroupNorm) else -1
    return call("layers.GroupNormalization", ("groups", groups), epsilon=unit.step.epsilon)


def _prelu(unit: Unit) -> CallExpression:
    """One slope for each channel, or one for all."""
    rank = len(unit.input_shape.dims) if unit.input_shape is not None else 1
    shared = tuple(range(1, rank + (unit.outputs == 1)))
    return call("layers.PReLU", shared_axes=shared) if shared else call("layers.PReLU")


def _pool(unit: Unit) -> CallExpression:
    step: v.MaxPool | v.AveragePool = unit.step
    name = "Max" if isinstance(step, v.MaxPool) else "Average"
    same = Option("same" if axes(step.padding) != 0 else "valid", "valid")
    return call(f"layers.{name}Pooling{unit.space}D", *window(step), padding=same)


def _recurrent(unit: Unit) -> CallExpression:
    name, options = type(unit.step).__name__.upper(), {}
    if isinstance(unit.step, v.Rnn):
        name, options = "SimpleRNN", {"activation": Option(unit.step.activation, "tanh")}
    return call(f"layers.{name}", outputs(unit), return_sequences=True, **options)


def _attention(unit: Unit) -> CallExpression:
    assert unit.outputs is not None
    head = unit.outputs // unit.step.heads
    made = call("layers.MultiHeadAttention", ("heads", unit.step.heads), ("key_dim", head), use_bias=bias(unit))
    return replace(made, use="{m}({x}, {x})")


def _flatten(unit: Unit) -> CallExpression:
    """For an input of unknown spatial size the number of features is known."""
    unknown = unit.input_shape is None or None in unit.input_shape.dims
    if unknown and unit.outputs is not None:
        return call("layers.Reshape", ("shape", (unit.outputs,)))
    return call("layers.Flatten")


def _zero_pad(unit: Unit) -> CallExpression:
    pairs: Any = unit.step.padding
    if all(a == b for a, b in pairs):
        pairs = axes(tuple(a for a, _ in pairs))
    elif unit.space == 1:
        pairs = pairs[0]
    return call(f"layers.ZeroPadding{unit.space}D", ("padding", pairs))


def _crop(unit: Unit) -> CallExpression:
    pairs: Any = unit.step.cropping
    return call(f"layers.Cropping{unit.space}D", ("cropping", pairs[0] if unit.space == 1 else pairs))


def _word(name: str) -> Callable[[Unit], CallExpression]:
    return lambda unit: call("layers.Activation", ("function", name))


def _gelu(unit: Unit) -> CallExpression:
    return call("TanhGelu") if unit.step.approximate else call("layers.Activation", ("function", "gelu"))


_WORDS: Mapping[type[v.NetStep], str] = {
    v.Relu: "relu",
    v.Sigmoid: "sigmoid",
    v.Tanh: "tanh",
    v.Silu: "silu",
    v.Softplus: "softplus",
}

_MODULES: Mapping[type, Callable[[Unit], CallExpression]] = {
    v.Linear: lambda unit: call("layers.Dense", outputs(unit), **activation(unit), use_bias=bias(unit)),
    v.Embedding: lambda unit: call("layers.Embedding", ("rows", unit.rows or 0), outputs(unit)),
    v.Conv: _conv,
    v.ConvTranspose: _conv_transpose,
    v.BatchNorm: _batch_norm,
    v.LayerNorm: lambda unit: call("layers.LayerNormalization", epsilon=unit.step.epsilon),
    v.GroupNorm: _group_norm,
    v.InstanceNorm: _group_norm,
    v.RmsNorm: lambda unit: call("layers.RMSNormalization", epsilon=unit.step.epsilon),
    v.Prelu: _prelu,
    v.Rnn: _recurrent,
    v.Lstm: _recurrent,
    v.Gru: _recurrent,
    v.Attention: _attention,
    **{kind: _word(name) for kind, name in _WORDS.items()},
    v.Relu: lambda unit: call("layers.ReLU"),
    v.Gelu: _gelu,
    v.LeakyRelu: lambda unit: call("layers.LeakyReLU", ("slope", unit.step.slope)),
    v.Elu: lambda unit: call("layers.ELU", ("alpha", unit.step.alpha)),
    v.Softmax: lambda unit: call("layers.Softmax"),
    v.MaxPool: _pool,
    v.AveragePool: _pool,
    v.GlobalMaxPool: lambda unit: call(f"layers.GlobalMaxPooling{unit.space}D", keepdims=True),
    v.GlobalAveragePool: lambda unit: call(f"layers.GlobalAveragePooling{unit.space}D", keepdims=True),
    v.Flatten: _flatten,
    v.Dropout: lambda unit: call("layers.Dropout", ("rate", unit.step.rate)),
    v.ZeroPad: _zero_pad,
    v.Last: lambda unit: call("LastStep"),
    MaxPad: lambda unit: call("PadForMax", ("padding", unit.step.padding)),
    Crop: _crop,
}

_PAD_FOR_MAX = '''
class PadForMax(layers.Layer):
    """Pads spatial axes with minus infinity, equally on both sides."""

    def __init__(self, padding):
        super().__init__()
        self.padding = padding

    def call(self, x):
        sides = [(0, 0), *((size, size) for size in self.padding), (0, 0)]
        return keras.ops.pad(x, sides, constant_values=float("-inf"))
'''

_TANH_GELU = '''
class TanhGelu(layers.Layer):
    """The tanh approximation of GELU."""

    def call(self, x):
        return keras.ops.gelu(x, approximate=True)
'''

_LAST = '''
class LastStep(layers.Layer):
    """The last time step of (batch, time, features)."""

    def call(self, x):
        return x[:, -1]
'''


class KerasDialect(Dialect):
    """explicit: whether every padded convolution gets a padding layer."""

    name = "tensorflow"
    title = "Keras"
    counted = True
    channels_last = True
    loading = """net = make_net()
net.load_weights("{name}.weights.h5")"""
    forward = "call"
    base = "layers.Layer"
    net = "keras.Model"
    line = "keras.Sequential"
    imports: ClassVar[Mapping[str, str]] = {"import keras": "keras", "from keras import layers": r"layers\."}
    helpers = {"PadForMax": _PAD_FOR_MAX, "TanhGelu": _TANH_GELU, "LastStep": _LAST}
    modules = _MODULES
    activations = _WORDS
    concatenation = "keras.ops.concatenate([{}], axis=-1)"
    sequential = ("keras.Sequential([", "])")

    def __init__(self, explicit: bool = False) -> None:
        self.explicit = explicit

    def number(self, name: str) -> int | None:
        return None

    def fused(self, unit: Unit) -> str:
        if isinstance(unit.step, v.Gelu):
            return "" if unit.step.approximate else "gelu"
        return super().fused(unit)

    def lowered(self, unit: Unit) -> tuple[Unit, ...]:
        step = unit.step
        if isinstance(step, v.Conv) and axes(step.padding) != 0 and (self.explicit or not is_same(unit)):
            return _padded(unit, v.ZeroPad(padding=_both(unit)))
        if isinstance(step, v.MaxPool) and axes(step.padding) != 0 and not is_same(unit):
            return _padded(unit, MaxPad(per_axis(step.padding, range(unit.space))))
        if isinstance(step, v.AveragePool) and axes(step.padding) != 0:
            if step.count_padding:
                return _padded(unit, v.ZeroPad(padding=_both(unit)))
            if not is_same(unit):
                raise self.refused(
                    step, "an average pool with a stride and count_padding: false can pad only as 'same'"
                )
        return _cropped(unit) if isinstance(step, v.ConvTranspose) else (unit,)

    def net_text(self, net: Expression, units: Units) -> str:
        """The net is called once on a symbolic input, which creates its variables."""
        shape = units.input_of(channels_last=True) or (None,)
        numbers = ', dtype="int32"' if units.takes_numbers else ""
        sizes = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        lines = ["def make_net():", f"    net = {self.writing().text(net, 4, 6)}"]
        lines.append(f"    net(keras.Input(({sizes}){numbers}))  # makes its variables")
        return "\n".join([*lines, "    return net"])


def is_same(unit: Unit) -> bool:
    """Whether the padding equals ``same`` for inputs of every size."""
    step: v.Conv | v.MaxPool | v.AveragePool = unit.step
    window = unit.kernel if isinstance(step, v.Conv) else per_axis(step.size, range(unit.space))
    dilation = per_axis(step.dilation if isinstance(step, v.Conv) else 1, window)
    stride = per_axis(step.stride if step.stride is not None else window, window)
    each = zip(window, dilation, stride, per_axis(step.padding, window), strict=True)
    return all(s == 1 and 2 * p == d * (k - 1) for k, d, s, p in each)


def _both(unit: Unit) -> tuple[tuple[int, int], ...]:
    return tuple((size, size) for size in per_axis(unit.step.padding, range(unit.space)))


def _padded(unit: Unit, pad: Any) -> tuple[Unit, ...]:
    """The unit with its padding as a separate step."""
    assert unit.input_shape is not None
    sizes = per_axis(unit.step.padding, range(unit.space))
    dims = tuple(None if d is None else d + 2 * p for d, p in zip(unit.input_shape.dims[1:], sizes, strict=True))
    shape = Shape((unit.input_shape.dims[0], *dims), True)
    bare = replace(unit, step=structs.replace(unit.step, padding=0), input_shape=shape)
    return Unit(pad, unit.input_shape, shape), bare


def _cropped(unit: Unit) -> tuple[Unit, ...]:
    """Keras has no padding by a number for a transposed convolution: its output is cropped."""
    step: v.ConvTranspose = unit.step
    each = [per_axis(option, unit.kernel) for option in (step.stride, step.padding, step.output_padding)]
    sides = [(p, p - o + max(s - k, 0)) for k, s, p, o in zip(unit.kernel, *each, strict=True)]
    if any(after < 0 for _, after in sides):
        raise KerasDialect().refused(step, f"an output_padding above the padding of {step.padding}")
    if not any(map(any, sides)):
        return (unit,)
    return unit, Unit(Crop(tuple(sides)), unit.input_shape, unit.output_shape)
