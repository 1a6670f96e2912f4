"""The layers of Flax linen that are steps of the vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from converter.architectures import vocabulary as v
from converter.architectures.capture.settings import RefusedError, as_steps_and_option, only, same, sizes

#: (layer, its neutral path, the shape of its input with the batch) -> its steps.
LayerReader: TypeAlias = Callable[[Any, str, Sequence[int]], "list[v.NetStep]"]


def _each(value: int | Sequence[int] | None, count: int) -> tuple[int, ...]:
    """A value for each spatial axis; 1 by default."""
    return (value or 1,) * count if value is None or isinstance(value, int) else tuple(value)


def _conv(layer: Any, path: str, shape: Sequence[int]) -> list[v.NetStep]:
    kernel = _each(layer.kernel_size, len(shape) - 2)
    if set(_each(layer.input_dilation, len(kernel))) != {1} or layer.mask is not None:
        raise RefusedError("which has an input_dilation or a mask")
    stride, dilation = (_each(value, len(kernel)) for value in (layer.strides, layer.kernel_dilation))
    padding = layer.padding
    if padding == "SAME":
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        pairs = same(shape[1:-1], reach, stride)
    elif padding == "VALID":
        pairs = ((0, 0),) * len(kernel)
    elif isinstance(padding, str):
        raise RefusedError(f"which has padding='{padding}'")
    else:
        sides = (padding,) * len(kernel) if isinstance(padding, int) else padding
        pairs = tuple((pad, pad) if isinstance(pad, int) else tuple(pad) for pad in sides)
    before, padding = as_steps_and_option(pairs)
    options = {"stride": sizes(stride), "padding": padding, "dilation": sizes(dilation)}
    return [*before, v.Conv(path=path, groups=layer.feature_group_count, **options)]


def _conv_transpose(layer: Any, path: str, shape: Sequence[int]) -> list[v.NetStep]:
    """Its padding is that of the dilated input, as in jax."""
    kernel = _each(layer.kernel_size, len(shape) - 2)
    stride = _each(layer.strides, len(kernel))
    if set(_each(layer.kernel_dilation, len(kernel))) != {1} or layer.mask is not None:
        raise RefusedError("which has a kernel_dilation or a mask")
    if layer.padding == "VALID":
        pairs = [(k - 1, k - 1 + max(s - k, 0)) for k, s in zip(kernel, stride, strict=True)]
    elif isinstance(layer.padding, str | int):
        raise RefusedError(f"which has padding={layer.padding!r}")
    else:
        pairs = [(pad, pad) if isinstance(pad, int) else tuple(pad) for pad in layer.padding]
    padding = [k - 1 - before for k, (before, _) in zip(kernel, pairs, strict=True)]
    extra = [after - before for before, after in pairs]
    if min(*padding, *extra, 0) < 0:
        raise RefusedError(f"which has padding={layer.padding!r}")
    made = {"padding": sizes(padding), "output_padding": sizes(extra)}
    return [v.ConvTranspose(path=path, stride=sizes(stride), **made)]


def _batch_norm(layer: Any, path: str, shape: Sequence[int]) -> list[v.NetStep]:
    only(layer, axis=-1)
    return [v.BatchNorm(path=path, epsilon=layer.epsilon, momentum=layer.momentum)]


def _layer_norm(layer: Any, path: str, shape: Sequence[int]) -> list[v.NetStep]:
    only(layer, reduction_axes=-1, feature_axes=-1, use_bias=True, use_scale=True)
    return [v.LayerNorm(path=path, epsilon=layer.epsilon)]


def _group_norm(layer: Any, path: str, shape: Sequence[int]) -> list[v.NetStep]:
    only(layer, group_size=None, use_bias=True, use_scale=True)
    return [v.GroupNorm(path=path, groups=layer.num_groups, epsilon=layer.epsilon)]


def _instance_norm(layer: Any, path: str, shape: Sequence[int]) -> list[v.NetStep]:
    only(layer, feature_axes=-1, use_bias=True, use_scale=True)
    return [v.InstanceNorm(path=path, epsilon=layer.epsilon)]


def _rms_norm(layer: Any, path: str, shape: Sequence[int]) -> list[v.NetStep]:
    only(layer, reduction_axes=-1, feature_axes=-1, use_scale=True)
    return [v.RmsNorm(path=path, epsilon=layer.epsilon)]


#: Class of flax.linen -> how it is read.
LAYERS: Mapping[str, LayerReader] = {
    "Dense": lambda layer, path, shape: [v.Linear(path=path)],
    "Embed": lambda layer, path, shape: [v.Embedding(path=path)],
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "BatchNorm": _batch_norm,
    "LayerNorm": _layer_norm,
    "GroupNorm": _group_norm,
    "InstanceNorm": _instance_norm,
    "RMSNorm": _rms_norm,
    "PReLU": lambda layer, path, shape: [v.Prelu(path=path)],
    "Dropout": lambda layer, path, shape: [v.Dropout(rate=layer.rate)],
}
