"""The paths of layers in a file that is made without a clone: by schema, by ``map``, or as the source has them."""

from __future__ import annotations

from collections import Counter

import msgspec

from converter.core.layers import Layer, Net
from converter.errors import MatchError, Placeholder, Problem, Remedy
from converter.matching.hints import Hints
from converter.matching.matcher import MAP, SAME_NAME, SCHEMA
from converter.matching.problems import unknown_sources
from converter.matching.schema_layers import layers_by_entry


class Renaming(msgspec.Struct, frozen=True, gc=False):
    """A source layer and the path that it gets in a file made without a template."""

    source: Layer
    path: str
    reason: str


def rename(source: Net, framework_name: str, hints: Hints) -> tuple[Renaming, ...]:
    """The path of every source layer in a new file: by schema, by map, or as it is. Raises MatchError."""
    renamed: dict[str, Renaming] = {}
    problems: list[Problem] = []
    for known in layers_by_entry(hints, source, problems):
        path = known.entry.spelled(framework_name, known.indices)[0]
        renamed[known.layer.path] = Renaming(known.layer, path, SCHEMA)
    problems += unknown_sources(source, hints)
    for layer in source.layers:
        mapped = hints.mapped(layer.path)
        if mapped is not None:
            renamed[layer.path] = Renaming(layer, mapped, MAP)
        else:
            renamed.setdefault(layer.path, Renaming(layer, layer.path, SAME_NAME))
    taken = Counter(renaming.path for renaming in renamed.values())
    problems += [
        Problem(
            f"{count} layers would be named '{path}'.",
            "same name",
            path,
            remedies=(
                Remedy("map", (next(r.source.path for r in renamed.values() if r.path == path), Placeholder("NEW"))),
            ),
        )
        for path, count in taken.items()
        if count > 1
    ]
    if problems:
        raise MatchError(problems)
    return tuple(renamed.values())
