"""PyTorch: ``optimizer.state_dict()`` in a checkpoint, read, and written as ``optimizer.load_state_dict`` takes it.

``{'state': {number: {slot: tensor}}, 'param_groups': [{hyper-parameters, 'params': [numbers]}]}``. The class is not
stored: slots and keys of the groups tell it, but for Adam and AdamW of files before 2.x, which are asked about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from converter.core.contents import AllOthers, Contents, LeftOut, Ref
from converter.core.ops import Full
from converter.core.tensors import DTYPES, TensorSpec
from converter.errors import ConversionError, Placeholder, Problem, Remedy, either, listed
from converter.formats.base import StateTensor
from converter.formats.torch.training import PLACE, TIED
from converter.planning.steps import Step
from converter.training.found import Place, refusal
from converter.training.layout import Layout, Written
from converter.training.optimizers import ROWS, WHY_NOT, Row, slots_of
from converter.training.order import order_of
from converter.training.state import SWITCHES, Group, HyperParameters, Slot, TrainingState
from converter.training.steps import Target

_ROWS = ROWS["torch"]
#: A key of a group, or a slot, that only one class has.
_TELLS = {
    "momentum_decay": "nadam",
    "lr_decay": "adagrad",
    "beta2_decay": "adafactor",
    "ns_steps": "muon",
    "dampening": "sgd",
    "alpha": "rmsprop",
    "rho": "adadelta",
    "etas": "rprop",
    "lambd": "asgd",
}
#: What stands in a group and is no hyper-parameter of the method.
_NUMBERS, _NAMES = "params", "param_names"
#: Values that a new group has beside the hyper-parameters (torch 2.x); a loader takes the group as it is in the file.
_ADAM = {"maximize": False, "foreach": None, "capturable": False, "differentiable": False, "fused": None}
_PLAIN = {"maximize": False, "foreach": None, "differentiable": False}
_EXTRA: Mapping[str, Mapping[str, Any]] = {
    "sgd": {**_PLAIN, "fused": None},
    "adam": {**_ADAM, "decoupled_weight_decay": False},
    "adamw": {**_ADAM, "decoupled_weight_decay": True},
    "radam": {**_PLAIN, "capturable": False, "decoupled_weight_decay": False},
    "rmsprop": {**_PLAIN, "capturable": False},
    "adagrad": {**_PLAIN, "initial_accumulator_value": 0, "fused": None},
    "adadelta": {**_PLAIN, "capturable": False},
    "adamax": {**_PLAIN, "capturable": False},
}


def optimizer_in(place: Place) -> tuple[str, Mapping[str, Any]] | None:
    """The place in the file and the ``state_dict``. Raises ConversionError where there are several optimizers."""
    found = {
        name: value
        for name, value in place.values.items()
        if isinstance(value, dict) and {"state", "param_groups"} <= value.keys()
    }
    if len(found) > 1:
        raise refusal(
            f"{place.title} holds {len(found)} optimizers, {listed(found)}: only the state of one is carried."
        )
    return next(iter(found.items()), None)


def read(place: Place) -> TrainingState | None:
    """The state that a file holds; None where it has none. Raises ConversionError."""
    found = optimizer_in(place)
    if found is None:
        return None
    name, document = found
    state, groups = _checked(place, document)
    optimizer = _told(place, groups, state)
    row = _ROWS[optimizer]
    tied = {str(other): str(first) for other, first in place.values.get(TIED, {}).items()}
    parameters = [spec for spec in place.parameters if spec.name not in tied]
    slots = {item.slot: item.name for item in row.slots}
    shapes = [[_shape(state.get(number, {}), slots.values()) for number in group[_NUMBERS]] for group in groups]
    named = [group[_NAMES] for group in groups] if all(_has_names(group) for group in groups) else None
    order = order_of(
        parameters, shapes, f"the optimizer of {place.title}", place.strict, place.asks, place.stated, named
    )
    names = {
        number: parameter
        for group, members in zip(groups, order.groups, strict=True)
        for number, parameter in zip(group[_NUMBERS], members, strict=True)
    }
    tensors: dict[Slot, dict[str, StateTensor]] = {}
    for slot, key in slots.items():
        having = {
            names[number]: entry[key] for number, entry in state.items() if isinstance(entry.get(key), StateTensor)
        }
        if having:
            tensors[slot] = having
    described = tuple(
        Group(_hyper(place, group, row), members) for group, members in zip(groups, order.groups, strict=True)
    )
    numbers = place.values.items()
    beside = tuple(LeftOut(key, f"a number of the training: {value}") for key, value in numbers if _is_number(value))
    return TrainingState(
        "torch", optimizer, tensors, _step(place, state), described, order.reason, order.likely, tied, name, beside
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _has_names(group: Mapping[str, Any]) -> bool:
    names = group.get(_NAMES)
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _checked(place: Place, document: Mapping[str, Any]) -> tuple[Mapping[int, Any], Sequence[Mapping[str, Any]]]:
    """The two parts, if they have the form that PyTorch writes."""
    state, groups = document["state"], document["param_groups"]
    is_right = isinstance(state, dict) and isinstance(groups, list) and len(groups) > 0
    is_right = is_right and all(isinstance(group, dict) and isinstance(group.get(_NUMBERS), list) for group in groups)
    numbers = [number for group in groups for number in group[_NUMBERS]] if is_right else []
    is_right = is_right and all(isinstance(number, int) for number in numbers) and len(set(numbers)) == len(numbers)
    if not is_right or not set(state) <= set(numbers) or not all(isinstance(entry, dict) for entry in state.values()):
        raise refusal(
            f"{place.title}: the state of its optimizer does not number its parameters as "
            "optimizer.state_dict() of PyTorch does."
        )
    return state, groups


def _told(place: Place, groups: Sequence[Mapping[str, Any]], state: Mapping[int, Any]) -> str:
    """Which class wrote it. Raises ConversionError where that is open, or it is one that is not carried."""
    keys, slots = groups[0].keys(), {key for entry in state.values() for key in entry}
    known = next((name for key, name in _TELLS.items() if key in keys), None)
    if known is None and "exp_inf" in slots:
        known = "adamax"
    if known is None and "betas" in keys:
        if "amsgrad" not in keys:
            known = "radam" if "decoupled_weight_decay" in keys or "exp_avg_sq" in slots else "adamax"
        elif "decoupled_weight_decay" in keys:
            known = "adamw" if groups[0]["decoupled_weight_decay"] else "adam"
    stated = place.options.optimizer if place.is_source else None
    if known is None and "amsgrad" in keys and stated in ("adam", "adamw"):
        known = stated
    if known is None and "amsgrad" in keys:
        ways = tuple(Remedy("optimizer", name) for name in ("adam", "adamw"))
        text = f"{place.title}: a file of this version does not say whether Adam or AdamW wrote its state."
        raise ConversionError(Problem(text, "optimizer", remedies=ways))
    if known is not None and stated is not None and stated != known:
        about = Remedy("optimizer", stated)
        raise ConversionError(Problem(f"the state of {place.title} is that of {known}.", "option", about=about))
    if known is None or known not in _ROWS:
        why = WHY_NOT.get(known or "", f"there are {either(list(_ROWS))}")
        raise refusal(f"{place.title}: the state of {known or 'an unknown optimizer'} is not carried: {why}.")
    return known


def _shape(entry: Mapping[str, Any], names: Any) -> tuple[int, ...] | None:
    tensors = (entry.get(name) for name in names)
    return next((tensor.spec.shape for tensor in tensors if isinstance(tensor, StateTensor)), None)


def _hyper(place: Place, group: Mapping[str, Any], row: Row) -> HyperParameters:
    values: dict[str, Any] = {}
    for name, key in row.hyper.items():
        value = group.get(key)
        if key == "betas" and isinstance(value, list) and len(value) == 2:
            value = value[0 if name == "beta1" else 1]
        if isinstance(value, StateTensor) and value.spec.size == 1:  # a rate that is a tensor
            value = value.number()
        if isinstance(value, bool | int | float):
            values[name] = value if isinstance(value, bool) else float(value)
    if group.get("maximize"):
        raise refusal(f"{place.title}: its optimizer maximises, which the others do by another loss: negate the loss.")
    decay = row.decay
    if "decoupled_weight_decay" in group:
        decay = "decoupled" if group["decoupled_weight_decay"] else "coupled"
    return HyperParameters(**values, epsilon_place=row.epsilon, decay=decay)


def _step(place: Place, state: Mapping[int, Any]) -> int | None:
    """How many steps are finished, the same of all parameters. Raises ConversionError where it is not."""
    steps = {name: _number(entry["step"]) for name, entry in state.items() if "step" in entry}
    if len(set(steps.values())) > 1:
        few, many = min(steps, key=lambda name: steps[name]), max(steps, key=lambda name: steps[name])
        raise refusal(
            f"{place.title}: parameter {few} of its optimizer took {steps[few]:g} steps and parameter {many} took "
            f"{steps[many]:g}, and other frameworks count one number for all."
        )
    return int(next(iter(steps.values()))) if steps else None


def _number(value: Any) -> float:
    if isinstance(value, StateTensor) and value.spec.size == 1:
        return value.number()
    return float(value) if isinstance(value, int | float) else -1.0


# -- writing ----------------------------------------------------------------------------------------------------------


def layout(state: TrainingState, clone: tuple[Place, TrainingState] | None) -> Layout:
    """Numbered as the clone's optimizer numbers its parameters. Raises ConversionError without one."""
    if clone is None:
        like = Remedy("like", Placeholder("CLONE"), "takes a checkpoint of the new net with its optimizer")
        text = "an optimizer of PyTorch numbers the parameters of its net, and nothing says in which order."
        raise ConversionError(Problem(text, "order of the state", remedies=(like,)))
    place, own = clone
    return _TorchLayout(state, place, own)


