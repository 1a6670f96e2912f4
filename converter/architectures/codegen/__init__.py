"""The code of a clone, as its owner could have written it: `converter scaffold`."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from converter.architectures import vocabulary as v
from converter.architectures.codegen.classes import program
from converter.architectures.codegen.dialect import Dialect
from converter.architectures.codegen.flax import FlaxDialect
from converter.architectures.codegen.gluon import GluonDialect
from converter.architectures.codegen.keras import KerasDialect, is_same
from converter.architectures.codegen.modules import modules
from converter.architectures.codegen.torch import TorchDialect
from converter.architectures.document import Architecture, check_names, layer_paths
from converter.architectures.units import Fork, Row, Unit, Units, axes, units_in


def dialect_of(framework_name: str, units: Units) -> Dialect:
    """The dialect of a framework for this net."""
    others: dict[str, Dialect] = {"torch": TorchDialect(), "flax": FlaxDialect(), "mxnet": GluonDialect()}
    if framework_name in others:
        return others[framework_name]
    padded = [unit for unit in units_in(units.row) if isinstance(unit.step, v.Conv) and axes(unit.step.padding) != 0]
    return KerasDialect(explicit=not all(map(is_same, padded)))


def source_of(architecture: Architecture, units: Units, framework_name: str) -> str:
    """The code, with a function ``make_net``. Raises ConversionError for a step that the framework does not have."""
    check_names(architecture)
    dialect = dialect_of(framework_name, units)
    row = _lowered(units.row, dialect)
    names, hints = (_names(architecture, units, name) for name in (framework_name, "tensorflow"))
    tree = modules(row, names, hints, dialect)
    return dialect.written(program(tree, dialect), units, architecture.name)


def _lowered(row: Sequence[Unit | Fork], dialect: Dialect) -> Row:
    lowered: list[Unit | Fork] = []
    for step in row:
        if isinstance(step, Fork):
            lowered.append(replace(step, branches=tuple(_lowered(branch, dialect) for branch in step.branches)))
        else:
            lowered += dialect.lowered(step)
    return tuple(lowered)


def _names(architecture: Architecture, units: Units, framework_name: str) -> dict[str, tuple[str, ...]]:
    """The parts of the name of each layer; for an attention the common prefix of its projections."""
    names = {}
    for unit in units_in(units.row):
        if unit.path:
            name = architecture.name_of(layer_paths(unit.step)[0], framework_name)
            names[unit.path] = tuple(name.split("."))[: -1 if isinstance(unit.step, v.Attention) else None]
    return names
