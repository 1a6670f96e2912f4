"""Multi-head attention is four linear layers below one path, named alike whatever the framework calls them.

So a net's own attention, made of four dense layers, fits that of any framework; and only who keeps the
heads apart in the shapes (Keras, Flax) has to know their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from converter.core.layers import Layer

#: The projections of an attention, in the order in which PyTorch stacks them.
ATTENTION = ("query", "key", "value", "output")


def attentions(layers: Sequence[Layer]) -> Mapping[str, Mapping[str, Layer]]:
    """Path of each attention -> its four layers, where at least one is known to be split into heads."""
    return {
        path: four
        for path, four in _fours(layers).items()
        if any("heads" in reading.form for layer in four.values() for reading in layer.readings)
    }


def with_projections(layers: Sequence[Layer]) -> list[Layer]:
    """The layers, in which four linear ones are an attention where the number of its heads was given."""
    formed = {
        layer.path: "from_heads" if name == "output" else "to_heads"
        for four in _fours(layers).values()
        if any("heads" in dict(reading.sizes) for layer in four.values() for reading in layer.readings)
        for name, layer in four.items()
    }
    return [_formed(layer, formed[layer.path]) if layer.path in formed else layer for layer in layers]


def _formed(layer: Layer, form: str) -> Layer:
    linear = (replace(reading, form=form) for reading in layer.readings if reading.kind == "linear")
    return replace(layer, readings=tuple(linear))


def _fours(layers: Sequence[Layer]) -> Mapping[str, Mapping[str, Layer]]:
    """Path -> the four linear layers below it that are named as those of an attention."""
    groups: dict[str, dict[str, Layer]] = {}
    for layer in layers:
        path, _, name = layer.path.rpartition(".")
        if name in ATTENTION and any(reading.kind == "linear" for reading in layer.readings):
            groups.setdefault(path, {})[name] = layer
    return {path: {name: found[name] for name in ATTENTION} for path, found in groups.items() if len(found) == 4}


def widths(layer: Layer) -> tuple[int, int] | None:
    """How many numbers a projection makes, and of how many; None where its tensors do not tell."""
    for reading in layer.readings:
        for role, (stored, _) in reading.roles.items():
            shape = stored.neutral_shape() if reading.kind == "linear" and role == {"weight"} else None
            if shape is not None and len(shape) == 2:
                return shape[0], shape[1]
    return None


def has_bias(layer: Layer) -> bool:
    return any("bias" in role for reading in layer.readings for role in reading.roles)


def shares_heads(names: Mapping[str, Layer]) -> bool:
    """Whether several heads of queries use one of keys (grouped-query attention)."""
    query, key = (dict(names[name].readings[0].sizes).get("heads") for name in ("query", "key"))
    return query != key
