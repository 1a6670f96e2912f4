"""Writing the state of a Keras 3 optimizer: the numbers that the clone has, and the settings in its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from converter.core.contents import Contents
from converter.core.ops import Full
from converter.core.tensors import DTYPES, TensorSpec
from converter.errors import ConversionError, Placeholder, Problem, Remedy
from converter.formats.keras.training import CONFIGURED, NAME, VARIABLES
from converter.planning.steps import Step
from converter.training.found import Place, refusal
from converter.training.keras import Variables, number_of
from converter.training.layout import Layout, Written
from converter.training.optimizers import ROWS, SlotRow, slots_of
from converter.training.state import HyperParameters, TrainingState
from converter.training.steps import Target

_PLACE, _CONFIG = "optimizer/vars", "config.json"


def layout(state: TrainingState, clone: tuple[Place, TrainingState] | None) -> Layout:
    """Numbered as the clone's optimizer numbers its variables. Raises ConversionError without one."""
    if clone is None:
        like = Remedy("like", Placeholder("CLONE"), "takes a compiled model, saved")
        text = "an optimizer of Keras numbers its variables in the order of a model's layers, and nothing tells that."
        raise ConversionError(Problem(text, "order of the state", remedies=(like,)))
    return _KerasLayout(state, *clone)


class _KerasLayout(Layout):
    framework = "keras"

    def __init__(self, state: TrainingState, place: Place, own: TrainingState) -> None:
        super().__init__(state)
        if not own.order:
            raise refusal(f"{place.title}: nothing says in which order its optimizer numbers the parameters.")
        self.place, self.own, self.row = place, own, ROWS["keras"][own.optimizer]
        self.order, self.likely, self.own_hyper, self.clones = own.order, own.likely, own.hyper, own.optimizer
        self.groups = (own.parameters,)
        config = place.values[CONFIGURED].get("config", {})
        for name in ("use_ema", "gradient_accumulation_steps"):
            if config.get(name):
                raise refusal(f"{place.title}: its optimizer has {name}, of which the source has no state.")
        scheduled = isinstance(config.get("learning_rate"), dict)
        variables = place.values[VARIABLES]
        has_rate = not scheduled and (bool(config) or (1 in variables and variables[1].spec.shape == ()))
        self.known = Variables(1 if has_rate else None, 2 if has_rate else 1, 0)

    def targets(self, contents: Contents, hyper: HyperParameters) -> Sequence[Target]:
        kept, names = self._kept(hyper), [name for name in self.own.parameters if name in contents.by_name]
        numbered = {
            number_of(self.own.optimizer, self.known, kept, item, index, len(names)): (item, name)
            for item in kept
            for index, name in enumerate(names)
        }
        specs = contents.by_name
        return [
            Target(item.slot, name, replace(specs[name], name=f"{_PLACE}/{number}"))
            for number, (item, name) in sorted(numbered.items())
        ]

    def _kept(self, hyper: HyperParameters) -> tuple[SlotRow, ...]:
        return tuple(item for item in slots_of(self.row, hyper.known()) if item.slot in self.state.slots)

    def written(self, contents: Contents, hyper: Sequence[HyperParameters], fresh: frozenset[str]) -> Written:
        counter = self.place.values[VARIABLES][0].spec.dtype
        steps = [self._scalar(0, counter, self.count)]
        rate = hyper[0].learning_rate
        if self.known.rate is not None:
            if rate is None:
                remedy = Remedy("hyper", ("learning_rate", Placeholder("RATE")))
                text = "nothing says the rate of the next step, which Keras keeps with the state."
                raise ConversionError(Problem(text, "hyper-parameter", "learning_rate", remedies=(remedy,)))
            steps.append(self._scalar(1, DTYPES["float32"], rate))
        labels = {_PLACE: self.place.values[NAME] or self.own.optimizer}
        return Written(tuple(steps), labels=labels, metadata=self._configured(contents, hyper[0]))

    def _scalar(self, number: int, dtype: Any, value: float) -> Step:
        spec = TensorSpec(f"{_PLACE}/{number}", (), dtype)
        return Step("", "", (), (Full((), dtype, value),), spec, "a number of the training")

    def _configured(self, contents: Contents, hyper: HyperParameters) -> dict[str, str]:
        """The configuration of the model, with the settings that the state is for."""
        if _CONFIG not in contents.metadata or not self.place.values[CONFIGURED]:
            return {}
        document = msgspec.json.decode(contents.metadata[_CONFIG].encode())
        entry = document["compile_config"]["optimizer"]["config"]
        config = entry["inner_optimizer"]["config"] if isinstance(entry.get("inner_optimizer"), dict) else entry
        for name, key in self.row.hyper.items():
            value = getattr(hyper, name)
            if value is not None and not isinstance(config.get(key), dict):
                config[key] = value if value or name != "weight_decay" else None
        return {_CONFIG: msgspec.json.encode(document).decode()}
