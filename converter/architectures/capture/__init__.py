"""Read the architecture of a live net; an operation outside the vocabulary is refused by name."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from converter.architectures import vocabulary as v
from converter.architectures.capture.graph import Claim, OutsideError
from converter.architectures.capture.names import with_names
from converter.architectures.document import Architecture, Input, layer_paths, walk
from converter.architectures.family import layer_kind
from converter.architectures.instance import resolve
from converter.architectures.shape_inference import resolved
from converter.architectures.units import Fork, Shape, Shapes, Unit
from converter.architectures.vocabulary import kind_of
from converter.core.layers import Net
from converter.formats.keras.config import snake_case
from converter.live import LiveNet
from converter.schema.loader import Schema, SchemaLayer

__all__ = ["OutsideError", "capture"]


def capture(live: LiveNet, net: Net, shapes_of: Callable[[Schema], Shapes], input: Input) -> Architecture:
    """The architecture of a live net.

    net: its neutral layers. shapes_of: the shapes of their tensors in neutral axes, for a schema with the kinds of the
    layers. input: the sizes of an input as the net takes it, without the batch; empty if unknown. Raises
    ConversionError, and OutsideError for an operation outside the vocabulary.
    """
    kind = type(live).__module__.rpartition(".")[2]  # the module here has the name of the adapter's
    if kind not in _CAPTURED:
        raise OutsideError(
            f"what a {kind} module computes between its layers cannot be read. Describe it in a schema "
            "(`architecture:`, docs/net_vocabulary.md), and save with that schema."
        )
    module = importlib.import_module(f"converter.architectures.capture.{kind}")
    graph, output, seen = module.graph(live, _paths(live, net), input)
    steps = graph.steps(output)
    shapes = shapes_of(_kinds(steps))
    sizes = _channels_first(seen or input, steps) if live.framework.channels_last else seen or input
    units = resolved(steps, sizes, shapes, asked=bool(input))
    _check(units.row, graph.claims)
    name = _name(type(live.net).__name__)
    architecture, units = resolve(Architecture(_without_idle(units.row), sizes, name), shapes, sizes if input else ())
    return with_names(architecture, units, live.framework_name)


_CAPTURED = ("torch", "keras", "gluon", "linen")


#: Classes of the frameworks themselves, whose names do not describe a net.
_NO_NAMES = frozenset({"Sequential", "HybridSequential", "Functional", "Model", "Module", "Block", "HybridBlock"})


def _name(class_name: str) -> str:
    """The name of the architecture, in the style of the shipped schemas."""
    return snake_case(class_name) if class_name.isascii() and class_name not in _NO_NAMES else ""


def _kinds(steps: Iterable[v.AnyStep]) -> Schema:
    layers = [step for step in walk(steps) if isinstance(step, v.WithWeights)]
    return Schema("", tuple(SchemaLayer(path, layer_kind(step)) for step in layers for path in layer_paths(step)))


def _without_idle(row: Sequence[Unit | Fork]) -> tuple[Any, ...]:
    """The steps without a flatten of what is flat already, which linear layers of gluon imply."""
    steps: list[Any] = []
    for unit in row:
        if isinstance(unit, Fork):
            branches = tuple(_without_idle(branch) for branch in unit.branches)
            steps.append(
                v.Concat(branches=branches)
                if isinstance(unit.step, v.Concat)
                else v.Residual(body=branches[0], shortcut=branches[1])
            )
        elif not (
            isinstance(unit.step, v.Flatten) and unit.input_shape is not None and len(unit.input_shape.dims) == 1
        ):
            steps.append(unit.step)
    return tuple(steps)


def _paths(live: LiveNet, net: Net) -> Mapping[str, str]:
    """Name of a module -> neutral path of its layer; for an attention the common prefix of its layers."""
    owned: dict[str, set[str]] = {}
    for layer in net.layers:
        for spec in layer.tensors:
            owned.setdefault(live.module(spec.name), set()).add(layer.path)
    paths = {}
    for name, owned_paths in owned.items():
        parents = {path.rpartition(".")[0] for path in owned_paths}
        paths[name] = next(iter(owned_paths)) if len(owned_paths) == 1 else next(iter(parents))
    return paths


def _channels_first(input: Input, steps: Iterable[v.AnyStep]) -> Input:
    """An input with channels last as architectures have it: channels first."""
    for step in walk(steps) if len(input) > 1 else ():
        if isinstance(step, (*_IN_SPACE, v.Flatten)) and (len(input) > 2 or not isinstance(step, v.Flatten)):
            return (input[-1], *input[:-1])
        if isinstance(step, v.WithWeights):
            break
    return input


_IN_SPACE: tuple[type, ...] = (v.Conv, v.ConvTranspose, v.BatchNorm, v.MaxPool, v.GlobalMaxPool, v.GlobalAveragePool)


def _check(row: Sequence[Unit | Fork], claims: Mapping[int, Claim]) -> None:
    """Raises OutsideError where a setting of the net contradicts what the vocabulary implies."""
    for unit in row:
        shape = unit.output_shape if isinstance(unit, Fork) else unit.input_shape
        if id(unit.step) in claims and shape is not None:
            _check_claim(claims[id(unit.step)], unit.step, shape)
        for branch in unit.branches if isinstance(unit, Fork) else ():
            _check(branch, claims)


def _check_claim(claim: Claim, step: v.AnyStep, shape: Shape) -> None:
    rank, over_space = len(shape.dims) + 1, isinstance(step, v.GlobalMaxPool | v.GlobalAveragePool)
    channels = 1 if shape.space or rank == 2 else rank - 1
    axes = sorted(axis % rank for axis in claim.axes)
    if claim.axes and axes != (list(range(2, rank)) if over_space else [channels]):
        raise OutsideError(
            f"a {kind_of(step)} of {shape} is over the axes {axes}, the batch being 0: the vocabulary of "
            f"architectures has it over {'all of space' if over_space else 'channels or features'} alone"
        )
    features = math.prod(size for size in shape.dims if size is not None)
    if claim.features is not None and None not in shape.dims and features != claim.features:
        raise OutsideError(f"a flatten of {shape} is to give {claim.features} features: that makes another batch")
