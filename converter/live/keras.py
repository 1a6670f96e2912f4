"""Keras models (Keras 3 and tf_keras): each variable under the attribute that holds its layer.

A layer is known by the attribute of the model that it was assigned to (``hidden``), as it is to whoever wrote the
class; one in a list or a Sequential by its class and a count there (``blocks/dense_1``), as Keras has it in its
files, unless the user gave it a name. The names that Keras gives by itself count on over all nets of a process.
"""

from __future__ import annotations

import inspect
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from msgspec.structs import replace

from converter.core.contents import Contents
from converter.core.inputs import Inputs
from converter.core.tensors import DTYPES, Array, TensorSpec
from converter.errors import ConversionError
from converter.formats import Format, ReadOptions, open_reader
from converter.formats.keras.config import snake_case
from converter.frameworks.defaults import Value
from converter.live.base import BATCH_NORM, EPSILON, Hyperparameters, LiveNet, Template, gates, is_dense, named
from converter.live.watching import BeforeActivation, Record, attributes, inference_options, recorded

#: The formats that Keras writes.
_WRITTEN = frozenset({"keras-h5", "keras", "keras2-h5", "tf-checkpoint"})


def _save(net: Any, path: str, format_name: str, is_keras3: bool) -> None:
    if format_name == "keras" or (format_name == "keras2-h5" and is_keras3):
        net.save(path)
    elif format_name == "tf-checkpoint" and is_keras3:
        import tensorflow

        tensorflow.train.Checkpoint(model=net).write(path)
    else:
        net.save_weights(path)


