"""The functions of torch, and the methods of its tensors, that are steps of the vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from converter.architectures import vocabulary as v
from converter.architectures.capture.graph import Claim
from converter.architectures.capture.settings import RefusedError, sizes

#: The steps, and what must hold for the first of them.
StepsAndClaim: TypeAlias = "tuple[list[Any], Claim | None]"


def called(target: Any) -> str:
    """The name of a function or method."""
    return target if isinstance(target, str) else str(getattr(target, "__name__", target))


def arguments_of(node: Any) -> dict[str, Any]:
    """The arguments after the tensor, by their names in the functions of torch."""
    names = _ORDER.get(called(node.target), ())
    rest = list(node.args[1:])
    if len(rest) > len(names):
        rest = [tuple(rest)]  # x.view(n, -1), x.mean(2, 3)
    return {**dict(zip(names, rest, strict=False)), **{key: of for key, of in node.kwargs.items() if key not in _IDLE}}


_IDLE = frozenset({"inplace", "training"})
_POOL = ("kernel_size", "stride", "padding")
_ORDER: Mapping[str, Sequence[str]] = {
    "flatten": ("start_dim", "end_dim"),
    "view": ("shape",),
    "reshape": ("shape",),
    "mean": ("dim", "keepdim"),
    "dropout": ("p",),
    "leaky_relu": ("negative_slope",),
    "elu": ("alpha",),
    "softmax": ("dim",),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), (*_POOL, "dilation", "ceil_mode")),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), (*_POOL, "ceil_mode", "count_include_pad")),
    **dict.fromkeys((f"adaptive_{kind}_pool{n}d" for kind in ("avg", "max") for n in (1, 2, 3)), ("output_size",)),
}


def _plain(make: Callable[[], v.NetStep]) -> Callable[[Mapping[str, Any]], StepsAndClaim]:
    def step(options: Mapping[str, Any]) -> StepsAndClaim:
        _allow(options, ())
        return [make()], None

    return step


def _allow(options: Mapping[str, Any], names: Sequence[str], **usual: Any) -> None:
    for name, value in options.items():
        if name not in names and (name not in usual or usual[name] != value):
            raise RefusedError(f"which has {name}={value}")


def _flattened(options: Mapping[str, Any]) -> StepsAndClaim:
    _allow(options, (), start_dim=1, end_dim=-1)
    if options.get("start_dim", 0) != 1:
        raise RefusedError("which flattens the batch as well")
    return [v.Flatten()], None


def _viewed(options: Mapping[str, Any]) -> StepsAndClaim:
    """``x.view(len, -1)`` and, if that is the number of features, ``x.view(-1, 400)``."""
    shape = options["shape"]
    if not isinstance(shape, tuple | list) or len(shape) != 2 or -1 not in shape:
        raise RefusedError(f"which reshapes it to {shape}")
    return [v.Flatten()], Claim(features=shape[1]) if shape[1] != -1 else None


def _mean(options: Mapping[str, Any]) -> StepsAndClaim:
    _allow(options, ("dim", "keepdim"))
    dims = options.get("dim")
    if dims is None:
        raise RefusedError("which is over all axes, including the batch")
    claim = Claim(axes=(dims,) if isinstance(dims, int) else tuple(dims))
    return [v.GlobalAveragePool(), *([] if options.get("keepdim") else [v.Flatten()])], claim


def _pooled(options: Mapping[str, Any], **usual: Any) -> dict[str, Any]:
    _allow(options, (*_POOL, "count_include_pad"), ceil_mode=False, dilation=1, return_indices=False, **usual)
    size = options["kernel_size"]
    stride = options.get("stride")
    return {"size": sizes(size), "stride": sizes(stride or size), "padding": sizes(options.get("padding", 0))}


def _averaged(options: Mapping[str, Any]) -> StepsAndClaim:
    counts = options.get("count_include_pad", True)
    return [v.AveragePool(**_pooled(options, divisor_override=None), count_padding=counts)], None


def _adaptive(make: Callable[[], v.NetStep]) -> Callable[[Mapping[str, Any]], StepsAndClaim]:
    def step(options: Mapping[str, Any]) -> StepsAndClaim:
        _allow(options, ("output_size",), return_indices=False)
        if sizes(options["output_size"]) != 1:
            raise RefusedError(f"which has output_size={options['output_size']}")
        return [make()], None

    return step


def _gelu_of(options: Mapping[str, Any]) -> StepsAndClaim:
    _allow(options, ("approximate",))
    return [v.Gelu(approximate=options.get("approximate", "none") == "tanh")], None


def _softmax_of(options: Mapping[str, Any]) -> StepsAndClaim:
    _allow(options, ("dim",), _stacklevel=3, dtype=None)
    return [v.Softmax()], Claim(axes=(options.get("dim", 1),))


def _dropped(options: Mapping[str, Any]) -> StepsAndClaim:
    _allow(options, ("p",))
    return [v.Dropout(rate=options.get("p", 0.5))], None


#: Function of torch, or method of a tensor -> its steps.
FUNCTIONS: Mapping[str, Callable[[Mapping[str, Any]], StepsAndClaim]] = {
    **dict.fromkeys(("relu", "relu_"), _plain(v.Relu)),
    **dict.fromkeys(("sigmoid", "sigmoid_"), _plain(v.Sigmoid)),
    **dict.fromkeys(("tanh", "tanh_"), _plain(v.Tanh)),
    "silu": _plain(v.Silu),
    "softplus": _plain(v.Softplus),
    "gelu": _gelu_of,
    "leaky_relu": lambda options: ([v.LeakyRelu(slope=options.get("negative_slope", 0.01))], None),
    "elu": lambda options: ([v.Elu(alpha=options.get("alpha", 1.0))], None),
    "softmax": _softmax_of,
    "flatten": _flattened,
    "view": _viewed,
    "reshape": _viewed,
    "mean": _mean,
    "dropout": _dropped,
    **dict.fromkeys(
        ("max_pool1d", "max_pool2d", "max_pool3d"), lambda options: ([v.MaxPool(**_pooled(options))], None)
    ),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _averaged),
    **dict.fromkeys([f"adaptive_avg_pool{n}d" for n in (1, 2, 3)], _adaptive(v.GlobalAveragePool)),
    **dict.fromkeys([f"adaptive_max_pool{n}d" for n in (1, 2, 3)], _adaptive(v.GlobalMaxPool)),
}
