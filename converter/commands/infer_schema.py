"""Write down how the layers of two nets pair, as a schema that can be corrected, kept and used again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from converter.commands.convert import loaded
from converter.commands.make_plan import as_inputs, of_source, opened_source, proved_plan
from converter.core.kinds import UNKNOWN
from converter.endpoints.endpoint import clone_beside, clone_of
from converter.errors import ConversionError, Placeholder, Problem, Remedy
from converter.flattening.walk import INPUTS, Flattened
from converter.frameworks import framework as framework_of
from converter.matching.compatibility import agreements
from converter.matching.hints import Found, Hints
from converter.matching.pairs import Pair
from converter.options import (
    LoadKeywords,
    MatchOptions,
    ReadOptions,
    Records,
    StrPath,
    check_keywords,
    record_of,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

#: Sizes that no shape tells, which a schema has a key for.
_OPTIONS = ("heads", "multiplier")


def infer_schema(
    source: StrPath | object,
    target: StrPath | object,
    *,
    net: object | None = None,
    source_framework: str | None = None,
    target_framework: str | None = None,
    example_input: Any = None,
    options: Records = (),
    **keywords: Unpack[LoadKeywords],
) -> str:
    """The YAML of a schema that pairs the layers of two nets of different frameworks as `converter.convert` would.

    source, target: files, or live nets; the target also ``"package.module:Net"``. net: that of the source file, as in
    `converter.convert`. With an example_input (as the target takes it; as ``net`` does, if that is given) two live nets
    are run, and the schema has what lockstep found: it holds for files of these nets, in both directions.
    options, keywords: as in `converter.plan`, where the files leave something open; so the schema has what none tells.
    Raises MatchError where they cannot be paired, ConversionError where both are of one framework, where two live nets
    give something else, and for an order of features that no schema can say.
    """
    check_keywords(keywords, options, ReadOptions, MatchOptions)
    read, match = record_of(ReadOptions, options, keywords), record_of(MatchOptions, options, keywords)
    to = framework_of(target_framework).name if target_framework is not None else None
    with ExitStack() as stack:
        inputs = as_inputs(example_input)
        if net is None:
            clone = clone_of(target, stack, to, inputs)
            end = opened_source(source, stack, source_framework, read, inputs, clone)
            both = of_source(inputs, clone, end), inputs
        else:
            end = loaded(net, opened_source(source, stack, source_framework, read), stack, inputs)
            clone, own = clone_beside(end, target, stack, to, inputs)
            both = inputs, own
        names = end.framework.name, clone.framework.name
        if names[0] == names[1]:
            raise ConversionError(
                f"{end.title} and {clone.title} are both of {names[0]}: a schema has one name for each framework.",
                Remedy("map", (Placeholder("SOURCE"), Placeholder("TARGET")), "pairs layers within one"),
            )
        planned = proved_plan(end, clone.framework, clone, Hints.of(match), both)
        name, found = Path(end.title).name, planned.hints.found.values()
        flattened = {item.source: _channels(item, end.channels_last) for item in found if item.order}
        document = {
            "name": name.partition(".")[0],
            "description": f"{name} and {Path(clone.title).name}, as they were paired",
            "layers": [_entry(pair, planned.tensors.flattened, flattened, names) for pair in planned.pairs],
        }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


def _channels(found: Found, last: bool) -> int:
    """Of how many flattened channels the order is that lockstep found. last: whether the source has them last."""
    assert found.order is not None
    size = len(found.order)
    for channels in range(1, size + 1):
        shape = (size // channels, channels) if last else (channels, size // channels)
        if size % channels == 0 and np.array_equal(found.order, np.arange(size).reshape(shape).T.ravel()):
            return channels
    text = f"the inputs of '{found.source}' are in an order of their own, which no schema can say: convert it live."
    raise ConversionError(Problem(text, "flatten", found.source))


def _entry(
    pair: Pair, decided: Sequence[Flattened], proved: Mapping[str, int], frameworks: tuple[str, str]
) -> dict[str, Any]:
    """proved: source path -> channels that are flattened there, which lockstep found."""
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
    if pair.source.path in proved:
        entry["flatten"] = proved[pair.source.path]
    if pair.target.path != pair.source.path:
        entry["names"] = {frameworks[0]: [pair.source.path], frameworks[1]: [pair.target.path]}
    return entry
