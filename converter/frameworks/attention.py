"""Multi-head attention is four linear layers below one path, named alike whatever the framework calls them.

So a net's own attention, made of four dense layers, fits that of any framework; and only who keeps the
heads apart in the shapes (Keras, Flax) has to know their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from converter.layers import Layer

#: The projections of an attention, in the order in which PyTorch stacks them.
ATTENTION = ("query", "key", "value", "output")


def attentions(layers: Sequence[Layer]) -> Mapping[str, Mapping[str, Layer]]:
    """Path of each attention -> its four layers, where at least one is known to be split into heads."""
    groups: dict[str, dict[str, Layer]] = {}
    for layer in layers:
        path, _, name = layer.path.rpartition(".")
        if name in ATTENTION:
            groups.setdefault(path, {})[name] = layer
    return {
        path: {name: found[name] for name in ATTENTION}
        for path, found in groups.items()
        if found.keys() == set(ATTENTION)
        and all(any(reading.kind == "linear" for reading in layer.readings) for layer in found.values())
        and any("heads" in reading.form for layer in found.values() for reading in layer.readings)
    }


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
