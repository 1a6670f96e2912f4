"""The operators of MXNet that are steps of the vocabulary."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from converter.architectures import vocabulary as v
from converter.architectures.capture.graph import Claim
from converter.architectures.capture.settings import RefusedError, sizes


class Operator(msgspec.Struct, frozen=True):
    """A call of an operator. path: the neutral path of the layer whose parameters it takes; shapes: of these."""

    kind: str
    path: str
    attributes: Mapping[str, str]
    shapes: Sequence[tuple[int, ...]]

    def word(self, name: str, usual: str = "") -> str:
        return self.attributes.get(name, usual)

    def value(self, name: str, usual: Any = None) -> Any:
        """A number, a truth value, or a tuple of numbers."""
        text = self.attributes.get(name, "None")
        return usual if text == "None" else ast.literal_eval(text)

    def only(self, **wanted: Any) -> None:
        """Raises RefusedError for a setting with another value than the one that all frameworks share."""
        for name, usual in wanted.items():
            if self.value(name, usual) != usual:
                raise RefusedError(f"which has {name}={self.word(name)}")


StepsAndClaim: TypeAlias = "tuple[list[v.NetStep], Claim | None]"
OperatorReader: TypeAlias = Callable[[Operator], StepsAndClaim]


def _dense(call: Operator) -> StepsAndClaim:
    linear = v.Linear(path=call.path)
    return ([v.Flatten(), linear] if call.value("flatten", True) else [linear]), None


def _conv(call: Operator) -> StepsAndClaim:
    if call.word("layout", "None") not in ("None", "NCW", "NCHW", "NCDHW"):
        raise RefusedError(f"which has layout={call.word('layout')}")
    stride, padding = sizes(call.value("stride", 1)), sizes(call.value("pad", 0))
    dilation, groups = sizes(call.value("dilate", 1)), call.value("num_group", 1)
    if call.kind == "Convolution":
        made = v.Conv(path=call.path, stride=stride, padding=padding, dilation=dilation, groups=groups)
        return [made], None
    if groups != 1 or dilation != 1:
        raise RefusedError("which has groups or a dilation")
    extra = sizes(call.value("adj", 0))
    return [v.ConvTranspose(path=call.path, stride=stride, padding=padding, output_padding=extra)], None


def _batch_norm(call: Operator) -> StepsAndClaim:
    call.only(use_global_stats=False, axis=1)
    return [v.BatchNorm(path=call.path, epsilon=call.value("eps", 1e-3), momentum=call.value("momentum", 0.9))], None


def _layer_norm(call: Operator) -> StepsAndClaim:
    call.only(axis=-1)
    return [v.LayerNorm(path=call.path, epsilon=call.value("eps", 1e-5))], None


def _instance_norm(call: Operator) -> StepsAndClaim:
    return [v.InstanceNorm(path=call.path, epsilon=call.value("eps", 1e-3))], None


_ACTIVATIONS: Mapping[str, v.NetStep] = {
    "relu": v.Relu(),
    "sigmoid": v.Sigmoid(),
    "tanh": v.Tanh(),
    "softrelu": v.Softplus(),
}


def _activation(call: Operator) -> StepsAndClaim:
    name = call.word("act_type")
    if name not in _ACTIVATIONS:
        raise RefusedError(f"which has act_type={name}")
    return [_ACTIVATIONS[name]], None


def _leaky_relu(call: Operator) -> StepsAndClaim:
    kind, slope = call.word("act_type", "leaky"), call.value("slope", 0.25)
    made: Mapping[str, Callable[[], v.NetStep]] = {
        "leaky": lambda: v.LeakyRelu(slope=slope),
        "prelu": lambda: v.Prelu(path=call.path),
        "elu": lambda: v.Elu(alpha=slope),
        "gelu": v.Gelu,
    }
    if kind not in made:
        raise RefusedError(f"which has act_type={kind}")
    return [made[kind]()], None


def _pooling(call: Operator) -> StepsAndClaim:
    kind = call.word("pool_type", "max")
    if kind not in ("max", "avg"):
        raise RefusedError(f"which has pool_type={kind}")
    if call.value("global_pool", False):
        return [v.GlobalMaxPool() if kind == "max" else v.GlobalAveragePool()], None
    if call.word("pooling_convention", "valid") != "valid":
        raise RefusedError(f"which has pooling_convention={call.word('pooling_convention')} (ceil_mode)")
    made = {"size": call.value("kernel"), "stride": call.value("stride", 1), "padding": call.value("pad", 0)}
    options = {name: sizes(value) for name, value in made.items()}
    if kind == "max":
        return [v.MaxPool(**options)], None
    return [v.AveragePool(**options, count_padding=call.value("count_include_pad", True))], None


def _softmax(call: Operator) -> StepsAndClaim:
    if call.value("temperature", 1.0) not in (None, 1.0):
        raise RefusedError(f"which has temperature={call.word('temperature')}")
    return [v.Softmax()], Claim(axes=(call.value("axis", -1),))


def _mean(call: Operator) -> StepsAndClaim:
    axis = call.value("axis", ())
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if not axes or call.value("exclude", False):
        raise RefusedError("which is over all axes, or excludes axes")
    rest: list[v.NetStep] = [] if call.value("keepdims", False) else [v.Flatten()]
    return [v.GlobalAveragePool(), *rest], Claim(axes=axes)


def _pad(call: Operator) -> StepsAndClaim:
    width = call.value("pad_width")
    if call.word("mode") != "constant" or call.value("constant_value", 0.0) != 0 or any(width[:4]):
        raise RefusedError("which pads other axes than the spatial ones, or not with zeros")
    return [v.ZeroPad(padding=tuple(zip(width[4::2], width[5::2], strict=True)))], None


def _as(*steps: v.NetStep) -> OperatorReader:
    return lambda call: (list(steps), None)


#: Operator -> how it is read.
OPERATORS: Mapping[str, OperatorReader] = {
    "FullyConnected": _dense,
    "Convolution": _conv,
    "Deconvolution": _conv,
    "BatchNorm": _batch_norm,
    "LayerNorm": _layer_norm,
    "InstanceNorm": _instance_norm,
    "Embedding": lambda call: ([v.Embedding(path=call.path)], None),
    "Activation": _activation,
    "LeakyReLU": _leaky_relu,
    "Pooling": _pooling,
    "Flatten": _as(v.Flatten()),
    "Dropout": lambda call: ([v.Dropout(rate=call.value("p", 0.5))], None),
    "softmax": _softmax,
    "mean": _mean,
    "Pad": _pad,
    "relu": _as(v.Relu()),
    "sigmoid": _as(v.Sigmoid()),
    "tanh": _as(v.Tanh()),
    **dict.fromkeys(("identity", "_copy"), _as()),
}


def joins(call: Operator) -> tuple[str, Claim | None]:
    """``add``, ``concat``, or "" for other operators."""
    if call.kind == "Concat":
        return "concat", Claim(axes=(call.value("dim", 1),))
    return ("add" if call.kind in ("elemwise_add", "broadcast_add", "_plus", "add_n") else ""), None
