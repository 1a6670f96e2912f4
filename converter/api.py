"""The library: `convert` and `load_into` (and `converter.weights.read`). The command line is a skin over these."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from converter.casting import cast, parse_dtype
from converter.checklist import checklist, differences, pairs
from converter.direction import parse_direction
from converter.errors import ConversionError, MatchError
from converter.execute import Pace, compute, execute
from converter.flatten_parts import parsed
from converter.formats import Contents, Format
from converter.frameworks import Framework
from converter.layers import Net
from converter.output import choose_format, choose_path, in_shards, parse_size, refuse_existing
from converter.plan import Plan, plan_into, plan_new, respelled
from converter.report import Report
from converter.rules import Rules
from converter.schema import load_schema
from converter.schema_net import for_net
from converter.weights import StrPath, Weights, read

if TYPE_CHECKING:
    from converter.live import LiveNet

_Net = TypeVar("_Net")


def convert(
    direction: str,
    source: StrPath,
    output: StrPath | None = None,
    *,
    like: StrPath | None = None,
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
    progress: Callable[[int, int], None] | None = None,
    strict: bool = False,
    ignore: Iterable[str] = (),
    dry_run: bool = False,
    force: bool = False,
    certificate: StrPath | None = None,
) -> Report:
    """Convert a weight file: ``convert("torch->flax", "mlp.params")`` writes ``mlp.msgpack`` beside it.

    output: where to; its ending chooses the format, unless ``format`` names one.
    like: a file saved from a freshly made clone, whose names, shapes, dtypes and order the result takes.
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
    strict: accept only pairings by schema, map or the same name. ignore: patterns of source layers to leave out.
    dry_run: plan and report, but write nothing. force: overwrite an existing output.
    certificate: write down there what was read, done and written (see `converter.check_certificate`).
    Raises ConversionError; then nothing was written.
    """
    given = dict(locals())  # all arguments, also those that are added one day: a certificate must not forget any
    from converter.certificate import certify, refuse_certificate

    way = parse_direction(direction)
    rules = Rules(
        load_schema(schema) if schema else None,
        dict(map or {}),
        frozenset(strip),
        dict(kind or {}),
        dict(heads or {}),
        parsed(flatten),
        flatten_fix,
        tuple(ignore),
        dict(unflatten or {}),
    )
    floats = parse_dtype(dtype) if dtype is not None else None
    limit = parse_size(str(max_shard_size)) if max_shard_size is not None else None
    if resume and limit is None:
        raise ConversionError("Only shards can be resumed. Say --max-shard-size 5GB too, or leave --resume out.")
    pace = Pace(parse_size(str(memory)) if memory is not None else None, workers, progress)
    with ExitStack() as stack:
        weights = stack.enter_context(
            read(source, framework=way.source.name, step=step, key=key, verify=verify, names_from=names_from)
        )
        clone = stack.enter_context(read(like, framework=way.target.name)) if like is not None else None
        form = choose_format(way.target, output, format, clone.format if clone else None, weights.net.is_data)
        if limit is not None:
            form, output = in_shards(form, output)
        path = choose_path(Path(source), output, form)
        refuse_existing(path, form, weights, force)
        if certificate is not None:
            refuse_certificate(certificate, force, dry_run)
        plan = _plan(weights, clone, way.target, form, rules, strict)
        if floats is not None:
            plan = cast(plan, floats)
        overflowed: Mapping[str, int] = {}
        if not dry_run:
            overflowed = execute(plan, weights.reader, form, path, limit, pace, resume)
        checks = checklist(plan.steps, weights.origin, way.target.name)
        report = Report(str(source), weights.format.title, str(path), form.title, plan, not dry_run, checks, overflowed)
        if certificate is not None:
            certify(certificate, report, weights, given)
        return report


def load_into(
    net: _Net,
    source: StrPath | object,
    *,
    framework: str | None = None,
    schema: str | None = None,
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
) -> _Net:
    """Fill a live net from a weight file of any framework or from another live net, and return it.

    net: a ``torch.nn.Module``, a Keras model (Keras 3 or tf_keras), a gluon ``Block``, an nnx module (all
    changed in place), or the params tree of a Flax linen net (a new tree is returned).
    source: a path, or a live net, as ``net``. framework: whose names the file has, where its format leaves that open.
    The rest as in `convert`.
    Raises MatchError when a layer cannot be paired, FormatError when the file is damaged; then the net is as it was.
    Warns (CloneWarning) of what the net sets otherwise than the source, if that is live, too, or else than the
    defaults of its framework: the epsilon of a BatchNorm, say, which weights do not carry.
    Tensors that are stored as the net wants them are mapped, the others in memory until all are there.
    """
    from converter.live import open_net

    live = open_net(net)
    rules = Rules(
        load_schema(schema) if schema else None,
        dict(map or {}),
        frozenset(strip),
        dict(kind or {}),
        dict(heads or {}),
        parsed(flatten),
        flatten_fix,
        unflatten=dict(unflatten or {}),
    )
    with ExitStack() as stack:
        if isinstance(source, (str, os.PathLike)):
            weights = stack.enter_context(read(source, framework=framework, step=step, key=key, verify=verify))
            given, values, origin, settings = weights.net, weights.reader.read, weights.origin, None
        else:
            other = open_net(source)
            given, values, origin = _net_of(other, other.described()), other.read, other.framework_name
            settings = other.settings()
        contents = live.described()
        rules = for_net(rules, given)
        clone = rules.settled(_net_of(live, contents))
        plan = plan_into(rules.applied(given), clone, contents, rules, strict)
        # all of them before the first is set: a damaged tensor must not leave the net half filled
        tensors = [(step.target.name, compute(step, values)) for step in plan.steps]
        for found in differences(pairs(plan.steps, clone), origin, live.framework_name, settings, live.settings()):
            warnings.warn(found, stacklevel=2)
        filled: _Net = live.fill(tensors)
    return filled


def _net_of(live: LiveNet, described: Contents) -> Net:
    """The neutral layers of a live net."""
    return replace(live.framework.net(described), read=live.read)


def _plan(weights: Weights, clone: Weights | None, target: Framework, form: Format, rules: Rules, strict: bool) -> Plan:
    try:
        rules = for_net(rules, weights.net)
        source = rules.applied(weights.net)
        if clone is None:
            return plan_new(source, weights.contents, target, form.name, rules)
        net, contents = clone.net, clone.contents
        if target.dialect_for(form.name) != target.dialect_of(contents):
            net, contents = respelled(net, target, form.name)
        return plan_into(source, rules.settled(net), contents, rules, strict)
    except MatchError as error:
        raise MatchError([f"{weights.path}: {problem}" for problem in error.problems]) from None
