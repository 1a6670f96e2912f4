"""A plan is a value: what a conversion will do and why, printed, saved, written to a file or loaded into a net."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

from msgspec.structs import replace

from converter.commands.report_page import files_of, paged
from converter.core.contents import LeftOut
from converter.core.layers import Net
from converter.endpoints.destination import Destination, destination
from converter.endpoints.endpoint import Endpoint, keeps_quantized, opened, refuse_other_framework
from converter.endpoints.replacing import refuse_existing, refuse_read
from converter.errors import CloneWarning, ConversionError, MatchError, OutputError, Problem, Remedy
from converter.execution.jobs import Pace, compute, fill
from converter.execution.run import execute
from converter.formats import Format
from converter.frameworks import Framework
from converter.frameworks.neutral import architecture_in
from converter.matching.hints import Hints
from converter.matching.pairs import Pair
from converter.options import (
    Records,
    StrPath,
    TrainingOptions,
    WriteKeywords,
    WriteOptions,
    check_keywords,
    record_of,
)
from converter.planning.casting import cast as cast_floats
from converter.planning.layout import plan_new, rename
from converter.planning.plan import TensorPlan, as_stored
from converter.planning.prepare import Goal, goal_of, plan_goal, prepared, refuse_nothing
from converter.reports.checklist import checklist, differences, pairs
from converter.reports.conversion import Report

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from typing_extensions import Self, Unpack

    from converter.architectures.document import Architecture
    from converter.commands.verify_nets import ForwardComparison

_Net = TypeVar("_Net")


class Plan:
    """What a conversion will do, and why. Printed it is a table; see `converter.plan`.

    form: the format that it is laid out for; None where it is for a live net. tensors: each target tensor, its sources,
    the ops and the reason. proof: what both nets gave, layer by layer, where they were run.
    """

    def __init__(
        self,
        source: Endpoint,
        target: Framework,
        clone: Endpoint | None,
        hints: Hints,
        form: Format | None,
        architecture: Architecture | None = None,
        stack: ExitStack | None = None,
        proof: ForwardComparison | None = None,
        training: TrainingOptions | None = None,
    ) -> None:
        if architecture is not None and (target.name != "neutral" or clone is not None):
            raise ConversionError("an architecture is stored in a neutral file alone: say to='neutral', and no like.")
        as_itself = clone is None and source.live is not None and source.framework is target
        self.source, self.target, self.clone = source, target, source if as_itself else clone
        self.form, self.proof, self._training = form, proof, training
        refuse_other_framework(source, target)
        self.hints, self._architecture = hints, architecture
        self._stack = stack or ExitStack()
        try:
            self.goal: Goal | None = None
            if self.clone is not None:
                self.goal = goal_of(self.clone, form, hints.schema is not None)
                self.tensors = plan_goal(source.net, self.goal, hints)
            else:
                assert form is not None
                self.tensors = self._new(form)
        except MatchError as error:
            raise (error.of(str(source.path)) if source.path else error) from None
        self.tensors = replace(self.tensors, steps=as_stored(self.tensors.steps, source.contents))

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Source layer, target layer, and the reason."""
        return self.tensors.pairs

    @cached_property
    def report(self) -> Report:
        """What would be written, under the usual name."""
        if self.form is None:
            assert self.clone is not None
            return self._report(self.tensors, self.clone.title, self.clone.format_title, written=False)
        end = destination(self.source, self.clone, self.target, None, WriteOptions(format=self.form.name))
        return self.report_for(end, WriteOptions())

    def __str__(self) -> str:
        return str(self.report)

    def to_dict(self) -> dict[str, Any]:
        return self.report.to_dict()

    def write(
        self,
        path: StrPath | None = None,
        *,
        executor: Executor | None = None,
        progress: Callable[[int, int], None] | None = None,
        options: Records = (),
        **keywords: Unpack[WriteKeywords],
    ) -> Report:
        """Write the file; its extension chooses the format, unless ``format`` names one. By default beside the source.

        executor: has the shards written as tasks, on many machines for one. progress: called with the bytes written so
        far and all. options, keywords: see `converter.options.WriteOptions`. Raises ConversionError; then nothing was
        written.
        """
        check_keywords(keywords, options, WriteOptions)
        write = record_of(WriteOptions, options, keywords)
        if write.format is None and path is None and self.form is not None:
            write = replace(write, format=self.form.name)
        end = destination(self.source, self.clone, self.target, path, write)
        refuse_existing(end, self.source.files, write.force)
        with paged(write, end, files_of(self.source, self.clone)) as kept:
            return kept(self.write_to(end, write, executor, progress))

    def write_to(
        self,
        end: Destination,
        options: WriteOptions,
        executor: Executor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Report:
        """As `write`, to a destination that is chosen and free."""
        laid_out = self.laid_out(end.form)
        if self._training is not None and (executor is not None or end.form.shards == end.form.name or options.resume):
            raise ConversionError("a training is written as one file, by one process: leave out shards and workers.")
        report = laid_out.report_for(end, options)
        own = laid_out.goal.clone.reader if laid_out.goal and report.plan.needs_clone else None
        pace = Pace(options.memory, options.workers, progress)
        form, path = end.form, end.path
        size, resume = options.max_shard_size, options.resume
        reader = report.training.reader(self.source.reader) if report.training is not None else self.source.reader
        with self._slots_beside(report, end, options, pace):
            lost = execute(report.plan, reader, form, path, size, pace, resume, executor, own)
        return replace(report, written=True, lost=lost)

    def report_for(self, end: Destination, options: WriteOptions) -> Report:
        """What `write_to` would do."""
        tensors = self.laid_out(end.form).tensors
        if options.dtype and keeps_quantized(self.source):
            what = "scales of tensors that are kept quantized would be cast, too, and stand for other values then."
            raise ConversionError(Problem(what, "option", about=Remedy("dtype", options.dtype)))
        tensors = cast_floats(tensors, options.dtype) if options.dtype else tensors
        report = self._report(tensors, str(end.path), end.form.title, written=False)
        return self._with_training(report, end.form) if self._training is not None else report

    @contextmanager
    def _slots_beside(self, report: Report, end: Destination, options: WriteOptions, pace: Pace) -> Iterator[None]:
        """Around the writing of the weights: the file of the optimizer, where it is one of its own, is whole with them
        or absent.
        """
        if report.training is None or report.training.apart is None:
            yield
            return
        from converter.formats.pickled.trainer import StatesWriter, states_beside

        path = states_beside(end.path)
        read = [*self.source.files, *(self.clone.files if self.clone is not None else ())]
        refuse_read(path, [*read, *map(states_beside, read), *report.training.files])
        if os.path.lexists(path) and not options.force:
            raise OutputError(f"{path}: exists already; choose another path.", Remedy("force", effect="replaces it"))
        apart = report.training.apart
        with StatesWriter(path, apart.contents) as writer:
            fill(writer, report.training.reader(self.source.reader), apart.steps, pace)
            yield

    def _with_training(self, report: Report, form: Format) -> Report:
        from converter.training.carry import carry, state_of  # few conversions carry a training

        assert self._training is not None
        strict = self.hints.options.strict
        _, state = state_of(self.source, self._training, strict)
        clone = state_of(self.clone, self._training, strict, is_source=False) if self.clone is not None else None
        carried = carry(state, report.plan, self.target, form, clone)
        return replace(report, plan=carried.plan, training=carried)

    def load_into(self, net: _Net) -> _Net:
        """Fill a live net, and return it (see `converter.load_into`). Raises ConversionError; then it is as it was.

        The net is the one that the plan was made for, or another one of the same layers.
        """
        return self.fill(net, stacklevel=3)

    def fill(self, net: _Net, stacklevel: int) -> _Net:
        """As `load_into`; a CloneWarning names the caller that is so far up."""
        if self.form is not None or self.clone is None or self.clone.live is None or self.clone.live.net is not net:
            with ExitStack() as stack:
                clone = opened(net, stack)
                return Plan(self.source, clone.framework, clone, self.hints, None).fill(net, stacklevel + 1)
        source = self.source
        # all of them before the first is set: a damaged tensor must not leave the net half filled
        steps = [step for step in self.tensors.steps if not step.is_kept]
        arrays = [(step.target.name, compute(step, source.reader.read, self.clone.reader.read)) for step in steps]
        for warning in self.set_otherwise():
            warnings.warn(warning, stacklevel=stacklevel)
        return cast("_Net", self.clone.live.fill(arrays))

    def set_otherwise(self) -> Iterable[CloneWarning]:
        """What a live clone sets otherwise than the source."""
        assert self.clone is not None
        paired = pairs(self.tensors.steps, self.clone.net)
        settings = self.source.settings(), self.clone.settings() or {}
        return differences(paired, self.source.origin, self.target.name, *settings)

    def laid_out(self, form: Format) -> Plan:
        """This plan, or one for a format that spells names otherwise."""
        same = self.form is not None and self.target.dialect_for(self.form.name) == self.target.dialect_for(form.name)
        if same and not (self.clone is not None and self.clone.live is not None and form is not self.form):
            return self
        return Plan(
            self.source,
            self.target,
            self.clone,
            self.hints,
            form,
            self._architecture,
            proof=self.proof,
            training=self._training,
        )

    def close(self) -> None:
        """Close what the plan opened itself."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _report(self, tensors: TensorPlan, output: str, title: str, written: bool = True) -> Report:
        checks = checklist(tensors.steps, self.source.origin, self.target.name)
        ends = self.source.title, self.source.format_title, output, title
        return Report(*ends, tensors, written, checks, proof=self.proof)

    def _new(self, form: Format) -> TensorPlan:
        """A new file: laid out without a clone."""
        hints, lost = self._with_names()
        source, hints = prepared(self.source.net, hints, self.target)
        refuse_nothing(source)
        hints.check_used(source, None)
        tensors = plan_new(source, self.source.contents, self.target, form.name, hints)
        return self._described(replace(tensors, left_out=(*tensors.left_out, *lost)), source, hints)

    def _with_names(self) -> tuple[Hints, tuple[LeftOut, ...]]:
        """An architecture tells, as a schema does, what each framework calls the layers, and what is flattened.

        One in a file that cannot be read is left out, with the reason: the weights are converted without it.
        """
        architecture = self._architecture or architecture_in(self.source.contents)
        within_neutral = self.target.name == self.source.framework.name == "neutral"
        if self.hints.schema is not None or architecture is None or within_neutral:
            return self.hints, ()
        from converter.architectures.neutral_file import names_in

        try:
            return replace(self.hints, schema=names_in(architecture)), ()
        except ConversionError as error:
            if self._architecture is not None:
                raise
            return self.hints, (LeftOut("the architecture", str(error)),)

    def _described(self, tensors: TensorPlan, source: Net, hints: Hints) -> TensorPlan:
        """A neutral file holds the architecture, if one is known."""
        architecture = self._architecture or architecture_in(self.source.contents)
        of_schema = hints.schema is not None and hints.schema.architecture is not None
        if self.target.name != "neutral" or (architecture is None and not of_schema):
            return tensors
        from converter.architectures.neutral_file import described

        paths = {renaming.source.path: renaming.path for renaming in rename(source, self.target.name, hints)}
        return described(tensors, paths, architecture, hints.schema)
