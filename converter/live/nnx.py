"""``flax.nnx.Module``: the variables of its state, without those of random number generators."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from converter.core.contents import Contents
from converter.core.inputs import Inputs
from converter.core.tensors import Array, TensorSpec
from converter.live.flax import FlaxNet
from converter.live.watching import Record, attributes, inference_options, recorded


class Adapter(FlaxNet):
    package = "flax.nnx."

    def contents(self) -> Contents:
        return Contents(
            tuple(TensorSpec(name, np.shape(value), np.dtype(value.dtype)) for name, value in self._variables().items())
        )

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

    def forward(self, inputs: Inputs) -> Any:
        import jax.numpy as jnp

        taken = inputs.map(jnp.asarray)
        return self.net(*taken.args, **{**inference_options(type(self.net).__call__), **taken.keywords})

    @contextmanager
    def inference(self) -> Iterator[None]:
        modes = [(m, name, vars(m)[name]) for _, m in self.modules() for name in self._MODES if name in vars(m)]
        with attributes(modes):
            self.net.eval()
            yield

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
