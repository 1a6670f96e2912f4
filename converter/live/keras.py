"""Keras models (Keras 3 and tf_keras): each variable under the attribute that holds its layer.

A layer is known by the attribute of the model that it was assigned to (``hidden``), as it is to whoever
wrote the class; one that has none (in a Sequential) by its own name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, ClassVar

import numpy as np

from converter.errors import ConversionError
from converter.formats.base import Contents
from converter.formats.keras_config import snake_case
from converter.frameworks.defaults import Value
from converter.live.base import EPSILON, Hyperparameters, LiveNet, gates, is_dense, named
from converter.live.run import BeforeActivation, Record, attributes, inference_options, recorded
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

    def make_concrete(self, inputs: Sequence[Array]) -> None:
        if not self.net.built or not self.net.weights:
            self.forward(inputs)

    def forward(self, inputs: Sequence[Array]) -> Any:
        tensors = [self._tensor(x) for x in inputs]
        several = len(getattr(self.net, "inputs", None) or ()) > 1
        return self.net(*([tensors] if several else tensors), **inference_options(self.net.call))

    def _tensor(self, x: Array) -> Any:
        if self._is_keras3:
            import keras

            return keras.ops.convert_to_tensor(x)
        import tensorflow

        return tensorflow.constant(x)

    @property
    def _base(self) -> Any:
        """The class ``Layer`` of the library that the net is of."""
        return next(base for base in type(self.net).__mro__ if base.__name__ == "Layer")

    @property
    def _is_keras3(self) -> bool:
        return str(self._base.__module__).startswith("keras.")

    def to_numpy(self, value: Any) -> Array | None:
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            return None
        try:
            if self._is_keras3:
                import keras

                return np.array(keras.ops.convert_to_numpy(value))
            return np.array(value.numpy())
        except (AttributeError, NotImplementedError, ValueError):  # a symbol of a graph that is being built
            return None

    @contextmanager
    def watching(self, watched: Collection[str], record: Record, before_activation: bool) -> Iterator[None]:
        before = BeforeActivation(record)
        names: dict[int, str] = {}
        with ExitStack() as undo:
            for name, layer in self.watched_modules(watched):
                names[id(layer)] = name
                activation = vars(layer).get("activation")
                if before_activation and callable(activation):
                    vars(layer)["activation"] = _seen(activation, name, before)
                    undo.callback(vars(layer).__setitem__, "activation", activation)
            base = self._base
            undo.enter_context(attributes([(base, "__call__", recorded(base.__call__, names, before))]))
            yield

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


def _seen(activation: Callable[..., Any], name: str, before: BeforeActivation) -> Callable[..., Any]:
    @wraps(activation)
    def seen(given: Any, *args: Any, **kwargs: Any) -> Any:
        output = activation(given, *args, **kwargs)
        before.activated(name, given, output)
        return output

    return seen


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
