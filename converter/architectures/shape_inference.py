"""Shape inference: from the steps of a net to units with sizes, from the input to the output."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from converter.architectures import vocabulary as v
from converter.architectures.document import Input, layer_paths
from converter.architectures.shapes_with_weights import WITH_WEIGHTS, SizeSource, optional_roles
from converter.architectures.shapes_without_weights import WITHOUT_WEIGHTS, OtherSizeError, same
from converter.architectures.units import Fork, Row, Shape, Shapes, Unit, Units, first_shape
from converter.errors import ConversionError


def resolved(steps: Sequence[v.AnyStep], input: Input, shapes: Shapes | None, asked: bool = False) -> Units:
    """The steps with their sizes. shapes: of the weights; None for a net without weights, whose steps have the sizes.

    asked: whether the input was chosen by the user; otherwise the weights may belong to a net for another input size.
    Raises ConversionError where the steps do not fit each other or the weights.
    """
    inference = _Inference(shapes)
    for sizes in dict.fromkeys([input, (*input[:1], *(None,) * len(input[1:])), (None,) * len(input)]):
        try:
            return inference.units(steps, sizes)
        except OtherSizeError as error:
            if asked or shapes is None or not any(sizes):
                raise ConversionError(str(error)) from None
    raise AssertionError("the last attempt returns or raises")


class _Inference(msgspec.Struct, frozen=True):
    shapes: Shapes | None

    def units(self, steps: Sequence[v.AnyStep], input: Input) -> Units:
        row = self.row(steps, Shape(input) if input else None)[0]
        return Units(row, _completed_input(row, input))

    def row(self, steps: Sequence[v.AnyStep], shape: Shape | None) -> tuple[Row, Shape | None]:
        units: list[Unit | Fork] = []
        for step in steps:
            if isinstance(step, v.Residual | v.Concat):
                unit: Unit | Fork = self.fork(step, shape)
            else:
                unit = self.unit(step, shape)
                if isinstance(step, v.Linear):
                    _set_flatten(units, unit)
            units.append(unit)
            shape = unit.output_shape
        return tuple(units), shape

    def fork(self, step: v.Residual | v.Concat, shape: Shape | None) -> Fork:
        rows = step.branches if isinstance(step, v.Concat) else (step.body, step.shortcut)
        branches = [self.row(row, shape) for row in rows]  # type: ignore[arg-type]
        if shape is None:  # the first layer of one branch shows the input of all
            seen = next((first for row, _ in branches if (first := first_shape(row))), None)
            if seen is not None:  # else nothing is known better, and each level of forks would double the work
                branches = [self.row(row, seen) for row in rows]  # type: ignore[arg-type]
        outputs = [first for _, first in branches]
        joined = "concat" if isinstance(step, v.Concat) else "add"
        return Fork(step, tuple(row for row, _ in branches), _joined(joined, outputs))

    def unit(self, step: v.NetStep, shape: Shape | None) -> Unit:
        if not isinstance(step, v.WithWeights):
            make = WITHOUT_WEIGHTS.get(type(step), same)
            return Unit(step, shape, make(step, shape), inputs=shape.width if shape else None)
        source = self._source(step)
        unit = WITH_WEIGHTS[type(step)](step, shape, source)
        return replace(unit, roles=frozenset(source.shapes) if self.shapes is not None else optional_roles(step))

    def _source(self, step: v.WithWeights) -> SizeSource:
        if self.shapes is None:
            return SizeSource(step, None)
        return SizeSource(
            step, {role: shape for path in layer_paths(step)[:1] for role, shape in self.shapes[path].items()}
        )


def _joined(joined: str, shapes: Sequence[Shape | None]) -> Shape | None:
    known = [shape for shape in shapes if shape is not None]
    if not known:
        return None
    ranks = {(len(shape.dims), bool(shape.space)) for shape in known if shape.space is not None}
    if len(ranks) > 1 or any(shape.flattened for shape in known):
        raise ConversionError(f"{joined} of {' and '.join(map(str, known))}, whose shapes differ")
    axis = 0 if known[0].space is not False else len(known[0].dims) - 1
    dims: list[int | None] = []
    for i, sizes in enumerate(zip(*(shape.dims for shape in known), strict=True)):
        source = {size for size in sizes if size is not None}
        if i == axis and joined == "concat":
            dims.append(None if None in sizes or len(known) < len(shapes) else sum(size or 0 for size in sizes))
        elif len(source) > 1:
            raise ConversionError(f"{joined} of {' and '.join(map(str, known))}, whose shapes differ")
        else:
            dims.append(next(iter(source), None))
    return Shape(tuple(dims), next((shape.space for shape in known if shape.space is not None), None))


def _set_flatten(before: list[Unit | Fork], linear: Unit) -> None:
    """Set the number of features of a flatten, where only the layer after it shows it."""
    for i, unit in reversed(list(enumerate(before))):
        if not isinstance(unit, Unit) or unit.path:
            return
        if isinstance(unit.step, v.Flatten):
            before[i] = replace(unit, outputs=linear.inputs)
            return


def _completed_input(row: Row, input: Input) -> Input:
    """The input completed by that of the first layer; spatial sizes may stay unknown."""
    first = first_shape(row)
    if first is None or (input and len(input) != len(first.dims)):
        return input
    return tuple(a if a is not None else b for a, b in zip(input or (None,) * len(first.dims), first.dims, strict=True))
