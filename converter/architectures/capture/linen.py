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
from converter.architectures.capture.graph import Graph, OutsideError, Place, outside
from converter.architectures.capture.linen_layers import LAYERS
from converter.architectures.capture.paddings import LowestPad, around
from converter.architectures.capture.refused import RefusedError, sizes
from converter.architectures.document import Input
from converter.live.watching import inference_options

#: Of our own operation.
_LAYER = "converter_layer"


def graph(live: Any, paths: Mapping[str, str], input: Input) -> tuple[Graph, Place, Input]:
    """As `converter.architectures.capture.torch.graph`."""
    import jax

    module, variables = live.module_and_variables
    if module is None:
        raise OutsideError("variables alone do not tell what a net computes: give the pair (module, variables)")
    if not input:
        raise OutsideError("a Flax net does not tell the sizes of its input: give an example_input")
    calls: list[tuple[Any, str]] = []
    whole = any(type(layer).__name__ == "Embed" for _, layer in live.modules())
    x = np.zeros((2, *(size or 1 for size in input)), np.int32 if whole else np.float32)
    try:
        with _layers_as_operations(calls):
            traced = jax.make_jaxpr(lambda x: module.apply(variables, x, **inference_options(type(module).__call__)))(x)
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise outside(f"a {type(module).__name__} cannot be traced by jax", f"which says '{reason}'") from error
    walk = _Walk(calls, paths)
    outputs = walk.run(traced.jaxpr, [walk.graph.input], traced.consts)
    if len(outputs) != 1:
        raise outside(f"a {type(module).__name__} gives {len(outputs)} tensors", "where an architecture gives one")
    return walk.graph, walk.place(outputs[0]), ()


@contextmanager
def _layers_as_operations(calls: list[tuple[Any, str]]) -> Iterator[None]:
    """A context in which a layer of linen is one operation; ``calls`` gets each, at the number that it has there."""
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
    """What a reduction makes of a place, as long as it is not clear what it is for.

    divisor: by which it is still to be divided, for it is a mean. keeps: whether its axes stay, of size 1.
    """

    source: Place
    step: v.Step
    divisor: int | None = None
    keeps: bool = False


