"""``flax.nnx.Module``: the variables of its state, without those of random number generators."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from converter.formats.base import Contents
from converter.live.base import EPSILON, Hyperparameters, LiveNet, gates, is_dense, named
from converter.live.linen import jax_to_numpy
from converter.live.run import Record, attributes, inference_options, recorded
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

    #: what `Module.eval` sets
    _MODES: ClassVar[tuple[str, ...]] = ("deterministic", "use_running_average")

    def forward(self, inputs: Sequence[Array]) -> Any:
        import jax.numpy as jnp

        return self.net(*map(jnp.asarray, inputs), **inference_options(type(self.net).__call__))

    def to_numpy(self, value: Any) -> Array | None:
        return jax_to_numpy(value)

    @contextmanager
    def inference(self) -> Iterator[None]:
        modes = [(m, name, vars(m)[name]) for _, m in self.modules() for name in self._MODES if name in vars(m)]
        self.net.eval()
        try:
            yield
        finally:
            for module, name, value in modes:
                setattr(module, name, value)

    @contextmanager
    def watching(self, watched: Collection[str], record: Record, before_activation: bool) -> Iterator[None]:
        modules = [(name, module) for name, module in self.watched_modules(watched) if callable(module)]
        names = {id(module): name for name, module in modules}
        classes = dict.fromkeys(type(module) for _, module in modules)
        calls = [(each, "__call__", recorded(each.__call__, names, record)) for each in classes]
        with attributes(calls):
            yield

    def _variables(self) -> dict[str, Any]:
        from flax import nnx

        state = nnx.state(self.net, nnx.Not(nnx.RngState))
        return {_name(path): variable.get_value() for path, variable in nnx.to_flat_state(state)}


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))
