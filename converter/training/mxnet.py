"""gluon: what ``Trainer.save_states`` writes beside the parameters, read, and written as ``load_states`` takes it.

Numbers are places among all parameters, running statistics and frozen ones too, sorted by full name as texts:
``dense10_bias`` before ``dense9_bias``. The full names hold a counter of the process that made the net, and a file of
``save_parameters`` has other names, so the order of two layers of one shape is known only where someone says it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from converter.core.contents import Contents, Ref
from converter.core.tensors import TensorSpec
from converter.errors import ConversionError, Placeholder, Problem, Remedy, either
from converter.formats.pickled.trainer import TrainerStates
from converter.training.found import Place, refusal
from converter.training.layout import Layout, Written
from converter.training.optimizers import ROWS, SlotRow, slots_of
from converter.training.order import STATED, Order, Shapes, by_names, by_shapes
from converter.training.state import Group, HyperParameters, Slot, TrainingState
from converter.training.steps import Target

_ROWS = ROWS["mxnet"]
#: Class -> the optimizer; NAG is SGD with Nesterov's momentum.
_CLASSES = {"SGD": "sgd", "NAG": "sgd", "Adam": "adam", "RMSProp": "rmsprop", "AdaGrad": "adagrad"}
#: Neutral hyper-parameter -> the attribute, where that is not what the class is called with.
_ATTRIBUTES = {("adagrad", "epsilon"): "float_stable_eps"}
#: Where `Place.values` has the file.
STATES = "states"
#: What full names look like, as ``net.collect_params()`` has them.
_FULL = re.compile(r"[^.]*[a-z]\d+_[a-z_]+")


def read(place: Place) -> TrainingState | None:
    """The state of the file beside; None where there is none. Raises ConversionError."""
    states: TrainerStates | None = place.values.get(STATES)
    if states is None:
        return None
    if states.name not in _CLASSES:
        why = f"there are {either(list(_CLASSES))}" if states.name else "it holds no optimizer, which tells the steps"
        raise refusal(f"{states.path}: the state of '{states.name}' is not carried: {why}.")
    if states.settings.get("multi_precision"):
        raise refusal(f"{states.path}: with multi_precision the state holds weights of its own.")
    optimizer = _CLASSES[states.name]
    row, hyper = _ROWS[optimizer], _hyper(states, optimizer)
    kept = slots_of(row, hyper.known())
    _check(states, kept)
    order = in_order(place, states)
    names = order.groups[0]
    slots: dict[Slot, dict[str, Any]] = {item.slot: {} for item in kept}
    for number, arrays in states.slots.items():
        for item, array in zip(kept, arrays, strict=True):
            slots[item.slot][names[number]] = array
    trained = tuple(names[number] for number in sorted(states.slots) if number < len(names))
    parameters = {spec.name for spec in place.parameters}
    group = Group(hyper, trained or tuple(name for name in names if name in parameters))
    return TrainingState(
        "mxnet",
        optimizer,
        {slot: named for slot, named in slots.items() if named},
        _steps(states),
        (group,),
        order.reason,
        order.likely,
        place=str(states.path),
    )


def _hyper(states: TrainerStates, optimizer: str) -> HyperParameters:
    row = _ROWS[optimizer]
    values: dict[str, Any] = {}
    for name, key in row.hyper.items():
        value = states.settings.get(_ATTRIBUTES.get((optimizer, name), key))
        if isinstance(value, bool):
            values[name] = value
        elif isinstance(value, int | float):
            values[name] = float(value)
    if optimizer == "rmsprop" and not values.get("centered"):
        values["momentum"] = 0.0
    if optimizer == "sgd":
        values["nesterov"] = states.name == "NAG"
    return HyperParameters(**values, epsilon_place=row.epsilon, decay=row.decay)


def _check(states: TrainerStates, kept: Sequence[SlotRow]) -> None:
    for number, arrays in states.slots.items():
        if len(arrays) != len(kept) or any(array.spec.shape != arrays[0].spec.shape for array in arrays):
            what = f"{len(kept)} arrays of one shape for each parameter, and has {len(arrays)} for number {number}"
            raise refusal(f"{states.path}: {states.name} keeps {what}.")


def _steps(states: TrainerStates) -> int:
    counts = states.settings.get("_index_update_count")
    numbers = set(counts.values()) if isinstance(counts, dict) else set()
    if len(numbers) > 1:
        raise refusal(
            f"{states.path}: its parameters took different numbers of steps, {min(numbers)} to {max(numbers)}."
        )
    found = next(iter(numbers), states.settings.get("num_update"))
    return found if isinstance(found, int) else 0


def in_order(place: Place, states: TrainerStates) -> Order:
    """All tensors of the file as the Trainer numbers them. Raises ConversionError where that is open."""
    every = [spec for spec in place.contents.specs if spec.dtype.kind in "fV"]
    parameters = {spec.name for spec in place.parameters}
    shapes = {number: arrays[0].spec.shape for number, arrays in states.slots.items() if arrays}
    sizes: Shapes = [[shapes.get(number) for number in range(len(every))]]
    if max(states.slots, default=-1) >= len(every):
        raise refusal(f"{states.path}: numbers {max(states.slots) + 1} parameters, and {place.title} has {len(every)}.")
    if place.stated:
        return by_names([list(place.stated)], every, sizes, STATED)
    if all(_FULL.fullmatch(spec.name) for spec in every):
        return by_names([sorted(spec.name for spec in every)], every, sizes, "the full names in the file, sorted,")
    ways = _layer_orders(every, sizes[0], parameters)
    if len(ways) == 1:
        return Order((ways[0],), "the layers have shapes that allow one order")
    return by_shapes(every, sizes, f"the Trainer of {states.path}", True, place.asks, defined=False)


def _layer_orders(
    every: Sequence[TensorSpec], shapes: Sequence[tuple[int, ...] | None], parameters: set[str]
) -> list[tuple[str, ...]]:
    """The orders of whole layers that fit, two at most: within one its tensors are sorted by their last names."""
    layers: dict[str, list[TensorSpec]] = {}
    for spec in every:
        layers.setdefault(spec.name.rpartition(".")[0], []).append(spec)
    blocks = {path: sorted(own, key=lambda spec: spec.name) for path, own in layers.items()}
    found: list[tuple[str, ...]] = []
    stack: list[tuple[int, tuple[str, ...]]] = [(0, ())]
    tried = 0
    while stack and len(found) < 2 and tried < _MOST_TRIES:
        tried += 1
        place, chosen = stack.pop()
        if len(chosen) == len(blocks):
            found.append(tuple(spec.name for path in chosen for spec in blocks[path]))
            continue
        for path, own in blocks.items():
            if path not in chosen and _fits(own, shapes[place : place + len(own)], parameters):
                stack.append((place + len(own), (*chosen, path)))
    return found if tried < _MOST_TRIES else []


#: More beginnings of orders than these are not looked at.
_MOST_TRIES = 20_000


def _fits(own: Sequence[TensorSpec], shapes: Sequence[tuple[int, ...] | None], parameters: set[str]) -> bool:
    """Whether a layer can stand there: what is trained has the shape, what is not has no slots. Frozen ones may,
    too.
    """
    return len(own) == len(shapes) and all(
        shape is None or (spec.name in parameters and spec.shape == shape)
        for spec, shape in zip(own, shapes, strict=True)
    )


# -- writing ----------------------------------------------------------------------------------------------------------


def layout(state: TrainingState, clone: tuple[Place, TrainingState] | None) -> Layout:
    """Numbered as the clone's Trainer numbers the parameters. Raises ConversionError without one."""
    if clone is None:
        like = Remedy("like", Placeholder("CLONE.params"), "takes those of the new net, with its .states beside")
        text = "a Trainer of gluon numbers the parameters by names that only the new net has."
        raise ConversionError(Problem(text, "order of the state", remedies=(like,)))
    return _TrainerLayout(state, *clone)


