"""``flax.nnx.Module``: the variables of its state, without those of random number generators."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from converter.formats.base import Contents
from converter.live.base import EPSILON, Hyperparameters, LiveNet, gates, is_dense, named
from converter.tensors import Array, TensorSpec


class Adapter(LiveNet):
    framework_name = "flax"
    package = "flax.nnx."
    hyperparameters: ClassVar[Hyperparameters] = {
        "BatchNorm": {
            "BatchNorm epsilon": lambda layer: layer.epsilon,
            "BatchNorm momentum (for training)": lambda layer: layer.momentum,
        },
        "LayerNorm": {EPSILON: lambda layer: layer.epsilon},
        "InstanceNorm": {EPSILON: lambda layer: layer.epsilon},
        "GroupNorm": {EPSILON: lambda layer: layer.epsilon, "GroupNorm groups": lambda layer: layer.num_groups},
        "RMSNorm": {"RMSNorm epsilon": lambda layer: layer.epsilon},
        "SimpleCell": {"RNN activation": lambda layer: named(layer.activation_fn)},
        "LSTMCell": gates("LSTM", "activation_fn", "gate_fn"),
        "OptimizedLSTMCell": gates("LSTM", "activation_fn", "gate_fn"),
        "GRUCell": gates("GRU", "activation_fn", "gate_fn"),
    }

    def contents(self) -> Contents:
        return Contents(
            tuple(TensorSpec(name, np.shape(value), np.dtype(value.dtype)) for name, value in self._variables().items())
        )

    def class_of(self, module: Any) -> str:
        found = super().class_of(module)
        if found == "ConvTranspose":
            return f"ConvTranspose(transpose_kernel={bool(module.transpose_kernel)})"
        return found if found != "Einsum" or is_dense(module.einsum_str) else "Einsum(other equation)"

    def read(self, name: str) -> Array:
        return np.array(self._variables()[name])

    def modules(self) -> Iterable[tuple[str, Any]]:
        from flax import nnx

        return [(_name(path), module) for path, module in nnx.iter_modules(self.net)]

    def fill(self, tensors: Iterable[tuple[str, Array]]) -> Any:
        import jax.numpy as jnp
        from flax import nnx

        state = nnx.state(self.net)
        flat = dict(nnx.to_flat_state(state))
        by_name = {_name(path): path for path in flat}
        for name, array in tensors:
            path = by_name[name]
            flat[path] = flat[path].replace(jnp.asarray(array))
        nnx.update(self.net, nnx.from_flat_state(flat))
        return self.net

    def freeze(self, names: frozenset[str]) -> Any:
        from flax import nnx

        return nnx.All(nnx.Param, lambda path, value: _name(path) not in names)

    def _variables(self) -> dict[str, Any]:
        from flax import nnx

        state = nnx.state(self.net, nnx.Not(nnx.RngState))
        return {_name(path): variable.get_value() for path, variable in nnx.to_flat_state(state)}


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))
