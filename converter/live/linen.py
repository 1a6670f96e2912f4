"""A Flax linen net: a module with its variables, or the tree of variables alone (dicts or FrozenDicts of arrays).

Filling makes a new tree, and with a module a new pair, or a module that is bound to the new tree.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from converter.core.contents import Contents
from converter.core.inputs import Inputs
from converter.core.tensors import Array, TensorSpec
from converter.errors import ConversionError
from converter.live.flax import FlaxNet
from converter.live.watching import Record, inference_options


class Adapter(FlaxNet):
    package = "flax.linen."

    def __init__(self, net: Any) -> None:
        super().__init__(net)
        self._module, self._variables = _taken_apart(net)
        self._inside: dict[str, Any] = {}

    def make_concrete(self, inputs: Inputs) -> None:
        """A module without variables gets some (of the key 0); and what is inside of it is known from then on."""
        if self._module is None:
            return
        import jax

        taken = self._taken(inputs)
        if self._variables is None:
            with self.running(inputs):
                self._variables = self._module.init(jax.random.PRNGKey(0), *taken.args, **taken.keywords)
        with self.running(inputs), self._seeing():
            jax.eval_shape(lambda tree: self._module.apply(tree, *taken.args, **taken.keywords), self._variables)

    def _taken(self, inputs: Inputs) -> Inputs:
        """As the module takes them, told that it does not train."""
        import jax.numpy as jnp

        taken = inputs.map(jnp.asarray)
        return Inputs(taken.args, {**inference_options(type(self._module).__call__), **taken.keywords})

    @contextmanager
    def _seeing(self) -> Iterator[None]:
        from flax import linen

        def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            self._inside.setdefault("/".join(context.module.path), context.module)
            return call(*args, **kwargs)

        with linen.intercept_methods(intercept):
            yield

    @property
    def module_and_variables(self) -> tuple[Any, Any]:
        """None for what there is not."""
        return self._module, self._variables

    def modules(self) -> Iterable[tuple[str, Any]]:
        """Those that were seen; none before `make_concrete`."""
        return self._inside.items()

    def _tree(self) -> Mapping[str, Any]:
        if self._variables is None:
            raise ConversionError(
                "a Flax linen module alone has no weights: give the pair (module, variables), "
                "or the bound module that module.bind(variables) makes, or an example input"
            )
        tree: Mapping[str, Any] = self._variables
        return tree

    def contents(self) -> Contents:
        specs = (TensorSpec(name, np.shape(leaf), np.dtype(leaf.dtype)) for name, leaf in _flat(self._tree()))
        return Contents(tuple(specs))

    def read(self, name: str) -> Array:
        return np.array(dict(_flat(self._tree()))[name])

    def fill(self, tensors: Iterable[tuple[str, Array]]) -> Any:
        import jax.numpy as jnp

        new = _rebuilt(self._tree(), {name: jnp.asarray(array) for name, array in tensors})
        if self._module is None:
            return new
        is_bound = not isinstance(self.net, tuple) and self.net.scope is not None
        return self._module.bind(new) if is_bound else (self._module, new)

    def freeze(self, names: frozenset[str]) -> Any:
        return _rebuilt(self._tree(), {name: name not in names for name, _ in _flat(self._tree())})

    # -- running

    def module(self, name: str) -> str:
        return super().module(name.partition("/")[2])  # without the collection

    def forward(self, inputs: Inputs) -> Any:
        if self._module is None:
            raise ConversionError(
                "the params tree of a Flax linen net cannot be run alone: give the pair (module, variables), "
                "or the bound module that module.bind(variables) makes"
            )
        taken = self._taken(inputs)
        return self._module.apply(self._tree(), *taken.args, **taken.keywords)

    @contextmanager
    def watching(self, watched: Collection[str], record: Record, before_activation: bool) -> Iterator[None]:
        from flax import linen

        def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            output = call(*args, **kwargs)
            name = "/".join(context.module.path)
            if context.method_name == "__call__" and name in watched:
                record(name, args, output)
            return output

        with linen.intercept_methods(intercept):
            yield


def _taken_apart(net: Any) -> tuple[Any, Any]:
    """The module and its variables; None for what there is not."""
    if isinstance(net, Mapping):
        return None, net
    if isinstance(net, tuple):
        return net
    return net.unbind() if net.scope is not None else (net, None)


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
