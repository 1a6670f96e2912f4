"""Write down a pairing that was found, as a schema that can be corrected, kept and used again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from converter.errors import ConversionError
from converter.fit import agreements
from converter.layers import UNKNOWN
from converter.matching import Pair, match
from converter.rules import Rules
from converter.weights import StrPath, read


def infer_schema(
    source: StrPath,
    target: StrPath,
    *,
    source_framework: str | None = None,
    target_framework: str | None = None,
    map: Mapping[str, str] | None = None,
    kind: Mapping[str, str] | None = None,
) -> str:
    """The YAML of a schema that pairs the layers of two files of different frameworks as `convert` would.

    Raises MatchError where they cannot be paired, ConversionError where both are of one framework.
    """
    rules = Rules(mapping=dict(map or {}), kinds=dict(kind or {}))
    with read(source, framework=source_framework) as ours, read(target, framework=target_framework) as theirs:
        if ours.framework == theirs.framework:
            raise ConversionError(
                f"{source} and {target} are both of {ours.framework}: a schema has one name for each framework. "
                "Pair the layers with --map instead."
            )
        pairs = match(rules.applied(ours.net), rules.settled(theirs.net), rules)
        frameworks = (ours.framework, theirs.framework)
        document = {
            "name": Path(source).name.partition(".")[0],
            "description": f"{Path(source).name} and {Path(target).name}, as they were paired",
            "layers": [_entry(pair, *frameworks) for pair in pairs],
        }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


def _entry(pair: Pair, source: str, target: str) -> dict[str, Any]:
    kinds = [agreement.kind for agreement in agreements(pair.source, pair.target, False)]
    entry: dict[str, Any] = {"path": pair.source.path, "kind": next(kind for kind in kinds if kind != UNKNOWN)}
    if pair.target.path != pair.source.path:
        entry["names"] = {source: [pair.source.path], target: [pair.target.path]}
    return entry
