"""`plan`: both ends opened and the plan made, which is proved where both are live nets that can be run."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from converter.commands.plan import Plan
from converter.core.inputs import Inputs
from converter.endpoints.checkpoint import Weights
from converter.endpoints.destination import destination
from converter.endpoints.endpoint import Endpoint, clone_of, opened, turned
from converter.errors import ConversionError, Placeholder, Problem, Remedy
from converter.frameworks import Framework
from converter.frameworks import framework as framework_of
from converter.matching.hints import Hints
from converter.options import (
    MatchOptions,
    PlanKeywords,
    ReadOptions,
    Records,
    StrPath,
    TrainingOptions,
    WriteOptions,
    changed,
    check_keywords,
    record_of,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from converter.commands.verify_nets import ForwardComparison


def plan(
    source: StrPath | Weights | object,
    to: str | None = None,
    like: StrPath | object | None = None,
    *,
    framework: str | None = None,
    example_input: Any = None,
    format: str | None = None,
    options: Records = (),
    **keywords: Unpack[PlanKeywords],
) -> Plan:
    """What goes where, and why, without reading a tensor: ``converter.plan("mlp.params", to="flax")``.

    source: a path, what `converter.open` gave, or a live net. to: the framework of the result; that of ``like`` by
    default. like: a clone, whose names, shapes, dtypes and order the result takes: a file saved from a freshly made
    one, a live net as in `converter.load_into`, or ``"package.module:Net"``, a class or a factory of your own code,
    which is imported and called. framework: whose names the source has, where its format leaves that open.
    example_input: what a live net takes, as in `converter.load_into`: it gives lazy layers their shapes, and shows in
    which order the layers are called and what is flattened; where both nets are live, it proves the plan, as there.
    format: that of the file to be written, where it is not the usual one. options, keywords: see `converter.options`
    (ReadOptions, MatchOptions, TrainingOptions).
    Raises MatchError when a layer cannot be paired or laid out, and ConversionError when live nets with the weights as
    planned give something else for the example input. The plan holds the source open; it is a context manager.
    """
    check_keywords(keywords, options, ReadOptions, MatchOptions, TrainingOptions)
    training = training_wanted(record_of(TrainingOptions, options, keywords))
    read, match = record_of(ReadOptions, options, keywords), record_of(MatchOptions, options, keywords)
    stack = ExitStack()
    try:
        inputs = as_inputs(example_input)
        clone = clone_of(like, stack, to and framework_of(to).name, inputs) if like is not None else None
        if to is None and clone is None:
            ways = (Remedy("to", Placeholder("NAME")), Remedy("like", Placeholder("CLONE")))
            raise ConversionError("nothing says which framework the result is for.", *ways)
        target = framework_of(to) if to is not None else clone.framework  # type: ignore[union-attr]
        end = opened_source(source, stack, framework, read, inputs, clone)
        both = of_source(inputs, clone, end), inputs
        return proved_plan(end, target, clone, Hints.of(match), both, format, stack, training)
    except BaseException:
        stack.close()
        raise


def proved_plan(
    source: Endpoint,
    target: Framework,
    clone: Endpoint | None,
    hints: Hints,
    inputs: tuple[Inputs, Inputs],
    format: str | None = None,
    stack: ExitStack | None = None,
    training: TrainingOptions | None = None,
) -> Plan:
    """The plan of two ends that are open, proved where both can be run. inputs: as the source and the clone take them.

    stack: closes what the plan holds open.
    """
    refuse_unused(inputs[0], source, clone)
    live = clone is not None and clone.live is not None and format is None
    form = None if live else destination(source, clone, target, None, WriteOptions(format=format)).form
    hints, proof = with_proof(source, clone, hints, inputs)
    return Plan(source, target, clone, hints, form, stack=stack, proof=proof, training=training)


def opened_source(
    source: object,
    stack: ExitStack,
    framework: str | None,
    read: ReadOptions,
    inputs: Inputs = Inputs(),
    clone: Endpoint | None = None,
    own: Inputs = Inputs(),
) -> Endpoint:
    """A file, or a live net; inputs are those of the clone, if that is live, too; own: what the source takes, where
    that is something else. Raises ConversionError.
    """
    if isinstance(source, (str, os.PathLike)):
        return opened(source, stack, framework=framework, options=read)
    if names := changed(read):
        is_open = isinstance(source, Weights)
        what = "a file that is open: give this to converter.open" if is_open else "a live net: leave this out"
        about = Remedy(names[0], getattr(read, names[0]))
        raise ConversionError(Problem(f"the source is {what}.", "option", names[0], about=about))
    end = opened(source, stack, framework=framework)
    if isinstance(source, Weights) or not inputs:
        return end
    return opened(source, stack, inputs=own or of_source(inputs, clone, end))


def of_source(inputs: Inputs, clone: Endpoint | None, source: Endpoint) -> Inputs:
    """The inputs of a clone as the source takes them."""
    return turned(inputs, clone.channels_last, source.channels_last) if clone is not None and clone.live else inputs


def refuse_unused(inputs: Inputs, *ends: Endpoint | None) -> None:
    """Raises ConversionError for an example input where no net is live."""
    if inputs and not any(end.live for end in ends if end is not None):
        about = Remedy("example_input", Placeholder("X"))
        raise ConversionError(Problem("this is for a live net, and both are files.", "option", about=about))


def can_be_proved(source: Endpoint, clone: Endpoint | None, hints: Hints, inputs: Inputs) -> bool:
    """Whether both are live nets with an input; but what the user says of the order of features holds as it is."""
    live = source.live is not None and clone is not None and clone.live is not None
    return bool(inputs) and live and not (hints.options.flatten or hints.options.unflatten)


def with_proof(
    source: Endpoint, clone: Endpoint | None, hints: Hints, inputs: tuple[Inputs, Inputs]
) -> tuple[Hints, ForwardComparison | None]:
    """The hints with what lockstep found, and what both gave, where they can be run; the clone keeps its values."""
    if clone is None or not can_be_proved(source, clone, hints, inputs[0]):
        return hints, None
    from converter.commands.check_loaded import proved  # files need no live nets

    found = proved(source, clone, hints, inputs)
    return found.hints, found.comparison


def training_wanted(options: TrainingOptions) -> TrainingOptions | None:
    """The options, where a training is to be carried. Raises ConversionError for one that is given without it."""
    if options.training:
        return options
    if names := changed(options):
        about = Remedy(names[0], Placeholder(str(getattr(options, names[0]))))
        way = Remedy("training", True, "carries the state of the optimizer")
        raise ConversionError(Problem("this is of a training that is carried.", "option", about=about, remedies=(way,)))
    return None


def as_inputs(example: Any) -> Inputs:
    if example is None:
        return Inputs()
    from converter.live.run import as_inputs as of_nets  # files need no live nets

    return of_nets(example)
