"""The two ends of a conversion, which may each be a weight file or a live net."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec.structs import replace

from converter.core.inputs import Inputs
from converter.core.layers import Net
from converter.endpoints.checkpoint import Weights, open_weights
from converter.errors import ConversionError, Problem, Remedy
from converter.formats import Contents, Reader
from converter.formats.parts import refuse_part
from converter.frameworks import Framework
from converter.frameworks import framework as framework_of
from converter.options import ReadOptions, StrPath

if TYPE_CHECKING:
    from converter.live import LiveNet
    from converter.live.optimizers import LiveOptimizer

_OF_READING = frozenset(ReadOptions.__struct_fields__)


class Endpoint(msgspec.Struct, frozen=True):
    """A file or a live net, opened. ``origin``: the framework that its weights come from. optimizer: of a live net,
    where its training is carried, too.
    """

    title: str
    format_title: str
    framework: Framework
    net: Net
    reader: Reader
    origin: str
    weights: Weights | None = None
    live: LiveNet | None = None
    optimizer: LiveOptimizer | None = None

    @property
    def contents(self) -> Contents:
        return self.reader.contents

    @property
    def path(self) -> Path | None:
        """Of a file."""
        return self.weights.path if self.weights else None

    @property
    def files(self) -> tuple[Path, ...]:
        """Over which nothing may be written; see `Reader.files`."""
        return self.reader.files

    @property
    def channels_last(self) -> bool:
        """Where the net has the channels of images; of a file what is usual."""
        return self.live.channels_last if self.live else self.framework.channels_last

    def settings(self) -> dict[str, dict[str, Any]] | None:
        """What a live net is set to (see `LiveNet.settings`); None of a file."""
        return self.live.settings() if self.live else None


def opened(
    net: StrPath | Weights | object,
    stack: ExitStack,
    *,
    framework: str | None = None,
    inputs: Inputs = Inputs(),
    options: ReadOptions = ReadOptions(),
) -> Endpoint:
    """A file by its path or opened already, or a live net. framework, options: of a file by its path.

    inputs: an example for a live net: it gives tensors their shapes where they wait for one, and shows in which
    order the layers are called.
    """
    if isinstance(net, (str, os.PathLike, Weights)):
        weights = net if isinstance(net, Weights) else stack.enter_context(open_weights(net, framework, options))
        if framework is not None and framework_of(framework).name != weights.framework:
            raise ConversionError(f"{weights.path}: was opened as a file of {weights.framework}, not of {framework}.")
        if len(weights.reader.files) == 1 and not weights.path.is_dir():
            refuse_part(weights.path)
        title = str(weights.path) if isinstance(net, Weights) else os.fspath(net)
        own, origin = framework_of(weights.framework), weights.origin
        return Endpoint(title, weights.format.title, own, weights.net, weights.reader, origin, weights=weights)
    from converter.endpoints.readers import LiveReader  # a conversion of files needs no live nets
    from converter.live import open_net

    live = open_net(net)
    if framework is not None and live.framework_name != framework_of(framework).name:
        raise ConversionError(f"a {type(net).__name__} is a net of {live.framework.title}, not of {framework}")
    if inputs:
        live.make_concrete(inputs)
    reader = LiveReader(live)
    title = "the params" if isinstance(net, Mapping) else type(net).__name__
    described = _live_net(live, reader, inputs)
    return Endpoint(title, "live net", live.framework, described, reader, live.framework_name, live=live)


def with_optimizer(end: Endpoint, optimizer: object) -> Endpoint:
    """A live net and what trains it. Raises ConversionError for a file, and for what is no optimizer of the net."""
    from converter.live.optimizers import open_optimizer

    if end.live is None:
        raise ConversionError(f"{end.title} is a file, and a live net is expected, with its optimizer.")
    return replace(end, optimizer=open_optimizer(optimizer, end.live))


def clone_of(like: StrPath | object, stack: ExitStack, framework: str | None, inputs: Inputs) -> Endpoint:
    """A clone: a file, a live net, or the name of one in the user's code (see `converter.live.user_code`)."""
    from converter.live.user_code import is_name, net_of

    with not_advised_to_read():
        return opened(net_of(str(like)) if is_name(like) else like, stack, framework=framework, inputs=inputs)


def clone_beside(
    source: Endpoint, like: StrPath | object, stack: ExitStack, framework: str | None, inputs: Inputs
) -> tuple[Endpoint, Inputs]:
    """A clone, and the inputs of the source as the clone takes them."""
    from converter.live.user_code import is_name, net_of

    net = net_of(str(like)) if is_name(like) else like
    if isinstance(net, (str, os.PathLike)) or not inputs:
        return clone_of(net, stack, framework, inputs), inputs
    from converter.live import open_net

    own = turned(inputs, source.channels_last, open_net(net).channels_last)
    return clone_of(net, stack, framework, own), own


def keeps_quantized(source: Endpoint) -> bool:
    """Whether its quantized tensors are to be moved as they are."""
    return source.weights is not None and source.weights.reader.options.keep_quantized


def refuse_other_framework(source: Endpoint, target: Framework) -> None:
    """Raises ConversionError where quantized tensors are to be kept, and another framework has no such."""
    if keeps_quantized(source) and target.name != source.framework.name:
        text = f"quantized tensors are kept in files of {source.framework.title} alone, and not in those of"
        raise ConversionError(Problem(f"{text} {target.title}.", "option", about=Remedy("keep_quantized", True)))


@contextmanager
def not_advised_to_read() -> Iterator[None]:
    """Around the second file: options of what is read are for the first alone, and are no way out of its errors."""
    try:
        yield
    except ConversionError as error:
        error.problems = tuple(
            replace(problem, remedies=tuple(way for way in problem.remedies if way.option not in _OF_READING))
            for problem in error.problems
        )
        raise


def turned(inputs: Inputs, last: bool, wanted_last: bool) -> Inputs:
    """The inputs of a net as another one takes them. last, wanted_last: whether they have the channels of images so."""
    if last == wanted_last:
        return inputs
    ends = (-1, 1) if last else (1, -1)
    return inputs.map(lambda x: np.ascontiguousarray(np.moveaxis(x, *ends)) if x.ndim > 3 else x)


def _live_net(live: LiveNet, reader: Reader, inputs: Inputs) -> Net:
    net = replace(live.framework.net(reader.contents), read=reader.read)
    if not net.ordered and live.in_order:
        positions = {spec.name: position for position, spec in enumerate(reader.contents.specs)}
        layers = sorted(net.layers, key=lambda layer: min(positions[spec.name] for spec in layer.tensors))
        net = replace(net, layers=tuple(layers), ordered=True)
    if not inputs:
        return net
    from converter.endpoints.forward_trace import observed

    return replace(net, observed=observed(live, net, inputs))
