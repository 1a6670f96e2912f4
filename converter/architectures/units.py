"""The steps of one net with all sizes known.

What passes is described as in PyTorch, without the batch: channels first in space, features last behind time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from converter.architectures import vocabulary as v
from converter.architectures.document import Input
from converter.errors import ConversionError

#: Of `Shape.flattened`, where the channels are not known.
UNKNOWN = -1
#: Path of a layer -> role -> shape, in neutral axes.
Shapes: TypeAlias = Mapping[str, Mapping[str, tuple[int, ...]]]


class Shape(msgspec.Struct, frozen=True):
    """What passes between steps. dims: None for a size that is not known.

    space: whether the first axis are channels and the others space; else the last are features. None where both can
    be: of an input, nothing but its sizes is said. flattened: the channels of what was flattened into the
    features; 0 where all frameworks have these in the same order, None where nothing was flattened.
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
    """A step with its sizes. given, gives: what it takes and makes; None as long as nothing is known of it.

    inputs, outputs: channels or features; rows: of an embedding. kernel: of a convolution. roles: of its tensors.
    activation: of the layer itself, where its framework has layers that end in one.
    """

    step: Any
    given: Shape | None
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
        known = self.given if self.given is not None else self.output_shape
        return len(self.kernel) or (len(known.dims) - 1 if known is not None and known.space is not False else 0)


class Fork(msgspec.Struct, frozen=True):
    """Several rows that take the same. joined: ``add`` or ``concat``."""

    step: v.Residual | v.Concat
    branches: tuple[Row, ...]
    output_shape: Shape | None

    @property
    def joined(self) -> str:
        return "concat" if isinstance(self.step, v.Concat) else "add"

    @property
    def last(self) -> bool:
        """Whether what is put side by side are features, behind all other axes."""
        return self.output_shape is not None and self.output_shape.space is False


Row: TypeAlias = "tuple[Unit | Fork, ...]"


class Units(msgspec.Struct, frozen=True):
    """The units of a net. input: the sizes that it takes, as far as they are known."""

    row: Row
    input: Input

    @property
    def takes_numbers(self) -> bool:
        """Whether the input are whole numbers, for an embedding."""
        first = next(units_in(self.row), None)
        return first is not None and isinstance(first.step, v.Embedding)

    def input_of(self, channels_last: bool) -> Input:
        """The input as a framework takes it, the batch left out."""
        return (*self.input[1:], *self.input[:1]) if channels_last and self._takes_space else self.input

    @property
    def _takes_space(self) -> bool:
        """Whether the input are channels in space, as the first step tells that is not the same for all."""
        for unit in units_in(self.row) if len(self.input) > 1 else ():
            if isinstance(unit.step, v.Flatten):
                return len(self.input) > 2
            if unit.given is not None and unit.given.space is not None:
                return unit.given.space
        return False


def per_axis(value: int | tuple[int, ...], axes: Sequence[object]) -> tuple[int, ...]:
    """A number for each axis. Raises ConversionError for a list of another length."""
    found = (value,) * len(axes) if isinstance(value, int) else value
    if len(found) != len(axes):
        raise ConversionError(f"{list(found)} is for {len(found)} axes of space, and there are {len(axes)}")
    return found


def axes(value: int | tuple[int, ...]) -> int | tuple[int, ...]:
    """One number where all axes have the same."""
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


def first_shape(row: Row) -> Shape | None:
    """What a row takes, as its first layer tells it."""
    for unit in row:
        if isinstance(unit, Unit) and unit.given is not None:
            return unit.given
        if isinstance(unit, Fork):
            return next((shape for branch in unit.branches if (shape := first_shape(branch))), None)
    return None


def units_in(row: Iterable[Unit | Fork]) -> Iterator[Unit]:
    """Every unit, those of branches too."""
    for step in row:
        if isinstance(step, Unit):
            yield step
        else:
            for branch in step.branches:
                yield from units_in(branch)
