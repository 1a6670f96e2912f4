"""The sizes of a layer with weights: from these, or else from the step itself and from what passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from converter.architectures import vocabulary as v
from converter.architectures.shapes_without_weights import fits, sequence, spatial, windows
from converter.architectures.units import Shape, Unit, per_axis
from converter.architectures.vocabulary import kind_of
from converter.errors import ConversionError


class SizeSource(msgspec.Struct, frozen=True):
    """What weights, or else the step, tell of the sizes of a layer."""

    step: Any
    weights: Mapping[str, tuple[int, ...]] | None

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self.weights or {}

    def size(self, role: str, axis: int, option: str = "out") -> int:
        if self.weights is not None:
            return self.shape(role)[axis]
        said = getattr(self.step, option)
        if said is None:
            raise ConversionError(
                f"'{self.step.path}' ({kind_of(self.step)}): no weights and no `{option}` say its size"
            )
        return int(said)

    def shape(self, role: str) -> tuple[int, ...]:
        if role not in self.shapes:
            raise ConversionError(
                f"'{self.step.path}' is {kind_of(self.step)} in the architecture, but its weights have no {role} "
                f"({', '.join(self.shapes) or 'none at all'})"
            )
        return self.shapes[role]


def optional_roles(step: v.NetStep) -> frozenset[str]:
    """The optional roles of a layer without weights."""
    return frozenset(role for role in ("bias", "scale", "offset") if getattr(step, role, True))


def _linear(step: v.Linear, given: Shape | None, source: SizeSource) -> Unit:
    outputs = source.size("weight", 0)
    if given is not None and given.space:
        raise ConversionError(f"'{step.path}' is linear and takes {given}: channels in space, which need a flatten")
    inputs = source.shape("weight")[1] if source.weights is not None else _known(step, given)
    fits(step, inputs, given)
    dims = (*given.dims[:-1], outputs) if given is not None else (outputs,)
    taken = replace(given, space=False) if given else Shape((inputs,), False)
    return Unit(step, taken, Shape(dims, False), inputs, outputs)


def _embedding(step: v.Embedding, given: Shape | None, source: SizeSource) -> Unit:
    rows, outputs = source.size("weight", 0, "num"), source.size("weight", 1)
    dims = (*(given.dims if given is not None else (None,)), outputs)
    return Unit(step, given, Shape(dims, False), None, outputs, rows=rows)


def _conv(step: v.Conv, given: Shape | None, source: SizeSource) -> Unit:
    outputs, kernel = source.size("weight", 0), _kernel(step, given, source)
    if source.weights is not None:
        width = source.shape("weight")[1]
        known = given.dims[0] if given is not None and given.dims[0] is not None else width
        inputs = width * step.groups if isinstance(step.groups, int) else known
        groups = inputs // width
    else:
        inputs, groups = _known(step, given), step.groups if isinstance(step.groups, int) else 1
    taken = spatial(step, given, len(kernel), inputs)
    if inputs % groups or outputs % groups or (source.weights is not None and inputs != groups * width):
        raise ConversionError(f"'{step.path}': {inputs} channels in and {outputs} out are not of {groups} groups")
    reach = [d * (k - 1) for d, k in zip(per_axis(step.dilation, kernel), kernel, strict=True)]
    space = windows(step, taken.dims[1:], [size + 1 for size in reach])
    return Unit(step, taken, Shape((outputs, *space), True), inputs, outputs, kernel, groups)


def _conv_transpose(step: v.ConvTranspose, given: Shape | None, source: SizeSource) -> Unit:
    kernel = _kernel(step, given, source)
    inputs = source.shape("weight")[0] if source.weights is not None else _known(step, given)
    taken = spatial(step, given, len(kernel), inputs)
    each = zip(
        taken.dims[1:],
        kernel,
        *(per_axis(option, kernel) for option in (step.stride, step.padding, step.output_padding)),
        strict=True,
    )
    space = (None if size is None else (size - 1) * s + k - 2 * p + o for size, k, s, p, o in each)
    outputs = source.size("weight", 1)
    return Unit(step, taken, Shape((outputs, *space), True), inputs, outputs, kernel)


def _channel_norm(step: v.WithWeights, given: Shape | None, source: SizeSource) -> Unit:
    """Over channels; of features, those are the channels."""
    role = next((role for role in ("mean", "scale", "offset") if role in source.shapes), None)
    width = source.shapes[role][0] if role else _known(step, given)
    if given is not None and given.space is False and (len(given.dims) > 1 or not isinstance(step, v.BatchNorm)):
        raise ConversionError(f"'{step.path}' ({kind_of(step)}) takes channels in space, not features behind time")
    if given is not None and given.flattened:
        raise ConversionError(f"'{step.path}' ({kind_of(step)}) stands between a flatten and a linear layer")
    taken = replace(given, space=len(given.dims) > 1) if given is not None else None
    fits(step, width, taken)
    if taken is not None:
        taken = replace(taken, dims=(width, *taken.dims[1:]))
    if isinstance(step, v.GroupNorm) and width % step.groups:
        raise ConversionError(f"'{step.path}': {width} channels are not of {step.groups} groups")
    return Unit(step, taken, taken, width, width)


def _feature_norm(step: v.WithWeights, given: Shape | None, source: SizeSource) -> Unit:
    width = source.size("scale", 0) if source.weights is not None else _known(step, given)
    if given is not None and given.space:
        raise ConversionError(f"'{step.path}' ({kind_of(step)}) takes features, not channels in space")
    if given is not None and given.flattened:
        raise ConversionError(f"'{step.path}' ({kind_of(step)}) stands between a flatten and a linear layer")
    fits(step, width, given)
    taken = Shape((*given.dims[:-1], width), False) if given is not None else Shape((width,), False)
    return Unit(step, taken, taken, width, width)


def _prelu(step: v.Prelu, given: Shape | None, source: SizeSource) -> Unit:
    count = source.size("slope", 0)
    if count > 1:
        fits(step, count, given)
    return Unit(step, given, given, count, count)


def _recurrent(step: v.Rnn | v.Lstm | v.Gru, given: Shape | None, source: SizeSource) -> Unit:
    if source.weights is not None:
        inputs, units = source.shape("input_weight")[1], source.shape("recurrent_weight")[1]
    else:
        inputs, units = _known(step, given), source.size("", 0)
    taken = sequence(step, given, inputs)
    return Unit(step, taken, Shape((taken.dims[0], units), False), inputs, units)


def _attention(step: v.Attention, given: Shape | None, source: SizeSource) -> Unit:
    if source.weights is not None:
        width, inputs = source.shape("weight")
    else:
        width = inputs = _known(step, given)
    if width != inputs or width % step.heads:
        raise ConversionError(f"'{step.path}': an attention of {inputs} features to {width}, with {step.heads} heads")
    taken = sequence(step, given, inputs)
    return Unit(step, taken, taken, inputs, width)


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


def _kernel(step: v.Conv | v.ConvTranspose, given: Shape | None, source: SizeSource) -> tuple[int, ...]:
    if source.weights is not None:
        return source.shape("weight")[2:]
    if step.kernel is None:
        raise ConversionError(f"'{step.path}' ({kind_of(step)}): no weights and no `kernel` say its size")
    if isinstance(step.kernel, int) and given is None:
        raise ConversionError(f"'{step.path}': the input must say how many axes of space there are")
    return per_axis(step.kernel, given.dims[1:] if given is not None else step.kernel)  # type: ignore[arg-type]


def _known(step: Any, given: Shape | None) -> int:
    """The channels or features that come in."""
    size = given.dims[0 if isinstance(step, _IN_SPACE) else -1] if given is not None else None
    if size is None:
        raise ConversionError(f"'{step.path}' ({kind_of(step)}): the sizes of the input must be given")
    return size


_IN_SPACE = (v.Conv, v.ConvTranspose, v.BatchNorm, v.GroupNorm, v.InstanceNorm)
