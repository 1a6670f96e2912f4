"""The two ends of a conversion, which may each be a weight file or a live net."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from converter.errors import ConversionError
from converter.formats import Contents, Reader
from converter.frameworks import Framework
from converter.frameworks import framework as framework_of
from converter.joined import LiveReader
from converter.layers import Net
from converter.live import LiveNet, open_net
from converter.tensors import Array
from converter.weights import StrPath, Weights, read

#: What the report says of a live net instead of a format.
LIVE = "live net"

Inputs: TypeAlias = Sequence[Array]


@dataclass(frozen=True)
class Side:
    """A file or a live net, opened. ``origin``: the framework that its weights come from."""

    title: str
    format_title: str
    framework: Framework
    net: Net
    reader: Reader
    origin: str
    weights: Weights | None = None
    live: LiveNet | None = None

    @property
    def contents(self) -> Contents:
        return self.reader.contents

    @property
    def path(self) -> Path | None:
        """Of a file."""
        return self.weights.path if self.weights else None

    def settings(self) -> dict[str, dict[str, Any]] | None:
        """What a live net is set to (see `LiveNet.settings`); None of a file."""
        return self.live.settings() if self.live else None


def opened(
    net: StrPath | object, stack: ExitStack, *, framework: str | None = None, inputs: Inputs = (), **options: Any
) -> Side:
    """A file by its path, or a live net. framework, options: of a file, as in `read`.

    inputs: an example for a live net: it gives tensors their shapes where they wait for one, and shows in which
    order the layers are called.
    """
    if isinstance(net, (str, os.PathLike)):
        weights = stack.enter_context(read(net, framework=framework, **options))
        return Side(
            os.fspath(net),
            weights.format.title,
            framework_of(weights.framework),
            weights.net,
            weights.reader,
            weights.origin,
            weights=weights,
        )
    live = open_net(net)
    if framework is not None and live.framework_name != framework:
        raise ConversionError(f"a {type(net).__name__} is a net of {live.framework.title}, not of {framework}")
    if inputs:
        live.make_concrete(inputs)
    reader = LiveReader(live)
    title = "the params" if isinstance(net, Mapping) else type(net).__name__
    found = _live_net(live, reader, inputs)
    return Side(title, LIVE, live.framework, found, reader, live.framework_name, live=live)


def _live_net(live: LiveNet, reader: Reader, inputs: Inputs) -> Net:
    net = replace(live.framework.net(reader.contents), read=reader.read)
    if not net.ordered and live.in_order:
        places = {spec.name: place for place, spec in enumerate(reader.contents.specs)}
        layers = sorted(net.layers, key=lambda layer: min(places[spec.name] for spec in layer.tensors))
        net = replace(net, layers=tuple(layers), ordered=True)
    if not inputs:
        return net
    from converter.live.observed import observed

    return replace(net, observed=observed(live, net, inputs))
