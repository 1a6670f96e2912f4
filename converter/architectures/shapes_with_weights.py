"""The shapes of layers with weights: from the weights, or else from the options of the step and its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from converter.architectures import vocabulary as v
from converter.architectures.shapes_without_weights import fits, sequence, spatial, windows
from converter.architectures.units import Shape, Unit, per_axis
from converter.architectures.vocabulary import kind_of, label
from converter.errors import ConversionError


class SizeSource(msgspec.Struct, frozen=True):
    """Where the sizes of a layer come from: its weights, or without them the options of the step."""

    step: Any
    weights: Mapping[str, tuple[int, ...]] | None

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self.weights or {}

    def size(self, role: str, axis: int, option: str = "out") -> int:
        if self.weights is not None:
            return self.shape(role)[axis]
        size = getattr(self.step, option)
        if size is None:
            raise ConversionError(
                f"{label(self.step)}: its size is unknown: there are no weights, and `{option}` is not set"
            )
        return int(size)

    def shape(self, role: str) -> tuple[int, ...]:
        if role not in self.shapes:
            raise ConversionError(
                f"'{self.step.path}' is a {kind_of(self.step)} in the architecture, but its weights have no {role} "
                f"({', '.join(self.shapes) or 'none'})"
            )
        return self.shapes[role]


def optional_roles(step: v.NetStep) -> frozenset[str]:
    """The optional roles of a layer without weights."""
    return frozenset(role for role in ("bias", "scale", "offset") if getattr(step, role, True))


def _linear(step: v.Linear, shape: Shape | None, source: SizeSource) -> Unit:
    outputs = source.size("weight", 0)
    if shape is not None and shape.space:
        raise ConversionError(
            f"'{step.path}' is linear and gets {shape}, with spatial axes: a flatten is missing before it"
        )
    inputs = source.shape("weight")[1] if source.weights is not None else _known(step, shape)
    fits(step, inputs, shape)
    dims = (*shape.dims[:-1], outputs) if shape is not None else (outputs,)
    accepted = replace(shape, space=False) if shape else Shape((inputs,), False)
    return Unit(step, accepted, Shape(dims, False), inputs, outputs)


def _embedding(step: v.Embedding, shape: Shape | None, source: SizeSource) -> Unit:
    rows, outputs = source.size("weight", 0, "num"), source.size("weight", 1)
    dims = (*(shape.dims if shape is not None else (None,)), outputs)
    return Unit(step, shape, Shape(dims, False), None, outputs, rows=rows)


def _conv(step: v.Conv, shape: Shape | None, source: SizeSource) -> Unit:
    outputs, kernel = source.size("weight", 0), _kernel(step, shape, source)
    if source.weights is not None:
        width = source.shape("weight")[1]
        known = shape.dims[0] if shape is not None and shape.dims[0] is not None else width
        inputs = width * step.groups if isinstance(step.groups, int) else known
        groups = inputs // width
    else:
        inputs, groups = _known(step, shape), step.groups if isinstance(step.groups, int) else 1
    accepted = spatial(step, shape, len(kernel), inputs)
    if inputs % groups or outputs % groups or (source.weights is not None and inputs != groups * width):
        raise ConversionError(
            f"'{step.path}': {inputs} input and {outputs} output channels do not divide into {groups} groups"
        )
    reach = [d * (k - 1) for d, k in zip(per_axis(step.dilation, kernel), kernel, strict=True)]
    space = windows(step, accepted.dims[1:], [size + 1 for size in reach])
    return Unit(step, accepted, Shape((outputs, *space), True), inputs, outputs, kernel, groups)


def _conv_transpose(step: v.ConvTranspose, shape: Shape | None, source: SizeSource) -> Unit:
    kernel = _kernel(step, shape, source)
    inputs = source.shape("weight")[0] if source.weights is not None else _known(step, shape)
    accepted = spatial(step, shape, len(kernel), inputs)
    each = zip(
        accepted.dims[1:],
        kernel,
        *(per_axis(option, kernel) for option in (step.stride, step.padding, step.output_padding)),
        strict=True,
    )
    space = (None if size is None else (size - 1) * s + k - 2 * p + o for size, k, s, p, o in each)
    outputs = source.size("weight", 1)
    return Unit(step, accepted, Shape((outputs, *space), True), inputs, outputs, kernel)


def _channel_norm(step: v.WithWeights, shape: Shape | None, source: SizeSource) -> Unit:
    """A norm over channels, which for features are the last axis."""
    role = next((role for role in ("mean", "scale", "offset") if role in source.shapes), None)
    width = source.shapes[role][0] if role else _known(step, shape)
    if shape is not None and shape.space is False and (len(shape.dims) > 1 or not isinstance(step, v.BatchNorm)):
        raise ConversionError(f"{label(step)} takes channels with spatial axes, not a sequence of features")
    if shape is not None and shape.flattened:
        raise ConversionError(f"{label(step)} stands between a flatten and a linear layer")
    accepted = replace(shape, space=len(shape.dims) > 1) if shape is not None else None
    fits(step, width, accepted)
    if accepted is not None:
        accepted = replace(accepted, dims=(width, *accepted.dims[1:]))
    if isinstance(step, v.GroupNorm) and width % step.groups:
        raise ConversionError(f"'{step.path}': {width} channels do not divide into {step.groups} groups")
    return Unit(step, accepted, accepted, width, width)


def _feature_norm(step: v.WithWeights, shape: Shape | None, source: SizeSource) -> Unit:
    width = source.size("scale", 0) if source.weights is not None else _known(step, shape)
    if shape is not None and shape.space:
        raise ConversionError(f"{label(step)} takes features, not channels with spatial axes")
    if shape is not None and shape.flattened:
        raise ConversionError(f"{label(step)} stands between a flatten and a linear layer")
    fits(step, width, shape)
    accepted = Shape((*shape.dims[:-1], width), False) if shape is not None else Shape((width,), False)
    return Unit(step, accepted, accepted, width, width)


def _prelu(step: v.Prelu, shape: Shape | None, source: SizeSource) -> Unit:
    count = source.size("slope", 0)
    if count > 1:
        fits(step, count, shape)
    return Unit(step, shape, shape, count, count)


def _recurrent(step: v.Rnn | v.Lstm | v.Gru, shape: Shape | None, source: SizeSource) -> Unit:
    if source.weights is not None:
        inputs, units = source.shape("input_weight")[1], source.shape("recurrent_weight")[1]
    else:
        inputs, units = _known(step, shape), source.size("", 0)
    accepted = sequence(step, shape, inputs)
    return Unit(step, accepted, Shape((accepted.dims[0], units), False), inputs, units)


def _attention(step: v.Attention, shape: Shape | None, source: SizeSource) -> Unit:
    if source.weights is not None:
        width, inputs = source.shape("weight")
    else:
        width = inputs = _known(step, shape)
    if width != inputs or width % step.heads:
        raise ConversionError(f"'{step.path}': an attention from {inputs} to {width} features in {step.heads} heads")
    accepted = sequence(step, shape, inputs)
    return Unit(step, accepted, accepted, inputs, width)


WITH_WEIGHTS: Mapping[type[v.NetStep], Callable[[Any, Shape | None, SizeSource], Unit]] = {
    v.Linear: _linear,
    v.Embedding: _embedding,
    v.Conv: _conv,
    v.ConvTranspose: _conv_transpose,
    v.BatchNorm: _channel_norm,
    v.GroupNorm: _channel_norm,
    v.InstanceNorm: _channel_norm,
    v.LayerNorm: _feature_norm,
    v.RmsNorm: _feature_norm,
    v.Prelu: _prelu,
    v.Rnn: _recurrent,
    v.Lstm: _recurrent,
    v.Gru: _recurrent,
    v.Attention: _attention,
}


def _kernel(step: v.Conv | v.ConvTranspose, shape: Shape | None, source: SizeSource) -> tuple[int, ...]:
    if source.weights is not None:
        return source.shape("weight")[2:]
    if step.kernel is None:
        raise ConversionError(f"{label(step)}: its size is unknown: there are no weights, and `kernel` is not set")
    if isinstance(step.kernel, int) and shape is None:
        raise ConversionError(f"'{step.path}': the number of spatial axes is unknown: give the sizes of the input")
    return per_axis(step.kernel, shape.dims[1:] if shape is not None else step.kernel)  # type: ignore[arg-type]


def _known(step: Any, shape: Shape | None) -> int:
    """The channels or features of the input."""
    size = shape.dims[0 if isinstance(step, _IN_SPACE) else -1] if shape is not None else None
    if size is None:
        raise ConversionError(f"{label(step)}: the sizes of the input are unknown: give them")
    return size


_IN_SPACE = (v.Conv, v.ConvTranspose, v.BatchNorm, v.GroupNorm, v.InstanceNorm)
