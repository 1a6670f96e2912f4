"""A schema for one net: what it counts, and how many channels are flattened, is known only when the net is."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import structs
from msgspec.structs import replace

from converter.core.layers import Layer, Net, sizes_of
from converter.core.natural_order import natural_key
from converter.core.patterns import counted, fill, letters
from converter.matching.hints import Hints, narrowed
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
    return {path: found for path, found in names.items() if found}


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
        layers.append(structs.replace(entry, path=counted(entry.path, numbers), names=names, flatten=channels))
    return structs.replace(schema, layers=tuple(layers))


def _channels(entry: SchemaLayer, net: Net) -> int | None:
    """The outputs of the last layer that the entry stands for. None where the net has no such layer."""
    found = {
        natural_key(fill(entry.path, indices)): narrowed(layer, entry.kind) for indices, layer in entry.found_in(net)
    }
    last = found[max(found)] if found else None
    return sizes_of(last).outputs if last and last.readings else None
