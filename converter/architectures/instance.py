"""The architecture of one net, with all sizes: an instance of the family of its schema, or what a file holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec import structs

from converter.architectures import vocabulary as v
from converter.architectures.document import Architecture, Family, Input, check_names, layer_paths, walk, with_rows
from converter.architectures.family import family_of, layer_kind, of_defaults, of_weights
from converter.architectures.shape_inference import resolved
from converter.architectures.units import UNKNOWN, Shapes, Unit, Units, axes, units_in
from converter.errors import ConversionError
from converter.matching.schema_layers import spelled
from converter.schema.loader import Schema, SchemaLayer


def of_schema(
    schema: Schema, shapes: Shapes | None, input: Input = (), sizes: Mapping[str, int] | None = None
) -> tuple[Architecture, Units]:
    """A net of a schema: with weights of these shapes, or (None) without weights and with the sizes of the schema.

    input: its sizes, if they are not those of the schema. sizes: other numbers of outputs, for a net without weights.
    Raises ConversionError.
    """
    family = described_by(schema)
    if shapes is None:
        steps = of_defaults(family.steps, sizes or {})
        paths: Collection[str] = [path for step in walk(steps) for path in layer_paths(step)]
    else:
        optional = {entry.path for entry in schema.layers if entry.optional}
        steps = of_weights(family.steps, shapes, lambda path: _entry(schema, path) in optional)
        paths = shapes
    architecture = Architecture(steps, family.input, schema.name, spelled(schema, paths))
    return resolve(architecture, shapes, input)


def described_by(schema: Schema) -> Family:
    """The architecture of a schema that must have one. Raises ConversionError."""
    family = family_of(schema)
    if family is None:
        raise ConversionError(f"schema '{schema.name}' has no architecture: it only names the layers")
    return family


def resolve(
    architecture: Architecture, shapes: Shapes | None, input: Input = (), sizes: Mapping[str, int] | None = None
) -> tuple[Architecture, Units]:
    """An architecture with all sizes resolved. shapes: of the weights, which win over the options of the steps."""
    check_names(architecture)
    steps: Sequence[v.AnyStep] = tuple(
        of_weights(architecture.steps, shapes, lambda path: False)
        if shapes is not None
        else of_defaults(architecture.steps, sizes or {})
    )
    units = resolved(steps, input or architecture.input, shapes, asked=bool(input))
    by_path = {unit.path: unit for unit in units_in(units.row) if unit.path}
    sized = tuple(_with_sizes(step, by_path) for step in steps)
    return structs.replace(architecture, steps=sized, input=units.input), units


def schema_of(architecture: Architecture, units: Units) -> Schema:
    """The schema of this one net, in which nothing is open: kinds, names, heads and flattens."""
    layers = []
    for unit in units_in(units.row):
        for path in layer_paths(unit.step):
            heads = unit.step.heads if isinstance(unit.step, v.Attention) else None
            names = architecture.names.get(path, {})
            layers.append(SchemaLayer(path, layer_kind(unit.step), names, heads, _flattened(unit), unflatten=0))
    return Schema(architecture.name, tuple(layers))


def _flattened(unit: Unit) -> int:
    """The channels flattened before a unit; only linear layers may follow a flatten (see `shapes_with_weights`)."""
    if not isinstance(unit.step, v.Linear):
        return 0
    flattened = (unit.input_shape.flattened if unit.input_shape is not None else None) or 0
    if flattened == UNKNOWN:
        raise ConversionError(
            f"'{unit.path}' comes after a flatten of an input whose channels are unknown. Give the sizes of the "
            "input: input=(1, 28, 28) or --input 1,28,28."
        )
    return flattened


def _with_sizes(step: str | v.AnyStep, units: Mapping[str, Unit]) -> Any:
    if not isinstance(step, v.WithWeights):
        return with_rows(step, lambda row: (_with_sizes(inner, units) for inner in row))
    unit = units[step.path]
    sizes: dict[str, Any] = {
        "out": unit.outputs,
        "num": unit.rows,
        "kernel": axes(unit.kernel),
        "bias": "bias" in unit.roles,
        "scale": "scale" in unit.roles,
        "offset": "offset" in unit.roles,
    }
    if isinstance(step, v.Conv):
        sizes["groups"] = unit.groups
    return structs.replace(step, **{name: size for name, size in sizes.items() if name in step.__struct_fields__})


def _entry(schema: Schema, path: str) -> str:
    entry = schema.entry("neutral", path)
    return entry.path if entry is not None else ""
