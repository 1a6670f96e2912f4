"""The architecture in a neutral file: of the schema, or the one stored with the source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import structs
from msgspec.structs import replace

from converter.architectures import vocabulary as v
from converter.architectures.document import Architecture, decoded, encoded, layer_paths, of_name, with_rows
from converter.architectures.family import family_of
from converter.architectures.instance import of_schema, resolve, schema_of
from converter.architectures.units import Shapes
from converter.core.contents import LeftOut
from converter.core.tensors import TensorSpec
from converter.errors import ConversionError
from converter.frameworks.neutral import with_architecture
from converter.planning.plan import TensorPlan
from converter.schema.loader import Schema


def described(
    plan: TensorPlan, paths: Mapping[str, str], stored: Architecture | bytes | None, schema: Schema | None
) -> TensorPlan:
    """The plan of a neutral file with the architecture added, or listed as left out where it does not fit.

    paths: layers of the source -> their paths in the file. stored: the architecture of the source (JSON), or one that
    the user passes, which must fit; otherwise that of the schema is used. Raises ConversionError.
    """
    architecture, left_out = None, plan.left_out
    if schema is not None and family_of(schema) is None:  # outside of `try`: a wrong schema is an error
        schema = None
    try:
        architecture = _of_net(stored, paths, shapes_of(step.target for step in plan.steps), schema)
    except ConversionError as error:
        if isinstance(stored, Architecture):
            raise
        left_out = (*left_out, LeftOut("the architecture", str(error)))
    contents = with_architecture(plan.contents, None if architecture is None else encoded(architecture))
    return replace(plan, contents=contents, left_out=left_out)


def _of_net(
    stored: Architecture | bytes | None, paths: Mapping[str, str], shapes: Shapes, schema: Schema | None
) -> Architecture | None:
    if not isinstance(stored, Architecture) and schema is not None:
        return of_schema(schema, shapes)[0]
    if stored is None:
        return None
    return resolve(_renamed(stored if isinstance(stored, Architecture) else decoded(stored), paths), shapes)[0]


def names_in(architecture: Architecture | bytes) -> Schema:
    """The schema in an architecture: its layers and their names. Raises ConversionError for one of another version."""
    return schema_of(*resolve(decoded(architecture) if isinstance(architecture, bytes) else architecture, None))


def shapes_of(tensors: Iterable[TensorSpec]) -> Shapes:
    """The shapes of the tensors of a neutral file."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for spec in tensors:
        path, _, role = spec.name.rpartition(".")
        shapes.setdefault(path, {})[role] = spec.shape
    return shapes


def _renamed(architecture: Architecture, paths: Mapping[str, str]) -> Architecture:
    names = {paths.get(path, path): names for path, names in architecture.names.items()}
    return structs.replace(architecture, steps=_steps(architecture.steps, paths), names=names)


def _steps(steps: v.Steps, paths: Mapping[str, str]) -> tuple[Any, ...]:
    return tuple(_step(of_name(step), paths) for step in steps)


def _step(step: Any, paths: Mapping[str, str]) -> Any:
    if isinstance(step, v.WithWeights):
        path = paths.get(layer_paths(step)[0], layer_paths(step)[0])
        return structs.replace(step, path=path.rpartition(".")[0] if isinstance(step, v.Attention) else path)
    return with_rows(step, lambda row: _steps(row, paths))