class _TrainerLayout(Layout):
    """Slots go to a file of their own: names of targets are ``NUMBER/PLACE``."""

    framework = "mxnet"
    skips_fresh = True
    apart = True

    def __init__(self, state: TrainingState, place: Place, own: TrainingState) -> None:
        super().__init__(state)
        self.place, self.own, self.row = place, own, _ROWS[own.optimizer]
        self.states: TrainerStates = place.values[STATES]
        self.order, self.likely, self.own_hyper, self.clones = own.order, own.likely, own.hyper, own.optimizer
        self.numbers = {name: number for number, name in enumerate(in_order(place, self.states).groups[0])}

    def targets(self, contents: Contents, hyper: HyperParameters) -> Sequence[Target]:
        return [
            Target(item.slot, name, replace(contents.by_name[name], name=f"{number}/{place}"))
            for name, number in sorted(self.numbers.items(), key=lambda pair: pair[1])
            if name in contents.by_name and name in self._parameters
            for place, item in enumerate(self._kept(hyper))
        ]

    @property
    def _parameters(self) -> set[str]:
        return {spec.name for spec in self.place.parameters}

    def _kept(self, hyper: HyperParameters) -> tuple[SlotRow, ...]:
        return slots_of(self.row, hyper.known())

    def written(self, contents: Contents, hyper: Sequence[HyperParameters], fresh: frozenset[str]) -> Written:
        own = hyper[0]
        if own.learning_rate is None:
            remedy = Remedy("hyper", ("learning_rate", Placeholder("RATE")))
            text = "nothing says the rate of the next step, which a Trainer keeps with the state."
            raise ConversionError(Problem(text, "hyper-parameter", "learning_rate", remedies=(remedy,)))
        kept = len(self._kept(own))
        trained = {
            number: name
            for name, number in sorted(self.numbers.items(), key=lambda pair: pair[1])
            if name in self._parameters and name in contents.by_name and name not in fresh
        }
        refs = {number: tuple(Ref(f"{number}/{place}") for place in range(kept)) for number in trained}
        slots = {number: each if kept > 1 or not each else each[0] for number, each in refs.items()}
        counts = dict.fromkeys(trained, self.count)
        settings = {
            **self.states.settings,
            "num_update": self.count,
            "_all_index_update_counts": {0: counts},
            "_index_update_count": counts,
        }
        for name, key in self.row.hyper.items():
            value = getattr(own, name)
            if value is not None:
                settings[_ATTRIBUTES.get((self.own.optimizer, name), key)] = value
        name = self.states.name
        if self.own.optimizer == "sgd":
            name = "NAG" if own.nesterov and own.momentum else "SGD"
        return Written((), tree=({n: each if each != () else None for n, each in slots.items()}, name, settings))