def _saved(net: Any, form: Format, is_keras3: bool) -> tuple[Contents, Mapping[str, int]]:
    """What Keras writes of a net that is marked, and the mark of each tensor."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"template{form.extensions[0]}"
        _save(net, str(path), form.name, is_keras3)
        with open_reader(path, ReadOptions())[1] as reader:
            contents = reader.contents
            return contents, {spec.name: _mark(reader.read(spec.name)) for spec in contents.specs}


def _marked(array: Array, number: int) -> Array:
    """An array of the same shape and dtype, every element of which has the number for its bytes."""
    filler = number.to_bytes(array.dtype.itemsize, sys.byteorder)
    return np.frombuffer(filler * array.size, array.dtype).reshape(array.shape)


def _mark(array: Array) -> int:
    """The number of a marked array; -1 for one that has no element."""
    return int.from_bytes(np.ascontiguousarray(array).reshape(-1)[:1].tobytes(), sys.byteorder) if array.size else -1


def _leaky_relu(layer: Any) -> float:
    return float(layer.negative_slope if hasattr(layer, "negative_slope") else layer.alpha)


def _gelu(layer: Any) -> Value | None:
    """The function's own default; another one would be a function of the user's."""
    return "exact" if named(layer.activation) == "gelu" else None


def _average_pooling(layer: Any) -> Value | None:
    return False if layer.padding == "same" else None


class Adapter(LiveNet):
    framework_name = "tensorflow"
    in_order = True
    package = ("keras.", "tf_keras.")
    hyperparameters: ClassVar[Hyperparameters] = {
        "BatchNormalization": BATCH_NORM,
        "LayerNormalization": {EPSILON: lambda layer: layer.epsilon},
        "GroupNormalization": {
            EPSILON: lambda layer: layer.epsilon,
            "GroupNorm groups": lambda layer: None if layer.groups == -1 else layer.groups,
        },
        "RMSNormalization": {"RMSNorm epsilon": lambda layer: layer.epsilon},
        **{name: {"RNN activation": lambda layer: named(layer.activation)} for name in ("SimpleRNN", "SimpleRNNCell")},
        **dict.fromkeys(("LSTM", "LSTMCell"), gates("LSTM", "activation", "recurrent_activation")),
        **dict.fromkeys(("GRU", "GRUCell"), gates("GRU", "activation", "recurrent_activation")),
        "Embedding": {"Embedding padding index": lambda layer: 0 if layer.mask_zero else "none"},
        **{f"AveragePooling{axes}D": {"average pooling with padding": _average_pooling} for axes in (1, 2, 3)},
        "LeakyReLU": {"LeakyReLU slope": _leaky_relu},
        "Activation": {"GELU": _gelu},
        "Dense": {"GELU": _gelu},
    }

    @property
    def channels_last(self) -> bool:
        """As its layers say; most often that is the setting with which it was made."""
        formats = Counter(getattr(layer, "data_format", None) for _, layer in self.modules())
        return formats["channels_last"] >= formats["channels_first"]

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
        name = super().class_of(module)
        if name in ("gru", "gru_cell") and hasattr(module, "reset_after"):
            return "gru_reset_after" if module.reset_after else "gru_reset_before"
        return name if name != "einsum_dense" or is_dense(module.equation) else "einsum_of_other_axes"

    def template(self, form: Format) -> Template:
        """As Keras itself writes it: saved with a number in each variable, so that the file tells where each is."""
        if form.name not in _WRITTEN:
            return super().template(form)
        variables = self._variables()
        former = {name: np.array(variable.numpy()) for name, variable in variables.items()}
        names = list(variables)
        if any(array.dtype == np.bool_ or len(names) > 256**array.dtype.itemsize for array in former.values()):
            raise ConversionError(
                f"the net has {len(names)} variables, some of a dtype that cannot tell so many apart. "
                f"Save its weights with Keras, and give that file."
            )
        try:
            for number, name in enumerate(names):
                variables[name].assign(_marked(former[name], number))
            contents, numbers = _saved(self.net, form, self._is_keras3)
        finally:
            for name, variable in variables.items():
                variable.assign(former[name])
        by_file = {file: names[number] for file, number in numbers.items() if 0 <= number < len(names)}
        lost = sorted(set(names) - set(by_file.values()))
        if lost:
            raise ConversionError(f"Keras does not save '{lost[0]}' of the net in a {form.title}")
        known = self.described().classes
        classes = {file: known[name] for file, name in by_file.items() if name in known}
        specs = tuple(spec for spec in contents.specs if spec.name in by_file)
        return Template(replace(contents, specs=specs, classes={**contents.classes, **classes}), by_file)

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

    def make_concrete(self, inputs: Inputs) -> None:
        if not self.net.built or not self.net.weights:
            with self.running(inputs):
                self.forward(inputs)

    def forward(self, inputs: Inputs) -> Any:
        taken = inputs.map(self._tensor)
        several = len(getattr(self.net, "inputs", None) or ()) > 1
        args = [list(taken.args)] if several and taken.args else taken.args
        options = inference_options(self.net.call)
        if taken.keywords.keys() <= inspect.signature(self.net.call).parameters.keys():
            return self.net(*args, **{**options, **taken.keywords})
        return self.net(taken.keywords, **options)  # by the names of its inputs

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
    def file_format(self) -> str:  # type: ignore[override]
        return "keras-h5" if self._is_keras3 else "tf-checkpoint"

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
        variables: dict[str, Any] = {}
        seen: set[int] = set()
        for path, layer in _layers(self.net, ""):
            for variable in layer.weights:
                if id(variable) not in seen:
                    seen.add(id(variable))
                    leaf = variable.name.removesuffix(":0").rpartition("/")[2]
                    variables["/".join(filter(None, (path, leaf)))] = variable
        return variables


def _seen(activation: Callable[..., Any], name: str, before: BeforeActivation) -> Callable[..., Any]:
    @wraps(activation)
    def seen(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        output = activation(inputs, *args, **kwargs)
        before.activated(name, inputs, output)
        return output

    return seen


def _layers(layer: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every layer below, innermost first, in the order of the model, with the path that leads to it."""
    attributes = dict(_attributes(layer))
    counts: Counter[tuple[str, str]] = Counter()
    for child in _children(layer):
        parent, name = attributes.get(id(child), ("", ""))
        if not name:
            kind = snake_case(type(child).__name__)
            count, counts[parent, kind] = counts[parent, kind], counts[parent, kind] + 1
            automatic = re.sub(r"_\d+$", "", child.name) == kind
            name = child.name if not automatic else f"{kind}_{count}" if count else kind
        yield from _layers(child, "/".join(filter(None, (path, parent, name))))
    yield path, layer


def _attributes(layer: Any) -> Iterator[tuple[int, tuple[str, str]]]:
    """id of a layer -> the list or dict that it is in, and its name; "" where there is none."""
    for name, value in vars(layer).items():
        if name.startswith("_"):
            continue
        yield id(value), ("", name)
        if isinstance(value, list | tuple | dict):
            items = value.values() if isinstance(value, dict) else value
            yield from ((id(item), (name, "")) for item in items)


def _children(layer: Any) -> Iterable[Any]:
    """The layers directly inside; only tf_keras has a method for what is neither a model nor a wrapper."""
    children = getattr(layer, "layers", None) or getattr(layer, "_layers", None)
    if not children and hasattr(layer, "_flatten_layers"):
        children = layer._flatten_layers(recursive=False, include_self=False)
    return children or ()


def _dtype(variable: Any) -> np.dtype[Any]:
    dtype = variable.dtype
    return DTYPES[dtype if isinstance(dtype, str) else dtype.name]
