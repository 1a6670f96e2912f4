"""Keras models (Keras 3 and tf_keras): each variable under the attribute that holds its layer.

A layer is known by the attribute of the model that it was assigned to (``hidden``), as it is to whoever
wrote the class; one that has none (in a Sequential) by its own name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from converter.errors import ConversionError
from converter.formats.base import Contents
from converter.formats.keras_config import snake_case
from converter.frameworks.defaults import Value
from converter.live.base import EPSILON, Hyperparameters, LiveNet, gates, is_dense, named
from converter.tensors import DTYPES, Array, TensorSpec


def _leaky_relu(layer: Any) -> float:
    return float(layer.negative_slope if hasattr(layer, "negative_slope") else layer.alpha)


def _gelu(layer: Any) -> Value | None:
    """The function's own default; another one would be a function of the user's."""
    return "exact" if named(layer.activation) == "gelu" else None


def _average_pooling(layer: Any) -> Value | None:
    return False if layer.padding == "same" else None


_RNN: Mapping[str, Callable[[Any], Value | None]] = {"RNN activation": lambda layer: named(layer.activation)}


class Adapter(LiveNet):
    framework_name = "tensorflow"
    in_order = True
    package = ("keras.", "tf_keras.")
    hyperparameters: ClassVar[Hyperparameters] = {
        "BatchNormalization": {
            "BatchNorm epsilon": lambda layer: layer.epsilon,
            "BatchNorm momentum (for training)": lambda layer: layer.momentum,
        },
        "LayerNormalization": {EPSILON: lambda layer: layer.epsilon},
        "GroupNormalization": {
            EPSILON: lambda layer: layer.epsilon,
            "GroupNorm groups": lambda layer: None if layer.groups == -1 else layer.groups,
        },
        "RMSNormalization": {"RMSNorm epsilon": lambda layer: layer.epsilon},
        "SimpleRNN": _RNN,
        "SimpleRNNCell": _RNN,
        "LSTM": gates("LSTM", "activation", "recurrent_activation"),
        "LSTMCell": gates("LSTM", "activation", "recurrent_activation"),
        "GRU": gates("GRU", "activation", "recurrent_activation"),
        "GRUCell": gates("GRU", "activation", "recurrent_activation"),
        "Embedding": {"Embedding padding index": lambda layer: 0 if layer.mask_zero else "none"},
        "AveragePooling1D": {"average pooling with padding": _average_pooling},
        "AveragePooling2D": {"average pooling with padding": _average_pooling},
        "AveragePooling3D": {"average pooling with padding": _average_pooling},
        "LeakyReLU": {"LeakyReLU slope": _leaky_relu},
        "Activation": {"GELU": _gelu},
        "Dense": {"GELU": _gelu},
    }

    def contents(self) -> Contents:
        if not self.net.built or not self.net.weights:
            raise ConversionError(
                "the Keras model has no variables yet. Build it first: call it once on an example input."
            )
        specs = (TensorSpec(name, tuple(v.shape), _dtype(v)) for name, v in self._variables().items())
        return Contents(tuple(specs))

    def spelled(self, class_name: str) -> str:
        return snake_case(class_name)

    def class_of(self, module: Any) -> str:
        found = super().class_of(module)
        if found in ("gru", "gru_cell") and hasattr(module, "reset_after"):
            return "gru_reset_after" if module.reset_after else "gru_reset_before"
        return found if found != "einsum_dense" or is_dense(module.equation) else f"{found}(other equation)"

    def read(self, name: str) -> Array:
        return np.array(self._variables()[name].numpy())

    def modules(self) -> Iterable[tuple[str, Any]]:
        return _layers(self.net, "")

    def fill(self, tensors: Iterable[tuple[str, Array]]) -> Any:
        variables = self._variables()
        for name, array in tensors:
            variables[name].assign(np.array(array))
        return self.net

    def freeze(self, names: frozenset[str]) -> Any:
        variables = self._variables()
        frozen = {id(variables[name]) for name in names}
        for _, layer in self.modules():
            own = {id(variable) for variable in layer.weights}
            if own and own <= frozen:
                layer.trainable = False
        trained = {id(variable) for variable in self.net.trainable_weights}
        for name in sorted(name for name in names if id(variables[name]) in trained):
            warnings.warn(f"'{name}' stays trainable: its Keras layer has variables that are not frozen", stacklevel=3)
        return self.net

    def _variables(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        seen: set[int] = set()
        for path, layer in _layers(self.net, ""):
            for variable in layer.weights:
                if id(variable) not in seen:
                    seen.add(id(variable))
                    leaf = variable.name.removesuffix(":0").rpartition("/")[2]
                    found["/".join(filter(None, (path, leaf)))] = variable
        return found


def _layers(layer: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every layer below, innermost first, in the order of the model, with the path of attributes or names."""
    attributes = {id(value): name for name, value in vars(layer).items() if not name.startswith("_")}
    for child in _children(layer):
        name = attributes.get(id(child), child.name)
        yield from _layers(child, f"{path}/{name}" if path else name)
    yield path, layer


def _children(layer: Any) -> Iterable[Any]:
    """The layers directly inside; only tf_keras has a method for what is neither a model nor a wrapper."""
    found = getattr(layer, "layers", None) or getattr(layer, "_layers", None)
    if not found and hasattr(layer, "_flatten_layers"):
        found = layer._flatten_layers(recursive=False, include_self=False)
    return found or ()


def _dtype(variable: Any) -> np.dtype[Any]:
    dtype = variable.dtype
    return DTYPES[dtype if isinstance(dtype, str) else dtype.name]
