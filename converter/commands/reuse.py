"""Partial reuse: some layers of an old net go into a new one, whose others stay as they are; `freeze` keeps those that
were taken from being trained.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from converter.commands.make_plan import as_inputs, opened_source, refuse_unused
from converter.core.arithmetic import Lost
from converter.endpoints.checkpoint import Weights
from converter.endpoints.destination import Destination, choose_path, destination
from converter.endpoints.endpoint import Endpoint, opened, refuse_other_framework
from converter.endpoints.replacing import refuse_existing
from converter.errors import ConversionError, Problem, Remedy
from converter.execution.jobs import Pace, compute
from converter.execution.run import execute
from converter.formats import Format
from converter.formats.locations import location
from converter.matching.hints import Hints
from converter.matching.matcher import match
from converter.matching.partial import SLICED, select
from converter.options import (
    MatchOptions,
    ReadOptions,
    Records,
    ReuseKeywords,
    ReuseOptions,
    StrPath,
    WriteOptions,
    changed,
    check_keywords,
    record_of,
)
from converter.planning.casting import cast
from converter.planning.plan import as_stored
from converter.planning.prepare import goal_of, with_hints
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
    if match.allow_missing:
        about = Remedy("allow_missing", match.allow_missing[0])
        text = "whatever nothing is taken for stays as it is: leave this out."
        raise ConversionError(Problem(text, "option", "allow_missing", about=about))
    if write.report is not None:
        about = Remedy("report", write.report)
        text = "a page is of a whole conversion: leave this out."
        raise ConversionError(Problem(text, "option", "report", about=about))
    hints = Hints.of(match)
    with ExitStack() as stack:
        inputs = as_inputs(example_input)
        new = opened(into, stack, framework=new_framework, inputs=inputs)
        end = opened_source(old, stack, old_framework, read, inputs, new)
        refuse_unused(inputs, end, new)
        if new.live is not None:
            if output is not None or changed(write):
                name = "output" if output is not None else changed(write)[0]
                raise ConversionError(
                    f"a live net is filled in place, so '{name}' is of no use: leave it out, and save the trained net."
                )
            return _filled(_planned(end, new, None, part, hints), end, new, dry_run)
        target = _destination(new, output, write)
        for read_from in (end, new):  # neither of the two is replaced, whatever else may be
            refuse_existing(target, read_from.files, force=True)
        refuse_existing(target, (), write.force)
        plan = _planned(end, new, target.form, part, hints)
        tensors = cast(plan.merged(), write.dtype) if write.dtype else plan.merged()
        lost = Lost()
        if not dry_run:
            pace = Pace(write.memory, write.workers)
            form, path, size = target.form, target.path, write.max_shard_size
            lost = execute(tensors, end.reader, form, path, size, pace, write.resume, own=new.reader)
        return replace(_report(plan, end, new, target, written=not dry_run), lost=lost, specs=tensors.contents.by_name)


def _planned(old: Endpoint, new: Endpoint, form: Format | None, part: ReuseOptions, hints: Hints) -> ReusePlan:
    refuse_other_framework(old, new.framework)
    goal = goal_of(new, form, by_schema=hints.schema is not None)
    net, filled, hints = with_hints(old.net, goal.net, hints)
    goal = replace(goal, net=filled)
    plan = plan_reuse(net, goal, select(net, goal.net, part, hints), hints)
    reused = tuple(replace(one, steps=as_stored(one.steps, old.contents)) for one in plan.reused)
    return replace(plan, reused=reused)


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
        return _report(plan, old, new, None, written=False)
    # all of them before the first is set: a damaged tensor must not leave the net half filled
    steps = [step for step in plan.merged().steps if step.sources]
    arrays = [(step.target.name, compute(step, old.reader.read, new.reader.read)) for step in steps]
    taken = {one.taking.target.path: one.taking.source.path for one in plan.reused}
    settings = {path: of for path, of in new.live.settings().items() if path in taken}
    pairs = ((source, target) for target, source in taken.items())
    for warning in differences(pairs, old.origin, new.framework.name, old.settings(), settings):
        warnings.warn(warning, stacklevel=3)
    return _report(plan, old, new, None, net=new.live.fill(arrays))


def _report(
    plan: ReusePlan, old: Endpoint, new: Endpoint, target: Destination | None, *, net: Any = None, written: bool = True
) -> ReuseReport:
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
        written=written,
    )


def freeze(net: Any, report: ReuseReport) -> Any:
    """Exempt from training every layer of a live net that `reuse` took as a whole.

    net: the net that was filled, or one that holds the merged file. Done to it, and returned:

    PyTorch: ``requires_grad = False``; statistics of BatchNorm stay, too. The net.
    Keras: ``layer.trainable = False`` for layers all of whose variables were taken. The net, to be compiled now.
    gluon: ``grad_req = "null"``; statistics of BatchNorm stay, too. The net.
    linen: nothing. A tree like the params, True for what is trained, for ``optax.multi_transform({True: optimizer,
    False: optax.set_to_zero()}, tree)``. (``optax.masked`` alone would add the bare gradient to the rest.)
    nnx: nothing. The filter of what is trained, for ``nnx.Optimizer(net, optimizer, wrt=trained)`` and
    ``nnx.value_and_grad(loss, argnums=nnx.DiffState(0, trained))``. Statistics of BatchNorm are the caller's to keep.

    Warns of layers that were taken in part, which stay trainable. Raises MatchError when the net is another one.
    """
    from converter.live import open_net  # files need no live nets

    live = open_net(net)
    there = live.framework.net(live.described())
    wanted = [one.taking.target.path for one in report.reused if one.taking.how != SLICED]
    if not all(path in there.by_path for path in wanted):  # a file may spell paths otherwise than the live net
        paths = {pair.source.path: pair.target.path for pair in match(report.new, there, Hints()).pairs}
        wanted = [paths[path] for path in wanted]
    shared = {spec.name for layer in there.layers if layer.path not in wanted for spec in layer.tensors}
    names = {spec.name for path in wanted for spec in there.by_path[path].tensors} - shared
    for path in report.in_part:
        warnings.warn(f"'{path}' was taken in part, so it stays trainable", stacklevel=2)
    return live.freeze(frozenset(names))
