"""From pairs of layers to a plan: for each target tensor its sources, the ops, and why. No data is read."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from converter.core.arithmetic import Cast
from converter.core.equivalence import effect
from converter.core.kinds import KINDS, UNKNOWN
from converter.core.layers import Layer, Net, Reading, words_in
from converter.core.tensors import DType, TensorSpec, is_float
from converter.errors import ConversionError, MatchError
from converter.flattening.apply import Flattened, flattened
from converter.formats.base import Contents, LeftOut
from converter.frameworks.base import Framework
from converter.frameworks.linear import HEADS, with_projections
from converter.matching.applied_options import Rules
from converter.matching.compatibility import Agreement, agreements, lookalikes, noted, unknown_kind, unplaced
from converter.matching.fused import part_name, part_of, whole
from converter.matching.matcher import SAME_NAME, Pair, Renaming, match_all, rename
from converter.matching.normalised import in_pieces, normalisations, wrapped
from converter.matching.tied import aliases, loosened, tied_to
from converter.planning.step_cache import Settling, settled
from converter.planning.steps import Step, assemble

#: The reason of a step that hands on what the clone has. What it reads is called as `kept` says.
KEPT = "as it is in the clone (--allow-missing)"

__all__ = ["KEPT", "Plan", "Step", "plan_into", "plan_new", "respelled"]


class Plan(msgspec.Struct, frozen=True):
    """All steps in the order of the target file, the file's contents, and what of the source is not used.

    flattened: what was decided for layers that may stand behind a flatten, and why.
    """

    steps: tuple[Step, ...]
    contents: Contents
    left_out: tuple[LeftOut, ...] = ()
    flattened: tuple[Flattened, ...] = ()


def plan_into(source: Net, target: Net, template: Contents, rules: Rules, strict: bool = False) -> Plan:
    """Fill a clone: names, shapes, dtypes and order are the template's. Raises MatchError with all problems."""
    source = _without_idle(source, target.framework)
    (source, repeated), (target, repeating) = loosened(source, target), loosened(target, source)
    matched = match_all(source, target, rules, strict)
    same_framework = source.framework == target.framework
    fixed, pairs, problems = flattened(
        source, target, [_in_form(pair, same_framework) for pair in matched.pairs], rules
    )
    problems += [wrapped(pair.target) for pair in pairs if normalisations(pair.target)]
    settling = Settling()
    for pair in pairs:
        if settling.repeats(pair):
            continue
        found = agreements(pair.source, pair.target, same_framework)
        if len({_moves(pair, agreement) for agreement in found}) > 1 or lookalikes(pair.source, pair.target):
            problems.append(_undecided(_in_doubt(pair, found)))
        else:
            settling.add(pair, found[0])
    steps = {step.target.name: step for step in _assembled(settling, problems)}
    for name, twin in {**matched.ties.copies, **repeating}.items():
        steps[name] = replace(steps[twin], target=replace(steps[twin].target, name=name), reason=tied_to(twin))
    for layer in matched.kept:
        for spec in layer.tensors:
            steps[spec.name] = Step(layer.path, layer.kind, (kept(spec),), (), spec, KEPT)
    ordered = tuple(steps[spec.name] for spec in template.specs if spec.name in steps)
    specs = tuple(step.target for step in ordered)
    again = (LeftOut(name, tied_to(twin)) for name, twin in repeated.items())
    left_out = (*_left_out(source, ordered), *again, *matched.ties.left_out)
    return Plan(ordered, replace(template, specs=specs, left_out=()), left_out, fixed)


def kept(spec: TensorSpec) -> TensorSpec:
    """A tensor of the clone as a source; its name is none of a file."""
    return replace(spec, name=f"\0{spec.name}")


def _without_idle(source: Net, framework_name: str) -> Net:
    """The net without what no output depends on, which only its own framework keeps."""
    idle = [layer for layer in source.layers if layer.kind in KINDS and KINDS[layer.kind].idle]
    if source.framework == framework_name or not idle:
        return source
    left_out = (LeftOut(spec.name, KINDS[layer.kind].note) for layer in idle for spec in layer.tensors)
    kept = tuple(layer for layer in source.layers if layer not in idle)
    return replace(source, layers=kept, left_out=(*source.left_out, *left_out))


def _in_form(pair: Pair, same_framework: bool) -> Pair:
    """A normalised kernel stays in its pieces where the clone has the same."""
    ours, theirs = normalisations(pair.source), normalisations(pair.target)
    if not ours or ours != theirs or not same_framework:
        return pair
    return replace(pair, source=in_pieces(pair.source), target=in_pieces(pair.target))


