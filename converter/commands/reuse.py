"""Partial reuse: some layers of an old net go into a new one, and the rest of the new one stays as it is."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from converter.commands.plan import as_inputs, opened_source
from converter.endpoints.checkpoint import Weights
from converter.endpoints.destination import Destination, choose_path, destination, refuse_existing
from converter.endpoints.endpoint import Endpoint, opened
from converter.errors import ConversionError
from converter.execution.jobs import Pace, compute
from converter.execution.run import execute
from converter.formats import Format
from converter.formats.io.locations import location
from converter.matching.hints import Hints
from converter.matching.partial import select
from converter.options import (
    MatchOptions,
    ReadOptions,
    Records,
    ReuseKeywords,
    ReuseOptions,
    StrPath,
    WriteOptions,
    check_keywords,
    record_of,
)
from converter.planning.casting import cast
from converter.planning.prepare import goal_of, prepared
from converter.planning.reuse import ReusePlan, plan_reuse
from converter.reports.checklist import checklist, differences
from converter.reports.reuse import ReuseReport

if TYPE_CHECKING:
    from typing_extensions import Unpack


def reuse(
    old: StrPath | object,
    into: StrPath | object,
    *,
    output: StrPath | None = None,
    example_input: Any = None,
    old_framework: str | None = None,
    new_framework: str | None = None,
    dry_run: bool = False,
    options: Records = (),
    **keywords: Unpack[ReuseKeywords],
) -> ReuseReport:
    """Take layers of an old net into a new one: ``reuse("old.params", into=net, first=2)``.

    old, into: paths of weight files, or live nets as in `load_into`, of any two frameworks. A live ``into`` is
    changed in place and is the report's ``net`` (for the tree of a linen net: a new tree); for a path a merged file
    is written to ``output``, beside the new one by default (``reused-new.pt``). Every tensor that nothing was taken
    for keeps its bytes.
    first: so many layers that hold parameters, in the order in which they are called where their names tell it, else
    in that of the file (the report says which). layers: those of these patterns (``encoder.*``; a module stands
    for all below it). map: old layer or module -> new one; alone, it also says what to take.
    A layer that does not fit is an error, unless one of these is asked for. skip_mismatch: leave it out. slice: take
    the part that overlaps, counted from the start of each axis, and keep the new net's values in the rest (for
    layers that a schema, the map or the same name pairs). inflate: 2-d convolution kernels go into 3-d ones, repeated
    along the first spatial axis and divided by its size (I3D).
    old_framework, new_framework: whose names a file has, where its format leaves that open. example_input: an array
    that a live net takes, or a tuple of them (``into``, where both are live): then "first" is by the order of calls.
    dry_run: plan and report, but change nothing. options, keywords: see `converter.options` (ReadOptions of the old
    file, MatchOptions, ReuseOptions, WriteOptions).
    Raises ConversionError; then nothing was written, and a live net is as it was.
    """
    check_keywords(keywords, options, ReadOptions, MatchOptions, ReuseOptions, WriteOptions)
    read, match = record_of(ReadOptions, options, keywords), record_of(MatchOptions, options, keywords)
    part, write = record_of(ReuseOptions, options, keywords), record_of(WriteOptions, options, keywords)
    if part.first is not None and part.layers:
        raise ConversionError("'first' and 'layers' both say what to take: leave one of them out.")
    hints = Hints.of(match)
    with ExitStack() as stack:
        inputs = as_inputs(example_input)
        new = opened(into, stack, framework=new_framework, inputs=inputs)
        end = opened_source(old, stack, old_framework, read, inputs, new)
        if new.live is not None:
            if output is not None:
                raise ConversionError("a live net is filled in place, and has no output: save it when it is trained.")
            plan = _planned(end, new, None, part, hints)
            return _filled(plan, end, new, dry_run)
        target = _destination(new, output, write)
        for file in (end.path, new.path):  # neither of the two is replaced, whatever else may be
            refuse_existing(target.path, target.form, file, force=True)
        refuse_existing(target.path, target.form, None, write.force)
        plan = _planned(end, new, target.form, part, hints)
        tensors = cast(plan.merged(), write.dtype) if write.dtype else plan.merged()
        if not dry_run:
            pace = Pace(write.memory, write.workers)
            execute(
                tensors, end.reader, target.form, target.path, write.max_shard_size, pace, write.resume, own=new.reader
            )
        return _report(plan, end, new, target)


def _planned(old: Endpoint, new: Endpoint, form: Format | None, part: ReuseOptions, hints: Hints) -> ReusePlan:
    goal = goal_of(new, form, by_schema=hints.schema is not None)
    net, hints = prepared(old.net, hints, new.framework)
    hints.check_used(net, goal.net)
    goal = goal.with_net(hints.of_clone(goal.net))
    return plan_reuse(net, goal, select(net, goal.net, part, hints), hints)


def _destination(new: Endpoint, output: StrPath | None, options: WriteOptions) -> Destination:
    """``reused-new.pt`` beside ``new.pt``."""
    assert isinstance(new.weights, Weights)
    end = destination(new, new, new.framework, output, options)
    if output is not None:
        return Destination(end.form, location(output) if options.max_shard_size is None else end.path)
    path = new.weights.path.with_name(f"reused-{new.weights.path.name}")
    return Destination(end.form, path if end.form == new.weights.format else choose_path(path, None, end.form))


def _filled(plan: ReusePlan, old: Endpoint, new: Endpoint, dry_run: bool) -> ReuseReport:
    """Set what is taken in the live net, which has the rest already."""
    assert new.live is not None
    if dry_run:
        return _report(plan, old, new, None)
    # all of them before the first is set: a damaged tensor must not leave the net half filled
    steps = [step for step in plan.merged().steps if step.sources]
    arrays = [(step.target.name, compute(step, old.reader.read, new.reader.read)) for step in steps]
    taken = {one.taking.target.path: one.taking.source.path for one in plan.reused}
    settings = {path: of for path, of in new.live.settings().items() if path in taken}
    pairs = ((source, target) for target, source in taken.items())
    for warning in differences(pairs, old.origin, new.framework.name, old.settings(), settings):
        warnings.warn(warning, stacklevel=3)
    return _report(plan, old, new, None, new.live.fill(arrays))


def _report(plan: ReusePlan, old: Endpoint, new: Endpoint, target: Destination | None, net: Any = None) -> ReuseReport:
    steps = [step for one in plan.reused for step in one.steps]
    asked = {one.taking.source.path for one in plan.reused} | {one.layer for one in plan.selection.skipped}
    filled = {step.target.name for step in steps}
    return ReuseReport(
        old=old.title,
        old_format=old.format_title,
        into=new.title,
        into_format=new.format_title,
        output=str(target.path) if target else "",
        output_format=target.form.title if target else "",
        order=plan.selection.order,
        reused=plan.reused,
        skipped=plan.selection.skipped,
        unused=tuple(layer.path for layer in plan.old.layers if layer.path not in asked),
        kept=tuple(spec.name for spec in plan.goal.contents.specs if spec.name not in filled),
        not_carried=new.reader.contents.left_out if target else (),
        flattened=plan.flattened,
        checks=checklist(steps, old.origin, new.framework.name),
        new=plan.goal.net,
        net=net,
    )
