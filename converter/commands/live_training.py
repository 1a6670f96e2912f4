"""`load_training_into` and `save_training`: a live net together with its optimizer."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar, cast

from msgspec.structs import replace

from converter.commands.make_plan import as_inputs, opened_source, training_wanted
from converter.commands.plan import Plan
from converter.commands.report_page import files_of, paged
from converter.core.tensors import Array
from converter.endpoints.checkpoint import Weights
from converter.endpoints.destination import destination, own_framework
from converter.endpoints.endpoint import Endpoint, clone_beside, opened, with_optimizer
from converter.endpoints.replacing import refuse_existing
from converter.errors import ConversionError
from converter.execution.jobs import compute
from converter.formats import by_name
from converter.frameworks import framework as framework_of
from converter.matching.hints import Hints
from converter.options import (
    MatchOptions,
    PlanKeywords,
    ReadOptions,
    Records,
    SaveTrainingKeywords,
    StrPath,
    TrainingOptions,
    WriteOptions,
    check_keywords,
    record_of,
)
from converter.reports.conversion import Report
from converter.training.carry import LIKELY, Carried, carry, state_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

_Net = TypeVar("_Net")
_Optimizer = TypeVar("_Optimizer")
#: Where a tree of linen has what is trained, and where a TrainState has it.
_PARAMS = "params"


def load_training_into(
    net: _Net,
    optimizer: _Optimizer,
    /,
    source: StrPath | Weights,
    *,
    example_input: Any = None,
    framework: str | None = None,
    options: Records = (),
    **keywords: Unpack[PlanKeywords],
) -> tuple[_Net, _Optimizer]:
    """Fill a live net and its optimizer from a checkpoint of any framework: the next step is that of the old training.

    net, framework: as in `converter.load_into`. optimizer: a ``torch.optim.Optimizer`` of the net, which is changed in
    place and gets the settings of the source (rate, betas, epsilon, ...); or of a Flax linen net the state that
    ``optimizer.init(params)`` of optax gave, of which a new one is returned: the function keeps the settings that it
    was made with (but for ``inject_hyperparams``), and the report of `converter.convert` has the line that makes it
    right. source: a file with the state of an optimizer, or what `converter.open` gave. example_input: gives lazy
    layers their shapes. options, keywords: see `converter.options` (ReadOptions, MatchOptions, TrainingOptions; the
    keyword ``optimizer`` is the name of the source's).
    Returns the net and the optimizer, or the new trees. Warns of what is likely and no proof, of parameters that the
    source has no state of, and of how long the two trainings are equal.
    Raises ConversionError, if anything of the weights or the state cannot be carried; then both are as they were.
    """
    check_keywords(keywords, options, ReadOptions, MatchOptions, TrainingOptions)
    training = _training(options, keywords)
    read, match = record_of(ReadOptions, options, keywords), record_of(MatchOptions, options, keywords)
    with ExitStack() as stack:
        inputs = as_inputs(example_input)
        clone = with_optimizer(opened(net, stack, inputs=inputs), optimizer)
        if not isinstance(source, str | os.PathLike | Weights):
            raise ConversionError(f"a {type(source).__name__} is no file: the state of an optimizer is read from one.")
        end = opened_source(source, stack, framework, read, inputs, clone)
        plan = Plan(end, clone.framework, clone, Hints.of(match), None)
        carried = _carried(plan, end, clone, training, match.strict)
        filled = _filled(plan, carried, clone)
        for warning in plan.set_otherwise():
            warnings.warn(warning, stacklevel=2)
        if told := _to_know(carried):
            warnings.warn(f"the training goes on, but: {'; '.join(told)}", stacklevel=2)
        return cast("tuple[_Net, _Optimizer]", filled)


def save_training(
    net: object,
    optimizer: object,
    /,
    path: StrPath,
    *,
    to: str | None = None,
    like: StrPath | object | None = None,
    example_input: Any = None,
    options: Records = (),
    **keywords: Unpack[SaveTrainingKeywords],
) -> Report:
    """Save a live net with the state of its optimizer, for any framework: the training goes on from the file.

    net, optimizer: as in `converter.load_training_into`. path, to, like, example_input: as in `converter.save`; where
    the other framework numbers the parameters (PyTorch, Keras, gluon), ``like`` is a checkpoint of the new net with
    its optimizer. A tree of linen that is the parameters alone is saved under ``params``, as a TrainState has it.
    options, keywords: see `converter.options` (MatchOptions, WriteOptions, TrainingOptions: what optax does not store).
    Raises ConversionError; then nothing was written.
    """
    check_keywords(keywords, options, MatchOptions, WriteOptions, TrainingOptions)
    training = _training(options, keywords)
    match, write = record_of(MatchOptions, options, keywords), record_of(WriteOptions, options, keywords)
    if isinstance(net, Mapping) and _PARAMS not in net:
        net = {_PARAMS: net}
    inputs = as_inputs(example_input)
    with ExitStack() as stack:
        end = with_optimizer(opened(net, stack, inputs=inputs), optimizer)
        target = framework_of(to) if to is not None else own_framework(path, write.format, end.framework)
        clone = clone_beside(end, like, stack, target.name, inputs)[0] if like is not None else None
        output = destination(end, clone, target, path, write)
        refuse_existing(output, (), write.force)
        with paged(write, output, files_of(clone)) as kept:
            plan = Plan(end, target, clone, Hints.of(match), output.form, training=training)
            return kept(plan.write_to(output, write))


def _training(options: Records, keywords: Mapping[str, Any]) -> TrainingOptions:
    """The options; that a training is carried goes without saying."""
    training = training_wanted(replace(record_of(TrainingOptions, options, keywords), training=True))
    assert training is not None
    return training


def _carried(plan: Plan, end: Endpoint, clone: Endpoint, training: TrainingOptions, strict: bool) -> Carried:
    assert clone.optimizer is not None
    _, state = state_of(end, training, strict)
    place, own = state_of(clone, training, strict, is_source=False)
    if own is None:
        raise ConversionError(
            f"{clone.optimizer.title} has no slots, and the source is trained with {state.optimizer}."
        )
    return carry(state, plan.tensors, clone.framework, by_name(clone.optimizer.form), (place, own))


def _filled(plan: Plan, carried: Carried, clone: Endpoint) -> tuple[Any, Any]:
    """The net and the optimizer. All that may be refused is known before the first of them is changed."""
    assert clone.live is not None
    assert clone.optimizer is not None
    weights = [step for step in plan.tensors.steps if not step.is_kept]
    slots = carried.plan.steps[carried.weights :]
    values = [(step.target.name, compute(step, plan.source.reader.read, clone.reader.read)) for step in weights]
    read = carried.reader(plan.source.reader).read
    state: dict[str, Array] = {step.target.name: compute(step, read) for step in slots}
    set_state = clone.optimizer.prepared(carried.plan.contents, state)
    undo = clone.optimizer.undo()
    optimizer = set_state()
    try:
        return clone.live.fill(values), optimizer
    except BaseException:
        undo()
        raise


def _to_know(carried: Carried) -> list[str]:
    """What the caller has to know, as the report says it."""
    likely = [f"which state is whose is likely, and {LIKELY}"] if carried.likely else []
    fresh = [f"{name} starts anew, the source has no state of it" for name in carried.fresh]
    left = [f"{item.name} is left out ({item.reason})" for item in carried.left_out]
    return [*likely, *fresh, *left, *carried.notes]
