"""The params tree of a Flax linen net: nested dicts (or FrozenDicts) of arrays. Filling makes a new tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from converter.formats.base import Contents
from converter.live.base import LiveNet
from converter.tensors import Array, TensorSpec


class Adapter(LiveNet):
    framework_name = "flax"

    def contents(self) -> Contents:
        return Contents(tuple(TensorSpec(name, np.shape(leaf), np.dtype(leaf.dtype)) for name, leaf in _flat(self.net)))

    def read(self, name: str) -> Array:
        return np.array(dict(_flat(self.net))[name])

    def fill(self, tensors: Iterable[tuple[str, Array]]) -> Any:
        import jax.numpy as jnp

        return _rebuilt(self.net, {name: jnp.asarray(array) for name, array in tensors})

    def freeze(self, names: frozenset[str]) -> Any:
        return _rebuilt(self.net, {name: name not in names for name, _ in _flat(self.net)})


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}/")
        else:
            yield name, value


def _rebuilt(tree: Mapping[str, Any], filled: Mapping[str, Any], prefix: str = "") -> Any:
    """A tree of the same classes; what was not filled (a step counter) stays as it was."""
    items = {
        key: _rebuilt(value, filled, f"{prefix}{key}/")
        if isinstance(value, Mapping)
        else filled.get(f"{prefix}{key}", value)
        for key, value in tree.items()
    }
    return type(tree)(items)  # type: ignore[call-arg]
