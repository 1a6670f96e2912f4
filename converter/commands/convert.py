"""`convert`, `save` and `load_into`: a plan is made and carried out at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar, cast

from converter.commands.make_plan import (
    as_inputs,
    can_be_proved,
    of_source,
    opened_source,
    refuse_unused,
    training_wanted,
    with_proof,
)
from converter.commands.plan import Plan
from converter.commands.report_page import files_of, paged
from converter.core.inputs import Inputs
from converter.endpoints.destination import destination, own_framework, parse_direction
from converter.endpoints.endpoint import Endpoint, clone_beside, clone_of, opened
from converter.endpoints.replacing import refuse_existing
from converter.errors import ConversionError, Placeholder, Problem, Remedy
from converter.formats.io.files import unmapped
from converter.frameworks import framework as framework_of
from converter.matching.hints import Hints
from converter.options import (
    ConvertKeywords,
    LoadKeywords,
    MatchOptions,
    ReadOptions,
    Records,
    SaveKeywords,
    StrPath,
    TrainingOptions,
    WriteOptions,
    check_keywords,
    record_of,
)
from converter.reports.conversion import Report

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from typing_extensions import Unpack

    from converter.architectures.document import Architecture

_Net = TypeVar("_Net")


def convert(
    direction: str,
    source: StrPath,
    output: StrPath | None = None,
    *,
    net: object | None = None,
    like: StrPath | object | None = None,
    example_input: Any = None,
    dry_run: bool = False,
    certificate: StrPath | None = None,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
    options: Records = (),
    **keywords: Unpack[ConvertKeywords],
) -> Report:
    """Convert a weight file: ``convert("torch->flax", "mlp.params")`` writes ``mlp.msgpack`` beside it.

    output: where to; its extension chooses the format, unless ``format`` names one. net: that of the source, live or
    ``"package.module:Net"``, which gets the weights; with a live ``like`` and an example_input, as the net of the
    source takes it, both are run, and the result is proved as in `converter.load_into`. like, example_input: as in
    `converter.plan`. dry_run: plan and report, but write nothing. certificate: write down there what was read, done
    and written; `converter.verify` checks it. executor: has the shards written as tasks, on many machines for one:
    ``dask_client.get_executor(pure=False)``. progress: called with the bytes written so far and all.
    options, keywords: see `converter.options` (ReadOptions, MatchOptions, WriteOptions, TrainingOptions).
    Raises ConversionError; then nothing was written.
    """
    check_keywords(keywords, options, ReadOptions, MatchOptions, WriteOptions, TrainingOptions)
    training = training_wanted(record_of(TrainingOptions, options, keywords))
    read = record_of(ReadOptions, options, keywords)
    match = record_of(MatchOptions, options, keywords)
    write = record_of(WriteOptions, options, keywords)
    way = parse_direction(direction)
    hints = Hints.of(match)
    with ExitStack() as stack:
        stack.enter_context(unmapped())
        end = opened(source, stack, framework=way.source.name, options=read)
        if certificate is not None:
            from converter.commands.certificate import certify, refuse_certificate, refuse_place

            if net is not None:
                about = Remedy("net", Placeholder("NET"))
                raise ConversionError(Problem("a certificate is of what files alone tell.", "option", about=about))
            refuse_certificate(certificate, write.force, dry_run, like, source, output)
        inputs = as_inputs(example_input)
        ran = end if net is None else loaded(net, end, stack, inputs)
        clone, own = None, inputs
        if like is not None and net is not None:
            clone, own = clone_beside(ran, like, stack, way.target.name, inputs)
        elif like is not None:
            clone = clone_of(like, stack, way.target.name, inputs)
        refuse_unused(inputs, ran, clone)
        target = destination(end, clone, way.target, output, write)
        refuse_existing(target, end.files, write.force)
        if certificate is not None:
            refuse_place(certificate, target, end, clone, (read, match))
        with paged(write, target, files_of(end, clone)) as kept:
            hints, proof = with_proof(ran, clone, hints, (inputs, own))
            planned = Plan(ran, way.target, clone, hints, target.form, proof=proof, training=training)
            if dry_run:
                return kept(planned.report_for(target, write))
            report = kept(planned.write_to(target, write, executor, progress))
        if certificate is not None:
            assert end.weights is not None
            certify(certificate, report, end.weights, direction, like, (read, match, write))
        return report


def save(
    net: object,
    path: StrPath,
    *,
    to: str | None = None,
    like: StrPath | object | None = None,
    example_input: Any = None,
    architecture: Architecture | None = None,
    options: Records = (),
    **keywords: Unpack[SaveKeywords],
) -> Report:
    """Save a live net of any framework in any format: ``save(net, "mlp.msgpack")`` writes a Flax file of a torch net.

    net: as in `load_into`. path: its extension chooses the format, and with it the framework, unless ``to`` names one:
    the net's own where it uses that format, neutral for ``.safetensors``.
    In a format of its own framework the file is the one that the framework itself would write. like, example_input: as
    in `converter.plan`. architecture: what the net computes, as `converter.architecture` reads it from a net, for a
    neutral file; then `converter.build` makes of the file alone a net in any framework. options, keywords: see
    `converter.options` (MatchOptions, WriteOptions). Raises ConversionError; then nothing was written.
    """
    check_keywords(keywords, options, MatchOptions, WriteOptions)
    match, write = record_of(MatchOptions, options, keywords), record_of(WriteOptions, options, keywords)
    hints, inputs = Hints.of(match), as_inputs(example_input)
    with ExitStack() as stack:
        end = opened(net, stack, inputs=inputs)
        target = framework_of(to) if to is not None else own_framework(path, write.format, end.framework)
        clone, own = clone_beside(end, like, stack, target.name, inputs) if like is not None else (None, inputs)
        output = destination(end, clone, target, path, write)
        refuse_existing(output, (), write.force)
        with paged(write, output, files_of(clone)) as kept:
            hints, proof = with_proof(end, clone, hints, (inputs, own))
            planned = Plan(end, target, clone, hints, output.form, architecture, proof=proof)
            return kept(planned.write_to(output, write))


def loaded(net: object, source: Endpoint, stack: ExitStack, inputs: Inputs) -> Endpoint:
    """The net of a file, with its weights."""
    empty = clone_of(net, stack, source.framework.name, inputs)
    assert empty.live is not None
    return opened(Plan(source, source.framework, empty, Hints(), None).fill(empty.live.net, 4), stack, inputs=inputs)


def load_into(
    net: _Net,
    source: StrPath | object,
    *,
    example_input: Any = None,
    source_input: Any = None,
    framework: str | None = None,
    options: Records = (),
    **keywords: Unpack[LoadKeywords],
) -> _Net:
    """Fill a live net from a weight file of any framework or from another live net, and return it.

    net: a ``torch.nn.Module``, a Keras model (Keras 3 or tf_keras), a gluon ``Block``, an nnx module (all
    changed in place), or of Flax linen the tree of variables (a new tree is returned), a pair (module, variables), a
    bound module (a new pair, or module bound to new variables), or a module alone, if there is an example input.
    source: a path, what `converter.open` gave, or a live net, as ``net``. framework: whose names the file has, where
    its format leaves that open. example_input: what the net takes: an array, a tuple of arguments, or a dict of them by
    name: it gives lazy layers their shapes, and shows in which order the layers are called and what is flattened, of a
    live source, too; then what the layers take and give settles what is open, and both nets give the same, or it is
    refused with the first layer at which they part. source_input: the same input as a live source takes it; left out,
    it is example_input, with the channels of images where the source has them. options, keywords: see
    `converter.options` (ReadOptions, MatchOptions).
    Raises MatchError when a layer cannot be paired, FormatError when the file is damaged, and ConversionError when both
    nets are live and give something else for the example input; then the net is as it was.
    Warns (CloneWarning) of what the net sets otherwise than the source, if that is live, too, or else than the
    defaults of its framework: the epsilon of a BatchNorm, say, which weights do not carry.
    Tensors that are stored as the net wants them are mapped, the others in memory until all are there.
    """
    check_keywords(keywords, options, ReadOptions, MatchOptions)
    read, match = record_of(ReadOptions, options, keywords), record_of(MatchOptions, options, keywords)
    with ExitStack() as stack:
        inputs, own = as_inputs(example_input), as_inputs(source_input)
        clone = opened(net, stack, inputs=inputs)
        end = opened_source(source, stack, framework, read, inputs, clone, own)
        if own and end.live is None:
            about = Remedy("source_input", Placeholder("X"))
            raise ConversionError(Problem("this is for a live source, and it is a file.", "option", about=about))
        hints = Hints.of(match)
        if not can_be_proved(end, clone, hints, inputs):
            return Plan(end, clone.framework, clone, hints, None).fill(net, stacklevel=3)
        from converter.commands.check_loaded import fill_proved

        own = own or of_source(inputs, clone, end)
        return cast("_Net", fill_proved(end, clone, hints, (own, inputs), stacklevel=3).net)
