"""What passes through a step without weights, and what a step may take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from converter.architectures import vocabulary as v
from converter.architectures.units import UNKNOWN, Shape, per_axis
from converter.architectures.vocabulary import kind_of
from converter.errors import ConversionError


class OtherSizeError(ConversionError):
    """The weights are of a net for inputs of another size."""


def same(step: v.NetStep, given: Shape | None) -> Shape | None:
    return given


def _pool(step: v.MaxPool | v.AveragePool, given: Shape | None) -> Shape:
    taken = in_space(step, given)
    space = taken.dims[1:]
    if any(2 * p > k for p, k in zip(per_axis(step.padding, space), per_axis(step.size, space), strict=True)):
        raise ConversionError(f"{kind_of(step)}: a padding of {step.padding} is more than half of {step.size}")
    return Shape((taken.dims[0], *windows(step, space, per_axis(step.size, space))), True)


def _global_pool(step: v.NetStep, given: Shape | None) -> Shape:
    taken = in_space(step, given)
    return Shape((taken.dims[0], *(1 for _ in taken.dims[1:])), True)


def _flatten(step: v.Flatten, given: Shape | None) -> Shape:
    if given is None:
        return Shape((None,), False, UNKNOWN)
    features = None if None in given.dims else math.prod(size or 0 for size in given.dims)
    in_space = given.space or (given.space is None and len(given.dims) > 2)
    places = given.dims[1:]
    if not in_space or all(size == 1 for size in places):
        return Shape((features,), False, given.flattened or 0)
    channels = given.dims[0]
    return Shape((features,), False, UNKNOWN if channels is None else channels if channels > 1 else 0)


def _padded(step: v.ZeroPad, given: Shape | None) -> Shape:
    taken = in_space(step, given)
    if len(step.padding) != len(taken.dims) - 1:
        raise ConversionError(f"zero_pad: {len(step.padding)} pairs of padding for {len(taken.dims) - 1} axes of space")
    pairs = zip(taken.dims[1:], step.padding, strict=True)
    return Shape((taken.dims[0], *(None if size is None else size + a + b for size, (a, b) in pairs)), True)


def _softmax(step: v.Softmax, given: Shape | None) -> Shape | None:
    if given is not None and given.space is None and len(given.dims) > 1:
        raise ConversionError("softmax: whether it is over channels or features must be known from a layer before it")
    return given


def _last(step: v.Last, given: Shape | None) -> Shape:
    taken = sequence(step, given, given.dims[-1] if given is not None else None)
    return Shape((taken.dims[-1],), False)


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


def fits(step: Any, width: int, given: Shape | None) -> None:
    if given is None or given.width in (None, width):
        return
    message = f"'{step.path}' ({kind_of(step)}) is for {width} channels or features, and gets {given}"
    if given.flattened is not None or given.space is None:
        raise OtherSizeError(f"{message}: the input has another size")
    raise ConversionError(message)


def spatial(step: Any, given: Shape | None, space: int, channels: int) -> Shape:
    if not space:
        raise ConversionError(f"'{step.path}' ({kind_of(step)}) takes channels in space, and gets {given}")
    if given is None:
        return Shape((channels, *(None,) * space), True)
    if given.space is False or len(given.dims) != space + 1:
        raise ConversionError(f"'{step.path}' ({kind_of(step)}) is over {space} axes of space, and gets {given}")
    if given.dims[0] not in (None, channels):
        problem = f"'{step.path}' ({kind_of(step)}) takes {channels} channels, and gets {given}"
        raise (OtherSizeError if given.space is None else ConversionError)(problem)
    return Shape((channels, *given.dims[1:]), True)


def in_space(step: v.NetStep, given: Shape | None) -> Shape:
    if given is None:
        raise ConversionError(f"{kind_of(step)}: the input must say how many axes of space there are")
    if given.space is False or len(given.dims) < 2:
        raise ConversionError(f"{kind_of(step)} takes channels in space, and gets {given}")
    return replace(given, space=True)


def sequence(step: Any, given: Shape | None, width: int | None) -> Shape:
    if given is None:
        return Shape((None, width), False)
    if given.space or len(given.dims) != 2 or given.dims[1] not in (None, width):
        raise ConversionError(f"{kind_of(step)} takes {width or 'features'} behind time, and gets {given}")
    return Shape((given.dims[0], width), False)


def windows(step: Any, space: Sequence[int | None], windows: Sequence[int]) -> tuple[int | None, ...]:
    """How many places windows of these sizes have."""
    strides = per_axis(step.stride if step.stride is not None else tuple(windows), space)
    found: list[int | None] = []
    for size, window, stride, padding in zip(space, windows, strides, per_axis(step.padding, space), strict=True):
        count = None if size is None else (size + 2 * padding - window) // stride + 1
        if count is not None and count < 1:
            raise OtherSizeError(f"{kind_of(step)} over {window} does not fit into {size}: the input is too small")
        found.append(count)
    return tuple(found)
