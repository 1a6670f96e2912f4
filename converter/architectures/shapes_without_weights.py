"""The shapes of steps without weights, and the checks of what a step accepts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from converter.architectures import vocabulary as v
from converter.architectures.units import UNKNOWN, Shape, per_axis
from converter.architectures.vocabulary import label
from converter.errors import ConversionError


class OtherSizeError(ConversionError):
    """The weights belong to a net for inputs of another size."""


def same(step: v.NetStep, shape: Shape | None) -> Shape | None:
    return shape


def _pool(step: v.MaxPool | v.AveragePool, shape: Shape | None) -> Shape:
    accepted = in_space(step, shape)
    space = accepted.dims[1:]
    if any(2 * p > k for p, k in zip(per_axis(step.padding, space), per_axis(step.size, space), strict=True)):
        raise ConversionError(f"{label(step)}: a padding of {step.padding} is more than half of {step.size}")
    return Shape((accepted.dims[0], *windows(step, space, per_axis(step.size, space))), True)


def _global_pool(step: v.NetStep, shape: Shape | None) -> Shape:
    accepted = in_space(step, shape)
    return Shape((accepted.dims[0], *(1 for _ in accepted.dims[1:])), True)


def _flatten(step: v.Flatten, shape: Shape | None) -> Shape:
    if shape is None:
        return Shape((None,), False, UNKNOWN)
    features = None if None in shape.dims else math.prod(size or 0 for size in shape.dims)
    in_space = shape.space or (shape.space is None and len(shape.dims) > 2)
    positions = shape.dims[1:]
    if not in_space or all(size == 1 for size in positions):
        return Shape((features,), False, shape.flattened or 0)
    channels = shape.dims[0]
    return Shape((features,), False, UNKNOWN if channels is None else channels if channels > 1 else 0)


def _padded(step: v.ZeroPad, shape: Shape | None) -> Shape:
    accepted = in_space(step, shape)
    if len(step.padding) != len(accepted.dims) - 1:
        raise ConversionError(
            f"zero_pad: {len(step.padding)} pairs of padding for {len(accepted.dims) - 1} spatial axes"
        )
    pairs = zip(accepted.dims[1:], step.padding, strict=True)
    return Shape((accepted.dims[0], *(None if size is None else size + a + b for size, (a, b) in pairs)), True)


def _softmax(step: v.Softmax, shape: Shape | None) -> Shape | None:
    if shape is not None and shape.space is None and len(shape.dims) > 1:
        raise ConversionError("softmax: no layer before it shows whether it is over channels or features")
    return shape


def _last(step: v.Last, shape: Shape | None) -> Shape:
    accepted = sequence(step, shape, shape.dims[-1] if shape is not None else None)
    return Shape((accepted.dims[-1],), False)


WITHOUT_WEIGHTS: Mapping[type[v.NetStep], Callable[[Any, Shape | None], Shape | None]] = {
    v.MaxPool: _pool,
    v.AveragePool: _pool,
    v.GlobalMaxPool: _global_pool,
    v.GlobalAveragePool: _global_pool,
    v.Flatten: _flatten,
    v.ZeroPad: _padded,
    v.Softmax: _softmax,
    v.Last: _last,
    v.Dropout: same,
}


def fits(step: Any, width: int, shape: Shape | None) -> None:
    if shape is None or shape.width in (None, width):
        return
    message = f"{label(step)} is for {width} channels or features, and gets {shape}"
    if shape.flattened is not None or shape.space is None:
        raise OtherSizeError(f"{message}: the input has another size")
    raise ConversionError(message)


def spatial(step: Any, shape: Shape | None, space: int, channels: int) -> Shape:
    if not space:
        raise ConversionError(f"{label(step)} takes channels with spatial axes, and gets {shape}")
    if shape is None:
        return Shape((channels, *(None,) * space), True)
    if shape.space is False or len(shape.dims) != space + 1:
        raise ConversionError(f"{label(step)} has {space} spatial axes, and gets {shape}")
    if shape.dims[0] not in (None, channels):
        problem = f"{label(step)} takes {channels} channels, and gets {shape}"
        raise (OtherSizeError if shape.space is None else ConversionError)(problem)
    return Shape((channels, *shape.dims[1:]), True)


def in_space(step: v.NetStep, shape: Shape | None) -> Shape:
    if shape is None:
        raise ConversionError(f"{label(step)}: the number of spatial axes is unknown: give the sizes of the input")
    if shape.space is False or len(shape.dims) < 2:
        raise ConversionError(f"{label(step)} takes channels with spatial axes, and gets {shape}")
    return replace(shape, space=True)


def sequence(step: Any, shape: Shape | None, width: int | None) -> Shape:
    if shape is None:
        return Shape((None, width), False)
    if shape.space or len(shape.dims) != 2 or shape.dims[1] not in (None, width):
        raise ConversionError(f"{label(step)} takes (time, {width or 'features'}), and gets {shape}")
    return Shape((shape.dims[0], width), False)


def windows(step: Any, space: Sequence[int | None], windows: Sequence[int]) -> tuple[int | None, ...]:
    """The number of positions of windows of these sizes."""
    strides = per_axis(step.stride if step.stride is not None else tuple(windows), space)
    counts: list[int | None] = []
    for size, window, stride, padding in zip(space, windows, strides, per_axis(step.padding, space), strict=True):
        count = None if size is None else (size + 2 * padding - window) // stride + 1
        if count is not None and count < 1:
            raise OtherSizeError(f"{label(step)} over {window} does not fit into {size}: the input is too small")
        counts.append(count)
    return tuple(counts)
