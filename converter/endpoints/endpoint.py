"""The two ends of a conversion, which may each be a weight file or a live net."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
from msgspec.structs import replace

from converter.core.layers import Net
from converter.core.tensors import Array
from converter.endpoints.checkpoint import StrPath, Weights, read
from converter.errors import ConversionError
from converter.formats import Contents, Format, Reader, by_name
from converter.frameworks import Framework
from converter.frameworks import framework as framework_of
from converter.planning.plan import Plan, respelled

if TYPE_CHECKING:
    from converter.live import LiveNet

#: What the report says of a live net instead of a format.
LIVE = "live net"

Inputs: TypeAlias = Sequence[Array]


class Side(msgspec.Struct, frozen=True):
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
    from converter.endpoints.readers import LiveReader  # a conversion of files needs no live nets
    from converter.live import open_net

    live = open_net(net)
    if framework is not None and live.framework_name != framework:
        raise ConversionError(f"a {type(net).__name__} is a net of {live.framework.title}, not of {framework}")
    if inputs:
        live.make_concrete(inputs)
    reader = LiveReader(live)
    title = "the params" if isinstance(net, Mapping) else type(net).__name__
    found = _live_net(live, reader, inputs)
    return Side(title, LIVE, live.framework, found, reader, live.framework_name, live=live)


def clone_of(like: StrPath | object, stack: ExitStack, framework: str | None, inputs: Inputs) -> Side:
    """A clone: a file, a live net, or the name of one in the user's code (see `converter.live.user_code`)."""
    from converter.live.user_code import is_name, net_of

    return opened(net_of(str(like)) if is_name(like) else like, stack, framework=framework, inputs=inputs)


def turned(inputs: Inputs, given: Framework, wanted: Framework) -> Inputs:
    """The inputs of a net as a net of the other framework takes them: with channels first, or last."""
    if given.channels_last == wanted.channels_last:
        return inputs
    ends = (-1, 1) if given.channels_last else (1, -1)
    return [np.ascontiguousarray(np.moveaxis(x, *ends)) if x.ndim > 3 else x for x in inputs]


class Goal(msgspec.Struct, frozen=True):
    """What a conversion fills. contents: its tensors by the names of the net. written: what is written or set of them.

    names: a name of the net -> the one in ``written``.
    """

    net: Net
    contents: Contents
    written: Contents
    names: Mapping[str, str]

    def finished(self, plan: Plan) -> Plan:
        """The plan with the names, and in the order, of what is written."""
        if self.written is self.contents:
            return plan
        steps = {
            name: replace(step, target=replace(step.target, name=name))
            for step in plan.steps
            for name in [self.names[step.target.name]]
        }
        ordered = tuple(steps[spec.name] for spec in self.written.specs if spec.name in steps)
        contents = replace(self.written, specs=tuple(step.target for step in ordered), left_out=())
        return replace(plan, steps=ordered, contents=contents)


def goal_of(clone: Side, form: Format | None, by_schema: bool) -> Goal:
    """A clone as what is to be written in that format; None: to be set in it, for it is live.

    by_schema: layers are called as in files, for so a schema has them; else as in the live net, which knows more.
    """
    live = clone.live
    if live is None:
        net, contents = clone.net, clone.contents
        assert form is not None
        if clone.framework.dialect_for(form.name) != clone.framework.dialect_of(contents):
            net, contents = respelled(net, clone.framework, form.name)
        return Goal(net, contents, contents, {})
    if form is None and not (by_schema and live.file_format):
        return Goal(clone.net, clone.contents, clone.contents, {})
    template = live.template(form or by_name(live.file_format))
    in_file = {name: file for file, name in template.names.items()}
    if not by_schema:
        return Goal(clone.net, clone.contents, template.contents, in_file)
    net = replace(clone.framework.net(template.contents), read=lambda name: clone.reader.read(template.names[name]))
    if form is None:
        return Goal(net, template.contents, clone.contents, template.names)
    return Goal(net, template.contents, template.contents, {})


def _live_net(live: LiveNet, reader: Reader, inputs: Inputs) -> Net:
    net = replace(live.framework.net(reader.contents), read=reader.read)
    if not net.ordered and live.in_order:
        places = {spec.name: place for place, spec in enumerate(reader.contents.specs)}
        layers = sorted(net.layers, key=lambda layer: min(places[spec.name] for spec in layer.tensors))
        net = replace(net, layers=tuple(layers), ordered=True)
    if not inputs:
        return net
    from converter.endpoints.forward_trace import observed

    return replace(net, observed=observed(live, net, inputs))
