"""The code of MXNet gluon, whose dense layers flatten their input and may include an activation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from converter.architectures import vocabulary as v
from converter.architectures.codegen.code import CallExpression, Option, Value, call
from converter.architectures.codegen.dialect import Dialect, activation, bias, channel_axis, outputs, window
from converter.architectures.codegen.program import Class
from converter.architectures.units import Unit, axes


def _linear(unit: Unit) -> CallExpression:
    """It must not flatten the time axis."""
    flat = unit.input_shape is None or len(unit.input_shape.dims) == 1
    return call("nn.Dense", outputs(unit), **activation(unit), flatten=Option(flat, True), use_bias=bias(unit))


def _conv(unit: Unit) -> CallExpression:
    step: v.Conv | v.ConvTranspose = unit.step
    if isinstance(step, v.ConvTranspose):
        name, own = "Transpose", {"output_padding": Option(axes(step.output_padding), 0)}
    else:
        name, own = "", {"dilation": Option(axes(step.dilation), 1), "groups": Option(unit.groups, 1)}
    return call(
        f"nn.Conv{unit.space}D{name}",
        outputs(unit),
        ("kernel", axes(unit.kernel)),
        strides=Option(axes(step.stride), 1),
        padding=Option(axes(step.padding), 0),
        **own,
        **activation(unit),
        use_bias=bias(unit),
    )


def _pool(unit: Unit) -> CallExpression:
    step: v.MaxPool | v.AveragePool = unit.step
    name, options = "Max", {}
    if isinstance(step, v.AveragePool):
        name, options = "Avg", {"count_include_pad": step.count_padding} if step.padding else {}
    return call(f"nn.{name}Pool{unit.space}D", *window(step), padding=Option(axes(step.padding), 0), **options)


def _recurrent(unit: Unit) -> CallExpression:
    options: dict[str, Value] = {"activation": unit.step.activation} if isinstance(unit.step, v.Rnn) else {}
    assert unit.inputs is not None
    name = type(unit.step).__name__.upper()
    return call(f"rnn.{name}", outputs(unit), layout="NTC", input_size=unit.inputs, **options)


def _zero_pad(unit: Unit) -> CallExpression:
    if unit.space == 1:
        raise GluonDialect().refused(unit.step, "it pads images only")
    return call("ZeroPad", ("padding", tuple(number for pair in unit.step.padding for number in pair)))


def _word(name: str) -> Callable[[Unit], CallExpression]:
    return lambda unit: call("nn.Activation", ("function", name))


_WORDS: Mapping[type[v.NetStep], str] = {v.Relu: "relu", v.Sigmoid: "sigmoid", v.Tanh: "tanh", v.Softplus: "softrelu"}

_MODULES: Mapping[type[v.NetStep], Callable[[Unit], CallExpression]] = {
    v.Linear: _linear,
    v.Embedding: lambda unit: call("nn.Embedding", ("rows", unit.rows or 0), outputs(unit)),
    v.Conv: _conv,
    v.ConvTranspose: _conv,
    # It stores gamma and beta even if they are not used.
    v.BatchNorm: lambda unit: call("nn.BatchNorm", momentum=unit.step.momentum, epsilon=unit.step.epsilon),
    v.LayerNorm: lambda unit: call("nn.LayerNorm", epsilon=unit.step.epsilon),
    v.GroupNorm: lambda unit: call("GroupNorm", outputs(unit), ("groups", unit.step.groups), epsilon=unit.step.epsilon),
    v.InstanceNorm: lambda unit: call("nn.InstanceNorm", epsilon=unit.step.epsilon, scale=True),
    v.RmsNorm: lambda unit: call("RMSNorm", outputs(unit), epsilon=unit.step.epsilon),
    v.Prelu: lambda unit: call("nn.PReLU", in_channels=Option(unit.outputs or 1, 1)),
    v.Rnn: _recurrent,
    v.Lstm: _recurrent,
    v.Gru: _recurrent,
    v.Attention: lambda unit: call("Attention", outputs(unit), ("heads", unit.step.heads), use_bias=bias(unit)),
    **{kind: _word(name) for kind, name in _WORDS.items()},
    v.Gelu: lambda unit: call("TanhGelu") if unit.step.approximate else call("nn.GELU"),
    v.LeakyRelu: lambda unit: call("nn.LeakyReLU", ("slope", unit.step.slope)),
    v.Elu: lambda unit: call("nn.ELU", ("alpha", unit.step.alpha)),
    v.Silu: lambda unit: call("nn.Swish"),
    v.Softmax: lambda unit: call("Softmax", ("axis", channel_axis(unit))),
    v.MaxPool: _pool,
    v.AveragePool: _pool,
    v.GlobalMaxPool: lambda unit: call(f"nn.GlobalMaxPool{unit.space}D"),
    v.GlobalAveragePool: lambda unit: call(f"nn.GlobalAvgPool{unit.space}D"),
    v.Flatten: lambda unit: call("nn.Flatten"),
    v.Dropout: lambda unit: call("nn.Dropout", ("rate", unit.step.rate)),
    v.ZeroPad: _zero_pad,
    v.Last: lambda unit: call("LastStep"),
}

_HELPERS = {
    "row": """
def row(*blocks):
    net = nn.HybridSequential()
    net.add(*blocks)
    return net
