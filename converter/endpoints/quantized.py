"""Files with quantized tensors, read as the weights that these stand for, each computed when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from converter.core.contents import LeftOut
from converter.core.tensors import Array, TensorSpec
from converter.endpoints.readers import ComputingReader
from converter.errors import ConversionError, FormatError
from converter.formats import Reader
from converter.formats.base import Opening, check_names
from converter.formats.io.budget import beyond
from converter.formats.io.files import Beside
from converter.formats.io.json import read_json
from converter.formats.io.source import check_shape, frozen
from converter.frameworks.packed import PackedLayer, packed_layers, refusal
from converter.options import ReadOptions
from converter.quantized.base import GROWTH, Packed, QuantizedError, Unpacked

__all__ = ["DequantizingReader", "without_packing"]

#: Where a checkpoint states how it was quantized, and under which of these names; "": the whole object.
_STATED = {"config.json": ("quantization_config", "compression_config"), "quantize_config.json": ("",)}
_IDLE = "a scale of what goes through the layer, not of its weight"


class _Made(msgspec.Struct, frozen=True):
    """A tensor that is computed. sources: last name of each part -> tensor of the file."""

    spec: TensorSpec
    unpacked: Unpacked
    sources: Mapping[str, TensorSpec]


class DequantizingReader(ComputingReader):
    """The tensors of ``reader``, each weight in the place of its quantized parts (see `converter.quantized`).

    One is in memory at a time. Raises ConversionError where the parts of a layer do not fit each other.
    """

    def __init__(self, reader: Reader, layers: list[PackedLayer]) -> None:
        super().__init__(reader)
        settings = _settings(reader.path)
        self._made: dict[str, _Made] = {}
        instead: dict[str, _Made] = {}  # the first part of each -> the tensor that stands in its place
        gone: set[str] = set()
        idle: list[LeftOut] = []
        packings: dict[str, str] = {}
        for layer in layers:
            for made in self._undone(layer, settings):
                self._made[made.spec.name] = instead[next(iter(made.sources.values())).name] = made
                packings[made.spec.name] = made.unpacked.title or layer.packing.title
            gone.update(spec.name for leaf, spec in layer.specs.items() if layer.packing.has(leaf))
            idle += [LeftOut(spec.name, _IDLE) for leaf, spec in layer.specs.items() if layer.packing.is_idle(leaf)]
        gone.update(item.name for item in idle)
        specs = check_names(reader.path, _replaced(reader.contents.specs, instead, gone))
        left_out = (*reader.contents.left_out, *idle)
        quantized = {**reader.contents.quantized, **packings}
        self._contents = replace(reader.contents, specs=specs, left_out=left_out, quantized=quantized)

    def _undone(self, layer: PackedLayer, settings: Mapping[str, Any] | None) -> Iterator[_Made]:
        """What is to be computed of a layer."""
        specs, unpack = layer.specs, layer.packing.unpack
        assert unpack is not None
        packed = Packed(specs, lambda leaf: self._reader.read(specs[leaf].name), settings, " or ".join(_STATED))
        try:
            for unpacked in unpack(packed):
                name = ".".join(filter(None, (layer.path, unpacked.leaf)))
                check_shape(self.path, unpacked.shape, unpacked.dtype, f"'{name}'")
                sources = {leaf: specs[leaf] for leaf in unpacked.used}
                yield _Made(TensorSpec(name, unpacked.shape, unpacked.dtype), unpacked, sources)
        except QuantizedError as error:
            raise ConversionError(f"'{layer.name}' is packed by {layer.packing.title}: {error}.") from None

    def read(self, name: str) -> Array:
        made = self._made.get(name)
        if made is None:
            return self._reader.read(name)
        stored = min(sum(spec.nbytes for spec in made.sources.values()), self._stored)
        with self._budget.lent(beyond(made.spec.nbytes, GROWTH * stored), f"'{name}'"):
            parts = {leaf: self._reader.read(spec.name) for leaf, spec in made.sources.items()}
            try:
                return frozen(made.unpacked.compute(parts))
            except QuantizedError as error:
                raise FormatError(self.path, f"'{name}' cannot be dequantized: {error}") from None

    @property
    def opening(self) -> Opening:
        opening = self._reader.opening
        return replace(opening, reader=partial(_reopened, opening.reader))


def without_packing(reader: Reader) -> tuple[Reader, str]:
    """The reader, with the weights in the place of what is quantized; or as it is, and why that cannot be read."""
    layers = packed_layers(reader.contents)
    if not layers:
        return reader, ""
    refused = refusal(layers)
    if refused is not None:
        return reader, refused.text
    try:
        return DequantizingReader(reader, layers), ""
    except FormatError as error:
        return reader, error.reason
    except ConversionError as error:
        return reader, str(error)


def _reopened(reader: Callable[[Path, ReadOptions], Reader], path: Path, options: ReadOptions) -> Reader:
    return without_packing(reader(path, options))[0]


def _replaced(specs: tuple[TensorSpec, ...], instead: Mapping[str, _Made], gone: set[str]) -> Iterator[TensorSpec]:
    for spec in specs:
        if spec.name in instead:
            yield instead[spec.name].spec
        elif spec.name not in gone:
            yield spec


def _settings(path: Path) -> Mapping[str, Any] | None:
    """What the checkpoint states of its quantization; None where no file beside it does. Raises FormatError."""
    files = Beside(path)
    for name, keys in _STATED.items():
        if not (files.root / name).is_file():
            continue
        document = read_json(files.root / name, files)
        for key in keys:
            stated = document.get(key) if key else document
            if isinstance(stated, dict):
                return stated
    return None
