"""What a Keras 3 file holds of a training: the numbered variables of the optimizer, and what the model says of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from converter.formats.base import StateTensor
from converter.formats.keras.config import TrainedLayer, trained_layers
from converter.formats.keras.hdf5_file import H5File

__all__ = ["CONFIGURED", "LAYERS", "NAME", "VARIABLES", "training_in"]

#: Keys of what `training_in` gives: number -> variable; the name of the optimizer; its entry in the ``compile_config``;
#: the layers in the order of their variables, where a configuration tells it.
VARIABLES, NAME, CONFIGURED, LAYERS = "optimizer", "name", "configured", "layers"
#: Where the variables are; an optimizer that scales the loss lists those of its inner one again, alone.
_PLACES = ("optimizer/inner_optimizer/vars", "optimizer/vars")


def training_in(file: H5File, config: Any, container: str = "layers") -> Mapping[str, Any]:
    """config: the ``config.json`` of a whole model; {} of weights alone."""
    tensors: dict[str, dict[int, StateTensor]] = {}
    for dataset in file.tree().datasets:
        group, _, number = dataset.spec.name.rpartition("/")
        if group in _PLACES and number.isascii() and number.isdecimal() and len(number) < 9:
            read = partial(file.read, dataset.spec)
            tensors.setdefault(group, {})[int(number)] = StateTensor(dataset.spec, read)
    place = next((place for place in _PLACES if place in tensors), "")
    if not place:
        return {}
    layers: list[TrainedLayer] = trained_layers(config, file.budget, container)
    return {
        VARIABLES: tensors[place],
        NAME: file.text(place, "name"),
        CONFIGURED: _configured(config),
        LAYERS: layers,
    }


def _configured(config: Any) -> Mapping[str, Any]:
    """The entry of the optimizer; of one that scales the loss, of the inner one. {} where there is none."""
    compiled = config.get("compile_config") if isinstance(config, dict) else None
    entry = compiled.get("optimizer") if isinstance(compiled, dict) else None
    inner = entry.get("config") if isinstance(entry, dict) else None
    if isinstance(inner, dict) and isinstance(inner.get("inner_optimizer"), dict):
        entry = inner["inner_optimizer"]
    return entry if isinstance(entry, dict) and isinstance(entry.get("config"), dict) else {}
