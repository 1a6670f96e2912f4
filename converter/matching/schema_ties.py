"""Tied layers of a schema: an output layer with the weights of the embedding, which some frameworks store twice.

    - {path: embedding, kind: embedding}
    - {path: output, kind: linear, tied: embedding, names: {tensorflow: [], flax: []}}

An empty list of names says that a framework does not store the layer.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from msgspec.structs import replace

from converter.core.contents import LeftOut
from converter.core.layers import Layer, Net, Reading, Stored
from converter.core.patterns import fill
from converter.errors import MatchError
from converter.matching.hints import narrowed
from converter.matching.tied import tied_to, twins
from converter.schema.loader import Schema, SchemaLayer

#: The axes of an embedding, and what they are as those of a linear layer.
_AXES = {"num": "out", "dim": "in"}


def with_ties(source: Net, schema: Schema, target: str) -> Net:
    """The source with its tied layers as the other framework stores them: left out there, or made of their twins.

    Raises MatchError for one whose weights are not those of its twin.
    """
    entries = {entry.path: entry for entry in schema.layers}
    for entry in schema.layers:
        if entry.tied:
            source = _with_tie(source, entry, entries[entry.tied], target)
    return source


def _with_tie(net: Net, entry: SchemaLayer, twin: SchemaLayer, target: str) -> Net:
    here = {layer.path: indices for indices, layer in entry.found_in(net)}
    if here and not entry.is_stored(target):
        return _without(net, here.keys(), twin)
    if not here and entry.is_stored(target):
        added = [
            Layer(fill(entry.paths(net.framework)[0], indices), tuple(_as_kind(narrowed(layer, twin.kind), entry.kind)))
            for indices, layer in twin.found_in(net)
        ]
        return replace(net, layers=(*net.layers, *added))
    return net


def _without(net: Net, paths: Container[str], twin: SchemaLayer) -> Net:
    kept = [layer for layer in net.layers if layer.path not in paths]
    known = [spec for _, layer in twin.found_in(net) for spec in layer.tensors]
    left_out, problems = [], []
    for layer in net.layers:
        if layer not in kept:
            equal = twins(layer, known, net.read)
            if equal is None:
                problems.append(f"'{layer.path}' is tied to '{twin.path}' in the schema, and has other weights")
            left_out += [LeftOut(name, tied_to(other)) for name, other in (equal or {}).items()]
    if problems:
        raise MatchError(problems)
    return replace(net, layers=tuple(kept), left_out=(*net.left_out, *left_out))


def _as_kind(layer: Layer, kind: str) -> Iterator[Reading]:
    """The weight of an embedding as that of a linear layer, and the other way round."""
    words = _AXES if kind == "linear" else {axis: other for other, axis in _AXES.items()}

    def renamed(item: Stored) -> Stored:
        axes, neutral = (
            " ".join(words.get(axis, axis) for axis in order.split()) for order in (item.leaf.axes, item.leaf.neutral)
        )
        return replace(item, leaf=replace(item.leaf, axes=axes, neutral=neutral))

    for reading in layer.readings:
        weights = [item for item in reading.stored if item.leaf.roles == (frozenset({"weight"}),)]
        if weights:
            yield Reading(kind, tuple(map(renamed, weights)))
