"""From a selection of layers to steps: what of the old net goes into which tensor of the new one. No data is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from converter.core.layers import Layer, Net, Stored, sizes_of, words_in
from converter.core.ops import Op, Overlay
from converter.core.tensors import TensorSpec
from converter.endpoints.readers import of
from converter.errors import MatchError
from converter.flattening.apply import Flattened, guessed
from converter.flattening.decision import INPUTS
from converter.formats import Contents, Format
from converter.frameworks import Framework, framework
from converter.matching.applied_options import Rules
from converter.matching.matcher import SAME_NAME
from converter.matching.partial import SLICED, Selection, Taking
from converter.planning.plan import Plan, Step, plan_into, respelled

#: What stands before the names of the tensors of either side; see `converter.endpoints.readers`.
OLD, NEW = "old", "new"
_STATISTICS = frozenset({"mean", "variance"})


class Reused(msgspec.Struct, frozen=True):
    """taking: which layer, and how. steps: how each of its tensors is made, from tensors of OLD and of NEW.

    freeze: the tensors that a further training is not to change; none of a layer that was taken in part.
    """

    taking: Taking
    steps: tuple[Step, ...]
    freeze: tuple[str, ...]


def plan_reuse(
    old: Net, new: Net, contents: Contents, kept: Mapping[str, Step], selection: Selection, rules: Rules
) -> tuple[tuple[Reused, ...], tuple[Flattened, ...]]:
    """The steps of every layer that is taken, and what was decided of flattened inputs. Raises MatchError.

    contents, kept: of the new net; how each of its tensors is made of what it has already.
    """
    takings = selection.takings
    flattens = _flattens(old, new, takings, rules)
    said = {item.path: item.channels for item in flattens}
    exact = replace(
        rules,
        mapping={one.source.path: one.target.path for one in takings},
        flatten={**{one.source.path: 0 for one in takings}, **said},
        unflatten={**{one.source.path: 0 for one in takings}, **rules.unflatten},
    )
    source = replace(old, layers=tuple(one.source for one in takings), left_out=())
    target = replace(new, layers=tuple(one.target for one in takings), left_out=())
    steps = plan_into(source, target, contents, exact).steps if takings else ()
    own = {layer.path: [step for step in steps if step.layer == layer.path] for layer in source.layers}
    return tuple(_reused(one, own[one.source.path], new, kept, takings) for one in takings), flattens


def kept_steps(new: Net, contents: Contents, target: Framework, form: Format) -> tuple[Net, Contents, dict[str, Step]]:
    """The new net as that format spells it, and how each tensor is made of the file's: by name. Raises MatchError."""
    if target.dialect_for(form.name) == target.dialect_of(contents):
        return new, replace(contents, left_out=()), as_it_is(new, contents)
    spelled, dressed = respelled(new, target, form.name)
    rules = Rules(mapping={layer.path: layer.path for layer in new.layers})
    plan = plan_into(new, spelled, dressed, rules)
    return spelled, dressed, {step.target.name: _from(NEW, step) for step in plan.steps}


def merged(reused: Iterable[Reused], contents: Contents, kept: Mapping[str, Step]) -> Plan:
    """Every tensor of the new file, from either side, in the order of the new file."""
    taken = {step.target.name: step for one in reused for step in one.steps}
    return Plan(tuple(taken.get(spec.name, kept[spec.name]) for spec in contents.specs), contents)


def as_it_is(new: Net, contents: Contents) -> dict[str, Step]:
    """Every tensor of the new net unchanged, those that belong to no layer included."""
    owner = {spec.name: layer for layer in new.layers for spec in layer.tensors}
    return {
        spec.name: Step(layer.path if layer else "", layer.kind if layer else "", (of(NEW, spec),), (), spec, SAME_NAME)
        for spec in contents.specs
        for layer in (owner.get(spec.name),)
    }


def _from(word: str, step: Step) -> Step:
    return replace(step, sources=tuple(of(word, spec) for spec in step.sources))


def _reused(
    taking: Taking, steps: Iterable[Step], new: Net, kept: Mapping[str, Step], takings: Iterable[Taking]
) -> Reused:
    found = [replace(_from(OLD, step), reason=taking.reason) for step in steps]
    layer = new.by_path[taking.target.path]
    if taking.how == SLICED:
        return Reused(taking, tuple(_overlaid(step, layer, kept) for step in found), ())
    whole = {one.target.path for one in takings if one.how != SLICED}
    shared = {spec.name for other in new.layers if other.path not in whole for spec in other.tensors}
    statistics = {
        item.spec.name
        for reading in layer.readings
        for item in reading.stored
        if words_in(item.leaf.roles) <= _STATISTICS
    }
    names = dict.fromkeys(step.target.name for step in found)
    return Reused(taking, tuple(found), tuple(name for name in names if name not in shared | statistics))


def _overlaid(step: Step, layer: Layer, kept: Mapping[str, Step]) -> Step:
    """The step with its result laid over the new net's tensor, where the two have other sizes."""
    own = kept[step.target.name]
    if step.target.shape == own.target.shape:
        return step
    stored = next(
        item
        for reading in layer.readings
        if reading.kind == step.kind
        for item in reading.stored
        if item.spec.name == step.target.name
    )
    over, under = (_neutral(stored, spec) for spec in (step.target, own.target))
    shapes = (_shape(ops, spec) for ops, spec in ((over, step.target), (under, own.target)))
    overlap = tuple(min(pair) for pair in zip(*shapes, strict=True))
    op = Overlay((*step.ops, *over), (*own.ops, *under), overlap)
    return replace(step, sources=(*step.sources, *own.sources), ops=(op,), target=own.target)


def _neutral(stored: Stored, spec: TensorSpec) -> tuple[Op, ...]:
    ops = replace(stored, spec=spec).to_neutral()
    assert ops is not None  # the selection took it for sliceable
    return ops


def _shape(ops: Iterable[Op], spec: TensorSpec) -> tuple[int, ...]:
    specs: tuple[TensorSpec, ...] = (spec,)
    for op in ops:
        specs = op.infer(specs)
    return specs[0].shape


def _flattens(old: Net, new: Net, takings: Iterable[Taking], rules: Rules) -> tuple[Flattened, ...]:
    """Which of the layers stand behind a flatten, told by the whole old net. Raises MatchError."""
    turned = framework(old.framework).channels_last != framework(new.framework).channels_last and rules.flatten_fix
    takes = {one.source.path: one for one in takings}
    given = {(path, INPUTS): said for path in old.by_path if isinstance(said := rules.flatten_of(path), int)}
    found, doubts = guessed(old.layers, given, "the layers in the order of the old net" if old.ordered else "")
    problems = [
        f"{item.problem} Say --flatten {item.path}=CHANNELS (0 for none), or --no-flatten-fix."
        for item in doubts
        if turned and item.path in takes and item.side == INPUTS
    ]
    flattens = [item for item in found if item.path in takes and item.side == INPUTS and item.channels]
    for item in flattens:
        taking = takes[item.path]
        inputs = sizes_of(new.by_path[taking.target.path]).inputs
        if taking.how == SLICED and inputs != item.features:
            problems.append(
                f"'{item.path}' has {item.features} inputs that are {item.channels} flattened channels, and "
                f"'{taking.target.path}' of the new net has {inputs}: their first ones are not the same places. "
                "--skip-mismatch leaves it out."
            )
    if problems:
        raise MatchError(problems)
    return tuple(flattens) if turned else ()
