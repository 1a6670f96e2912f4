"""An architecture as data: of all nets of a schema (`Family`), and of one net (`Architecture`).

    input: [1, 28, 28]                    # channels first, without the batch; null: any size
    steps:
      - {kind: conv, path: conv1, out: 6, kernel: 5, padding: 2}
      - relu                              # a step without options
      - kind: residual                    # the sum of two branches; an empty one is the identity
        body: [{kind: conv, path: conv2, kernel: 3, padding: 1}, {kind: batch_norm, path: norm2}]
      - kind: sequential                  # once for each index that the net has
        each: i
        path: "block{i+1}"
        steps:
          - {kind: conv, path: conv, out: [8, 16], stride: 2, if: "shortcut"}

In the steps of one net all indices and conditions are resolved, and sizes are those of its weights. It is stored as
JSON in the metadata of a neutral file, with the names of the layers in each framework.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import structs

from converter.architectures import vocabulary as v
from converter.architectures.vocabulary import AnyStep  # in `v.Steps`, which msgspec reads here
from converter.errors import ConversionError

#: Part of a layer's name in any framework: it becomes an attribute, or a string, in the code of a clone.
_PART = "(?!__)[A-Za-z0-9_]{1,100}"
_NAME = re.compile(rf"{_PART}(\.{_PART}){{0,40}}")
#: How deep steps may be nested.
DEEPEST = 40

Input = tuple[v.Size | None, ...]


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The architecture of all nets of a schema. input: of the net with the default sizes of the steps."""

    steps: v.Steps
    input: Input = ()


class Architecture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The architecture of one net.

    names: neutral path -> framework -> its names there, where they differ; a clone uses the first.
    """

    steps: v.Steps
    input: Input = ()
    name: str = ""
    names: dict[str, dict[str, tuple[str, ...]]] = {}

    def name_of(self, path: str, framework_name: str) -> str:
        return (self.names.get(path, {}).get(framework_name) or (path,))[0]

    def __str__(self) -> str:
        """In the notation of schema files."""
        import yaml

        plain = yaml.safe_dump(_plain(self), sort_keys=False, default_flow_style=None, width=110)
        return str(plain)


def of_name(step: str | AnyStep) -> AnyStep:
    """The step of a name; a step is returned as it is. Raises ConversionError for an unknown one."""
    if not isinstance(step, str):
        return step
    try:
        made: AnyStep = msgspec.convert({"kind": step}, AnyStep)
    except msgspec.ValidationError as error:
        if step in KINDS_OF_STEPS:
            raise ConversionError(f"architecture: the step '{step}' needs its options: {error}") from None
        near = difflib.get_close_matches(step, KINDS_OF_STEPS, 1)
        hint = f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(KINDS_OF_STEPS)}."
        raise ConversionError(f"architecture: there is no step '{step}'. {hint}") from None
    return made


def layer_paths(step: v.NetStep) -> tuple[str, ...]:
    """The layers whose tensors a step uses: itself, or the four projections of an attention."""
    if isinstance(step, v.Attention):
        return tuple(".".join(filter(None, (step.path, name))) for name in ("query", "key", "value", "output"))
    return (step.path,) if isinstance(step, v.WithWeights) else ()


def rows_of(step: v.NetStep) -> tuple[v.Steps, ...]:
    """The rows of steps inside a container."""
    if isinstance(step, v.Residual):
        return (step.body, step.shortcut)
    if isinstance(step, v.Concat):
        return step.branches
    return (step.steps,) if isinstance(step, v.Sequential) else ()


def with_rows(step: Any, make: Callable[[v.Steps], Iterable[Any]]) -> Any:
    """A container with other rows, made of its own; any other step as it is."""
    if isinstance(step, v.Residual):
        return structs.replace(step, body=tuple(make(step.body)), shortcut=tuple(make(step.shortcut)))
    if isinstance(step, v.Concat):
        return structs.replace(step, branches=tuple(tuple(make(row)) for row in step.branches))
    return structs.replace(step, steps=tuple(make(step.steps))) if isinstance(step, v.Sequential) else step


def walk(steps: Iterable[str | AnyStep], depth: int = 0) -> Iterator[AnyStep]:
    """Every step, containers before their contents. Raises ConversionError for steps that are nested too deep."""
    if depth > DEEPEST:
        raise ConversionError(f"an architecture whose steps are nested more than {DEEPEST} deep")
    for each in steps:
        step = of_name(each)
        yield step
        for row in rows_of(step):
            yield from walk(row, depth + 1)


def encoded(architecture: Architecture) -> bytes:
    """An architecture as JSON; equal architectures give equal bytes."""
    return msgspec.json.encode(_plain(architecture))


def decoded(text: bytes) -> Architecture:
    """The architecture in the JSON of a file. Raises ConversionError for invalid JSON or names."""
    try:
        architecture = msgspec.json.decode(text, type=Architecture)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConversionError(f"its architecture cannot be read by this version: {error}") from None
    check_names(architecture)
    return architecture


def check_names(architecture: Architecture) -> None:
    """Raises ConversionError for a name that is not made of letters, digits and underscores."""
    paths = [path for step in walk(architecture.steps) for path in layer_paths(step)]
    names = [architecture.name_of(path, name) for path in paths for name in architecture.names.get(path, {})]
    for name in (*paths, *names):
        if not _NAME.fullmatch(name):
            raise ConversionError(
                f"a layer called {name[:100]!r} cannot be built: only letters, digits and underscores are allowed. "
                "Rename it with a schema, or --map."
            )
    if architecture.name and not re.fullmatch(r"[A-Za-z0-9_]{1,100}", architecture.name):
        raise ConversionError(
            f"an architecture called {architecture.name[:100]!r}: only letters, digits and underscores are allowed"
        )


def _plain(value: Any) -> Any:
    """As dicts and lists, without defaults; a step without options as its name."""
    if isinstance(value, v.NetStep):
        options = {
            field.encode_name: _plain(getattr(value, field.name))
            for field in structs.fields(value)
            if getattr(value, field.name) != field.default
        }
        return {"kind": v.kind_of(value)} | options if options else v.kind_of(value)
    if isinstance(value, msgspec.Struct):
        return {field: _plain(of) for field in value.__struct_fields__ if (of := getattr(value, field))}
    if isinstance(value, Mapping):
        return {key: _plain(of) for key, of in value.items()}
    return [_plain(of) for of in value] if isinstance(value, tuple) else value


KINDS_OF_STEPS = tuple(v.kind_of(step) for step in v.VOCABULARY)