class _Walk:
    """From operations to places. Values are places, or what is no tensor of the net: constants."""

    def __init__(self, calls: Sequence[tuple[Any, str]], paths: Mapping[str, str]) -> None:
        self.graph = Graph()
        self.calls, self.paths = calls, paths
        self._made: dict[_Reduced, Place] = {}

    def run(self, jaxpr: Any, values: Sequence[Any], constants: Sequence[Any]) -> list[Any]:
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
        known |= dict(zip(jaxpr.invars, values, strict=True))

        def read(variable: Any) -> Any:
            return variable.val if hasattr(variable, "val") else known.get(variable)

        for operation in _used(jaxpr):
            results = self._operation(operation, [read(variable) for variable in operation.invars])
            known |= dict(zip(operation.outvars, results, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def place(self, value: Any) -> Place:
        if isinstance(value, _Reduced):
            if value.divisor is not None:
                raise outside("the net sums over space", "where the vocabulary has means")
            if value not in self._made:
                flat = [] if value.keeps else [v.Flatten()]
                self._made[value] = self.graph.then(value.source, value.step, *flat)
            return self._made[value]
        if not isinstance(value, Place):
            raise outside("the net gives something", "which does not depend on its input")
        return value

    def _operation(self, operation: Any, given: Sequence[Any]) -> Sequence[Any]:
        name, options = operation.primitive.name, operation.params
        if name == _LAYER:
            return [self._layer(options["number"], operation.invars[0].aval.shape, self.place(given[0]))]
        if options.get("name") in _NAMED and isinstance(given[0], Place | _Reduced):
            return [self.graph.then(self.place(given[0]), _NAMED[options["name"]](given[1:]))]
        inside = options.get("jaxpr") or options.get("call_jaxpr")
        if inside is not None and name in ("jit", "pjit", "custom_jvp_call", "custom_vjp_call", "closed_call"):
            return self.run(inside.jaxpr, given, inside.consts)
        tensors = [value for value in given if isinstance(value, Place | _Reduced)]
        if not tensors:
            return [given[0] if given else None] * len(operation.outvars)
        shape = tuple(operation.invars[0].aval.shape)
        try:
            if name not in _OPERATIONS:
                raise RefusedError("which is none of its steps")
            return [_OPERATIONS[name](self, given, shape, operation)]
        except RefusedError as refusal:
            raise outside(f"the net calls '{name}' of jax", str(refusal)) from None

    def _layer(self, number: int, shape: Sequence[int], source: Place) -> Place:
        layer, name = self.calls[number]
        kind = type(layer).__name__
        try:
            if kind not in LAYERS:
                raise RefusedError("which is none of its layers")
            return self.graph.then(source, *LAYERS[kind](layer, self.paths.get(name, name), shape))
        except RefusedError as refusal:
            raise outside(f"'{name}' is flax.linen.{kind}", str(refusal)) from None

    # -- operations: (what they are given, the shape of the first of it, the operation) -> a value

    def same(self, given: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        return given[0]

    def add(self, given: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        if not all(isinstance(value, Place | _Reduced) for value in given):
            raise RefusedError("which adds a number")
        return self.graph.join("add", [self.place(value) for value in given])

    def maximum(self, given: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        if np.ndim(given[1]) or given[1] != 0:
            raise RefusedError("which is of two tensors")
        return self.graph.then(self.place(given[0]), v.Relu())

    def divide(self, given: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        reduced, by = given
        is_number = not isinstance(by, Place | _Reduced) and np.ndim(by) == 0
        if not (isinstance(reduced, _Reduced) and is_number and by == reduced.divisor):
            raise RefusedError("which is no mean")
        return replace(reduced, divisor=None)

    def sum(self, given: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        _all_of_space(shape, operation)
        return _Reduced(self.place(given[0]), v.GlobalAveragePool(), math.prod(shape[1:-1]))

    def largest(self, given: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        _all_of_space(shape, operation)
        return _Reduced(self.place(given[0]), v.GlobalMaxPool())

    def broadcast(self, given: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        """Axes of size 1 where a reduction took some away."""
        result = tuple(operation.outvars[0].aval.shape)
        if not isinstance(given[0], _Reduced) or result != (shape[0], *(1,) * (len(result) - 2), shape[-1]):
            raise RefusedError("which makes another shape of it")
        return replace(given[0], keeps=True)

    def window(self, given: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        options, largest = operation.params, operation.primitive.name == "reduce_window_max"
        windows, strides, padding = (options[key] for key in ("window_dimensions", "window_strides", "padding"))
        if {windows[0], windows[-1], *options["base_dilation"], *options["window_dilation"]} != {1}:
            raise RefusedError("which is over more than space, or has a dilation")
        before, around_it = around([(int(a), int(b)) for a, b in padding[1:-1]])
        if before:
            raise RefusedError("which pads not as much on both sides")
        made = {"size": sizes(windows[1:-1]), "stride": sizes(strides[1:-1]), "padding": around_it}
        if largest:
            return self.graph.then(self.place(given[0]), v.MaxPool(**made))
        return _Reduced(self.place(given[0]), v.AveragePool(**made), math.prod(windows), keeps=True)

    def reshape(self, given: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        result = tuple(operation.outvars[0].aval.shape)
        if result == tuple(shape):
            return given[0]
        if result != (shape[0], math.prod(shape[1:])):
            raise RefusedError(f"which makes another shape of it: {result}")
        return self.graph.then(self.place(given[0]), v.Flatten())

    def concatenate(self, given: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        if operation.params["dimension"] != len(shape) - 1:
            raise RefusedError(
                f"which is along axis {operation.params['dimension']}, where the vocabulary has the last"
            )
        return self.graph.join("concat", [self.place(value) for value in given])

    def pad(self, given: Sequence[Any], shape: Sequence[int], operation: Any) -> Any:
        source, fill = given
        first, *pairs, last = [tuple(map(int, sides)) for sides in operation.params["padding_config"]]
        if {first, last} != {(0, 0, 0)} or any(inside for *_, inside in pairs):
            raise RefusedError("which pads something else than space")
        make = {0.0: v.ZeroPad, -math.inf: LowestPad}.get(float(fill))
        if make is None:
            raise RefusedError(f"which pads with {fill}")
        return self.graph.then(self.place(source), make(padding=tuple((a, b) for a, b, _ in pairs)))


def _all_of_space(shape: Sequence[int], operation: Any) -> None:
    axes = tuple(operation.params["axes"])
    if axes != tuple(range(1, len(shape) - 1)) or not axes:
        raise RefusedError(f"which is over the axes {axes}, where the vocabulary has all of space")


#: Function of jax.nn that is an operation by its name -> its step, by the arguments behind the tensor.
_NAMED: Mapping[str, Callable[[Sequence[Any]], v.Step]] = {
    "relu": lambda rest: v.Relu(),
    "silu": lambda rest: v.Silu(),
    "softplus": lambda rest: v.Softplus(),
    "elu": lambda rest: v.Elu(alpha=float(rest[0]) if rest else 1.0),
    "leaky_relu": lambda rest: v.LeakyRelu(slope=float(rest[0]) if rest else 0.01),
}
_OPERATIONS: Mapping[str, Callable[[_Walk, Sequence[Any], Sequence[int], Any], Any]] = {
    "logistic": lambda walk, given, shape, operation: walk.graph.then(walk.place(given[0]), v.Sigmoid()),
    "tanh": lambda walk, given, shape, operation: walk.graph.then(walk.place(given[0]), v.Tanh()),
    "max": _Walk.maximum,
    "add": _Walk.add,
    "div": _Walk.divide,
    "reduce_sum": _Walk.sum,
    "reduce_max": _Walk.largest,
    "broadcast_in_dim": _Walk.broadcast,
    "reduce_window_max": _Walk.window,
    "reduce_window_sum": _Walk.window,
    "reshape": _Walk.reshape,
    "squeeze": _Walk.reshape,
    "concatenate": _Walk.concatenate,
    "pad": _Walk.pad,
    **dict.fromkeys(("convert_element_type", "copy", "stop_gradient"), _Walk.same),
}


def _used(jaxpr: Any) -> list[Any]:
    """The operations on which the outputs depend, in their order; what is inside of a layer is none of them."""
    wanted = {variable for variable in jaxpr.outvars if not hasattr(variable, "val")}
    found = []
    for operation in reversed(jaxpr.eqns):
        if any(variable in wanted for variable in operation.outvars):
            found.append(operation)
            wanted |= {variable for variable in operation.invars if not hasattr(variable, "val")}
    return found[::-1]
