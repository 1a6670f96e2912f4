"""The code of Flax linen, where steps without weights are functions and training is an argument of a class."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import ClassVar

from converter.architectures import vocabulary as v
from converter.architectures.codegen import code
from converter.architectures.codegen.code import CallExpression, Option, Value, call, plain
from converter.architectures.codegen.dialect import Dialect, bias, outputs
from converter.architectures.codegen.program import Class, ClassParameter
from converter.architectures.units import Unit, Units, axes, per_axis


def _padding(padding: int | tuple[int, ...]) -> Value:
    """Equal on both sides: a number for all axes, or a pair for each."""
    one = axes(padding)
    return one if isinstance(one, int) else tuple((size, size) for size in one)


def _conv(unit: Unit) -> CallExpression:
    step: v.Conv = unit.step
    return call(
        "nn.Conv",
        outputs(unit),
        ("kernel", unit.kernel),
        strides=Option(axes(step.stride), 1),
        padding=_padding(step.padding),
        kernel_dilation=Option(axes(step.dilation), 1),
        feature_group_count=Option(unit.groups, 1),
        use_bias=bias(unit),
    )


def _conv_transpose(unit: Unit) -> CallExpression:
    """Its padding is that of the dilated input, as in jax."""
    step: v.ConvTranspose = unit.step
    each = [per_axis(option, unit.kernel) for option in (step.padding, step.output_padding)]
    sides = tuple((k - 1 - p, k - 1 - p + o) for k, p, o in zip(unit.kernel, *each, strict=True))
    if any(before < 0 for before, _ in sides):
        raise FlaxDialect().refused(step, f"a padding of {step.padding} for a kernel of {unit.kernel}")
    strides = per_axis(step.stride, unit.kernel)
    return call(
        "nn.ConvTranspose",
        outputs(unit),
        ("kernel", unit.kernel),
        strides=Option(strides, (1,) * len(strides)),
        padding=sides,
        use_bias=bias(unit),
    )


def _batch_norm(unit: Unit) -> CallExpression:
    step: v.BatchNorm = unit.step
    return call(
        "nn.BatchNorm",
        use_running_average=code.Training(),
        momentum=step.momentum,
        epsilon=step.epsilon,
        use_scale=Option("scale" in unit.roles, True),
        use_bias=Option("offset" in unit.roles, True),
    )


def _norm(name: str) -> Callable[[Unit], CallExpression]:
    """The slow variance is the exact one, as in the other frameworks."""

    def make(unit: Unit) -> CallExpression:
        groups = {"num_groups": unit.step.groups} if isinstance(unit.step, v.GroupNorm) else {}
        return call(f"nn.{name}", **groups, epsilon=unit.step.epsilon, use_fast_variance=False)

    return make


def _prelu(unit: Unit) -> CallExpression:
    if unit.outputs != 1:
        raise FlaxDialect().refused(unit.step, f"its PReLU has one slope for all channels, and this has {unit.outputs}")
    return call("nn.PReLU")


def _pool(unit: Unit) -> CallExpression:
    step: v.MaxPool | v.AveragePool = unit.step
    size = per_axis(step.size, range(unit.space))
    strides = size if step.stride is None else per_axis(step.stride, size)
    padding = Option(tuple((p, p) for p in per_axis(step.padding, size)), ((0, 0),) * len(size))
    name, options = "max", {}
    if isinstance(step, v.AveragePool):
        name, options = "avg", {"count_include_pad": Option(step.count_padding, True)}
    return plain(f"nn.{name}_pool", window_shape=size, strides=strides, padding=padding, **options)


def _recurrent(cell: str) -> Callable[[Unit], CallExpression]:
    def make(unit: Unit) -> CallExpression:
        relu: dict[str, Value] = {}
        if isinstance(unit.step, v.Rnn) and unit.step.activation == "relu":
            relu = {"activation_fn": plain("nn.relu")}
        return call("nn.RNN", ("cell", call(f"nn.{cell}", outputs(unit), **relu)))

    return make


_MODULES: Mapping[type[v.NetStep], Callable[[Unit], CallExpression]] = {
    v.Linear: lambda unit: call("nn.Dense", outputs(unit), use_bias=bias(unit)),
    v.Embedding: lambda unit: call("nn.Embed", ("rows", unit.rows or 0), outputs(unit)),
    v.Conv: _conv,
    v.ConvTranspose: _conv_transpose,
    v.BatchNorm: _batch_norm,
    v.LayerNorm: _norm("LayerNorm"),
    v.GroupNorm: _norm("GroupNorm"),
    v.InstanceNorm: _norm("InstanceNorm"),
    v.RmsNorm: lambda unit: call("nn.RMSNorm", epsilon=unit.step.epsilon),
    v.Prelu: _prelu,
    v.Rnn: _recurrent("SimpleCell"),
    v.Lstm: _recurrent("OptimizedLSTMCell"),
    v.Gru: _recurrent("GRUCell"),
    v.Attention: lambda unit: call("nn.MultiHeadDotProductAttention", num_heads=unit.step.heads, use_bias=bias(unit)),
    v.Relu: lambda unit: plain("nn.relu"),
    v.Sigmoid: lambda unit: plain("nn.sigmoid"),
    v.Tanh: lambda unit: plain("nn.tanh"),
    v.Gelu: lambda unit: plain("nn.gelu", approximate=unit.step.approximate),
    v.LeakyRelu: lambda unit: plain("nn.leaky_relu", negative_slope=unit.step.slope),
    v.Elu: lambda unit: plain("nn.elu", alpha=unit.step.alpha),
    v.Silu: lambda unit: plain("nn.silu"),
    v.Softplus: lambda unit: plain("nn.softplus"),
    v.Softmax: lambda unit: plain("nn.softmax"),
    v.MaxPool: _pool,
    v.AveragePool: _pool,
    v.GlobalMaxPool: lambda unit: plain("global_max"),
    v.GlobalAveragePool: lambda unit: plain("global_mean"),
    v.Flatten: lambda unit: plain("flatten"),
    v.Dropout: lambda unit: call("nn.Dropout", ("rate", unit.step.rate), deterministic=code.Training()),
    v.ZeroPad: lambda unit: plain("zero_pad", padding=unit.step.padding),
    v.Last: lambda unit: plain("last_step"),
}

_HELPERS = {
    "flatten": """
