"""Keras models (Keras 3 and tf_keras): each variable under the attribute that holds its layer.

A layer is known by the attribute of the model that it was assigned to (``hidden``), as it is to whoever
wrote the class; one that has none (in a Sequential) by its own name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from converter.errors import ConversionError
from converter.formats.base import Contents
from converter.live.base import LiveNet
from converter.tensors import DTYPES, Array, TensorSpec


class Adapter(LiveNet):
    framework_name = "tensorflow"

    def contents(self) -> Contents:
        if not self.net.built or not self.net.weights:
            raise ConversionError(
                "the Keras model has no variables yet. Build it first: call it once on an example input."
            )
        specs = (TensorSpec(name, tuple(v.shape), _dtype(v)) for name, v in self._variables().items())
        return Contents(tuple(specs))

    def fill(self, tensors: Iterable[tuple[str, Array]]) -> Any:
        variables = self._variables()
        for name, array in tensors:
            variables[name].assign(np.array(array))
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
    children = getattr(layer, "layers", None) or getattr(layer, "_layers", None)
    for child in children or ():
        name = attributes.get(id(child), child.name)
        yield from _layers(child, f"{path}/{name}" if path else name)
    yield path, layer


def _dtype(variable: Any) -> np.dtype[Any]:
    dtype = variable.dtype
    return DTYPES[dtype if isinstance(dtype, str) else dtype.name]
