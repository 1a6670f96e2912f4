"""The steps of one net with all sizes known.

Shapes are those of PyTorch without the batch: channels before spatial axes, or features after time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from converter.architectures import vocabulary as v
from converter.architectures.document import Input
from converter.errors import ConversionError

#: Value of `Shape.flattened` where the channels are unknown.
UNKNOWN = -1
#: Path of a layer -> role -> shape, in neutral axes.
Shapes: TypeAlias = Mapping[str, Mapping[str, tuple[int, ...]]]


class Shape(msgspec.Struct, frozen=True):
    """The shape of a tensor between steps. dims: None for an unknown size.

    space: True for (channels, spatial axes), False for (time, features), None for an input that can be both.
    flattened: the channels of a tensor that was flattened into the features; 0 where the order of the features is the
    same in all frameworks, None where nothing was flattened.
    """

    dims: tuple[int | None, ...]
    space: bool | None = None
    flattened: int | None = None

    @property
    def width(self) -> int | None:
        """Channels or features."""
        return self.dims[0 if self.space or len(self.dims) == 1 else -1]

    def __str__(self) -> str:
        return " x ".join("?" if size is None else str(size) for size in self.dims)


class Unit(msgspec.Struct, frozen=True):
    """A step with its sizes. input_shape, output_shape: None while unknown.

    inputs, outputs: channels or features; rows: of an embedding. kernel: of a convolution. roles: of its tensors.
    activation: fused into the layer, in frameworks whose layers have one.
    """

    step: Any
    input_shape: Shape | None
    output_shape: Shape | None
    inputs: int | None = None
    outputs: int | None = None
    kernel: tuple[int, ...] = ()
    groups: int = 1
    rows: int | None = None
    roles: frozenset[str] = frozenset()
    activation: str = ""

    @property
    def path(self) -> str:
        return str(getattr(self.step, "path", ""))

    @property
    def space(self) -> int:
        """The number of spatial axes."""
        known = self.input_shape if self.input_shape is not None else self.output_shape
        return len(self.kernel) or (len(known.dims) - 1 if known is not None and known.space is not False else 0)


class Fork(msgspec.Struct, frozen=True):
    """Several branches of the same input. joined: ``add`` or ``concat``."""

    step: v.Residual | v.Concat
    branches: tuple[Row, ...]
    output_shape: Shape | None

    @property
    def joined(self) -> str:
        return "concat" if isinstance(self.step, v.Concat) else "add"

    @property
    def last(self) -> bool:
        """Whether the concatenated axis is the last one: features, not channels."""
        return self.output_shape is not None and self.output_shape.space is False


Row: TypeAlias = "tuple[Unit | Fork, ...]"


class Units(msgspec.Struct, frozen=True):
    """The units of a net. input: its sizes as far as they are known."""

    row: Row
    input: Input

    @property
    def takes_numbers(self) -> bool:
        """Whether the input are integers, for an embedding."""
        first = next(units_in(self.row), None)
        return first is not None and isinstance(first.step, v.Embedding)

    def input_of(self, channels_last: bool) -> Input:
        """The input as a framework takes it, without the batch."""
        return (*self.input[1:], *self.input[:1]) if channels_last and self._takes_space else self.input

    @property
    def _takes_space(self) -> bool:
        """Whether the input has spatial axes, by the first step for which that matters."""
        for unit in units_in(self.row) if len(self.input) > 1 else ():
            if isinstance(unit.step, v.Flatten):
                return len(self.input) > 2
            if unit.input_shape is not None and unit.input_shape.space is not None:
                return unit.input_shape.space
        return False


def per_axis(value: int | tuple[int, ...], axes: Sequence[object]) -> tuple[int, ...]:
    """A value for each axis. Raises ConversionError for a list of another length."""
    values = (value,) * len(axes) if isinstance(value, int) else value
    if len(values) != len(axes):
        raise ConversionError(f"{list(values)} is for {len(values)} spatial axes, and there are {len(axes)}")
    return values


def axes(value: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """One number where all axes have the same value."""
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


def first_shape(row: Row) -> Shape | None:
    """The input of a row, by its first unit whose input is known."""
    for unit in row:
        if isinstance(unit, Unit) and unit.input_shape is not None:
            return unit.input_shape
        if isinstance(unit, Fork):
            return next((shape for branch in unit.branches if (shape := first_shape(branch))), None)
    return None


def units_in(row: Iterable[Unit | Fork]) -> Iterator[Unit]:
    """Every unit, those in branches included."""
    for step in row:
        if isinstance(step, Unit):
            yield step
        else:
            for branch in step.branches:
                yield from units_in(branch)


def layers_in(row: Iterable[Unit | Fork]) -> list[str]:
    """The paths of the layers in a row."""
    return [unit.path for unit in units_in(row) if unit.path]
