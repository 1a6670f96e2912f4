"""The state of a training in a neutral file: ``opt/SLOT/PARAMETER`` beside the weights, and one JSON document.

Values are in the form of `state`: momentum in units of the gradient, moments as they are. The document, under
``converter_training`` in the metadata, has the version, the optimizer, the step, and of each group its parameters and
hyper-parameters with the place of epsilon and the coupling of weight decay; what nobody knows is absent. The hashes of
the file cover the slots as they cover the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import msgspec
from msgspec.structs import replace

from converter.core.contents import Contents
from converter.formats.base import StateTensor
from converter.frameworks.neutral import SLOTS, TRAINING
from converter.training.found import Place, refusal
from converter.training.layout import Layout, Written
from converter.training.optimizers import OPTIMIZERS
from converter.training.state import Group, HyperParameters, Slot, TrainingState
from converter.training.steps import Target


class Document(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the metadata says. origin: the framework that the state comes from; order: how its parameters were told."""

    version: Literal[1]
    optimizer: str
    origin: str
    order: str
    slots: tuple[Slot, ...]
    groups: tuple[Group, ...]
    step: int | None = None
    likely: bool = False


def read(place: Place) -> TrainingState | None:
    """The state that a file holds; None where it has none. Raises ConversionError."""
    if TRAINING not in place.contents.metadata:
        return None
    try:
        document = msgspec.json.decode(place.contents.metadata[TRAINING].encode(), type=Document)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise refusal(f"{place.title}: its metadata '{TRAINING}' is no document of version 1: {error}.") from None
    if document.optimizer not in OPTIMIZERS:
        raise refusal(f"{place.title}: the state of an optimizer that is not known, '{document.optimizer[:40]}'.")
    specs = place.contents.by_name
    slots: dict[Slot, dict[str, StateTensor]] = {slot: {} for slot in document.slots}
    for parameter in (name for group in document.groups for name in group.parameters):
        if parameter not in specs:
            raise refusal(
                f"{place.title}: the state is of a parameter '{parameter[:80]}', which the file does not hold."
            )
        for slot in document.slots:
            spec = specs.get(f"{SLOTS}{slot}/{parameter}")
            if spec is None:
                continue
            if specs[parameter].shape != spec.shape:
                raise refusal(f"{place.title}: '{spec.name}' is of no parameter of this shape.")
            slots[slot][parameter] = StateTensor(spec, partial(place.read, spec.name))
    order = f"as {document.origin} had it: {document.order}"
    if document.likely and place.strict:
        raise refusal(f"{place.title}: which state is whose was only likely ({document.order}), and strict refuses it.")
    own = document.optimizer, slots, document.step, document.groups
    return TrainingState("neutral", *own, order, document.likely, place="opt")


def layout(state: TrainingState, clone: tuple[Place, TrainingState] | None) -> Layout:
    return _NeutralLayout(state)


class _NeutralLayout(Layout):
    framework = "neutral"
    skips_fresh = True

    def targets(self, contents: Contents, hyper: HyperParameters) -> Sequence[Target]:
        return [
            Target(slot, spec.name, replace(spec, name=f"{SLOTS}{slot}/{spec.name}"))
            for slot in self.state.slots
            for spec in contents.specs
        ]

    def written(self, contents: Contents, hyper: Sequence[HyperParameters], fresh: frozenset[str]) -> Written:
        number_of = {name: number for number, group in enumerate(self.state.groups) for name in group.parameters}
        members: list[list[str]] = [[] for _ in self.state.groups]
        for step in self.weights:
            names = {self.state.tied.get(spec.name, spec.name) for spec in step.sources}
            numbers = {number_of[name] for name in names if name in number_of}
            if len(numbers) > 1:
                raise refusal(f"'{step.target.name}' is made of parameters of several groups of the optimizer.")
            for number in numbers:
                members[number].append(step.target.name)
        groups = tuple(Group(own, tuple(names)) for own, names in zip(hyper, members, strict=True))
        origin, order = self.state.framework, self.state.order
        document = Document(
            1, self.state.optimizer, origin, order, tuple(self.state.slots), groups, self.state.step, self.state.likely
        )
        return Written((), metadata={TRAINING: msgspec.json.encode(document).decode()})
