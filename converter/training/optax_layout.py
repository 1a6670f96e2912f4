"""Writing the state of optax into a flax tree: in the form of the clone's TrainState, or in the function's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from converter.core.contents import Contents
from converter.core.ops import Full
from converter.core.tensors import DTYPES, TensorSpec
from converter.errors import ConversionError, Placeholder, Problem, Remedy
from converter.formats.base import StateTensor
from converter.planning.steps import Step
from converter.training.found import Place, refusal
from converter.training.layout import Layout, Written
from converter.training.optax import FIELDS, INJECTED, FieldTree, Keys, at, fields_in, leaves_of
from converter.training.optimizers import ROWS
from converter.training.state import HyperParameters, Slot, TrainingState
from converter.training.steps import Target

#: What each function chains: the fields of the state at each place ("" for one without), as optax 0.2 has it.
_CHAINS: Mapping[str, str] = {
    "sgd": "trace|",
    "adam": "count mu nu|",
    "adamw": "count mu nu||",
    "radam": "count mu nu|",
    "adamax": "count mu nu|",
    "rmsprop": "nu mu||trace",
    "adagrad": "sum_of_squares|",
    "adadelta": "|e_g e_x|",
    "lion": "count mu||",
}
_STATE, _PARAMS, _STEP = "opt_state", "params", "step"
_COUNTS = ("count", "gradient_step")
_KEPT = "kept from the clone"


def layout(state: TrainingState, clone: tuple[Place, TrainingState] | None) -> Layout:
    return _Fresh(state) if clone is None else _AsClone(state, *clone)


class _Fresh(Layout):
    """A TrainState whose ``opt_state`` is that of the function with the report's line of code."""

    framework = "optax"
    order = "each slot has the name of its parameter"

    def targets(self, contents: Contents, hyper: HyperParameters) -> Sequence[Target]:
        row = ROWS["optax"][self.state.optimizer]
        places = self._places()
        found = []
        for item in row.slots:
            if item.slot not in self.state.slots:
                continue
            for spec, below in _params(contents):
                keys = (_STATE, *places[item.name], item.name, *below)
                found.append(Target(item.slot, spec.name, replace(spec, name="/".join(keys)), keys=keys))
        return found

    def written(self, contents: Contents, hyper: Sequence[HyperParameters], fresh: frozenset[str]) -> Written:
        steps: list[Step] = []
        tree: dict[str, Any] = {}
        for place, fields in enumerate(_CHAINS[self.state.optimizer].split("|")):
            having = [name for name in fields.split() if name == "count" or self._has(name)]
            keys = (*self._outer, str(place))
            if "count" in having:
                steps.append(_number((_STATE, *keys, "count"), self.count, DTYPES["int32"]))
            elif not having:
                _set(tree, (_STATE, *keys), {})
        if self._outer:
            _set(tree, (_STATE, "0"), {})
        return Written(tuple(steps), {_STEP: self.count, **tree})

    def _has(self, name: str) -> bool:
        row = ROWS["optax"][self.state.optimizer]
        return any(item.name == name and item.slot in self.state.slots for item in row.slots)

    def _places(self) -> dict[str, Keys]:
        chain = _CHAINS[self.state.optimizer].split("|")
        return {name: (*self._outer, str(place)) for place, fields in enumerate(chain) for name in fields.split()}

    @property
    def _outer(self) -> Keys:
        """Where it stands if weight decay, as a part of the gradient, is chained before it."""
        each = (group.hyper for group in self.state.groups)
        return ("1",) if any(hyper.decay == "coupled" and hyper.weight_decay for hyper in each) else ()


