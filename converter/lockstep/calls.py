"""What the layers of a live net took and gave in one run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from converter.core.layers import Layer, sizes_of
from converter.core.tensors import Array
from converter.live import LiveNet
from converter.live.run import Call, Run
from converter.live.watching import upwards
from converter.lockstep.activations import Fingerprint, fingerprint
from converter.matching.fused import whole_name


class Calls:
    """Of each layer all calls, or the first alone, of the modules around it that hold no other layer.

    A layer that shares its module with others (the projections of an attention in PyTorch) is not seen. Of parts of one
    matrix (see `fused`) it is seen what they take, which is what the whole takes, and not what they give. What a layer
    of a clone takes in a later call may come out of itself, and other nets may have another call first.
    """

    def __init__(self, live: LiveNet, layers: Sequence[Layer], run: Run, every: bool) -> None:
        around = {layer.path: _around(layer, live) for layer in layers}
        wholes = {whole_name(path): modules for path, modules in around.items()}
        holds = Counter(module for modules in wholes.values() for module in modules)
        self._layers = {layer.path: layer for layer in layers}
        self._around, self._run = around, run
        self._counted = slice(None if every else 1)
        self._alone = {
            path: [module for module in modules if holds[module] == 1 and module in run.calls]
            for path, modules in around.items()
        }
        self._taken: dict[str, list[Fingerprint]] = {}
        self._given: dict[str, list[Fingerprint]] = {}

    @property
    def outputs(self) -> dict[str, Array]:
        """Of the net."""
        return self._run.outputs

    def in_order(self) -> list[str]:
        """The layers as they are called; one that is not seen before what its module calls."""
        places = {module: place for place, module in enumerate(self._run.calls)}
        first: dict[str, float] = {}
        for module, position in places.items():
            for outer in upwards(module):
                first.setdefault(outer, position)

        def place(path: str) -> float:
            if self._alone[path]:
                return places[self._alone[path][0]]
            return next((first[module] - 0.5 for module in self._around[path] if module in first), -math.inf)

        return sorted(self._layers, key=place)

    def inputs(self, path: str) -> list[Array]:
        """What came into the layer; none where that was not seen."""
        return [call.inputs[0] for call in self._calls(path) if call.inputs]

    def outputs_of(self, path: str) -> list[Array]:
        """What it gave; a recurrent layer gives its states, too. None where that was not seen."""
        if whole_name(path) != path:
            return []
        return [array for call in self._calls(path) for array in call.outputs]

    def _calls(self, path: str) -> list[Call]:
        return [call for module in self._alone[path] for call in self._run.calls[module][self._counted]]

    def taken(self, path: str) -> list[Fingerprint]:
        if path not in self._taken:
            self._taken[path] = list(map(fingerprint, self.inputs(path)))
        return self._taken[path]

    def given(self, path: str) -> list[Fingerprint]:
        if path not in self._given:
            self._given[path] = list(map(fingerprint, self.outputs_of(path)))
        return self._given[path]

    def features(self, path: str) -> list[Array]:
        """What came into the layer as (examples, features); none where it takes something else."""
        size = sizes_of(self._layers[path]).inputs
        fitting = (
            array
            for array in self.inputs(path)
            if size and array.ndim > 1 and size in (array.size // len(array), array.shape[-1])
        )
        return [array.reshape(-1, size) for array in fitting]

    def shapes(self, size: int) -> Iterator[tuple[int, ...]]:
        """Those of all activations of so many features that have several axes."""
        for calls in self._run.calls.values():
            for array in (each for call in calls for each in (*call.inputs, *call.outputs)):
                if array.ndim > 2 and size == array.size // len(array):
                    yield array.shape[1:]


def _around(layer: Layer, live: LiveNet) -> list[str]:
    """The modules that hold all tensors of the layer, the innermost first."""
    modules = [upwards(live.module(spec.name)) for spec in layer.tensors]
    return [module for module in modules[0] if all(module in others for others in modules)]