def _left_out(source: Net, steps: Iterable[Step]) -> tuple[LeftOut, ...]:
    """What the source itself leaves out, and the tensors that are stored there though nothing uses them."""
    used = {spec.name for step in steps for spec in step.sources}
    unused = [
        LeftOut(stored.spec.name, "its layer does not use it: with fix_gamma the scale is one")
        for layer in source.layers
        for stored in layer.readings[0].stored
        if layer.kind in KINDS
        and words_in(stored.leaf.roles) & KINDS[layer.kind].unused
        and stored.spec.name not in used
    ]
    return (*source.left_out, *unused)


def respelled(target: Net, framework: Framework, format_name: str) -> tuple[Net, Contents]:
    """The template with names as that format spells them, where the template's own format spells them otherwise."""
    dialect = framework.dialect_for(format_name)
    same_paths = [Renaming(layer, layer.path, SAME_NAME) for layer in target.layers]
    pairs, problems = _lay_out(same_paths, framework, dialect, target.is_data, same_names=False)
    if problems:
        raise MatchError(problems)
    moves = [move for pair in pairs for move in agreements(pair.source, pair.target, True)[0].moves]
    specs = {move.target.spec.name: move.target.spec for move in moves}
    layers = tuple(_with_shapes(pair.target, specs) for pair in pairs)
    contents = Contents(tuple(specs.values()), target.container)
    named = {move.target.spec.name: move.supplies[0].stored.spec.name for move in moves if move.supplies}
    given = target.read
    read = None if given is None else lambda name: given(named[name])
    return replace(target, layers=layers, read=read), framework.dress(contents, layers, dialect, target)


def _with_shapes(layer: Layer, specs: dict[str, TensorSpec]) -> Layer:
    readings = (
        replace(reading, stored=tuple(replace(item, spec=specs[item.spec.name]) for item in reading.stored))
        for reading in layer.readings
    )
    return replace(layer, readings=tuple(readings))


def plan_new(source: Net, contents: Contents, framework: Framework, format_name: str, rules: Rules) -> Plan:
    """Lay out a new file of that framework and format. ``contents`` is the source's. Raises MatchError."""
    dialect = framework.dialect_for(format_name)
    source = _without_idle(source, framework.name)
    renamings = rename(source, framework.name, rules)
    same_names = source.framework == framework.name and framework.dialect_of(contents) == dialect
    as_it_is = not rules.strip and not (rules.ignore and framework.name == "neutral")  # which lists its layers
    if same_names and as_it_is and all(item.path == item.source.path for item in renamings):
        return _copy(source, contents)
    pairs, problems = _lay_out(renamings, framework, dialect, source.is_data, same_names)
    new = Net(framework.name, tuple(pair.target for pair in pairs), ordered=False)  # it has no order of its own
    fixed, fixed_pairs, trouble = flattened(source, new, pairs, rules)
    problems += trouble
    settling = Settling()
    for pair in fixed_pairs:
        if settling.repeats(pair):
            continue
        found = agreements(pair.source, pair.target, same_names)
        if len(found) > 1 and len({_moves(pair, agreement) for agreement in found}) > 1:
            problems.append(_undecided(pair.source))
        elif found:
            settling.add(pair, found[0])
        else:
            problems.append(_no_shape(pair.source) + unplaced(pair.source, pair.target))
    steps = _assembled(settling, problems)
    kept, links = _without_repeats(steps, source) if framework.keeps_aliases else (steps, {})
    specs = tuple(step.target for step in kept)
    origin = replace(source, ordered=source.ordered or rules.schema is not None)
    shapes = {step.target.name: step.target for step in steps}
    layers = whole([_with_shapes(pair.target, shapes) for pair in pairs])
    if rules.schema is not None:
        layers = [replace(layer, also=rules.schema.others(framework.name, layer.path)) for layer in layers]
    dressed = framework.dress(Contents(specs, source.container, links=links), layers, dialect, origin)
    return Plan(kept, dressed, _left_out(source, steps), fixed)


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


def _copy(source: Net, contents: Contents) -> Plan:
    """The same names in another format of the same framework: every tensor, also those of unknown layers."""
    by_name = {
        spec.name: Step(layer.path, layer.kind, (spec,), (), spec, SAME_NAME)
        for layer in source.layers
        for spec in layer.tensors
    }
    ordered = tuple(by_name[spec.name] for spec in contents.specs if spec.name in by_name)
    return Plan(ordered, replace(contents, specs=tuple(step.target for step in ordered), left_out=()), source.left_out)


