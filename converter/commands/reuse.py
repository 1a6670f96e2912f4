"""Partial reuse: some layers of an old net go into a new one, and the rest of the new one stays as it is."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from converter.core.layers import Net
from converter.endpoints.checkpoint import StrPath, Weights
from converter.endpoints.destination import choose_format, choose_path, refuse_existing
from converter.endpoints.endpoint import Side, opened, turned
from converter.endpoints.readers import JoinedReader
from converter.errors import ConversionError
from converter.execution.run import compute, execute
from converter.flattening.decision import Flattened
from converter.formats import Contents, Format, Reader
from converter.formats.io.locations import location
from converter.frameworks import framework
from converter.live import LiveNet
from converter.live.run import as_arrays
from converter.matching.applied_options import Rules
from converter.matching.partial import Selection, Wanted, select
from converter.planning.plan import Step
from converter.planning.reuse import NEW, OLD, Reused, as_it_is, kept_steps, merged, plan_reuse
from converter.reports.checklist import checklist, differences
from converter.reports.reuse import ReuseReport


def reuse(
    old: StrPath | object,
    into: StrPath | object,
    *,
    first: int | None = None,
    layers: str | Iterable[str] = (),
    map: Mapping[str, str] | None = None,
    output: StrPath | None = None,
    skip_mismatch: bool = False,
    slice: bool = False,
    inflate: bool = False,
    strict: bool = False,
    force: bool = False,
    old_framework: str | None = None,
    new_framework: str | None = None,
    kind: Mapping[str, str] | None = None,
    heads: Mapping[str, int] | None = None,
    flatten: Mapping[str, int] | None = None,
    flatten_fix: bool = True,
    example_input: Any = None,
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
    layers that the map or the same name pairs). inflate: 2-d convolution kernels go into 3-d ones, repeated along
    the first spatial axis and divided by its size (I3D).
    strict: accept only pairs by the map or the same name. force: overwrite an existing output.
    old_framework, new_framework: whose names a file has, where its format leaves that open. example_input: an array
    that a live net takes, or a tuple of them (``into``, where both are live): then "first" is by the order of calls.
    The rest as in `convert`, of either net.
    Raises ConversionError; then nothing was written, and a live net is as it was.
    """
    patterns = (layers,) if isinstance(layers, str) else tuple(layers)
    if first is not None and patterns:
        raise ConversionError("first and layers both say what to take. Say one of them.")
    wanted = Wanted(first, patterns, skip_mismatch, slice, inflate, strict)
    rules = Rules.of(None, map, (), kind, heads, flatten, None, flatten_fix)
    with ExitStack() as stack:
        inputs = as_arrays(example_input) if example_input is not None else ()
        theirs = opened(into, stack, framework=new_framework, inputs=inputs)
        ours = opened(old, stack, framework=old_framework)
        if inputs and ours.live is not None:
            given = turned(inputs, theirs.framework, ours.framework) if theirs.live is not None else inputs
            ours = opened(old, stack, inputs=given)
        work = _Reuse(ours, theirs, wanted, rules)
        if theirs.weights is not None:
            return work.write(theirs.weights, output, force)
        if output is not None:
            raise ConversionError("output is for files: a live net is filled in place. Save it when it is trained.")
        assert theirs.live is not None
        return work.fill(theirs.live)


class _Reuse(msgspec.Struct, frozen=True):
    old: Side
    new: Side
    wanted: Wanted
    rules: Rules

    def fill(self, live: LiveNet) -> ReuseReport:
        """Set what is taken in the live net, which has the rest already."""
        new, contents = self.rules.settled(self.new.net), self.new.reader.contents
        plan = self._plan(new, contents, as_it_is(new, contents))
        # all of them before the first is set: a damaged tensor must not leave the net half filled
        tensors = [(step.target.name, compute(step, self._reader().read)) for one in plan.reused for step in one.steps]
        taken = {one.taking.target.path: one.taking.source.path for one in plan.reused}
        settings = {path: of for path, of in live.settings().items() if path in taken}
        pairs = ((source, target) for target, source in taken.items())
        for found in differences(pairs, self.old.origin, new.framework, self.old.settings(), settings):
            warnings.warn(found, stacklevel=3)
        return self._report(plan, net=live.fill(tensors))

    def write(self, weights: Weights, output: StrPath | None, force: bool) -> ReuseReport:
        """Write the merged file."""
        target = framework(weights.framework)
        form = choose_format(target, output, None, weights.format, weights.net.is_data)
        path = location(output) if output is not None else _beside(weights, form)
        files = [side.weights for side in (self.old, self.new) if side.weights]
        for replaced in (True, force):  # neither of the two is replaced, whatever else may be
            for file in files:
                refuse_existing(path, form, file.path, replaced)
        new, contents, kept = kept_steps(self.rules.settled(weights.net), weights.contents, target, form)
        plan = self._plan(new, contents, kept)
        execute(merged(plan.reused, contents, kept), self._reader(), form, path)
        return self._report(plan, output=str(path), output_format=form.title)

    def _plan(self, new: Net, contents: Contents, kept: Mapping[str, Step]) -> _Planned:
        old = self.rules.applied(self.old.net)
        selection = select(old, new, self.wanted, self.rules)
        reused, flattened = plan_reuse(old, new, contents, kept, selection, self.rules)
        return _Planned(old, new, contents, selection, reused, flattened)

    def _reader(self) -> Reader:
        return JoinedReader({OLD: self.old.reader, NEW: self.new.reader})

    def _report(self, plan: _Planned, output: str = "", output_format: str = "", net: Any = None) -> ReuseReport:
        steps = [step for one in plan.reused for step in one.steps]
        asked = {one.taking.source.path for one in plan.reused} | {one.layer for one in plan.selection.skipped}
        filled = {step.target.name for step in steps}
        return ReuseReport(
            old=self.old.title,
            old_format=self.old.format_title,
            into=self.new.title,
            into_format=self.new.format_title,
            output=output,
            output_format=output_format,
            order=plan.selection.order,
            reused=plan.reused,
            skipped=plan.selection.skipped,
            unused=tuple(layer.path for layer in plan.old.layers if layer.path not in asked),
            kept=tuple(spec.name for spec in plan.contents.specs if spec.name not in filled),
            not_carried=self.new.reader.contents.left_out if output else (),
            flattened=plan.flattened,
            checks=checklist(steps, self.old.origin, plan.new.framework),
            new=plan.new,
            net=net,
        )


class _Planned(msgspec.Struct, frozen=True):
    old: Net
    new: Net
    contents: Contents
    selection: Selection
    reused: tuple[Reused, ...]
    flattened: tuple[Flattened, ...]


def _beside(weights: Weights, form: Format) -> Path:
    """``reused-new.pt`` beside ``new.pt``."""
    path = weights.path.with_name(f"reused-{weights.path.name}")
    return path if form == weights.format else choose_path(path, None, form)
