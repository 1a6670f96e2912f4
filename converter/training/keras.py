"""Keras 3: the numbered variables of a compiled model, in ``.keras`` and ``.weights.h5``, read and written.

0 is the number of steps, 1 the rate (absent where it is a schedule, and then all numbers are one less), then come the
averages of the weights and the accumulated gradients, if there are any, then the slots: of each parameter in turn, or
one kind after the other. The parameters are in the order in which the model has its variables, which is not that of
the file: its configuration tells it, or nothing does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from converter.core.contents import LeftOut
from converter.core.natural_order import natural_key
from converter.core.tensors import TensorSpec
from converter.errors import ConversionError, Problem, Remedy, either
from converter.formats.base import StateTensor
from converter.formats.keras.training import CONFIGURED, LAYERS, NAME, VARIABLES
from converter.training.code import tidy
from converter.training.found import Place, refusal
from converter.training.optimizers import ROWS, WHY_NOT, Row, SlotRow, slots_of
from converter.training.order import Order, order_of
from converter.training.state import SWITCHES, Group, HyperParameters, Slot, TrainingState

_ROWS = ROWS["keras"]
#: Optimizers that keep the slots of each parameter together; the others keep one kind after the other.
_TOGETHER = frozenset("adam adamw adamax adadelta".split())
#: Layers in a layer, in the order of its variables, by the names of all.
_INSIDE = (
    ("query_dense", "key_dense", "value_dense", "output_dense"),
    ("forward_layer", "backward_layer"),
)


class Variables(msgspec.Struct, frozen=True):
    """Which numbers are what. rate: that of the learning rate, None where it is a schedule; first: that of the slots;
    averages: how many stand before them, of the weights and of gradients.
    """

    rate: int | None
    first: int
    averages: int


def read(place: Place) -> TrainingState | None:
    """The state that a file holds; None where it has none. Raises ConversionError."""
    variables: Mapping[int, StateTensor] = place.values.get(VARIABLES, {})
    if not variables:
        return None
    if sorted(variables) != list(range(len(variables))) or variables[0].spec.shape != ():
        raise refusal(f"{place.title}: the variables of its optimizer are not numbered as Keras 3 numbers them.")
    optimizer = told(place)
    row = _ROWS[optimizer]
    hyper = _hyper(place, row, optimizer)
    parameters, defined = in_order(place)
    known = layout_of(place, variables, len(parameters))
    kept = _kept(place, row, hyper, len(variables) - known.first, parameters)
    count, rest = divmod(len(variables) - known.first, len(kept) or 1)
    if rest or (not kept and len(variables) > known.first):
        said = ", ".join(item.name for item in kept) or "nothing"
        raise refusal(f"{place.title}: {optimizer} keeps {said} of each parameter, and the number of slots is no such.")
    numbers = {item.slot: [number_of(optimizer, known, kept, item, i, count) for i in range(count)] for item in kept}
    shapes = [variables[number].spec.shape for number in next(iter(numbers.values()), [])]
    order = _order(place, parameters, shapes, defined, trained_only=not shapes)
    for item in kept:
        _check_shapes(place, [variables[number] for number in numbers[item.slot]], shapes)
    names = order.groups[0] if order.groups else ()
    slots: dict[Slot, dict[str, StateTensor]] = {
        slot: {name: variables[number] for name, number in zip(names, each, strict=True)}
        for slot, each in numbers.items()
        if each
    }
    hyper = _with_rate(hyper, variables, known)
    return TrainingState(
        "keras",
        optimizer,
        slots,
        _steps(place, variables),
        (Group(hyper, names),),
        order.reason,
        order.likely,
        place="optimizer",
        left_out=_left_out(place, known),
    )


def told(place: Place) -> str:
    """Which optimizer it is. Adam with decay beside the gradient is AdamW elsewhere. Raises ConversionError."""
    entry = place.values[CONFIGURED]
    name = str(entry.get("class_name") or re.sub(r"_\d+$", "", place.values[NAME])).lower()
    stated = place.options.optimizer if place.is_source else None
    if stated is not None and (not entry or name not in _ROWS):
        name = stated
    if name == "adam" and entry and entry["config"].get("weight_decay"):
        name = "adamw"
    if stated is not None and stated != name:
        about = Remedy("optimizer", stated)
        raise ConversionError(Problem(f"the state of {place.title} is that of {name}.", "option", about=about))
    if name not in _ROWS:
        why = WHY_NOT.get(name, f"there are {either(list(_ROWS))}")
        raise refusal(f"{place.title}: the state of the optimizer '{name}' is not carried: {why}.")
    return name


def _hyper(place: Place, row: Row, optimizer: str) -> HyperParameters:
    config: Mapping[str, Any] = place.values[CONFIGURED].get("config", {})
    values: dict[str, Any] = {}
    for name, key in row.hyper.items():
        value = config.get(key)
        if isinstance(value, bool):
            values[name] = value
        elif isinstance(value, int | float):
            values[name] = tidy(float(value))
        elif config and name == "weight_decay":
            values[name] = 0.0
    stated = {name: value for name, value in place.options.hyper.items() if name in row.hyper} if not config else {}
    for name, value in stated.items():
        values[name] = bool(value) if name in SWITCHES else value
    return HyperParameters(**values, epsilon_place=row.epsilon, decay=row.decay)


def _with_rate(hyper: HyperParameters, variables: Mapping[int, StateTensor], known: Variables) -> HyperParameters:
    """The variable is the rate now."""
    if known.rate is None:
        return hyper
    return msgspec.structs.replace(hyper, learning_rate=tidy(variables[known.rate].number()))


def layout_of(place: Place, variables: Mapping[int, StateTensor], trained: int) -> Variables:
    """Which numbers are what. Raises ConversionError between two updates of accumulated gradients."""
    has_rate = len(variables) > 1 and variables[1].spec.shape == () and variables[1].spec.dtype.kind == "f"
    config: Mapping[str, Any] = place.values[CONFIGURED].get("config", {})
    averages = trained * (bool(config.get("use_ema")) + bool(config.get("gradient_accumulation_steps")))
    first = 1 + has_rate
    return Variables(1 if has_rate else None, first + averages, averages)


def _steps(place: Place, variables: Mapping[int, StateTensor]) -> int:
    """Finished steps. Raises ConversionError in the middle of one."""
    count = int(variables[0].number())
    each = place.values[CONFIGURED].get("config", {}).get("gradient_accumulation_steps")
    if isinstance(each, int) and each > 1:
        if count % each:
            raise refusal(
                f"{place.title}: {count % each} of {each} gradients of an update are accumulated; save at one."
            )
        return count // each
    return count


def _kept(
    place: Place, row: Row, hyper: HyperParameters, slots: int, parameters: Sequence[TensorSpec]
) -> tuple[SlotRow, ...]:
    """The slots of each parameter; without a configuration as many kinds as there are. Raises ConversionError."""
    said = hyper.known()
    if place.values[CONFIGURED] or not slots:
        return slots_of(row, said) if slots else ()
    kinds = slots / len(parameters) if parameters else 0
    certain = [item for item in row.slots if not item.only_with or said.get(item.only_with)]
    open_to = [item for item in row.slots if item.only_with and item.only_with not in said]
    if len(certain) == kinds:
        return tuple(certain)
    if len(certain) + len(open_to) == kinds:
        return row.slots
    names = [item.only_with for item in open_to] or list(row.hyper)
    text = f"{place.title}: weights alone do not say which slots their optimizer has."
    raise ConversionError(
        Problem(text, "hyper-parameter", remedies=tuple(Remedy("hyper", (name, 1)) for name in names))
    )


def number_of(optimizer: str, known: Variables, kept: Sequence[SlotRow], item: SlotRow, index: int, count: int) -> int:
    """The number of a slot of the parameter with this index, of so many."""
    kind = list(kept).index(item)
    if optimizer not in _TOGETHER:
        return known.first + kind * count + index
    last = item.slot == "moment2_max"  # after all pairs
    return known.first + (2 * count + index if last else min(len(kept), 2) * index + kind)


def _check_shapes(place: Place, tensors: Sequence[StateTensor], shapes: Sequence[tuple[int, ...]]) -> None:
    wrong = [tensor for tensor, shape in zip(tensors, shapes, strict=True) if tensor.spec.shape != shape]
    if wrong:
        raise refusal(f"{place.title}: the slots '{wrong[0].spec.name}' and before it have shapes of two parameters.")


# -- the order of the parameters --------------------------------------------------------------------------------------


def in_order(place: Place) -> tuple[list[TensorSpec], bool]:
    """What may be trained in the order of the model's variables, and whether that is known."""
    parameters = list(place.parameters)
    layers = place.values.get(LAYERS) or []
    if not layers:
        whole = all(spec.name.startswith("layers/") for spec in parameters)
        groups = _by_layer(parameters)
        ordered = [sorted_inside(path, own) for path, own in groups.items()]
        known = whole and all(item is not None for item in ordered)
        return [spec for item in ordered if item for spec in item] if known else parameters, known
    below = {layer.path: [spec for spec in parameters if spec.name.startswith(f"{layer.path}/")] for layer in layers}
    ordered = [sorted_inside(path, own) for path, own in below.items()]
    if any(item is None for item in ordered) or sum(map(len, below.values())) != len(parameters):
        return parameters, False
    return [spec for item in ordered if item for spec in item], True


