"""Live nets: `open_net` finds the adapter of a net without importing any framework that is not in use."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import msgspec

from converter.errors import ConversionError
from converter.live.base import LiveNet

__all__ = ["LiveNet", "open_net"]


class _Row(msgspec.Struct, frozen=True):
    """A class of live nets, by the module and name of a base class of it, and the module of its adapter."""

    module: str
    base: str
    adapter: str
    title: str


_ROWS = (
    _Row("torch.nn.modules.module", "Module", "torch", "a torch.nn.Module"),
    _Row("keras.", "Layer", "keras", "a Keras model"),
    _Row("tf_keras.", "Layer", "keras", "a tf_keras model"),
    _Row("flax.nnx.", "Module", "nnx", "an nnx.Module"),
    _Row("mxnet.gluon.block", "Block", "gluon", "a gluon Block"),
)


def open_net(net: object) -> LiveNet:
    """The adapter for a live net. Raises ConversionError for an object of no known framework."""
    if isinstance(net, Mapping) or _is_linen(net):
        return _load("linen")(net)
    for base in type(net).__mro__:
        for row in _ROWS:
            if base.__name__ == row.base and base.__module__.startswith(row.module):
                return _load(row.adapter)(net)
    known = ", ".join(row.title for row in _ROWS)
    raise ConversionError(
        f"a {type(net).__module__}.{type(net).__qualname__} is no live net that is known: expected {known}, "
        "or of Flax linen the params tree (a dict), a pair (module, variables) or a bound module"
    )


def _is_linen(net: object) -> bool:
    """Whether it is a linen module, or a pair of one and its variables."""
    first = net[0] if isinstance(net, tuple) and len(net) == 2 else net
    return any(base.__module__ == "flax.linen.module" and base.__name__ == "Module" for base in type(first).__mro__)


def _load(adapter: str) -> type[LiveNet]:
    loaded: type[LiveNet] = importlib.import_module(f"converter.live.{adapter}").Adapter
    return loaded
