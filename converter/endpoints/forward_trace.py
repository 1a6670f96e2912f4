"""What one forward of a live net shows: in which order its layers are called, and what is flattened before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
from xxhash import xxh3_128_digest

from converter.core.inputs import Inputs
from converter.core.layers import Layer, Net, Observed, Permuted, sizes_of
from converter.core.tensors import Array
from converter.endpoints.axis_orders import Arrays
from converter.live.base import LiveNet
from converter.live.run import Call, Run, run
from converter.live.watching import upwards


def observed(live: LiveNet, net: Net, inputs: Inputs) -> Observed:
    """Run the net once on this input. Raises ConversionError when it does not take it."""
    forward = run(live, inputs, {name for name, _ in live.modules()}, with_inputs=True)
    order = {module: position for position, module in enumerate(forward.calls)}
    owners = {layer.path: module for layer in net.layers if (module := _owner(live, layer, forward))}
    times = Counter(owners.values())
    first = {  # of layers that are a module of their own
        layer: forward.calls[owners[layer.path]][0]
        for layer in net.layers
        if layer.path in owners and times[owners[layer.path]] == 1
    }
    arrays = [array for calls in forward.calls.values() for call in calls for array in (*call.inputs, *call.outputs)]
    spatial = _BySize(array for array in arrays if array.ndim > 3)
    features = _BySize(call.outputs[0] for layer, call in first.items() if sizes_of(layer).flow == "features")
    axis = -1 if live.framework.channels_last else 1
    permuted = _permuted(live, first, forward)
    flattened, unflattened = {}, {}
    for layer, call in first.items():
        into = None if layer.path in permuted else _flattened(layer, call, spatial, features, axis)
        if into is not None:
            flattened[layer.path] = into
        became = spatial.holds(call.outputs[0]) if call.outputs[0].ndim == 2 else None
        if became is not None:
            unflattened[layer.path] = became.shape[axis]
    calls = {path: order[module] for path, module in owners.items()}
    inputs_of = {layer.path: np.ascontiguousarray(call.inputs[0]) for layer, call in first.items() if call.inputs}
    taken = {path: xxh3_128_digest(array.data) + str(array.shape).encode() for path, array in inputs_of.items()}
    return Observed(calls, taken, flattened, unflattened, permuted)


def _permuted(live: LiveNet, first: Mapping[Layer, Call], forward: Run) -> Mapping[str, Permuted]:
    """The layers whose inputs were permuted before they were flattened."""
    convolving = {id(call) for layer, call in first.items() if sizes_of(layer).flow == "channels"}
    arrays = Arrays()
    for calls in forward.calls.values():
        for call in calls:
            arrays.add(call.inputs, call.outputs[0], id(call) in convolving)
    permuted: dict[str, Permuted] = {}
    for layer, call in first.items():
        taken = call.inputs[0] if call.inputs else None
        if taken is None or taken.ndim == 3 or taken.size != sizes_of(layer).inputs * len(taken):
            continue
        order = arrays.find(taken)
        if order is not None and (not order or list(order) != sorted(order)):
            there = (*order[1:], *order[:1]) if live.framework.channels_last else (*order[-1:], *order[:-1])
            permuted[layer.path] = "as there" if order and list(there) == sorted(there) else "otherwise"
    return permuted


def _owner(live: LiveNet, layer: Layer, forward: Run) -> str:
    """The innermost module around all tensors of the layer that was called; "" for none but the net itself."""
    around = [upwards(live.module(spec.name)) for spec in layer.tensors]
    return next((m for m in around[0] if m in forward.calls and all(m in modules for modules in around)), "")


def _flattened(layer: Layer, call: Call, spatial: _BySize, features: _BySize, axis: int) -> int | None:
    """The channels of what was flattened into the inputs of the layer; 0: nothing was; None: it was not seen."""
    array = call.inputs[0] if call.inputs else None
    size = sizes_of(layer).inputs
    if array is None or array.ndim < 2 or not size:
        return None
    if array.ndim > 3 and size == array.size // len(array) != array.shape[-1]:  # gluon flattens by itself
        return int(array.shape[axis])
    if array.ndim != 2 or array.shape[1] != size:
        return None
    source = spatial.holds(array)
    if source is not None:
        return int(source.shape[axis])
    return 0 if features.holds(array) is not None else None


class _BySize:
    """Arrays of a forward, to be known again by their values when they come in another shape."""

    def __init__(self, arrays: Iterable[Array]) -> None:
        self._arrays: dict[tuple[int, int], list[Array]] = {}
        for array in arrays:
            self._arrays.setdefault((len(array), array.size), []).append(array)

    def holds(self, array: Array) -> Array | None:
        """The one with the same values in the same order; None also where all values are equal."""
        if not array.size or not np.ptp(array):
            return None
        alike = self._arrays.get((len(array), array.size), ())
        return next((other for other in alike if np.array_equal(other.reshape(array.shape), array)), None)