def flatten(x):
    return x.reshape(len(x), -1)
""",
    "global_mean": '''
def global_mean(x):
    """Over all spatial axes, which stay with size 1."""
    return x.mean(range(1, x.ndim - 1), keepdims=True)
''',
    "global_max": '''
def global_max(x):
    """Over all spatial axes, which stay with size 1."""
    return x.max(range(1, x.ndim - 1), keepdims=True)
''',
    "zero_pad": """
def zero_pad(x, padding):
    return jnp.pad(x, ((0, 0), *padding, (0, 0)))
""",
    "last_step": '''
def last_step(x):
    """The last time step of (batch, time, features)."""
    return x[:, -1]
''',
}


class FlaxDialect(Dialect):
    name = "flax"
    title = "Flax"
    channels_last = True
    loading = """with open("{name}.msgpack", "rb") as file:
    variables = flax.serialization.msgpack_restore(file.read())
y = make_net().apply(variables, x)"""
    forward = "__call__"
    base = "nn.Module"
    net = "nn.Module"
    line = "nn.Sequential"
    imports: ClassVar[Mapping[str, str]] = {
        "from functools import partial\n": "partial",
        "import jax.numpy as jnp": r"jnp\.",
        "from flax import linen as nn": "nn",
    }
    helpers = _HELPERS
    modules = _MODULES
    concatenation = "jnp.concatenate([{}], -1)"
    sequential = ("nn.Sequential([", "])")

    def number(self, name: str) -> int | None:
        match = re.fullmatch(r"layers_(0|[1-9]\d*)", name)
        return int(match[1]) if match else None

    def constructor(self, made: Class) -> list[str]:
        listed = [f"{each.name}: {_type(each)}" for each in made.parameters if each.always]
        listed += [f"{each.name}: {_type(each)} | None = None" for each in made.parameters if not each.always]
        listed += [f"{flag}: bool = False" for flag in made.flags]
        listed += ["train: bool = False"] if made.trains else []
        lines = [*(f"    {line}" for line in listed), *[""] * bool(listed)]
        own = {each.name for each in made.parameters}
        inside = [each for each in made.attributes if each.name not in own]
        if inside:
            lines += [
                "    def setup(self):",
                *self.attributes(inside, self.writing("self.{}", "self.train"), "self.{}"),
                "",
            ]
        return lines

    def net_text(self, net: code.Expression, units: Units) -> str:
        if not code.says_training(net):
            return super().net_text(net, units)
        return f"def make_net(train=False):\n    return {self.writing().text(net, 4, 7)}"


def _type(each: ClassParameter) -> str:
    is_module = isinstance(each.sample, CallExpression | code.SequentialExpression)
    return "nn.Module" if is_module else type(each.sample).__name__