""",
    "TanhGelu": '''
class TanhGelu(nn.HybridBlock):
    """The tanh approximation of GELU."""

    def hybrid_forward(self, F, x):
        return 0.5 * x * (1 + F.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))
''',
    "Softmax": """
class Softmax(nn.HybridBlock):
    def __init__(self, axis):
        super().__init__()
        self.axis = axis

    def hybrid_forward(self, F, x):
        return F.softmax(x, axis=self.axis)
""",
    "ZeroPad": '''
class ZeroPad(nn.HybridBlock):
    """Zero padding of the spatial axes; padding: before and after, for each axis."""

    def __init__(self, padding):
        super().__init__()
        self.padding = (0, 0, 0, 0, *padding)

    def hybrid_forward(self, F, x):
        return F.pad(x, mode="constant", pad_width=self.padding)
''',
    "LastStep": '''
class LastStep(nn.HybridBlock):
    """The last time step of (batch, time, features)."""

    def hybrid_forward(self, F, x):
        return F.slice_axis(x, axis=1, begin=-1, end=None).reshape((0, -1))
''',
    "GroupNorm": '''
class GroupNorm(nn.HybridBlock):
    """With a scale for each channel, where gluon's own has one for each group."""

    def __init__(self, channels, groups, epsilon):
        super().__init__()
        self.groups, self.epsilon = groups, epsilon
        self.gamma = self.params.get("gamma", shape=(channels,), init="ones")
        self.beta = self.params.get("beta", shape=(channels,), init="zeros")

    def hybrid_forward(self, F, x, gamma, beta):
        grouped = F.reshape(x, (0, -4, self.groups, -1, -2))
        flat = F.reshape(grouped, (0, 0, -1))
        centred = F.broadcast_sub(flat, F.mean(flat, axis=2, keepdims=True))
        scale = F.rsqrt(F.mean(F.square(centred), axis=2, keepdims=True) + self.epsilon)
        normal = F.reshape_like(F.broadcast_mul(centred, scale), x)
        flat = F.reshape(normal, (0, 0, -1))
        gamma, beta = F.reshape(gamma, (1, -1, 1)), F.reshape(beta, (1, -1, 1))
        return F.reshape_like(F.broadcast_add(F.broadcast_mul(flat, gamma), beta), x)
''',
    "RMSNorm": """
class RMSNorm(nn.HybridBlock):
    def __init__(self, features, epsilon):
        super().__init__()
        self.epsilon = epsilon
        self.gamma = self.params.get("gamma", shape=(features,), init="ones")

    def hybrid_forward(self, F, x, gamma):
        scale = F.rsqrt(F.mean(F.square(x), axis=-1, keepdims=True) + self.epsilon)
        return F.broadcast_mul(F.broadcast_mul(x, scale), gamma)
""",
    "Attention": '''
class Attention(nn.HybridBlock):
    """Multi-head self-attention of (batch, time, features)."""

    def __init__(self, features, heads, use_bias=True):
        super().__init__()
        self.heads, self.scale = heads, (features // heads) ** -0.5
        self.query = nn.Dense(features, flatten=False, use_bias=use_bias)
        self.key = nn.Dense(features, flatten=False, use_bias=use_bias)
        self.value = nn.Dense(features, flatten=False, use_bias=use_bias)
        self.output = nn.Dense(features, flatten=False, use_bias=use_bias)

    def hybrid_forward(self, F, x):
        def split(y):  # (batch * heads, time, features of a head)
            y = F.transpose(F.reshape(y, (0, 0, self.heads, -1)), (0, 2, 1, 3))
            return F.reshape(y, (-1, 0, 0), reverse=True)

        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        weights = F.softmax(F.batch_dot(query, key, transpose_b=True) * self.scale, axis=-1)
        y = F.reshape(F.batch_dot(weights, value), (-1, self.heads, 0, 0), reverse=True)
        return self.output(F.reshape(F.transpose(y, (0, 2, 1, 3)), (0, 0, -1)))
''',
}


class GluonDialect(Dialect):
    name = "mxnet"
    title = "MXNet"
    subclassed = True
    flattens = True
    loading = """net = make_net()
net.load_parameters("{name}.params")"""
    forward = "hybrid_forward"
    base = "nn.HybridBlock"
    net = "nn.HybridBlock"
    line = "nn.HybridSequential"
    imports: ClassVar[Mapping[str, str]] = {"from mxnet.gluon import nn": "nn", "from mxnet.gluon import rnn": r"rnn\."}
    helpers = _HELPERS
    modules = _MODULES
    activations = _WORDS
    concatenation = "F.concat({}, dim={axis})"
    sequential = ("row(", ")")
    setting = ("self.register_child(", ', "{}")')
    getting = 'self._children["{}"]'

    def expression(self, unit: Unit) -> CallExpression:
        if isinstance(unit.step, v.BatchNorm) and len({"scale", "offset"} & unit.roles) < 2:
            raise self.refused(unit.step, "its files have both a scale and an offset, and these weights do not")
        return super().expression(unit)

    def sequential_constructor(self) -> list[str]:
        return ["    def __init__(self, *blocks):", "        super().__init__()", "        self.add(*blocks)", ""]

    def signature(self, made: Class) -> list[str]:
        return ["    def hybrid_forward(self, F, x):"]

    def inner(self, x: str) -> str:
        return f"super().hybrid_forward(F, {x})"