def _lay_out(
    renamings: Sequence[Renaming], framework: Framework, dialect: str, is_data: bool, same_names: bool
) -> tuple[list[Pair], list[str]]:
    """The layers of the new file, each paired with its source; and what cannot be laid out."""
    problems = []
    layouts: dict[Hashable, Reading] = {}
    moved = with_projections([_at(renaming.source, renaming.path) for renaming in renamings])
    placed = framework.placed(whole(moved), dialect)
    pairs = []
    for renaming, layer in zip(renamings, moved, strict=True):
        same = layer.readings is renaming.source.readings
        source = renaming.source if same else replace(renaming.source, readings=layer.readings)
        if source.kind == UNKNOWN and not same_names:
            problems.append(unknown_kind(source))
            continue
        homeless = [reading.kind for reading in source.readings if not framework.holds(reading.kind)]
        if len(homeless) == len(source.readings):
            problems.append(f"'{source.path}' is {source.kind}, which {framework.title} cannot express{noted(source)}")
            continue
        if any(KINDS[kind].alike for kind in homeless):
            problems.append(_undecided(source))
            continue
        part = part_name(renaming.path)
        place = placed[part.whole if part else renaming.path]
        readings = []
        for reading in source.readings:
            if framework.holds(reading.kind):
                key = reading.nameless, place.form
                layout = layouts.get(key) or layouts.setdefault(key, framework.layout(reading, place.form, dialect))
                readings.append(framework.spelled(layout, place.prefix, dialect, is_data))
        if part:
            readings = [found for reading in readings if (found := part_of(reading, part))]
        if len(readings) > 1 and len({reading.stored for reading in readings}) > 1:
            problems.append(_undecided(source))
        else:
            pairs.append(Pair(source, Layer(renaming.path, tuple(readings)), renaming.reason))
    return pairs, problems


def _at(layer: Layer, path: str) -> Layer:
    return layer if layer.path == path else replace(layer, path=path)


def _moves(pair: Pair, agreement: Agreement) -> object:
    """What the agreement does, however it says it and whatever kind it was derived from.

    Alone, a stacked tensor has holes.
    """
    try:
        steps = assemble(settled(pair, agreement))
    except ConversionError:
        return agreement.moves
    return tuple((step.sources, _effect(step), step.target) for step in steps)


def _effect(step: Step) -> object:
    return effect(step.ops, step.sources[0].shape) if len(step.sources) == 1 else step.ops


def _assembled(settling: Settling, problems: list[str]) -> tuple[Step, ...]:
    """The steps. Raises MatchError with the problems so far and those met here."""
    steps: tuple[Step, ...] = ()
    try:
        steps = settling.steps()
    except ConversionError as error:
        problems.append(str(error))
    problems += [problem for step in steps for problem in _lossy(step)]
    if problems:
        raise MatchError(problems)
    return steps


def _lossy(step: Step) -> list[str]:
    """A cast is for floats, or from integers to integers; any other would change what the numbers mean."""
    return [
        f"'{step.sources[0].name}' is {op.source.name} and the clone's '{step.target.name}' is {op.dtype.name}: "
        "only floats are cast to floats, and integers to integers"
        for op in step.ops
        if isinstance(op, Cast) and _sort(op.source) != _sort(op.dtype)
    ]


def _sort(dtype: DType) -> str:
    """Float or integer; of every other dtype its own."""
    return "float" if is_float(dtype) else "integer" if dtype.kind in "iu" else dtype.name


def _no_shape(layer: Layer) -> str:
    shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in layer.tensors)
    if any(reading.form in HEADS for reading in layer.readings):
        return _no_heads(layer, shapes)
    if any(reading.form == "depthwise" for reading in layer.readings):
        return (
            f"'{layer.path}' ({shapes}) is a depthwise convolution, and its channel multiplier is unknown. "
            "Say multiplier in a --schema, or give the clone with --like."
        )
    return f"'{layer.path}' ({shapes}) cannot be laid out as {layer.kind}"


def _no_heads(layer: Layer, shapes: str) -> str:
    heads = next((dict(reading.sizes)["heads"] for reading in layer.readings if "heads" in dict(reading.sizes)), None)
    if heads is not None:
        return f"'{layer.path}' ({shapes}) cannot be split into {heads} heads: its size is no multiple of that"
    module = layer.path.rpartition(".")[0] or layer.path
    return f"'{layer.path}' ({shapes}) is of an attention whose number of heads is unknown. Say --heads '{module}=N'."


def _in_doubt(pair: Pair, found: Iterable[Agreement]) -> Layer:
    """The side that may be more, as no more than both have in common."""
    kinds = {agreement.kind for agreement in found}
    kinds |= {kind for kind, row in KINDS.items() if row.alike in kinds}
    layer = max(pair.source, pair.target, key=lambda layer: len(layer.readings))
    common = tuple(reading for reading in layer.readings if reading.kind in kinds)
    return replace(layer, readings=common or layer.readings)


def _undecided(layer: Layer) -> str:
    """One refusal; the option may have a wildcard, for a net of many such layers."""
    shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in layer.tensors)
    kinds = [reading.called for reading in layer.readings]
    lines = " or ".join(f"--kind '{layer.path}={kind}'" for kind in dict.fromkeys(kinds))
    return (
        f"'{layer.path}' ({shapes}) could be {' or '.join(dict.fromkeys(kinds))}, which are stored differently. "
        f"Say {lines} ('*={kinds[0]}' for all that can be), give the clone with --like, or a --schema that tells."
    )
