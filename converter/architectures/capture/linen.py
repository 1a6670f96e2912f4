"""What a Flax linen net computes: by its jaxpr, in which each layer is one operation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from converter.architectures import vocabulary as v
from converter.architectures.capture.graph import Graph, OutsideError, TracedTensor, outside
from converter.architectures.capture.linen_layers import LAYERS
from converter.architectures.capture.settings import LowestPad, RefusedError, as_steps_and_option, sizes
from converter.architectures.document import Input
from converter.live.watching import inference_options

#: Name of the JAX operation that stands for a layer.
_LAYER = "converter_layer"


def graph(live: Any, paths: Mapping[str, str], input: Input) -> tuple[Graph, TracedTensor, Input]:
    """As `converter.architectures.capture.torch.graph`."""
    import jax

    module, variables = live.module_and_variables
    if module is None:
        raise OutsideError("variables alone do not show what a net computes: give the pair (module, variables)")
    if not input:
        raise OutsideError("a Flax net has no known input sizes: give an example_input")
    calls: list[tuple[Any, str]] = []
    whole = any(type(layer).__name__ == "Embed" for _, layer in live.modules())
    x = np.zeros((2, *(size or 1 for size in input)), np.int32 if whole else np.float32)
    try:
        with _layers_as_operations(calls):
            traced = jax.make_jaxpr(lambda x: module.apply(variables, x, **inference_options(type(module).__call__)))(x)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise outside(f"a {type(module).__name__} cannot be traced by jax", f"which fails with '{reason}'") from error
    walk = _JaxprReader(calls, paths)
    outputs = walk.run(traced.jaxpr, [walk.graph.input], traced.consts)
    if len(outputs) != 1:
        raise outside(f"a {type(module).__name__} returns {len(outputs)} tensors", "where an architecture returns one")
    return walk.graph, walk.tensor(outputs[0]), ()


@contextmanager
def _layers_as_operations(calls: list[tuple[Any, str]]) -> Iterator[None]:
    """A context in which each call of a linen layer is one JAX operation, whose number is its index in ``calls``."""
    from flax import linen
    from jax.core import ShapedArray
    from jax.extend.core import Primitive

    primitive: Any = Primitive(_LAYER)
    primitive.def_abstract_eval(lambda *xs, number, shape, dtype: ShapedArray(shape, dtype))

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        output = call(*args, **kwargs)
        if not _is_layer(layer) or context.method_name != "__call__":
            return output
        if kwargs.keys() - {"use_running_average", "deterministic"} or len(args) != 1:
            name = "/".join(layer.path)
            raise outside(f"'{name}' is flax.linen.{type(layer).__name__}", "which is called on several tensors")
        calls.append((layer, "/".join(layer.path)))
        return primitive.bind(args[0], number=len(calls) - 1, shape=output.shape, dtype=output.dtype)

    with linen.intercept_methods(intercept):
        yield


def _is_layer(module: Any) -> bool:
    return type(module).__module__.startswith("flax.linen.") and type(module).__name__ not in ("Sequential", "Lambda")


class _Reduced(msgspec.Struct, frozen=True):
    """A reduction whose purpose is still open.

    divisor: by which it must be divided to be a mean. keeps: whether its axes stay with size 1.
    """

    source: TracedTensor
    step: v.NetStep
    divisor: int | None = None
    keeps: bool = False


class _JaxprReader:
    """From JAX operations to tensors. Values are tensors of the net, reductions, or constants."""

    def __init__(self, calls: Sequence[tuple[Any, str]], paths: Mapping[str, str]) -> None:
        self.graph = Graph()
        self.calls, self.paths = calls, paths
        self._made: dict[_Reduced, TracedTensor] = {}

    def run(self, jaxpr: Any, values: Sequence[Any], constants: Sequence[Any]) -> list[Any]:
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
        known |= dict(zip(jaxpr.invars, values, strict=True))

        def read(variable: Any) -> Any:
            return variable.val if hasattr(variable, "val") else known.get(variable)

        for operation in _used(jaxpr):
            results = self._operation(operation, [read(variable) for variable in operation.invars])
            known |= dict(zip(operation.outvars, results, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def tensor(self, value: Any) -> TracedTensor:
        if isinstance(value, _Reduced):
            if value.divisor is not None:
                raise outside("the net sums over spatial axes", "and not a mean")
            if value not in self._made:
                flat = [] if value.keeps else [v.Flatten()]
                self._made[value] = self.graph.then(value.source, value.step, *flat)
            return self._made[value]
        if not isinstance(value, TracedTensor):
            raise outside("the net returns something", "which does not depend on its input")
        return value

    def _operation(self, operation: Any, values: Sequence[Any]) -> Sequence[Any]:
        name, options = operation.primitive.name, operation.params
        if name == _LAYER:
            return [self._layer(options["number"], operation.invars[0].aval.shape, self.tensor(values[0]))]
        if options.get("name") in _NAMED and isinstance(values[0], TracedTensor | _Reduced):
            return [self.graph.then(self.tensor(values[0]), _NAMED[options["name"]](values[1:]))]
        inside = options.get("jaxpr") or options.get("call_jaxpr")
        if inside is not None and name in ("jit", "pjit", "custom_jvp_call", "custom_vjp_call", "closed_call"):
            return self.run(inside.jaxpr, values, inside.consts)
        tensors = [value for value in values if isinstance(value, TracedTensor | _Reduced)]
        if not tensors:
            return [values[0] if values else None] * len(operation.outvars)
        shape = tuple(operation.invars[0].aval.shape)
        try:
            if name not in _OPERATIONS:
                raise RefusedError("which has no counterpart")
            return [_OPERATIONS[name](self, values, shape, operation)]
        except RefusedError as refusal:
            raise outside(f"the net calls '{name}' of jax", str(refusal)) from None

    def _layer(self, number: int, shape: Sequence[int], source: TracedTensor) -> TracedTensor:
        layer, name = self.calls[number]
        kind = type(layer).__name__
        try:
            if kind not in LAYERS:
                raise RefusedError("which has no counterpart")
            return self.graph.then(source, *LAYERS[kind](layer, self.paths.get(name, name), shape))
        except RefusedError as refusal:
            raise outside(f"'{name}' is flax.linen.{kind}", str(refusal)) from None

    # -- operations: (input values, shape of the first, the operation) -> a value

    def same(self, inputs: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        return inputs[0]

    def add(self, inputs: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        if not all(isinstance(value, TracedTensor | _Reduced) for value in inputs):
            raise RefusedError("which adds a number")
        return self.graph.join("add", [self.tensor(value) for value in inputs])

    def maximum(self, inputs: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        if np.ndim(inputs[1]) or inputs[1] != 0:
            raise RefusedError("which is of two tensors")
        return self.graph.then(self.tensor(inputs[0]), v.Relu())

    def divide(self, inputs: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        reduced, by = inputs
        is_number = not isinstance(by, TracedTensor | _Reduced) and np.ndim(by) == 0
        if not (isinstance(reduced, _Reduced) and is_number and by == reduced.divisor):
            raise RefusedError("which is not a mean")
        return replace(reduced, divisor=None)

    def sum(self, inputs: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        _all_of_space(shape, operation)
        return _Reduced(self.tensor(inputs[0]), v.GlobalAveragePool(), math.prod(shape[1:-1]))

    def largest(self, inputs: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        _all_of_space(shape, operation)
        return _Reduced(self.tensor(inputs[0]), v.GlobalMaxPool())

    def broadcast(self, inputs: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        """Axes of size 1 where a reduction removed some."""
        result = tuple(operation.outvars[0].aval.shape)
        if not isinstance(inputs[0], _Reduced) or result != (shape[0], *(1,) * (len(result) - 2), shape[-1]):
            raise RefusedError("which reshapes it")
        return replace(inputs[0], keeps=True)

    def window(self, inputs: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        options, largest = operation.params, operation.primitive.name == "reduce_window_max"
        windows, strides, padding = (options[key] for key in ("window_dimensions", "window_strides", "padding"))
        if {windows[0], windows[-1], *options["base_dilation"], *options["window_dilation"]} != {1}:
            raise RefusedError("which is over other axes than the spatial ones, or has a dilation")
        before, padding = as_steps_and_option([(int(a), int(b)) for a, b in padding[1:-1]])
        if before:
            raise RefusedError("which pads the two sides differently")
        made = {"size": sizes(windows[1:-1]), "stride": sizes(strides[1:-1]), "padding": padding}
        if largest:
            return self.graph.then(self.tensor(inputs[0]), v.MaxPool(**made))
        return _Reduced(self.tensor(inputs[0]), v.AveragePool(**made), math.prod(windows), keeps=True)

    def reshape(self, inputs: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        result = tuple(operation.outvars[0].aval.shape)
        if result == tuple(shape):
            return inputs[0]
        if result != (shape[0], math.prod(shape[1:])):
            raise RefusedError(f"which reshapes it to {result}")
        return self.graph.then(self.tensor(inputs[0]), v.Flatten())

    def concatenate(self, inputs: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        if operation.params["dimension"] != len(shape) - 1:
            raise RefusedError(f"which is along axis {operation.params['dimension']}, and not along the last")
        return self.graph.join("concat", [self.tensor(value) for value in inputs])

    def pad(self, inputs: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        source, fill = inputs
        first, *pairs, last = [tuple(map(int, sides)) for sides in operation.params["padding_config"]]
        if {first, last} != {(0, 0, 0)} or any(inside for *_, inside in pairs):
            raise RefusedError("which pads other axes than the spatial ones")
        make = {0.0: v.ZeroPad, -math.inf: LowestPad}.get(float(fill))
        if make is None:
            raise RefusedError(f"which pads with {fill}")
        return self.graph.then(self.tensor(source), make(padding=tuple((a, b) for a, b, _ in pairs)))


def _all_of_space(shape: Sequence[int], operation: Any) -> None:
    axes = tuple(operation.params["axes"])
    if axes != tuple(range(1, len(shape) - 1)) or not axes:
        raise RefusedError(f"which is over the axes {axes}, and not over all spatial axes")


#: Function of jax.nn that is a named operation -> its step, from the arguments after the tensor.
_NAMED: Mapping[str, Callable[[Sequence[Any]], v.NetStep]] = {
    "relu": lambda rest: v.Relu(),
    "silu": lambda rest: v.Silu(),
    "softplus": lambda rest: v.Softplus(),
    "elu": lambda rest: v.Elu(alpha=float(rest[0]) if rest else 1.0),
    "leaky_relu": lambda rest: v.LeakyRelu(slope=float(rest[0]) if rest else 0.01),
}
_OPERATIONS: Mapping[str, Callable[[_JaxprReader, Sequence[Any], Sequence[int], Any], Any]] = {
    "logistic": lambda reader, inputs, *_: reader.graph.then(reader.tensor(inputs[0]), v.Sigmoid()),
    "tanh": lambda reader, inputs, *_: reader.graph.then(reader.tensor(inputs[0]), v.Tanh()),
    "max": _JaxprReader.maximum,
    "add": _JaxprReader.add,
    "div": _JaxprReader.divide,
    "reduce_sum": _JaxprReader.sum,
    "reduce_max": _JaxprReader.largest,
    "broadcast_in_dim": _JaxprReader.broadcast,
    "reduce_window_max": _JaxprReader.window,
    "reduce_window_sum": _JaxprReader.window,
    "reshape": _JaxprReader.reshape,
    "squeeze": _JaxprReader.reshape,
    "concatenate": _JaxprReader.concatenate,
    "pad": _JaxprReader.pad,
    **dict.fromkeys(("convert_element_type", "copy", "stop_gradient"), _JaxprReader.same),
}


def _used(jaxpr: Any) -> list[Any]:
    """The operations on which the outputs depend, in order, without those inside layers."""
    wanted = {variable for variable in jaxpr.outvars if not hasattr(variable, "val")}
    operations = []
    for operation in reversed(jaxpr.eqns):
        if any(variable in wanted for variable in operation.outvars):
            operations.append(operation)
            wanted |= {variable for variable in operation.invars if not hasattr(variable, "val")}
    return operations[::-1]
