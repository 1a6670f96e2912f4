"""From the steps of a net to units: what passes is followed from the input to the output."""

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
    """The steps with their sizes. shapes: of the weights; None for a net without, whose steps tell the sizes.

    asked: whether the user says the input; else weights may be of a net for inputs of other sizes. Raises
    ConversionError where the steps do not fit each other or the weights.
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
        return Units(row, _seen_input(row, input))

    def row(self, steps: Sequence[v.AnyStep], given: Shape | None) -> tuple[Row, Shape | None]:
        found: list[Unit | Fork] = []
        for step in steps:
            if isinstance(step, v.Residual | v.Concat):
                unit: Unit | Fork = self.fork(step, given)
            else:
                unit = self.unit(step, given)
                if isinstance(step, v.Linear):
                    _tell_flatten(found, unit)
            found.append(unit)
            given = unit.output_shape
        return tuple(found), given

    def fork(self, step: v.Residual | v.Concat, given: Shape | None) -> Fork:
        rows = step.branches if isinstance(step, v.Concat) else (step.body, step.shortcut)
        branches = [self.row(row, given) for row in rows]  # type: ignore[arg-type]
        if given is None:  # the first layer tells it to those beside it
            seen = next((shape for row, _ in branches if (shape := first_shape(row))), None)
            branches = [self.row(row, seen) for row in rows]  # type: ignore[arg-type]
        outputs = [shape for _, shape in branches]
        joined = "concat" if isinstance(step, v.Concat) else "add"
        return Fork(step, tuple(row for row, _ in branches), _joined(joined, outputs))

    def unit(self, step: v.NetStep, given: Shape | None) -> Unit:
        if not isinstance(step, v.WithWeights):
            make = WITHOUT_WEIGHTS.get(type(step), same)
            return Unit(step, given, make(step, given), inputs=given.width if given else None)
        source = self._source(step)
        unit = WITH_WEIGHTS[type(step)](step, given, source)
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
        raise ConversionError(f"{joined} of {' and '.join(map(str, known))}, which are not alike")
    axis = 0 if known[0].space is not False else len(known[0].dims) - 1
    dims: list[int | None] = []
    for i, sizes in enumerate(zip(*(shape.dims for shape in known), strict=True)):
        source = {size for size in sizes if size is not None}
        if i == axis and joined == "concat":
            dims.append(None if None in sizes or len(known) < len(shapes) else sum(size or 0 for size in sizes))
        elif len(source) > 1:
            raise ConversionError(f"{joined} of {' and '.join(map(str, known))}, which are not alike")
        else:
            dims.append(next(iter(source), None))
    return Shape(tuple(dims), next((shape.space for shape in known if shape.space is not None), None))


def _tell_flatten(before: list[Unit | Fork], linear: Unit) -> None:
    """How many features a flatten makes, where only the layer behind it tells."""
    for i, unit in reversed(list(enumerate(before))):
        if not isinstance(unit, Unit) or unit.path:
            return
        if isinstance(unit.step, v.Flatten):
            before[i] = replace(unit, outputs=linear.inputs)
            return


def _seen_input(row: Row, input: Input) -> Input:
    """The input with what the first layer tells of it; its sizes in space may stay open."""
    first = first_shape(row)
    if first is None or (input and len(input) != len(first.dims)):
        return input
    return tuple(a if a is not None else b for a, b in zip(input or (None,) * len(first.dims), first.dims, strict=True))
