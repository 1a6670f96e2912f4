"""The code of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from converter.architectures import vocabulary as v
from converter.architectures.codegen.code import CallExpression, Option, Value, call
from converter.architectures.codegen.dialect import Dialect, bias, channel_axis, outputs, window
from converter.architectures.units import Unit, axes


def _in_out(unit: Unit) -> tuple[tuple[str, Value], ...]:
    assert unit.inputs is not None
    return ("inputs", unit.inputs), outputs(unit)


def _conv(unit: Unit) -> CallExpression:
    step: v.Conv | v.ConvTranspose = unit.step
    if isinstance(step, v.ConvTranspose):
        name, own = "ConvTranspose", {"output_padding": Option(axes(step.output_padding), 0)}
    else:
        name, own = "Conv", {"dilation": Option(axes(step.dilation), 1), "groups": Option(unit.groups, 1)}
    return call(
        f"nn.{name}{unit.space}d",
        *_in_out(unit),
        ("kernel", axes(unit.kernel)),
        stride=Option(axes(step.stride), 1),
        padding=Option(axes(step.padding), 0),
        **own,
        bias=bias(unit),
    )


def _batch_norm(unit: Unit) -> CallExpression:
    step: v.BatchNorm = unit.step
    affine = Option(bool({"scale", "offset"} & unit.roles), True)
    momentum = round(1 - step.momentum, 12)
    return call(
        f"nn.BatchNorm{unit.space or 1}d", outputs(unit, "channels"), eps=step.epsilon, momentum=momentum, affine=affine
    )


def _pool(unit: Unit) -> CallExpression:
    step: v.MaxPool | v.AveragePool = unit.step
    name, options = "Max", {}
    if isinstance(step, v.AveragePool):
        name = "Avg"
        if axes(step.padding) != 0:  # where zeros can count
            options = {"count_include_pad": step.count_padding}
    return call(f"nn.{name}Pool{unit.space}d", *window(step), padding=Option(axes(step.padding), 0), **options)


def _zero_pad(unit: Unit) -> CallExpression:
    """Pairs in PyTorch start with the last axis."""
    pairs = tuple(number for pair in reversed(unit.step.padding) for number in pair)
    return call(f"nn.ConstantPad{unit.space}d", ("padding", pairs), ("value", 0.0))


def _recurrent(unit: Unit) -> CallExpression:
    options = {"nonlinearity": Option(unit.step.activation, "tanh")} if isinstance(unit.step, v.Rnn) else {}
    made = call(f"nn.{type(unit.step).__name__.upper()}", *_in_out(unit), batch_first=True, **options)
    return replace(made, use="{m}({x})[0]")


def _attention(unit: Unit) -> CallExpression:
    made = call(
        "nn.MultiheadAttention",
        outputs(unit, "channels"),
        ("heads", unit.step.heads),
        bias=bias(unit),
        batch_first=True,
    )
    return replace(made, use="{m}({x}, {x}, {x}, need_weights=False)[0]")


_MODULES: Mapping[type[v.NetStep], Callable[[Unit], CallExpression]] = {
    v.Linear: lambda unit: call("nn.Linear", *_in_out(unit), bias=bias(unit)),
    v.Embedding: lambda unit: call("nn.Embedding", ("rows", unit.rows or 0), outputs(unit)),
    v.Conv: _conv,
    v.ConvTranspose: _conv,
    v.BatchNorm: _batch_norm,
    v.LayerNorm: lambda unit: call("nn.LayerNorm", outputs(unit, "channels"), eps=unit.step.epsilon),
    v.GroupNorm: lambda unit: call(
        "nn.GroupNorm", ("groups", unit.step.groups), outputs(unit, "channels"), eps=unit.step.epsilon
    ),
    v.InstanceNorm: lambda unit: call(
        f"nn.InstanceNorm{unit.space}d", outputs(unit, "channels"), eps=unit.step.epsilon, affine=True
    ),
    v.RmsNorm: lambda unit: call("nn.RMSNorm", outputs(unit, "channels"), eps=unit.step.epsilon),
    v.Prelu: lambda unit: call("nn.PReLU", ("count", unit.outputs or 1)),
    v.Rnn: _recurrent,
    v.Lstm: _recurrent,
    v.Gru: _recurrent,
    v.Attention: _attention,
    v.Relu: lambda unit: call("nn.ReLU"),
    v.Sigmoid: lambda unit: call("nn.Sigmoid"),
    v.Tanh: lambda unit: call("nn.Tanh"),
    v.Gelu: lambda unit: call("nn.GELU", approximate="tanh" if unit.step.approximate else "none"),
    v.LeakyRelu: lambda unit: call("nn.LeakyReLU", ("slope", unit.step.slope)),
    v.Elu: lambda unit: call("nn.ELU", ("alpha", unit.step.alpha)),
    v.Silu: lambda unit: call("nn.SiLU"),
    v.Softplus: lambda unit: call("nn.Softplus"),
    v.Softmax: lambda unit: call("nn.Softmax", dim=channel_axis(unit)),
    v.MaxPool: _pool,
    v.AveragePool: _pool,
    v.GlobalMaxPool: lambda unit: call(f"nn.AdaptiveMaxPool{unit.space}d", ("size", 1)),
    v.GlobalAveragePool: lambda unit: call(f"nn.AdaptiveAvgPool{unit.space}d", ("size", 1)),
    v.Flatten: lambda unit: call("nn.Flatten"),
    v.Dropout: lambda unit: call("nn.Dropout", ("rate", unit.step.rate)),
    v.ZeroPad: _zero_pad,
    v.Last: lambda unit: call("Last"),
}

_LAST = '''
class Last(nn.Module):
    """The last time step of (batch, time, features)."""

    def forward(self, x):
        return x[:, -1]
'''


class TorchDialect(Dialect):
    name = "torch"
    title = "PyTorch"
    says_names = True
    subclassed = True
    loading = """net = make_net()
net.load_state_dict(torch.load("{name}.pt"))
net.eval()"""
    forward = "forward"
    base = "nn.Module"
    net = "nn.Module"
    line = "nn.Sequential"
    imports = {
        "from collections import OrderedDict\n": "OrderedDict",
        "import torch": r"torch\.",
        "from torch import nn": "nn",
    }
    helpers = {"Last": _LAST}
    modules = _MODULES
    concatenation = "torch.cat([{}], {axis})"
    sequential = ("nn.Sequential(", ")")
    setting = ('self.add_module("{}", ', ")")
    getting = 'self.get_submodule("{}")'

    def expression(self, unit: Unit) -> CallExpression:
        step: Any = unit.step
        if isinstance(step, v.BatchNorm) and len({"scale", "offset"} & unit.roles) == 1:
            raise self.refused(step, "its BatchNorm has a scale and an offset, or neither")
        return super().expression(unit)

    def row(self, items: Sequence[tuple[str, str]], named: bool) -> tuple[str, Sequence[str], str]:
        if named:
            return "nn.Sequential(OrderedDict([", [f'("{name}", {text})' for name, text in items], "]))"
        return super().row(items, named)