def _by_layer(parameters: Sequence[TensorSpec]) -> dict[str, list[TensorSpec]]:
    groups: dict[str, list[TensorSpec]] = {}
    for spec in parameters:
        parts = spec.name.split("/")
        depth = max((place for place, part in enumerate(parts) if part == "layers"), default=0)
        groups.setdefault("/".join(parts[: depth + 2]), []).append(spec)
    return groups


def sorted_inside(path: str, own: Sequence[TensorSpec]) -> list[TensorSpec] | None:
    """The variables of one layer in its order: its own by number, then those of the layers in it. None: not known."""
    head: list[TensorSpec] = []
    inside: dict[str, list[TensorSpec]] = {}
    for spec in own:
        first, _, rest = spec.name.removeprefix(f"{path}/").partition("/")
        if first == "vars" and "/" not in rest:
            head.append(spec)
        else:
            inside.setdefault(first, []).append(spec)
    head.sort(key=lambda spec: natural_key(spec.name))
    names = next((names for names in _INSIDE if set(inside) <= set(names)), tuple(inside) if len(inside) < 2 else None)
    if names is None:
        return None
    for name in names:
        if name in inside:
            deeper = sorted_inside(f"{path}/{name}", inside[name])
            if deeper is None:
                return None
            head += deeper
    return head


