"""What a live Keras 3 model computes: by a call on symbolic tensors that enters custom layers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

from converter.architectures.capture.graph import Graph, OutsideError, TracedTensor, outside
from converter.architectures.capture.keras_layers import LAYERS, joins
from converter.architectures.capture.settings import RefusedError
from converter.architectures.document import Input
from converter.live import LiveNet
from converter.live.watching import attributes, inference_options


def graph(live: LiveNet, paths: Mapping[str, str], input: Input) -> tuple[Graph, TracedTensor, Input]:
    """As `converter.architectures.capture.torch.graph`."""
    net = live.net
    if live.file_format != "keras-h5":
        raise OutsideError("the calls of a tf_keras model cannot be followed. Load its weights into a Keras 3 model.")
    layers = {id(layer): path for path, layer in live.modules()}
    symbol = _symbol(net, input)
    with _followed(live, layers):
        try:
            output = net.call(symbol, **inference_options(net.call))
        except Exception as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise outside(
                f"a {type(net).__name__} cannot be called on symbolic tensors", f"which fails with '{reason}'"
            ) from error
        if not hasattr(output, "_keras_history"):
            raise outside(f"a {type(net).__name__} returns {type(output).__name__}", "which is not a single tensor")
        walk = _KerasReader(symbol, layers, paths)
        return walk.graph, walk.tensor(output), tuple(symbol.shape[1:])


def _symbol(net: Any, input: Input) -> Any:
    """The symbolic input, with the sizes of the example or else of the model."""
    import keras

    known = getattr(net, "inputs", None) or ()
    if len(known) > 1:
        raise outside(f"the net takes {len(known)} inputs", "where an architecture has one input")
    if input:
        return keras.KerasTensor((None, *input), known[0].dtype if known else "float32")
    if known:
        return keras.KerasTensor(known[0].shape, known[0].dtype)
    raise OutsideError(f"a {type(net).__name__} has no known input sizes: give an example_input")


@contextmanager
def _followed(live: LiveNet, layers: Mapping[int, str]) -> Iterator[None]:
    """A context in which calls enter models and custom layers; the recorded calls are removed afterwards."""
    import keras

    base = next(each for each in keras.layers.Layer.__mro__ if "__call__" in vars(each))
    call = base.__call__
    inside = False  # inside a layer of Keras itself, which may call others

    @wraps(call)
    def followed(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if inside or id(self) not in layers or _is_known(self):
            former, inside = inside, True
            try:
                return call(self, *args, **kwargs)
            finally:
                inside = former
        known = inspect.signature(self.call).parameters
        return self.call(*args, **{name: value for name, value in kwargs.items() if name in known})

    noted = [
        (layer, name, list(getattr(layer, name)))
        for _, layer in live.modules()
        for name in ("_inbound_nodes", "_outbound_nodes")
    ]
    try:
        with attributes([(base, "__call__", followed)]):
            yield
    finally:
        for layer, name, value in noted:
            setattr(layer, name, value)


def _is_known(layer: Any) -> bool:
    """Whether it is a layer of Keras itself, and not a model."""
    home = type(layer).__module__
    return home.startswith("keras.") and ".models" not in home


class _KerasReader:
    """From the output back to the input. layers: id of a layer -> its name; paths: as in `graph`."""

    def __init__(self, symbol: Any, layers: Mapping[int, str], paths: Mapping[str, str]) -> None:
        self.graph = Graph()
        self.layers, self.paths = layers, paths
        self._tensors: dict[int, TracedTensor] = {id(symbol): self.graph.input}
        self._kept: list[Any] = []  # keeps the ids in use

    def tensor(self, tensor: Any) -> TracedTensor:
        if id(tensor) not in self._tensors:
            history = getattr(tensor, "_keras_history", None)
            if history is None or not history.operation._inbound_nodes:
                raise outside("something in the net", "which is not the output of a layer")
            node = history.operation._inbound_nodes[history.node_index]
            self._kept.append(tensor)
            self._tensors[id(tensor)] = self._result(history.operation, node)
        return self._tensors[id(tensor)]

    def _result(self, operation: Any, node: Any) -> TracedTensor:
        name = self.layers.get(id(operation), operation.name)
        tensors = [tensor for tensor in node.input_tensors if hasattr(tensor, "_keras_history")]
        try:
            joined = joins(operation, node)
            if joined and len(tensors) > 1:
                return self.graph.join(joined, [self.tensor(tensor) for tensor in tensors])
            kind = next((each.__name__ for each in type(operation).__mro__ if _is_in_table(each)), "")
            if not kind:
                raise RefusedError("which has no counterpart")
            if len({id(tensor) for tensor in tensors}) != 1:
                raise RefusedError(f"which is called on {len(tensors)} tensors")
            steps = LAYERS[kind](operation, self.paths.get(name, name), node)
            return self.graph.then(self.tensor(tensors[0]), *steps)
        except RefusedError as refusal:
            raise outside(f"'{name}' is {_class(operation)}", str(refusal)) from None


def _is_in_table(each: type) -> bool:
    return each.__module__.startswith("keras.") and each.__name__ in LAYERS


def _class(operation: Any) -> str:
    home, name = type(operation).__module__, type(operation).__name__
    if home.startswith("keras."):
        return f"keras.ops.{name.lower()}" if ".ops" in home else f"keras.layers.{name}"
    return name
