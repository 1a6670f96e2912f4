"""Lay out a new file without a clone: which layers it has, how its framework spells and stores them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType

import msgspec
from msgspec.structs import replace

from converter.core.contents import Contents
from converter.core.kinds import KINDS, UNKNOWN
from converter.core.layers import Layer, Net, Reading, Stored
from converter.core.tensors import TensorSpec
from converter.errors import MatchError, Placeholder, Problem, Remedy
from converter.flattening.apply import flattened
from converter.frameworks.base import Framework
from converter.frameworks.linear import with_projections
from converter.matching.compatibility import agreements
from converter.matching.fused import open_runs, part_name, part_of, whole
from converter.matching.hints import Hints
from converter.matching.pairs import MAP, SAME_NAME, SCHEMA, Pair
from converter.matching.problems import unknown_sources
from converter.matching.schema_layers import layers_by_entry
from converter.matching.tied import aliases
from converter.matching.usual import Usual, usual
from converter.option_values import Shares
from converter.planning.plan import TensorPlan, assembled, left_out_of, without_idle
from converter.planning.questions import differ, homeless, no_shape, undecided, unknown
from converter.planning.step_cache import StepCache
from converter.planning.steps import Step
from converter.planning.unknown_layers import stacked_layers, unknown_layers


class Renaming(msgspec.Struct, frozen=True, gc=False):
    """A source layer and the path that it gets in a file made without a template."""

    source: Layer
    path: str
    reason: str
    likely: bool = False


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
    sources: dict[str, list[str]] = {}
    for renaming in renamed.values():
        sources.setdefault(renaming.path, []).append(renaming.source.path)
    for path, (first, *others) in sources.items():
        if others:
            text = f"{len(others) + 1} layers would be named '{path}'."
            remedies = (Remedy("map", (first, Placeholder("NEW"))),)
            problems.append(Problem(text, "same name", path, remedies=remedies))
    if problems:
        raise MatchError(problems)
    return tuple(renamed.values())


def plan_new(source: Net, contents: Contents, framework: Framework, format_name: str, hints: Hints) -> TensorPlan:
    """Lay out a new file of that framework and format. ``contents`` is the source's. Raises MatchError."""
    dialect = framework.dialect_for(format_name)
    source = without_idle(source, framework.name)
    same_framework = source.framework == framework.name
    renamings = rename(source, framework.name, hints)
    if not (hints.options.strict or same_framework):
        likely = usual(source)
        renamings = tuple(_as_usual(item, likely) for item in renamings)
    same_names = same_framework and framework.dialect_of(contents) == dialect
    options = hints.options
    as_it_is = not (options.strip or options.rotary) and not (
        options.ignore and framework.name == "neutral"
    )  # which lists its layers
    if same_names and as_it_is and all(item.path == item.source.path for item in renamings):
        return _copy(source, contents)
    pairs, problems = _lay_out(
        renamings, framework, dialect, source.is_data, same_framework, same_names, options.joined
    )
    problems += [] if same_framework else [*unknown_layers(source, hints), *stacked_layers(source, hints)]
    new = Net(framework.name, tuple(pair.target for pair in pairs), ordered=False)  # it has no order of its own
    fixed, fixed_pairs, doubts = flattened(source, new, pairs, hints)
    problems += doubts
    cache = StepCache()
    for pair in fixed_pairs:
        if cache.repeats(pair):
            continue
        possible = agreements(pair.source, pair.target, same_names)
        if differ(pair, possible):
            problems.append(undecided(pair.source))
        elif possible:
            cache.add(pair, possible[0])
        else:
            problems.append(no_shape(pair))
    steps = assembled(cache, problems, fixed_pairs)
    kept, links = _without_repeats(steps, source) if framework.keeps_aliases else (steps, {})
    specs = tuple(step.target for step in kept)
    origin = replace(source, ordered=source.ordered or hints.schema is not None)
    shapes = {step.target.name: step.target for step in steps}
    layers = [layer.with_tensors(_with_specs(shapes)) for layer in whole([pair.target for pair in pairs])]
    if hints.schema is not None:
        layers = [replace(layer, also=hints.schema.others(framework.name, layer.path)) for layer in layers]
    dressed = framework.dress(Contents(specs, source.container, links=links), layers, dialect, origin)
    return TensorPlan(kept, dressed, left_out_of(source, steps), fixed, fixed_pairs)


def _as_usual(item: Renaming, likely: Usual) -> Renaming:
    """What could be either convolution as what it is likely to be."""
    told, path = likely.of(item.source), item.source.path
    if told is item.source:
        return item
    return replace(item, source=told, reason=likely.reason(path, item.reason), likely=path in likely.taken)


