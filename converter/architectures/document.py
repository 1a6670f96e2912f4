"""An architecture as data: what a schema says of its nets (`Family`), and that of one net (`Architecture`).

    input: [1, 28, 28]                    # channels first, without the batch; null: any size
    steps:
      - {kind: conv, path: conv1, out: 6, kernel: 5, padding: 2}
      - relu                              # a step without options
      - kind: residual                    # the sum of two rows; an empty one leaves its input as it is
        body: [{kind: conv, path: conv2, kernel: 3, padding: 1}, {kind: batch_norm, path: norm2}]
      - kind: sequential                  # once for each number that the net has
        each: i
        path: "block{i+1}"
        steps:
          - {kind: conv, path: conv, out: [8, 16], stride: 2, if: "shortcut"}

The steps of one net have no indices and no conditions any more; sizes are those of its weights. It is written as JSON
into the metadata of a neutral file, with the names that each framework has for the layers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from converter.architectures.vocabulary import (
    VOCABULARY,
    AnyStep,
    Attention,
    Concat,
    NetStep,
    Residual,
    Sequential,
    Size,
    Steps,
    WithWeights,
    kind_of,
)
from converter.errors import ConversionError

#: Of a layer's name, in any framework: it becomes an attribute, or a text, in the code of a clone.
_PART = "(?!__)[A-Za-z0-9_]{1,100}"
_NAME = re.compile(rf"{_PART}(\.{_PART}){{0,40}}")
#: Steps inside of steps.
DEEPEST = 40

Input = tuple[Size | None, ...]


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The architecture of all nets of a schema. input: of the net whose sizes the steps have for want of weights."""

    steps: Steps
    input: Input = ()


class Architecture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The architecture of one net.

    names: neutral path -> framework -> what it is called there, where that is something else; a clone takes the first.
    """

    steps: Steps
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
    """A step that was written as its name alone. Raises ConversionError for one that cannot be."""
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


def layer_paths(step: NetStep) -> tuple[str, ...]:
    """The layers whose tensors a step uses: itself, or the four projections of an attention."""
    if isinstance(step, Attention):
        return tuple(".".join(filter(None, (step.path, name))) for name in ("query", "key", "value", "output"))
    return (step.path,) if isinstance(step, WithWeights) else ()


def rows_of(step: NetStep) -> tuple[Steps, ...]:
    """The rows of steps inside of a step."""
    if isinstance(step, Residual):
        return (step.body, step.shortcut)
    if isinstance(step, Concat):
        return step.branches
    return (step.steps,) if isinstance(step, Sequential) else ()


def walk(steps: Iterable[str | AnyStep], depth: int = 0) -> Iterator[AnyStep]:
    """Every step, those inside of others behind these. Raises ConversionError for steps inside too many others."""
    if depth > DEEPEST:
        raise ConversionError(f"steps inside of more than {DEEPEST} others")
    for each in steps:
        step = of_name(each)
        yield step
        for row in rows_of(step):
            yield from walk(row, depth + 1)


def encoded(architecture: Architecture) -> bytes:
    """As JSON; the same bytes for the same architecture."""
    return msgspec.json.encode(_plain(architecture))


def decoded(text: bytes) -> Architecture:
    """From the JSON of a file. Raises ConversionError for what is none, and for names that no layer may have."""
    try:
        found = msgspec.json.decode(text, type=Architecture)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConversionError(f"its architecture is none of this version: {error}") from None
    check_names(found)
    return found


def check_names(architecture: Architecture) -> None:
    """Names have letters, digits and underscores alone. Raises ConversionError."""
    paths = [path for step in walk(architecture.steps) for path in layer_paths(step)]
    names = [architecture.name_of(path, name) for path in paths for name in architecture.names.get(path, {})]
    for name in (*paths, *names):
        if not _NAME.fullmatch(name):
            raise ConversionError(
                f"a layer called {name[:100]!r} cannot be built: names are of letters, digits and underscores. "
                "Give it another one with a schema, or --map."
            )
    if architecture.name and not re.fullmatch(r"[A-Za-z0-9_]{1,100}", architecture.name):
        raise ConversionError(f"an architecture called {architecture.name[:100]!r}: letters, digits and underscores")


def _plain(value: Any) -> Any:
    """As dicts and lists, without what is as it is by default; a step without options as its name."""
    if isinstance(value, NetStep):
        said = {
            field.encode_name: _plain(getattr(value, field.name))
            for field in msgspec.structs.fields(value)
            if getattr(value, field.name) != field.default
        }
        return {"kind": kind_of(value)} | said if said else kind_of(value)
    if isinstance(value, msgspec.Struct):
        return {field: _plain(of) for field in value.__struct_fields__ if (of := getattr(value, field))}
    if isinstance(value, Mapping):
        return {key: _plain(of) for key, of in value.items()}
    return [_plain(of) for of in value] if isinstance(value, tuple) else value


KINDS_OF_STEPS = tuple(kind_of(step) for step in VOCABULARY)
