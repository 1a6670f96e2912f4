"""Schema files: which neutral layers an architecture has, and what each framework calls them.

    name: mlp
    description: one hidden layer
    layers:
      - path: output            # the neutral path; also the name wherever none is given
        kind: linear
        names:
          tensorflow: [out, dense_1]   # the first is written, all are understood

Strict: an unknown key, kind or framework, or a name that stands for two layers, is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import yaml

from converter.errors import ConversionError
from converter.frameworks import FRAMEWORKS, framework
from converter.layers import KINDS


class SchemaLayer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A layer of the architecture. ``names``: framework -> the paths it may have there, the usual one first.

    heads: of an attention's projections. flatten: the channels of what was flattened before this layer.
    """

    path: str
    kind: str
    names: dict[str, tuple[str, ...]] = {}
    heads: int | None = None
    flatten: int | None = None

    def paths(self, framework_name: str) -> tuple[str, ...]:
        return self.names.get(framework_name, (self.path,))

    @property
    def all_paths(self) -> frozenset[str]:
        """Whatever any framework calls it."""
        return frozenset((self.path, *(path for names in self.names.values() for path in names)))


class Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    layers: tuple[SchemaLayer, ...]
    description: str = ""


def schema_folder() -> Path:
    """Where the shipped schemas are: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "schemas"
    return inside if inside.is_dir() else package.parent / "schemas"


def load_schema(name: str) -> Schema:
    """A shipped schema by name (``mlp``), or a file by path. Raises ConversionError."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = schema_folder() / f"{name}.yaml"
        if not path.is_file():
            shipped = ", ".join(sorted(file.stem for file in schema_folder().glob("*.yaml")))
            raise ConversionError(
                f"no schema '{name}' is shipped. There are: {shipped}. A file of yours ends in .yaml."
            )
    try:
        schema = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), Schema)
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        raise ConversionError(f"{path}: not a schema: {error}") from None
    _check(path, schema)
    return schema


def _check(path: Path, schema: Schema) -> None:
    for layer in schema.layers:
        if layer.kind not in _kinds():
            raise ConversionError(
                f"{path}: layer '{layer.path}' has the unknown kind '{layer.kind}'. There are {', '.join(_kinds())}."
            )
    frameworks = {name for layer in schema.layers for name in layer.names}
    for name in frameworks:
        try:
            proper = framework(name).name
        except ConversionError as error:
            raise ConversionError(f"{path}: {error}") from None
        if proper != name:
            raise ConversionError(f"{path}: write '{proper}' for the framework '{name}'")
    for name in (*frameworks, ""):
        _check_unique(path, {layer.path: layer.paths(name) for layer in schema.layers}, name)


def _kinds() -> tuple[str, ...]:
    """The kinds, and the forms by which a framework stores some of them otherwise (depthwise, to_heads)."""
    forms = [form.name for row in FRAMEWORKS for form in row.forms if form.name]
    return (*KINDS, *sorted(set(forms)))


def _check_unique(path: Path, names: Mapping[str, tuple[str, ...]], framework_name: str) -> None:
    seen: dict[str, str] = {}
    for layer, spellings in names.items():
        if not spellings:
            raise ConversionError(f"{path}: layer '{layer}' has an empty list of names for {framework_name}")
        for spelling in spellings:
            if seen.setdefault(spelling, layer) != layer:
                where = f" in {framework_name}" if framework_name else ""
                raise ConversionError(f"{path}: '{spelling}'{where} stands for both '{seen[spelling]}' and '{layer}'")