def _without_repeats(steps: tuple[Step, ...], source: Net) -> tuple[tuple[Step, ...], Mapping[str, str]]:
    """The steps without those that would write a tensor again; and the names of these -> those that they repeat."""
    if source.read is None:
        return steps, {}
    single = {step.sources[0].name: step.sources[0] for step in steps if len(step.sources) == 1}
    twins = aliases(tuple(single.values()), source)
    links: dict[str, str] = {}
    written: dict[object, str] = {}
    for step in steps:
        names = tuple(twins.get(spec.name, spec.name) for spec in step.sources)
        first = written.setdefault((names, step.ops, step.target.shape, step.target.dtype), step.target.name)
        if first != step.target.name and names:
            links[step.target.name] = first
    return tuple(step for step in steps if step.target.name not in links), links


def _copy(source: Net, contents: Contents) -> TensorPlan:
    """The same names in another format of the same framework: every tensor, also those of unknown layers."""
    pairs = ((layer, spec) for layer in source.layers for spec in layer.tensors)
    by_name = {spec.name: Step(layer.path, layer.kind, (spec,), (), spec, SAME_NAME) for layer, spec in pairs}
    ordered = tuple(by_name[spec.name] for spec in contents.specs if spec.name in by_name)
    specs = tuple(step.target for step in ordered)
    return TensorPlan(ordered, replace(contents, specs=specs, left_out=()), source.left_out)


def _lay_out(
    renamings: Sequence[Renaming],
    framework: Framework,
    dialect: str,
    is_data: bool,
    same_framework: bool,
    same_names: bool,
    joined: Mapping[str, Shares] = MappingProxyType({}),
) -> tuple[list[Pair], list[Problem]]:
    """The layers of the new file, each paired with its source; and what cannot be laid out.

    joined: pattern of layers -> what their parts have of the outputs.
    """
    problems: list[Problem] = []
    layouts: dict[Hashable, Reading] = {}
    moved = with_projections([replace(renaming.source, path=renaming.path) for renaming in renamings])
    placements = framework.placed(whole(moved), dialect)
    pairs = []
    for renaming, layer in zip(renamings, moved, strict=True):
        same = layer.readings is renaming.source.readings
        source = renaming.source if same else replace(renaming.source, readings=layer.readings)
        if source.kind == UNKNOWN and not same_names:
            problems.append(unknown(source))
            continue
        foreign = [reading.kind for reading in source.readings if not framework.holds(reading.kind)]
        if len(foreign) == len(source.readings) or any(KINDS[kind].alike for kind in foreign):
            all_foreign = len(foreign) == len(source.readings)
            problems.append(homeless(source, framework.title) if all_foreign else undecided(source))
            continue
        part = part_name(renaming.path)
        placement = placements[part.whole if part else renaming.path]
        held = [reading for reading in source.readings if framework.holds(reading.kind)]
        readings = []
        for reading in held:
            key = reading.nameless, placement.form
            layout = layouts.get(key) or layouts.setdefault(key, framework.layout(reading, placement.form, dialect))
            readings.append(framework.spelled(layout, placement.prefix, dialect, is_data))
        spelled = readings
        if part:
            opened = [(each, open_runs(part.whole, part.count, each, joined)) for each in readings]
            readings = [own for each, runs in opened if runs and (own := part_of(each, part, runs))]
        # what one framework copies in any case need not be told apart; another would be told which kind it is
        if len({reading.stored for reading in readings}) > 1 and not (same_framework and _as_it_is(held, spelled)):
            problems.append(undecided(source))
        else:
            pairs.append(Pair(source, Layer(renaming.path, tuple(readings)), renaming.reason, renaming.likely))
    return pairs, problems


def _as_it_is(held: Sequence[Reading], spelled: Sequence[Reading]) -> bool:
    """Whether each reading is spelled with the leaves that it has, so that nothing of it is turned or joined."""
    return all(_leaves(ours) == _leaves(theirs) for ours, theirs in zip(held, spelled, strict=True))


def _leaves(reading: Reading) -> frozenset[tuple[str, str]]:
    """How its tensors are stored: their names in the layer, and their axes."""
    return frozenset((item.leaf.name, item.leaf.axes) for item in reading.stored)


def respelled(target: Net, framework: Framework, format_name: str) -> tuple[Net, Contents]:
    """The template with names as that format spells them, where the template's own format spells them otherwise."""
    dialect = framework.dialect_for(format_name)
    same_paths = [Renaming(layer, layer.path, SAME_NAME) for layer in target.layers]
    pairs, problems = _lay_out(same_paths, framework, dialect, target.is_data, same_framework=True, same_names=False)
    if problems:
        raise MatchError(problems)
    moves = [move for pair in pairs for move in agreements(pair.source, pair.target, True)[0].moves]
    specs = {move.target.spec.name: move.target.spec for move in moves}
    layers = tuple(pair.target.with_tensors(_with_specs(specs)) for pair in pairs)
    contents = Contents(tuple(specs.values()), target.container)
    named = {move.target.spec.name: move.supplies[0].stored.spec.name for move in moves if move.supplies}
    read_own = target.read
    read = None if read_own is None else lambda name: read_own(named[name])
    return replace(target, layers=layers, read=read), framework.dress(contents, layers, dialect, target)


def _with_specs(specs: Mapping[str, TensorSpec]) -> Callable[[Stored], Stored]:
    return lambda item: replace(item, spec=specs[item.spec.name])
