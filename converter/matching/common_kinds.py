"""What layers of unlike kinds have in common: a convolution of one position is linear for each of them, a table or a
matrix may be a layer or bare, as may a norm's scale without an offset, and a bare tensor may have axes of one more.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from converter.core.axes import wild_axes
from converter.core.layers import Layer, Reading, Stored

#: How a bare matrix is multiplied: nearly always from the right (``x @ w``); where its shape says so, the other way.
_MATRIX_AXES = ("in out", "out in")


def as_one_kind(one: Reading, other: Reading) -> Iterator[tuple[Reading, Reading]]:
    """Both, as the kind that they have in common; the likely way first."""
    kinds = {one.kind, other.kind}
    if kinds == {"conv", "linear"}:
        yield _as_linear(one), _as_linear(other)
    elif kinds in ({"embedding", "parameter"}, {"linear", "parameter"}):
        for axes in _MATRIX_AXES:
            yield _as_bare(one, axes), _as_bare(other, axes)
    elif kinds == {"norm", "parameter"}:  # a layer scale whose vector a net calls as norms do theirs
        yield _as_bare(one), _as_bare(other)


def is_square_and_bare(source: Layer, target: Layer) -> bool:
    """Whether one side is a linear layer, and the other a bare matrix whose shape does not tell which axis is which."""
    kinds = [{reading.kind for reading in layer.readings} for layer in (source, target)]
    if {"parameter"} not in kinds or not any("linear" in each for each in kinds):
        return False
    shape = source.tensors[0].shape
    return len(shape) == 2 and shape[0] == shape[1]


def without_ones(reading: Reading, other: Reading) -> Reading:
    """Where both are bare tensors that differ in axes of length one alone: the tensor without these."""
    shapes = [[item.spec.shape for item in side.stored] for side in (reading, other)]
    squeezed = [list(map(_squeezed, side)) for side in shapes]
    if reading.kind != "parameter" or shapes[0] == shapes[1] or squeezed[0] != squeezed[1]:
        return reading
    return reading.with_tensors(_without_axes_of_one)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _without_axes_of_one(item: Stored) -> Stored:
    axes = ["1" if size == 1 else f"axis{i}" for i, size in enumerate(item.spec.shape)]
    named = [axis for axis in axes if axis != "1"]
    numbers = {axis: f"axis{i}" for i, axis in enumerate(named)}
    written = " ".join(numbers.get(axis, axis) for axis in axes)
    return replace(item, leaf=replace(item.leaf, axes=written, neutral=" ".join(numbers.values())))


def _as_linear(reading: Reading) -> Reading:
    """A convolution of one position, which is a linear layer for each of them."""
    if reading.kind != "conv" or reading.form:
        return reading
    spatial = [wild_axes(item.leaf.axes, len(item.spec.shape)) for item in reading.stored if "+" in item.leaf.axes]
    linear = replace(reading, kind="linear", stored=tuple(_at_one_position(item) for item in reading.stored))
    return linear if spatial and all(item.neutral_shape() for item in linear.stored) else reading


def _as_bare(reading: Reading, axes: str = "") -> Reading:
    """A layer of one tensor as that alone: a scale, a table of positions, a projection without bias, whose matrix has
    this order of axes.
    """
    rank = 1 if reading.kind == "norm" else 2
    if reading.kind == "parameter" or len(reading.stored) != 1 or len(reading.stored[0].spec.shape) != rank:
        return reading
    item = reading.stored[0]
    order = axes if reading.kind == "linear" else item.leaf.neutral
    bare = replace(item, leaf=replace(item.leaf, roles=(frozenset({"value"}),), neutral=order))
    return (
        replace(reading, kind="parameter", form="", lacks=frozenset(), stored=(bare,))
        if bare.to_neutral() is not None
        else reading
    )


def _at_one_position(item: Stored) -> Stored:
    if "+" not in item.leaf.axes:
        return item
    ones = " ".join("1" * wild_axes(item.leaf.axes, len(item.spec.shape)))
    axes = item.leaf.axes.replace("~+", "+").replace("+", ones)
    return replace(item, leaf=replace(item.leaf, axes=axes, neutral=item.leaf.neutral.replace(" +", "")))
