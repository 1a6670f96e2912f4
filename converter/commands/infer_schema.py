"""Write down a pairing that was found, as a schema that can be corrected, kept and used again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from converter.core.kinds import UNKNOWN
from converter.endpoints.checkpoint import StrPath
from converter.endpoints.endpoint import clone_of, opened
from converter.errors import ConversionError
from converter.flattening.apply import Flattened, flattened
from converter.flattening.decision import INPUTS
from converter.live.run import as_arrays
from converter.matching.applied_options import Rules
from converter.matching.compatibility import agreements
from converter.matching.matcher import Pair, match
from converter.planning.plan import plan_into

#: Sizes that no shape tells, which a schema has a key for.
_OPTIONS = ("heads", "multiplier")


def infer_schema(
    source: StrPath,
    target: StrPath | object,
    *,
    source_framework: str | None = None,
    target_framework: str | None = None,
    example_input: Any = None,
    **said: Any,
) -> str:
    """The YAML of a schema that pairs the layers of two nets of different frameworks as `convert` would.

    target: a file, a live net, or ``"package.module:Net"``, with an example_input, as ``like`` of `convert`.
    said: ``map``, ``kind``, ``heads``, ``flatten`` … as in `convert`, where the files leave something open; so the
    schema has what no file tells.
    Raises MatchError where they cannot be paired, ConversionError where both are of one framework.
    """
    rules = Rules.of(**said)
    with ExitStack() as stack:
        ours = opened(source, stack, framework=source_framework)
        inputs = as_arrays(example_input) if example_input is not None else ()
        theirs = clone_of(target, stack, target_framework, inputs)
        frameworks = (ours.framework.name, theirs.framework.name)
        if frameworks[0] == frameworks[1]:
            raise ConversionError(
                f"{ours.title} and {theirs.title} are both of {frameworks[0]}: a schema has one name for each "
                "framework. Pair the layers with --map instead."
            )
        given, clone = rules.applied(ours.net), rules.settled(theirs.net)
        plan_into(given, clone, theirs.contents, rules)  # raises whatever speaks against the pairing
        pairs = match(given, clone, rules)
        decided, _, _ = flattened(given, clone, pairs, rules)
        document = {
            "name": Path(ours.title).name.partition(".")[0],
            "description": f"{Path(ours.title).name} and {Path(theirs.title).name}, as they were paired",
            "layers": [_entry(pair, decided, *frameworks) for pair in pairs],
        }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


def _entry(pair: Pair, decided: Sequence[Flattened], source: str, target: str) -> dict[str, Any]:
    kinds = [agreement.kind for agreement in agreements(pair.source, pair.target, False)]
    kind = next(kind for kind in kinds if kind != UNKNOWN)
    readings = [r for layer in (pair.source, pair.target) for r in layer.readings if r.kind == kind]
    forms = {reading.form for reading in readings if reading.form}
    entry: dict[str, Any] = {"path": pair.source.path, "kind": forms.pop() if len(forms) == 1 else kind}
    sizes: Mapping[str, int] = {axis: size for reading in readings for axis, size in reading.sizes}
    entry |= {axis: sizes[axis] for axis in _OPTIONS if axis in sizes}
    for item in decided:
        if item.path == pair.source.path and not item.parts:
            entry["flatten" if item.side == INPUTS else "unflatten"] = item.channels
    if pair.target.path != pair.source.path:
        entry["names"] = {source: [pair.source.path], target: [pair.target.path]}
    return entry