class _TorchLayout(Layout):
    framework = "torch"
    skips_fresh = True

    def __init__(self, state: TrainingState, place: Place, own: TrainingState) -> None:
        super().__init__(state)
        self.row = _ROWS.get(state.optimizer)
        self.place, self.own = place, own
        self.order, self.likely = own.order, own.likely
        self.own_hyper = own.hyper
        self.clones = own.optimizer
        self.groups = tuple(group.parameters for group in own.groups)

    def needs(self, hyper: HyperParameters) -> Sequence[str]:
        """All but what a framework that does not say it does not have."""
        assert self.row is not None
        decay = () if self.row.decay == "decoupled" else ("weight_decay",)
        assumed = ("nesterov", "dampening", "centered", "amsgrad", "lr_decay", *decay)
        momentum = () if "momentum" in self.state.slots else ("momentum",)
        return [name for name in self.row.hyper if name not in (*assumed, *momentum)]

    def targets(self, contents: Contents, hyper: HyperParameters) -> Sequence[Target]:
        assert self.row is not None
        specs = contents.by_name
        kept = slots_of(self.row, hyper.known())
        return [
            Target(item.slot, name, replace(specs[name], name=f"{self._prefix(number)}/{item.name}"))
            for number, name in self._numbered()
            for item in kept
            if name in specs
        ]

    def written(self, contents: Contents, hyper: Sequence[HyperParameters], fresh: frozenset[str]) -> Written:
        assert self.row is not None
        rows, state = self.row, {}
        steps: list[Step] = []
        for number, name in self._numbered():
            if name in fresh or name not in contents.by_name:
                continue
            entry: dict[str, Any] = {}
            if rows.counts:
                spec = TensorSpec(f"{self._prefix(number)}/step", (), DTYPES["float32"])
                steps.append(Step("", "", (), (Full((), spec.dtype, float(self.count)),), spec, "the number of steps"))
                entry["step"] = Ref(spec.name)
            for item in slots_of(rows, hyper[0].known()):
                entry[item.name] = Ref(f"{self._prefix(number)}/{item.name}")
            if entry:
                state[number] = entry
        weights, optimizer = self._keys()
        groups = [self._group(index, hyper) for index in range(len(self.own.groups))]
        tree = {weights: AllOthers(), optimizer: {"state": state, "param_groups": groups}}
        return Written(tuple(steps), tree)

    def _numbered(self) -> Iterator[tuple[int, str]]:
        return enumerate(self.own.parameters)

    def _prefix(self, number: int) -> str:
        return f"{self._keys()[1]}/state/{number}"

    def _keys(self) -> tuple[str, str]:
        """What the weights and the optimizer are called: as in the clone, where both are at its top."""
        found = optimizer_in(self.place)
        keys = str(self.place.values.get(PLACE, "")), found[0] if found else ""
        both = all(keys) and not any("/" in key for key in keys) and keys[0] != keys[1]
        return keys if both else ("model", "optimizer")

    def _group(self, index: int, hyper: Sequence[HyperParameters]) -> dict[str, Any]:
        assert self.row is not None
        start = sum(len(group.parameters) for group in self.own.groups[:index])
        members = self.own.groups[index].parameters
        said = hyper[index].known()
        group: dict[str, Any] = {}
        for name, key in self.row.hyper.items():
            if key == "betas":
                group[key] = (said["beta1"], said["beta2"])
            else:
                group[key] = said.get(name, False if name in SWITCHES else 0)
        group |= dict(_EXTRA[self.state.optimizer])
        document = optimizer_in(self.place)
        theirs = document[1]["param_groups"][index] if document else {}
        if _has_names(theirs):
            group[_NAMES] = list(theirs[_NAMES])
        return {**group, _NUMBERS: list(range(start, start + len(members)))}
