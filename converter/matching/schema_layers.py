"""A schema for one net: its counts and flattened channels, which only the net has, and the layers of its entries."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from msgspec.structs import replace

from converter.core.layers import Layer, Net, sizes_of
from converter.core.natural_order import natural_key
from converter.core.patterns import Indices, counted, fill, indices_of, letters
from converter.errors import Problem, listed
from converter.matching.compatibility import shapes
from converter.matching.hints import Hints, narrowed, with_size
from converter.schema.loader import Schema, SchemaLayer


def for_net(hints: Hints, source: Net) -> Hints:
    """The hints, with the schema as it is for this source."""
    return replace(hints, schema=_measured(hints.schema, hints.stripped(source))) if hints.schema else hints


def spelled(schema: Schema, paths: Collection[str]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Neutral path -> framework -> what it calls the layer, where that is another name; of a net with these layers."""
    measured = _measured(schema, Net("neutral", tuple(Layer(path, ()) for path in paths)))
    names: dict[str, dict[str, tuple[str, ...]]] = {}
    for path in paths:
        entry = measured.entry("neutral", path)
        indices = entry.indices("neutral", path) if entry is not None else None
        if entry is not None and indices is not None:
            names[path] = {name: entry.spelled(name, indices) for name in sorted(entry.names)}
    return {path: others for path, others in names.items() if others}


def _measured(schema: Schema, net: Net) -> Schema:
    """With numbers in place of ``{I}``, and with channels in place of the layer whose outputs are flattened.

    A count is one more than the largest index that the net has in any name.
    """
    numbers = {letter: 0 for entry in schema.layers for letter in letters(entry.path)}
    for indices, _ in (pair for entry in schema.layers for pair in entry.found_in(net)):
        for letter, number in indices.items():
            numbers[letter] = max(numbers[letter], number + 1)
    entries = {entry.path: entry for entry in schema.layers}
    layers = []
    for entry in schema.layers:
        names = {name: tuple(counted(path, numbers) for path in paths) for name, paths in entry.names.items()}
        channels = _channels(entries[entry.flattened], net) if entry.flattened else entry.flatten
        layers.append(replace(entry, path=counted(entry.path, numbers), names=names, flatten=channels))
    return replace(schema, layers=tuple(layers))


def _channels(entry: SchemaLayer, net: Net) -> int | None:
    """The outputs of the last layer of the entry. None where the net has no such layer."""
    layers = {natural_key(fill(entry.path, indices)): layer for indices, layer in entry.found_in(net)}
    last = narrowed(layers[max(layers)], entry.kind) if layers else None
    return sizes_of(last).outputs if last and last.readings else None


class KnownLayer(msgspec.Struct, frozen=True):
    """A layer of the source that an entry of the schema describes, as a layer of its kind."""

    entry: SchemaLayer
    layer: Layer
    indices: Indices


def layers_by_entry(hints: Hints, source: Net, problems: list[Problem], optional: bool = False) -> list[KnownLayer]:
    """Every layer of the source that the schema knows, in its order; what does not fit is added to ``problems``.

    optional: whether the source may lack any of them.
    """
    known: list[KnownLayer] = []
    owner: dict[str, SchemaLayer] = {}
    for entry in hints.schema.layers if hints.schema else ():
        layers = _layers_of(entry, source)
        if not layers and not (optional or entry.optional or entry.tied or hints.may_miss(entry.path)):
            problems.append(_not_in_source(source, entry))
        for layer, indices in layers:
            other = owner.setdefault(layer.path, entry)
            if other is not entry:
                text = f"two entries of the schema match '{layer.path}': {other.path} and {entry.path}."
                problems.append(Problem(text, "schema", layer.path))
            elif not narrowed(layer, entry.kind).readings:
                problems.append(_other_kind(layer, entry))
            else:
                known.append(KnownLayer(entry, with_entry_sizes(narrowed(layer, entry.kind), entry), indices))
    return known


def _layers_of(entry: SchemaLayer, net: Net) -> list[tuple[Layer, Indices]]:
    """The layers of the net that the entry describes: by the first of its names that is there."""
    for pattern in entry.paths(net.framework):
        if not letters(pattern):
            layers = [(net.by_path[pattern], indices_of(pattern, pattern) or {})] if pattern in net.by_path else []
        else:
            named = ((layer, indices_of(pattern, layer.path)) for layer in net.layers)
            layers = [(layer, indices) for layer, indices in named if indices is not None]
        if layers:
            return layers
    return []


def with_entry_sizes(layer: Layer, entry: SchemaLayer) -> Layer:
    for axis, size in (("heads", entry.heads), ("multiplier", entry.multiplier)):
        layer = layer if size is None else with_size(layer, axis, size)
    return layer


def _not_in_source(source: Net, entry: SchemaLayer) -> Problem:
    paths = " or ".join(entry.paths(source.framework))
    text = f"the schema's layer '{entry.path}' ({paths}) is not in the source, which has {listed(source.by_path)}."
    summary = "{count} layers of the schema are not in the source."
    return Problem(text, "schema layer", entry.path, expected=paths, summary=summary)


def _other_kind(layer: Layer, entry: SchemaLayer) -> Problem:
    text = f"'{layer.path}' ({shapes(layer)}) is {layer.kind}, and the schema's layer '{entry.path}' is {entry.kind}."
    return Problem(text, "schema kind", layer.path, entry.kind, layer.kind)
