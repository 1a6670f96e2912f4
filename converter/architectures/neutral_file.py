"""The architecture in a neutral file: that of a schema, or the one that the source has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import structs
from msgspec.structs import replace

from converter.architectures import vocabulary as v
from converter.architectures.document import Architecture, decoded, encoded, layer_paths, of_name, rows_of
from converter.architectures.family import family_of
from converter.architectures.instance import known, of_schema, schema_of
from converter.architectures.units import Shapes
from converter.core.contents import LeftOut
from converter.core.tensors import TensorSpec
from converter.errors import ConversionError
from converter.frameworks.neutral import with_architecture
from converter.planning.plan import TensorPlan
from converter.schema.loader import Schema


def described(
    plan: TensorPlan, paths: Mapping[str, str], given: Architecture | bytes | None, schema: Schema | None
) -> TensorPlan:
    """The plan of a neutral file with the architecture in it; left out, with the reason, where it does not fit.

    paths: layers of the source -> as they are called in the file. given: that of the source (JSON), or one that the
    user gives, which must fit; else that of the schema is taken. Raises ConversionError.
    """
    found, left_out = None, plan.left_out
    if schema is not None and family_of(schema) is None:  # outside of `try`: a wrong schema is an error
        schema = None
    try:
        found = _of_net(given, paths, shapes_of(step.target for step in plan.steps), schema)
    except ConversionError as error:
        if isinstance(given, Architecture):
            raise
        left_out = (*left_out, LeftOut("the architecture", str(error)))
    contents = with_architecture(plan.contents, None if found is None else encoded(found))
    return replace(plan, contents=contents, left_out=left_out)


def _of_net(
    given: Architecture | bytes | None, paths: Mapping[str, str], shapes: Shapes, schema: Schema | None
) -> Architecture | None:
    if not isinstance(given, Architecture) and schema is not None:
        return of_schema(schema, shapes)[0]
    if given is None:
        return None
    return known(_renamed(given if isinstance(given, Architecture) else decoded(given), paths), shapes)[0]


def names_in(architecture: Architecture | bytes) -> Schema:
    """What an architecture says of its layers. Raises ConversionError for one that is not of this version."""
    return schema_of(*known(decoded(architecture) if isinstance(architecture, bytes) else architecture, None))


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
    rows: Sequence[Any] = [_steps(row, paths) for row in rows_of(step)]
    if isinstance(step, v.Residual):
        return structs.replace(step, body=rows[0], shortcut=rows[1])
    if isinstance(step, v.Concat):
        return structs.replace(step, branches=tuple(rows))
    return structs.replace(step, steps=rows[0]) if isinstance(step, v.Sequential) else step
