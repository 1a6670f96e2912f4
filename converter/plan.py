"""From pairs of layers to a plan: for each target tensor its sources, the ops, and why. No data is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from converter.errors import MatchError
from converter.formats.base import Contents, LeftOut
from converter.frameworks.base import Framework, Leaf
from converter.layers import UNKNOWN, Layer, Net, Reading, Stored, permutation
from converter.matching import (
    SAME_NAME,
    Agreement,
    Pair,
    Renaming,
    Rules,
    agreements,
    match,
    rename,
    unknown_kind,
)
from converter.ops import Cast, Op, Transpose
from converter.tensors import TensorSpec


@dataclass(frozen=True)
class Step:
    """One target tensor: ``ops`` turn ``sources`` into it. ``layer`` is the source path."""

    layer: str
    kind: str
    sources: tuple[TensorSpec, ...]
    ops: tuple[Op, ...]
    target: TensorSpec
    reason: str

    @property
    def done(self) -> str:
        """What happens to the tensor, in words."""
        renamed = [] if self.sources[0].name == self.target.name else ["renamed"]
        return ", ".join([str(op) for op in self.ops] + renamed) or "moved"


@dataclass(frozen=True)
class Plan:
    """All steps in the order of the target file, the file's contents, and what of the source is not used."""

    steps: tuple[Step, ...]
    contents: Contents
    left_out: tuple[LeftOut, ...] = ()


def plan_into(source: Net, target: Net, template: Contents, rules: Rules, strict: bool = False) -> Plan:
    """Fill a clone: names, shapes, dtypes and order are the template's. Raises MatchError with all problems."""
    steps: dict[str, Step] = {}
    problems: list[str] = []
    for pair in match(source, target, rules, strict):
        found = agreements(pair.source, pair.target, source.framework == target.framework)
        choices = {_steps(pair, agreement) for agreement in found}
        if len({_moves(choice) for choice in choices}) > 1:
            problems.append(_undecided(pair.source))
        else:
            chosen = choices.pop()
            steps |= {step.target.name: step for step in chosen}
            problems += [problem for step in chosen for problem in _lossy(step)]
    if problems:
        raise MatchError(problems)
    ordered = tuple(steps[spec.name] for spec in template.specs if spec.name in steps)
    specs = tuple(step.target for step in ordered)
    return Plan(ordered, replace(template, specs=specs, left_out=()), source.left_out)


def respelled(plan: Plan, target: Net, framework: Framework, format_name: str) -> Plan:
    """The plan with names as that format spells them, for a template of a format that spells them otherwise.

    ``target`` is the net of the template.
    """
    dialect = framework.dialect_for(format_name)
    same_paths = [Renaming(layer, layer.path, SAME_NAME) for layer in target.layers]
    pairs, problems = _lay_out(same_paths, framework, dialect, target.is_data, same_names=False)
    if problems:
        raise MatchError(problems)
    moves = [move for pair in pairs for move in agreements(pair.source, pair.target, True)[0].moves]
    names = {old.spec.name: new.spec.name for old, new in moves}
    steps = tuple(replace(step, target=replace(step.target, name=names[step.target.name])) for step in plan.steps)
    contents = Contents(tuple(step.target for step in steps), plan.contents.container)
    dressed = framework.dress(contents, [pair.target for pair in pairs], dialect, target)
    return replace(plan, steps=steps, contents=dressed)


def plan_new(source: Net, contents: Contents, framework: Framework, format_name: str, rules: Rules) -> Plan:
    """Lay out a new file of that framework and format. ``contents`` is the source's. Raises MatchError."""
    dialect = framework.dialect_for(format_name)
    renamings = rename(source, framework.name, rules)
    same_names = source.framework == framework.name and framework.dialect_of(contents) == dialect
    if same_names and _keeps_names(renamings) and not rules.strip:
        return _copy(source, contents)
    pairs, problems = _lay_out(renamings, framework, dialect, source.is_data, same_names)
    if problems:
        raise MatchError(problems)
    steps = tuple(step for pair in pairs for step in _steps(pair, agreements(pair.source, pair.target, same_names)[0]))
    specs = tuple(step.target for step in steps)
    origin = replace(source, ordered=source.ordered or rules.schema is not None)
    new = framework.dress(Contents(specs, source.container), [pair.target for pair in pairs], dialect, origin)
    return Plan(steps, new, source.left_out)


