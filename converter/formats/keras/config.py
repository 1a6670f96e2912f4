"""The names that the user chose for layers, from the ``config.json`` of a Keras model.

Keras before 3.1 does not write them beside the weights, but the paths of the weights follow from the
config: ``layers/<class name in snake case>``, with a counter. Source: keras/src/saving/saving_lib.py
(_save_container_state), keras/src/utils/naming.py.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from converter.formats.io.budget import Budget
from converter.formats.pickle.nested import MAX_DEPTH

#: Stands for any class of a user.
OWN = "own class"


def layer_names(config: Any, budget: Budget, container: str = "layers") -> Mapping[str, str]:
    """Path of a layer (``layers/sequential/layers/dense_1``) -> its name. Tolerates any JSON."""
    named = ((path, _config(layer).get("name")) for path, layer in _walk(config, budget, container))
    return {path: name for path, name in named if isinstance(name, str)}


class TrainedLayer(msgspec.Struct, frozen=True):
    """A layer that holds no others: its path, and whether the configuration lets it be trained."""

    path: str
    trainable: bool


def trained_layers(config: Any, budget: Budget, container: str = "layers") -> list[TrainedLayer]:
    """In the order of the model's variables: those of a nested model stand where that model does.

    Empty for a model of a class of its own, whose configuration lists no layers.
    """
    found: list[TrainedLayer] = []
    stack = [(True, _numbered(config, "", container))]
    while stack:
        trainable, layers = stack[-1]
        following = next(layers, None)
        if following is None:
            stack.pop()
            continue
        path, layer = following
        budget.charge(4 * len(path) + 100, "the paths of its layers")
        if len(stack) > MAX_DEPTH:
            return []
        inside = trainable and _config(layer).get("trainable", True) is not False
        if _layers(layer):
            stack.append((inside, _numbered(layer, f"{path}/", container)))
        else:
            found.append(TrainedLayer(path, inside))
    return found


def _numbered(model: Any, prefix: str, container: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The layers of one model with their paths."""
    counter: Counter[str] = Counter()
    for layer in _layers(model):
        kind = snake_case(str(layer.get("class_name", "")))
        path = f"{prefix}{container}/{kind}"
        yield f"{path}_{counter[kind]}" if counter[kind] else path, layer
        counter[kind] += 1


def gru_classes(config: Any, budget: Budget, container: str = "layers") -> dict[str, str]:
    """Path of a layer with a GRU in it -> ``gru_reset_after`` or ``gru_reset_before``: its weights may not tell."""
    classes = {}
    for path, layer in _walk(config, budget, container):
        said = set() if _layers(layer) else _reset_after(layer)
        if len(said) == 1:
            classes[path] = "gru_reset_after" if said == {True} else "gru_reset_before"
    return classes


def own_classes(config: Any, budget: Budget, container: str = "layers") -> dict[str, str]:
    """Path of a layer of a class that is no part of Keras -> that class, which may be called ``Dense``, too."""
    return {
        path: OWN
        for path, layer in _walk(config, budget, container)
        if "module" in layer and not str(layer["module"]).startswith(("keras.", "tf_keras.")) and not _layers(layer)
    }


def _reset_after(item: Any) -> set[bool]:
    """What the GRU and its cells say, those inside of a Bidirectional and of an RNN, too."""
    said: set[bool] = set()
    stack = [item]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            config = _config(value)
            if value.get("class_name") in ("GRU", "GRUCell") and isinstance(config.get("reset_after"), bool):
                said.add(config["reset_after"])
            stack += value.values()
        elif isinstance(value, list):
            stack += value
    return said


def below(names: Iterable[str], classes: Mapping[str, str]) -> Mapping[str, str]:
    """Name of a tensor -> the class of the layer that it is in. No path of ``classes`` is below another."""
    ordered = sorted(names)
    found = {}
    for path, kind in classes.items():
        for name in ordered[bisect_left(ordered, f"{path}/") :]:
            if not name.startswith(f"{path}/"):
                break
            found[name] = kind
    return found


def _walk(config: Any, budget: Budget, container: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every layer with its path, those of nested models, too."""
    stack: list[tuple[str, Any]] = [("", config)]
    while stack:
        prefix, model = stack.pop()
        for path, layer in _numbered(model, prefix, container):
            budget.charge(4 * len(path) + 100, "the paths of its layers")
            yield path, layer
            if _layers(layer):
                stack.append((f"{path}/", layer))


def _config(item: Any) -> Mapping[str, Any]:
    config = item.get("config") if isinstance(item, dict) else None
    return config if isinstance(config, dict) else {}


def _layers(model: Any) -> list[dict[str, Any]]:
    layers = _config(model).get("layers")
    return [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []


def snake_case(name: str) -> str:
    """``BatchNormalization`` -> ``batch_normalization``, ``Conv2D`` -> ``conv2d``, as Keras does it."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
