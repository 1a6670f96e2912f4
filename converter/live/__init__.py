"""Live nets: `open_net` finds the adapter of a net without importing any framework that is not in use."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from converter.errors import ConversionError
from converter.frameworks import FRAMEWORKS
from converter.frameworks.base import LiveClass
from converter.live.base import LiveNet

__all__ = ["LiveNet", "open_net"]

_CLASSES = tuple(row for framework in FRAMEWORKS for row in framework.live)


def open_net(net: object) -> LiveNet:
    """The adapter for a live net. Raises ConversionError for an object of no known framework."""
    row = _class_of(net)
    if row is None:
        known = ", ".join(row.title for row in sorted(_CLASSES, key=lambda row: row.bare))
        raise ConversionError(
            f"a {type(net).__module__}.{type(net).__qualname__} is not a live net of a known framework: "
            f"expected {known}"
        )
    adapter: type[LiveNet] = importlib.import_module(f"converter.live.{row.adapter}").Adapter
    return adapter(net)


def _class_of(net: object) -> LiveClass | None:
    if isinstance(net, Mapping):
        return next(row for row in _CLASSES if row.bare)
    module = net[0] if isinstance(net, tuple) and len(net) == 2 else net
    for base in type(module).__mro__:
        for row in _CLASSES:
            if base.__name__ == row.base and base.__module__.startswith(row.module) and (row.bare or module is net):
                return row
    return None