def _order(
    place: Place, parameters: Sequence[TensorSpec], shapes: Sequence[tuple[int, ...]], defined: bool, trained_only: bool
) -> Order:
    """Raises ConversionError where it is open."""
    layers = place.values.get(LAYERS) or []
    frozen = {layer.path for layer in layers if not layer.trainable}
    trained = [spec for spec in parameters if not any(spec.name.startswith(f"{path}/") for path in frozen)]
    what = f"the optimizer of {place.title}"
    if trained_only:
        if not defined and not place.stated:
            return Order((tuple(spec.name for spec in trained),), "", likely=True)
        return order_of(
            trained, [[spec.shape for spec in trained]], what, False, place.asks, place.stated, _names(trained)
        )
    for each in (trained, list(parameters)):
        if defined and layers and [spec.shape for spec in each] == list(shapes) and not place.stated:
            return Order((tuple(spec.name for spec in each),), "the order of the layers in the model's configuration")
    return order_of(parameters, [list(shapes)], what, place.strict, place.asks, place.stated, defined=defined)


def _names(specs: Sequence[TensorSpec]) -> list[list[str]]:
    return [[spec.name for spec in specs]]


def _left_out(place: Place, known: Variables) -> tuple[LeftOut, ...]:
    return tuple(_aside(place, known))


def _aside(place: Place, known: Variables) -> Iterator[LeftOut]:
    config: Mapping[str, Any] = place.values[CONFIGURED].get("config", {})
    if config.get("use_ema"):
        yield LeftOut("optimizer/vars", "the averages of the weights (use_ema)")
    if known.rate is None:
        yield LeftOut("learning_rate", "a schedule, of which the file keeps no state")
    for name in ("clipnorm", "global_clipnorm", "clipvalue", "loss_scale_factor"):
        if config.get(name):
            yield LeftOut(name, f"{config[name]}: set it in the other framework")
