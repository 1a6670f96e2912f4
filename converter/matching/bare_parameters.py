"""A tensor that belongs to no layer, though its name is that of a layer's tensor: the ``gamma`` of a layer scale.

In one framework ``ls.gamma`` is a name like any other, in the next it is the scale of a norm. Where the other net
has a bare tensor of that name it is one here, too.
"""

from __future__ import annotations

import re

from msgspec.structs import replace

from converter.core.layers import Layer, Net
from converter.frameworks.base import parameter


def as_there(net: Net, other: Net) -> Net:
    """The net with every lone vector as a bare tensor that is a bare one of the same name in the other net."""
    known = {layer.path: layer for layer in other.layers if layer.kind == "parameter"}
    layers = tuple(_bare(layer, known, net, other) for layer in net.layers) if known else net.layers
    return replace(net, layers=layers)


def _bare(layer: Layer, known: dict[str, Layer], net: Net, other: Net) -> Layer:
    stored = layer.readings[0].stored
    spec = stored[0].spec
    if layer.kind == "parameter" or len(stored) != 1 or len(spec.shape) != 1:
        return layer
    leaf = re.split(r"[./:]", re.sub(r":0$", "", spec.name))[-1]
    for path in (layer.path, ".".join(filter(None, (layer.path, leaf)))):
        there = known.get(path)
        free = path == layer.path or (path not in net.by_path and layer.path not in other.by_path)
        if there is not None and free and there.tensors[0].shape == spec.shape:
            return parameter(path, spec, stored[0].sources)
    return layer