def _copy(source: Net, contents: Contents) -> Plan:
    """The same names in another format of the same framework: every tensor, also those of unknown layers."""
    steps = tuple(
        Step(layer.path, layer.kind, (spec,), (), spec, SAME_NAME) for layer in source.layers for spec in layer.tensors
    )
    by_name = {step.target.name: step for step in steps}
    ordered = tuple(by_name[spec.name] for spec in contents.specs if spec.name in by_name)
    return Plan(ordered, replace(contents, specs=tuple(step.target for step in ordered), left_out=()), source.left_out)


def _keeps_names(renamings: Sequence[Renaming]) -> bool:
    return all(renaming.path == renaming.source.path for renaming in renamings)


def _lay_out(
    renamings: Sequence[Renaming], framework: Framework, dialect: str, is_data: bool, same_names: bool
) -> tuple[list[Pair], list[str]]:
    """The layers of the new file, each paired with its source; and what cannot be laid out."""
    problems = []
    moved = [Layer(renaming.path, renaming.source.readings) for renaming in renamings]
    prefixes = framework.prefixes(moved, dialect)
    pairs = []
    for renaming in renamings:
        source = renaming.source
        if source.kind == UNKNOWN and not same_names:
            problems.append(unknown_kind(source))
            continue
        readings = [
            _stored_by(framework, reading, prefixes[renaming.path], dialect, is_data) for reading in source.readings
        ]
        layouts = {tuple((role, stored) for role, stored in reading.roles.items()) for reading in readings}
        if len(layouts) > 1:
            problems.append(_undecided(source))
        else:
            pairs.append(Pair(source, Layer(renaming.path, tuple(readings)), renaming.reason))
    return pairs, problems


def _stored_by(framework: Framework, reading: Reading, prefix: str, dialect: str, is_data: bool) -> Reading:
    """The layer as the framework would store it: names, axes and shapes."""
    roles = {}
    unknown = [Leaf(role, role, "*") for role in reading.roles] if reading.kind == UNKNOWN else None
    for leaf in unknown or framework.leaves(reading.kind, dialect):
        if leaf.role in reading.roles:
            roles[leaf.role] = _store(reading.roles[leaf.role], leaf, framework.spell(prefix, leaf, dialect, is_data))
    return Reading(reading.kind, roles)


def _store(source: Stored, leaf: Leaf, name: str) -> Stored:
    spec = source.spec
    axes = permutation(source.axes, leaf.axes, len(spec.shape))
    return Stored(TensorSpec(name, tuple(spec.shape[axis] for axis in axes), spec.dtype), leaf.axes)


def _steps(pair: Pair, agreement: Agreement) -> tuple[Step, ...]:
    return tuple(_step(pair, agreement.kind, ours, theirs) for ours, theirs in agreement.moves)


def _step(pair: Pair, kind: str, source: Stored, target: Stored) -> Step:
    spec = source.spec
    axes = permutation(source.axes, target.axes, len(spec.shape))
    ops: list[Op] = []
    if axes != tuple(range(len(axes))):
        ops.append(Transpose(axes))
    if spec.dtype != target.spec.dtype:
        ops.append(Cast(target.spec.dtype, spec.dtype))
    result: tuple[TensorSpec, ...] = (spec,)
    for op in ops:
        result = op.infer(result)
    # The shape is inferred, not the template's: that of a live net may not be known yet.
    return Step(pair.source.path, kind, (spec,), tuple(ops), replace(result[0], name=target.spec.name), pair.reason)


def _moves(steps: Sequence[Step]) -> tuple[object, ...]:
    """What the steps do, without the kind that they were derived from."""
    return tuple((step.sources, step.ops, step.target) for step in steps)


def _lossy(step: Step) -> list[str]:
    """A cast is for floats; anything else would change what the numbers mean."""
    return [
        f"'{step.sources[0].name}' is {op.source.name} and the clone's '{step.target.name}' is {op.dtype.name}: "
        "only floats are cast"
        for op in step.ops
        if isinstance(op, Cast) and not (_is_float(op.source) and _is_float(op.dtype))
    ]


def _is_float(dtype: np.dtype[np.generic]) -> bool:
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def _undecided(layer: Layer) -> str:
    shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in layer.tensors)
    return (
        f"'{layer.path}' ({shapes}) could be {layer.kind}, which are stored differently. "
        "Give the clone with --like, or a --schema that says its kind."
    )
