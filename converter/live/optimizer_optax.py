"""The state of an optax transformation: a tree of tuples, as ``flax.serialization`` writes it; a new one is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from converter.core.contents import Contents
from converter.core.tensors import Array
from converter.live.optimizers import LiveOptimizer, state_tensor

_STATE, _STEP = "opt_state", "step"


class Adapter(LiveOptimizer):
    form = "flax-msgpack"

    @property
    def title(self) -> str:
        return "the state of optax"

    def values(self) -> Mapping[str, Any]:
        from flax import serialization

        tree = self._plain(serialization.to_state_dict(self.optimizer), _STATE)
        count = _count(serialization.to_state_dict(self.optimizer))
        return {_STATE: tree} if count is None else {_STATE: tree, _STEP: count}

    def prepared(self, contents: Contents, arrays: Mapping[str, Array]) -> Callable[[], Any]:
        import jax.numpy as jnp
        from flax import serialization

        document = _copied(contents.tree.get(_STATE, {}))
        for name, array in arrays.items():
            *path, last = contents.keys.get(name, name.split("/"))
            inner = {_STATE: document}
            for key in path:
                inner = inner.setdefault(key, {})
            inner[last] = jnp.asarray(array)
        state = serialization.from_state_dict(self.optimizer, document)
        return lambda: state

    def undo(self) -> Callable[[], Any]:
        return lambda: self.optimizer

    def _plain(self, value: Any, name: str) -> Any:
        if isinstance(value, dict):
            return {key: self._plain(item, f"{name}/{key}") for key, item in value.items()}
        tensor = state_tensor(name, value, self.live) if hasattr(value, "dtype") else None
        return value if tensor is None else tensor


def _copied(tree: Any) -> Any:
    return {key: _copied(item) for key, item in tree.items()} if isinstance(tree, dict) else tree


def _count(tree: Any) -> int | None:
    """The number of steps that some transformation counted, which a TrainState has, too."""
    if not isinstance(tree, dict):
        return None
    if "count" in tree and not isinstance(tree["count"], dict):
        return int(tree["count"])
    return next((found for item in tree.values() if (found := _count(item)) is not None), None)
