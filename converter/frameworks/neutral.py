"""The neutral file: ``<path>.<role>`` in the axis order of `converter.layers`, its layers listed in the metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import msgspec

from converter.errors import ConversionError
from converter.formats.base import Container, Contents
from converter.frameworks.base import Framework, Leaf, Part, parameter, read_as
from converter.layers import KINDS, Layer, Net
from converter.tensors import TensorSpec

#: Key of the safetensors metadata that holds the JSON document.
KEY = "converter"


class _Entry(msgspec.Struct, frozen=True):
    """A layer: its path, and every kind that it may be (one, but for a matrix that could be two)."""

    path: str
    kind: tuple[str, ...]


class _Document(msgspec.Struct, frozen=True):
    """All that the metadata says. ``framework`` is where the weights came from; `ordered` as in `Net`."""

    version: Literal[1]
    framework: str
    ordered: bool
    container: Container
    layers: tuple[_Entry, ...]


class Neutral(Framework):
    name = "neutral"
    title = "neutral"
    layouts = {kind: tuple(Leaf(role, role, axes) for role, axes in KINDS[kind].roles.items()) for kind in KINDS}
    default_format = "safetensors"
    data_format = "safetensors"

    def split(self, contents: Contents) -> Iterable[Part]:
        parts = (spec.name.rpartition(".") for spec in contents.specs)
        return [Part(spec, path, leaf) for spec, (path, _, leaf) in zip(contents.specs, parts, strict=True)]

    def spell(self, prefix: str, leaf: Leaf, dialect: str, is_data: bool) -> str:
        return f"{prefix}.{leaf.name}" if prefix else leaf.name

    def dress(self, contents: Contents, layers: Sequence[Layer], dialect: str, source: Net) -> Contents:
        entries = tuple(_Entry(layer.path, tuple(reading.kind for reading in layer.readings)) for layer in layers)
        document = _Document(1, source.framework, source.ordered, source.container, entries)
        return replace(contents, metadata={**contents.metadata, KEY: msgspec.json.encode(document).decode()})

    def net(self, contents: Contents) -> Net:
        """Layers and kinds as the metadata lists them. Raises ConversionError when it does not fit the tensors."""
        document = _document(contents)
        by_path: dict[str, dict[str, TensorSpec]] = {}
        for part in self.split(contents):
            by_path.setdefault(part.path, {})[part.leaf] = part.spec
        layers = [self._layer(entry, by_path) for entry in document.layers]
        if by_path:
            raise ConversionError(
                f"neutral file: '{next(iter(by_path))}' holds tensors but is no layer of its metadata"
            )
        return Net(self.name, tuple(layers), document.ordered, document.container, contents.left_out)

    def _layer(self, entry: _Entry, by_path: dict[str, dict[str, TensorSpec]]) -> Layer:
        path, kinds = entry.path, entry.kind
        specs = by_path.pop(path, {})
        if kinds == ("parameter",) and specs.keys() == {"value"}:
            return parameter(path, specs["value"])
        readings = [read_as(kind, self.layouts[kind], specs) for kind in kinds if kind in self.layouts]
        if not readings or None in readings:
            raise ConversionError(f"neutral file: layer '{path}' is no {' or '.join(kinds)}: {_shapes(specs)}")
        return Layer(path, tuple(reading for reading in readings if reading))


def is_neutral(contents: Contents) -> bool:
    return KEY in contents.metadata


def _document(contents: Contents) -> _Document:
    if KEY not in contents.metadata:
        raise ConversionError("not a neutral file: its metadata lists no layers")
    try:
        return msgspec.json.decode(contents.metadata[KEY].encode(), type=_Document)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise ConversionError(f"neutral file: its metadata '{KEY}' is no document of version 1: {error}") from None


def _shapes(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"{role} {spec.shape}" for role, spec in specs.items()) or "no tensors"
