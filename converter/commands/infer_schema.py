"""Write down how the layers of two nets pair, as a schema that can be corrected, kept and used again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from converter.commands.make_plan import plan
from converter.core.kinds import UNKNOWN
from converter.errors import ConversionError, Placeholder, Remedy
from converter.flattening.walk import INPUTS, Flattened
from converter.matching.compatibility import agreements
from converter.matching.pairs import Pair
from converter.options import PlanKeywords, Records, StrPath

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Sizes that no shape tells, which a schema has a key for.
_OPTIONS = ("heads", "multiplier")


def infer_schema(
    source: StrPath,
    target: StrPath | object,
    *,
    source_framework: str | None = None,
    target_framework: str | None = None,
    example_input: Any = None,
    options: Records = (),
    **keywords: Unpack[PlanKeywords],
) -> str:
    """The YAML of a schema that pairs the layers of two nets of different frameworks as `converter.convert` would.

    target: a file, a live net, or ``"package.module:Net"``, with an example_input, as ``like`` of `converter.plan`.
    options, keywords: as there, where the files leave something open; so the schema has what no file tells.
    Raises MatchError where they cannot be paired, ConversionError where both are of one framework.
    """
    ends = {"framework": source_framework, "example_input": example_input, "options": options}
    with plan(source, target_framework, target, **ends, **keywords) as planned:
        source_name, target_name = planned.source.framework.name, planned.target.name
        if source_name == target_name:
            titles = planned.source.title, planned.clone.title if planned.clone else target
            raise ConversionError(
                f"{titles[0]} and {titles[1]} are both of {source_name}: a schema has one name for each framework.",
                Remedy("map", (Placeholder("SOURCE"), Placeholder("TARGET")), "pairs layers within one"),
            )
        name, clone = Path(planned.source.title).name, Path(planned.clone.title if planned.clone else "").name
        document = {
            "name": name.partition(".")[0],
            "description": f"{name} and {clone}, as they were paired",
            "layers": [_entry(pair, planned.tensors.flattened, source_name, target_name) for pair in planned.pairs],
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