class _AsClone(Layout):
    """The clone's own tree, with the slots, the counts and the injected hyper-parameters of the source."""

    framework = "optax"
    order = "each slot has the name of its parameter"

    def __init__(self, state: TrainingState, place: Place, own: TrainingState) -> None:
        super().__init__(state)
        self.place, self.own = place, own
        self.row = ROWS["optax"].get(state.optimizer)
        self.fields = [item for item in fields_in(place) if self._slot(item) is not None]
        self._refuse_other()

    def _slot(self, item: FieldTree) -> Slot | None:
        rows = self.row.slots if self.row else ()
        return next((row.slot for row in rows if row.name == item.field), None)

    def _refuse_other(self) -> None:
        assert self.row is not None
        theirs = {item.field for item in fields_in(self.place) if item.field in FIELDS - {"ema", "acc_grads"}}
        ours = {item.name for item in self.row.slots if item.slot in self.state.slots}
        if theirs != ours:
            raise refusal(
                f"the optimizer of {self.place.title} keeps {_named(theirs)}, and the source is that of "
                f"{self.state.optimizer}, which keeps {_named(ours)}: make the clone with {self.row.called}."
            )

    def targets(self, contents: Contents, hyper: HyperParameters) -> Sequence[Target]:
        found = []
        for item in self.fields:
            slot = self._slot(item)
            for keys, parameter in item.leaves.items():
                if slot is None or parameter not in contents.by_name:
                    continue
                tensor = at(self.place.values, (*item.keys, *keys))
                path = (*item.keys, *keys)
                found.append(Target(slot, parameter, replace(tensor.spec, name="/".join(path)), keys=path))
        return found

    def written(self, contents: Contents, hyper: Sequence[HyperParameters], fresh: frozenset[str]) -> Written:
        slots = {(*item.keys, *keys) for item in self.fields for keys in item.leaves}
        weights = {tuple(contents.keys.get(spec.name, spec.name.split("/"))) for spec in contents.specs}
        tops = {item.owner[0] for item in self.fields if item.owner}
        steps: list[Step] = []
        tree: dict[str, Any] = {}
        sources: dict[str, StateTensor] = {}
        for keys, value in leaves_of(dict(self.place.values)):
            if keys in slots or keys in weights or not keys:
                continue
            told = self._told(keys, hyper[0], tops)
            if isinstance(value, StateTensor) and told is not None:
                steps.append(_number(keys, told, value.spec.dtype, value.spec.shape))
            elif isinstance(value, StateTensor):
                name = f"clone: {'/'.join(keys)}"
                sources[name] = value
                spec = replace(value.spec, name="/".join(keys))
                steps.append(Step("", "", (replace(value.spec, name=name),), (), spec, _KEPT))
            else:
                whole = isinstance(value, int) and told is not None
                _set(tree, keys, int(told) if whole and told is not None else value if told is None else told)
        return Written(tuple(steps), tree, sources, {step.target.name: _keys(step) for step in steps})

    def _told(self, keys: Keys, hyper: HyperParameters, tops: set[str]) -> float | None:
        """What the source says of a number of the clone; None where nothing."""
        inside = keys[0] in tops
        if (inside and keys[-1] in _COUNTS) or (len(keys) == 1 and keys[0] == _STEP):
            return self.count
        if inside and len(keys) > 1 and keys[-2] == "hyperparams":
            name = next((name for name, key in INJECTED.items() if key == keys[-1]), "")
            value = getattr(hyper, name, None) if name else None
            return None if value is None else float(value)
        return None


def _keys(step: Step) -> Keys:
    return tuple(step.target.name.split("/"))


def _named(fields: Iterable[str]) -> str:
    return ", ".join(sorted(fields)) or "nothing"


def _number(keys: Keys, value: float, dtype: Any, shape: tuple[int, ...] = ()) -> Step:
    spec = TensorSpec("/".join(keys), shape, dtype)
    return Step("", "", (), (Full(shape, dtype, value),), spec, "a number of the training")


def _params(contents: Contents) -> list[tuple[TensorSpec, Keys]]:
    """What is trained in a tree of flax, with its keys. Raises ConversionError where nothing tells that."""
    found = [(spec, tuple(contents.keys.get(spec.name, spec.name.split("/")))) for spec in contents.specs]
    trained = [(spec, keys[1:]) for spec, keys in found if keys[0] == _PARAMS and len(keys) > 1]
    if not trained:
        like = Remedy("like", Placeholder("CLONE"), "takes a TrainState of the new net")
        text = "the tree that is written has no 'params', beside which an optimizer's state could stand."
        raise ConversionError(Problem(text, "training state", remedies=(like,)))
    return trained


def _set(tree: dict[str, Any], keys: Keys, value: Any) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    tree[keys[-1]] = value
