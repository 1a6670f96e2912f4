"""Partial reuse as a plan: what of the old net goes into which tensor of the new one. No data is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from converter.core.layers import Layer, Net, Stored, sizes_of, words_in
from converter.core.ops import Op, Overlay
from converter.core.tensors import TensorSpec
from converter.errors import MatchError, Problem, Remedy
from converter.flattening.apply import doubtful
from converter.flattening.guesses import guesses
from converter.flattening.walk import INPUTS, Flattened
from converter.frameworks import framework
from converter.matching.hints import Hints
from converter.matching.pairs import Matched, Pair
from converter.matching.partial import SLICED, Selection, Taking
from converter.matching.tied import Ties
from converter.planning.plan import TensorPlan, plan_matched
from converter.planning.prepare import Goal
from converter.planning.steps import Step

_STATISTICS = frozenset({"mean", "variance"})


class Reused(msgspec.Struct, frozen=True):
    """taking: which layer, and how. steps: how each of its tensors is made, of the old net and of the new one's own.

    freeze: the tensors that a further training is not to change; none of a layer that was taken in part.
    """

    taking: Taking
    steps: tuple[Step, ...]
    freeze: tuple[str, ...]


class ReusePlan(msgspec.Struct, frozen=True):
    """The layers that are taken, and what was decided of flattened inputs.

    old: the layers of the old net. goal: the new net.
    """

    old: Net
    goal: Goal
    selection: Selection
    reused: tuple[Reused, ...]
    flattened: tuple[Flattened, ...]

    def merged(self) -> TensorPlan:
        """Every tensor of the new net, of either side, in the order in which it is written."""
        steps = {**self.goal.own, **{step.target.name: step for one in self.reused for step in one.steps}}
        ordered = tuple(steps[spec.name] for spec in self.goal.contents.specs)
        contents = replace(self.goal.contents, left_out=())
        return self.goal.finished(TensorPlan(ordered, contents, flattened=self.flattened))


def plan_reuse(old: Net, goal: Goal, selection: Selection, hints: Hints) -> ReusePlan:
    """The steps of every layer that is taken. Raises MatchError."""
    takings = selection.takings
    flattens = _flattens(old, goal.net, takings, hints)
    channels = {**{one.source.path: 0 for one in takings}, **{item.path: item.channels for item in flattens}}
    own_channels = {path: value for path in channels if (value := hints.flatten_of(path)) is not None}
    options = replace(
        hints.options,
        flatten={**channels, **own_channels},
        unflatten={**{one.source.path: 0 for one in takings}, **hints.options.unflatten},
    )
    source = replace(old, layers=tuple(one.source for one in takings), left_out=())
    target = replace(goal.net, layers=tuple(one.target for one in takings), left_out=())
    pairs = tuple(Pair(one.source, one.target, one.reason) for one in takings)
    matched = Matched(pairs, Ties(), ())
    steps = plan_matched(source, target, goal.contents, replace(hints, options=options), matched).steps if pairs else ()
    by_layer: dict[str, list[Step]] = {layer.path: [] for layer in source.layers}
    for step in steps:
        by_layer[step.layer].append(step)
    reused = (_reused(one, by_layer[one.source.path], goal, takings) for one in takings)
    return ReusePlan(old, goal, selection, tuple(reused), flattens)


def _reused(taking: Taking, steps: Iterable[Step], goal: Goal, takings: Iterable[Taking]) -> Reused:
    layer = goal.net.by_path[taking.target.path]
    if taking.how == SLICED:
        return Reused(taking, tuple(_overlaid(step, layer, goal.own) for step in steps), ())
    whole = {one.target.path for one in takings if one.how != SLICED}
    shared = {spec.name for other in goal.net.layers if other.path not in whole for spec in other.tensors}
    statistics = {
        item.spec.name
        for reading in layer.readings
        for item in reading.stored
        if words_in(item.leaf.roles) <= _STATISTICS
    }
    names = dict.fromkeys(step.target.name for step in steps)
    return Reused(taking, tuple(steps), tuple(name for name in names if name not in shared | statistics))


def _overlaid(step: Step, layer: Layer, own: Mapping[str, Step]) -> Step:
    """The step with its result laid over the new net's tensor, where the two have other sizes."""
    under = own[step.target.name]
    if step.target.shape == under.target.shape:
        return step
    own_readings = (reading for reading in layer.readings if reading.kind == step.kind)
    stored = next(item for reading in own_readings for item in reading.stored if item.spec.name == step.target.name)
    over_ops, under_ops = (_neutral(stored, spec) for spec in (step.target, under.target))
    shapes = (_shape(ops, spec) for ops, spec in ((over_ops, step.target), (under_ops, under.target)))
    overlap = tuple(min(pair) for pair in zip(*shapes, strict=True))
    op = Overlay((*step.ops, *over_ops), (*under.ops, *under_ops), overlap)
    return replace(step, ops=(op,), target=under.target, own=under.own)


def _neutral(stored: Stored, spec: TensorSpec) -> tuple[Op, ...]:
    ops = replace(stored, spec=spec).to_neutral()
    assert ops is not None  # else the selection would not have sliced it
    return ops


def _shape(ops: Iterable[Op], spec: TensorSpec) -> tuple[int, ...]:
    specs: tuple[TensorSpec, ...] = (spec,)
    for op in ops:
        specs = op.infer(specs)
    return specs[0].shape


def _flattens(old: Net, new: Net, takings: Iterable[Taking], hints: Hints) -> tuple[Flattened, ...]:
    """Which of the layers follow a flatten, derived from the whole old net. Raises MatchError."""
    turned = framework(old.framework).channels_last != framework(new.framework).channels_last
    turned = turned and hints.options.flatten_fix
    takes = {one.source.path: one for one in takings}
    channels = {path: hints.flatten_of(path) for path in old.by_path}
    stated = {(path, INPUTS): number for path, number in channels.items() if isinstance(number, int)}
    decided, doubts = guesses(old.layers, stated, "the layers in the order of the old net" if old.ordered else "")
    problems = [
        doubtful(item)
        for item in doubts
        if turned and item.path in takes and item.side == INPUTS and channels[item.path] is None
    ]
    flattens = [item for item in decided if item.path in takes and item.side == INPUTS and item.channels]
    problems += [
        _other_positions(item, takes[item.path], size) for item in flattens if (size := _size(takes, new, item))
    ]
    if problems:
        raise MatchError(problems)
    return tuple(flattens) if turned else ()


def _size(takes: Mapping[str, Taking], new: Net, item: Flattened) -> int:
    """The inputs of a layer that is taken in part, where they are others than the old net's; else 0."""
    taking = takes[item.path]
    inputs = sizes_of(new.by_path[taking.target.path]).inputs
    return inputs if taking.how == SLICED and inputs != item.features else 0


def _other_positions(item: Flattened, taking: Taking, inputs: int) -> Problem:
    return Problem(
        f"'{item.path}' has {item.features} inputs that are {item.channels} flattened channels, and "
        f"'{taking.target.path}' of the new net has {inputs}: their first ones are not the same positions.",
        "flatten",
        item.path,
        remedies=(Remedy("skip_mismatch", effect="leaves it out"),),
    )
