"""`convert`, `save` and `load_into`. The command line is a skin over these."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec.structs import replace

from converter.core.layers import Net
from converter.core.tensors import DType
from converter.endpoints.checkpoint import StrPath
from converter.endpoints.destination import (
    choose_format,
    choose_path,
    in_shards,
    own_framework,
    parse_size,
    refuse_existing,
)
from converter.endpoints.direction import parse_direction
from converter.endpoints.endpoint import Goal, Inputs, Side, clone_of, goal_of, opened, turned
from converter.errors import ConversionError, MatchError
from converter.execution.run import Pace, compute, execute
from converter.formats import Format, Reader
from converter.formats.base import LeftOut
from converter.frameworks import Framework
from converter.frameworks import framework as framework_of
from converter.frameworks.neutral import architecture_in
from converter.matching.applied_options import Rules
from converter.matching.matcher import rename
from converter.planning.casting import cast, parse_dtype
from converter.planning.plan import KEPT, Plan, plan_into, plan_new
from converter.reports.checklist import checklist, differences, pairs
from converter.reports.conversion import Report
from converter.schema.loader import Schema

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from converter.architectures.document import Architecture

_Net = TypeVar("_Net")


def convert(
    direction: str,
    source: StrPath,
    output: StrPath | None = None,
    *,
    like: StrPath | object | None = None,
    example_input: Any = None,
    schema: str | None = None,
    map: Mapping[str, str] | None = None,
    format: str | None = None,
    strip: Iterable[str] = (),
    kind: Mapping[str, str] | None = None,
    heads: Mapping[str, int] | None = None,
    flatten: Mapping[str, int | str] | None = None,
    unflatten: Mapping[str, int] | None = None,
    flatten_fix: bool = True,
    dtype: str | None = None,
    step: int | None = None,
    key: str | None = None,
    verify: bool = True,
    names_from: StrPath | None = None,
    max_shard_size: int | str | None = None,
    memory: int | str | None = None,
    workers: int | None = None,
    resume: bool = False,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
    strict: bool = False,
    ignore: Iterable[str] = (),
    allow_missing: Iterable[str] = (),
    dry_run: bool = False,
    force: bool = False,
    certificate: StrPath | None = None,
) -> Report:
    """Convert a weight file: ``convert("torch->flax", "mlp.params")`` writes ``mlp.msgpack`` beside it.

    output: where to; its ending chooses the format, unless ``format`` names one.
    like: a clone, whose names, shapes, dtypes and order the result takes: a file saved from a freshly made one, a live
    net as in `load_into`, or ``"package.module:Net"``, a class or a factory of your own code, which is imported and
    called. example_input: an array that a live clone takes, or a tuple of them: it gives lazy layers their shapes, and
    shows in which order the layers are called and what is flattened.
    schema: name of a shipped schema, or path of a YAML file. map: source layer -> target layer.
    strip: leading modules of the source's names to leave out, such as ``module`` and ``_orig_mod``.
    kind: pattern of layers -> the kind or form they have (``{"up*": "conv_transpose"}``), where the file leaves that
    open. heads: pattern of an attention -> its number of heads. flatten: layer behind a flatten -> the channels that
    were flattened (0: none; ``"64x49+4"``: 64 in 49 places, with 4 features beside them); unflatten: layer whose
    outputs become channels again -> how many; flatten_fix: False leaves both in the order they have.
    dtype: float16, bfloat16, float32 or float64: that of every float in the output (nearest value, ties to even; what
    is too large becomes inf, and is counted in the report).
    step: which checkpoint of a folder, instead of the newest. key: the place of the weights inside a
    training checkpoint, instead of the usual ones. verify: compare the checksums that the source has.
    names_from: a file whose names, in its order, the tensors of a source without names get (Equinox).
    max_shard_size: bytes, or ``"5GB"``: write several files of at most that, with an index.
    memory: bytes, or ``"2GB"``: of all tensors on their way at a time (see `execute.Pace`); a larger one goes
    alone. workers: threads. progress: called with the bytes written so far and all. None of them changes the result.
    resume: keep the complete shards when it is stopped, and go on from there when called so again.
    executor: has the shards written as tasks, on many machines for one: ``dask_client.get_executor(pure=False)``.
    strict: accept only pairings by schema, map or the same name. ignore: patterns of source layers to leave out.
    allow_missing: patterns of layers of the clone that stay as they are there if the source has nothing for them (of a
    schema: that the source may lack).
    dry_run: plan and report, but write nothing. force: overwrite an existing output.
    certificate: write down there what was read, done and written (see `converter.check_certificate`).
    Raises ConversionError; then nothing was written.
    """
    given = dict(locals())  # all arguments, also those that are added one day: a certificate must not forget any
    way = parse_direction(direction)
    job = _Job(
        way.target,
        Rules.of(schema, map, strip, kind, heads, flatten, unflatten, flatten_fix, ignore, allow_missing),
        output,
        like,
        _inputs(example_input),
        format,
        parse_dtype(dtype) if dtype is not None else None,
        _size(max_shard_size),
        Pace(_size(memory), workers, progress),
        resume,
        strict,
        dry_run,
        force,
        executor,
    )
    with ExitStack() as stack:
        side = opened(
            source, stack, framework=way.source.name, step=step, key=key, verify=verify, names_from=names_from
        )
        if certificate is None:
            return job.run(side, stack)
        from converter.commands.certificate import certify, refuse_certificate

        refuse_certificate(certificate, force, dry_run, like, source, output)
        report = job.run(side, stack)
        assert side.weights is not None
        certify(certificate, report, side.weights, given)
        return report


def save(
    net: object,
    path: StrPath,
    *,
    to: str | None = None,
    like: StrPath | object | None = None,
    example_input: Any = None,
    schema: str | None = None,
    map: Mapping[str, str] | None = None,
    format: str | None = None,
    kind: Mapping[str, str] | None = None,
    heads: Mapping[str, int] | None = None,
    flatten: Mapping[str, int | str] | None = None,
    unflatten: Mapping[str, int] | None = None,
    flatten_fix: bool = True,
    dtype: str | None = None,
    max_shard_size: int | str | None = None,
    architecture: Architecture | None = None,
    strict: bool = False,
    ignore: Iterable[str] = (),
    allow_missing: Iterable[str] = (),
    force: bool = False,
) -> Report:
    """Save a live net of any framework in any format: ``save(net, "mlp.msgpack")`` writes a Flax file of a torch net.

    net: as in `load_into`. path: its ending chooses the format, and with it the framework, unless ``to`` names one:
    the net's own where it uses that format, neutral for ``.safetensors``.
    In a format of its own framework the file is the one that the framework itself would write. example_input: an array
    that the net takes, or a tuple of them: it shows in which order the layers are called and what is flattened.
    architecture: what the net computes, as `converter.architecture` reads it from a net, for a neutral file; then
    `converter.build` makes of the file alone a net in any framework. The rest as in `convert`. Raises ConversionError;
    then nothing was written.
    """
    inputs = _inputs(example_input)
    with ExitStack() as stack:
        side = opened(net, stack, inputs=inputs)
        job = _Job(
            framework_of(to) if to is not None else own_framework(path, format, side.framework),
            Rules.of(schema, map, (), kind, heads, flatten, unflatten, flatten_fix, ignore, allow_missing),
            path,
            like,
            inputs,
            format,
            parse_dtype(dtype) if dtype is not None else None,
            _size(max_shard_size),
            strict=strict,
            force=force,
            architecture=architecture,
        )
        return job.run(side, stack)


def load_into(
    net: _Net,
    source: StrPath | object,
    *,
    example_input: Any = None,
    framework: str | None = None,
    schema: str | Schema | None = None,
    map: Mapping[str, str] | None = None,
    strip: Iterable[str] = (),
    kind: Mapping[str, str] | None = None,
    heads: Mapping[str, int] | None = None,
    flatten: Mapping[str, int | str] | None = None,
    unflatten: Mapping[str, int] | None = None,
    flatten_fix: bool = True,
    step: int | None = None,
    key: str | None = None,
    verify: bool = True,
    strict: bool = False,
    ignore: Iterable[str] = (),
    allow_missing: Iterable[str] = (),
) -> _Net:
    """Fill a live net from a weight file of any framework or from another live net, and return it.

    net: a ``torch.nn.Module``, a Keras model (Keras 3 or tf_keras), a gluon ``Block``, an nnx module (all
    changed in place), or of Flax linen the tree of variables (a new tree is returned), a pair (module, variables), a
    bound module (a new pair, or module bound to new variables), or a module alone, if there is an example input.
    source: a path, or a live net, as ``net``. framework: whose names the file has, where its format leaves that open.
    example_input: an array that the net takes, or a tuple of them: it gives lazy layers their shapes, and shows in
    which order the layers are called and what is flattened, of a live source, too (with its channels where it has
    them).
    The rest as in `convert`.
    Raises MatchError when a layer cannot be paired, FormatError when the file is damaged; then the net is as it was.
    Warns (CloneWarning) of what the net sets otherwise than the source, if that is live, too, or else than the
    defaults of its framework: the epsilon of a BatchNorm, say, which weights do not carry.
    Tensors that are stored as the net wants them are mapped, the others in memory until all are there.
    """
    rules = Rules.of(schema, map, strip, kind, heads, flatten, unflatten, flatten_fix, ignore, allow_missing)
    inputs = _inputs(example_input)
    with ExitStack() as stack:
        clone = opened(net, stack, inputs=inputs)
        assert clone.live is not None
        if isinstance(source, (str, os.PathLike)):
            given = opened(source, stack, framework=framework, step=step, key=key, verify=verify)
        else:
            given = opened(source, stack)
            given = opened(source, stack, inputs=turned(inputs, clone.framework, given.framework)) if inputs else given
        plan = _planned(given, goal_of(clone, None, rules.schema is not None), rules, strict)
        # all of them before the first is set: a damaged tensor must not leave the net half filled
        tensors = [(s.target.name, compute(s, given.reader.read)) for s in plan.steps if s.reason != KEPT]
        paired = pairs(plan.steps, clone.net)
        for found in differences(paired, given.origin, clone.framework.name, given.settings(), clone.settings() or {}):
            warnings.warn(found, stacklevel=2)
        filled: _Net = clone.live.fill(tensors)
    return filled


class _Job(msgspec.Struct, frozen=True):
    """What to write of an opened source, and how (see `convert`)."""

    target: Framework
    rules: Rules
    output: StrPath | None
    like: StrPath | object | None = None
    inputs: Inputs = ()
    format: str | None = None
    dtype: DType | None = None
    limit: int | None = None
    pace: Pace = msgspec.field(default_factory=Pace)
    resume: bool = False
    strict: bool = False
    dry_run: bool = False
    force: bool = False
    executor: Executor | None = None
    architecture: Architecture | None = None

    def run(self, side: Side, stack: ExitStack) -> Report:
        if self.resume and self.limit is None:
            raise ConversionError("Only shards can be resumed. Say --max-shard-size 5GB too, or leave --resume out.")
        clone = clone_of(self.like, stack, self.target.name, self.inputs) if self.like is not None else None
        form, path = self._place(side, clone)
        refuse_existing(path, form, side.path, self.force)
        plan, reader = self._plan(side, clone, form)
        if self.dtype is not None:
            plan = cast(plan, self.dtype)
        overflowed: Mapping[str, int] = {}
        if not self.dry_run:
            overflowed = execute(plan, reader, form, path, self.limit, self.pace, self.resume, self.executor)
        checks = checklist(plan.steps, side.origin, self.target.name)
        written = not self.dry_run
        return Report(side.title, side.format_title, str(path), form.title, plan, written, checks, overflowed)

    def _place(self, side: Side, clone: Side | None) -> tuple[Format, Path]:
        template = clone.weights.format if clone and clone.weights else None
        form = choose_format(self.target, self.output, self.format, template, side.net.is_data)
        output = self.output
        if self.limit is not None:
            form, output = in_shards(form, output)
        return form, choose_path(side.path or Path(side.title), output, form)

    def _plan(self, side: Side, clone: Side | None, form: Format) -> tuple[Plan, Reader]:
        """The plan, and what reads its sources."""
        if self.architecture is not None and (self.target.name != "neutral" or clone is not None):
            raise ConversionError("An architecture is stored in a neutral file alone: say to='neutral', and no like.")
        if clone is None and side.live is not None and side.framework is self.target:
            clone = side  # as the framework itself would write it
        if clone is not None:
            goal = goal_of(clone, form, self.rules.schema is not None)
            plan = _planned(side, goal, self.rules, self.strict)
            keeps = goal.net.read and any(step.reason == KEPT for step in plan.steps)
            if not keeps or goal.net.read is None:
                return plan, side.reader
            from converter.endpoints.readers import WithClone

            return plan, WithClone(side.reader, goal.net.read)
        try:
            given, lost = self._with_names(side)
            source, rules = applied(side, given, self.target)
            plan = plan_new(source, side.contents, self.target, form.name, rules)
            plan = replace(plan, left_out=(*plan.left_out, *lost))
            return self._described(plan, source, side, rules), side.reader
        except MatchError as error:
            raise _placed(error, side) from None

    def _with_names(self, side: Side) -> tuple[Rules, tuple[LeftOut, ...]]:
        """An architecture tells, as a schema does, what each framework calls the layers, and what is flattened.

        One in a file that cannot be read is left out, with the reason: the weights are converted without it.
        """
        given = self.architecture or architecture_in(side.contents)
        if self.rules.schema is not None or given is None or (self.target.name == side.framework.name == "neutral"):
            return self.rules, ()
        from converter.architectures.neutral_file import names_in

        try:
            return replace(self.rules, schema=names_in(given)), ()
        except ConversionError as error:
            if self.architecture is not None:
                raise
            return self.rules, (LeftOut("the architecture", str(error)),)

    def _described(self, plan: Plan, source: Net, side: Side, rules: Rules) -> Plan:
        """A neutral file holds the architecture, if one is known."""
        given = self.architecture or architecture_in(side.contents)
        of_schema = rules.schema is not None and rules.schema.architecture is not None
        if self.target.name != "neutral" or (given is None and not of_schema):
            return plan
        from converter.architectures.neutral_file import described

        paths = {renaming.source.path: renaming.path for renaming in rename(source, self.target.name, rules)}
        return described(plan, paths, given, rules.schema)


def _planned(side: Side, goal: Goal, rules: Rules, strict: bool) -> Plan:
    try:
        source, rules = applied(side, rules, framework_of(goal.net.framework))
        plan = plan_into(source, rules.settled(goal.net), goal.contents, rules, strict)
    except MatchError as error:
        raise _placed(error, side) from None
    return goal.finished(plan)


def applied(side: Side, rules: Rules, target: Framework) -> tuple[Net, Rules]:
    """The layers of the source with all that was said of them, and the rules as they are for this net."""
    if rules.schema is None:
        return rules.applied(side.net), rules
    from converter.matching.schema_layers import for_net
    from converter.matching.schema_ties import with_ties

    rules = for_net(rules, side.net)
    net = rules.applied(side.net)
    assert rules.schema is not None
    return with_ties(net, rules.schema, target.name) if target.name != net.framework else net, rules


def _placed(error: MatchError, side: Side) -> MatchError:
    """The problems with the file that has them; a live net is known."""
    return MatchError([f"{side.path}: {problem}" for problem in error.problems]) if side.path else error


def _inputs(example: Any) -> Inputs:
    if example is None:
        return ()
    from converter.live.run import as_arrays

    return as_arrays(example)


def _size(given: int | str | None) -> int | None:
    return parse_size(str(given)) if given is not None else None
