"""What is in a weight file: `converter inspect FILE`, for people and (``--json``) for programs."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import asdict

from converter.core.layers import Net
from converter.core.tensors import Array, TensorSpec
from converter.endpoints.checkpoint import Weights
from converter.errors import ConversionError, FormatError, text_of
from converter.frameworks.neutral import architecture_in
from converter.reports.tables import shape_dict, table


class Statistics(msgspec.Struct, frozen=True):
    """Of the finite values; ``non_finite`` counts the others. None where no value is finite."""

    minimum: float | None
    maximum: float | None
    mean: float | None
    non_finite: int


class Inspection(msgspec.Struct, frozen=True, dict=True):
    """All that the headers of a file say; ``statistics`` only when every tensor was read for them."""

    weights: Weights
    statistics: dict[str, Statistics] | None

    def to_dict(self) -> dict[str, Any]:
        contents = self.weights.contents
        layer_of = self._layers()
        tensors = []
        for spec in contents.specs:
            path, kind = layer_of.get(spec.name, ("", ""))
            entry = {**shape_dict(spec), "bytes": spec.nbytes, "layer": path, "kind": kind}
            if self.statistics is not None:
                entry["statistics"] = asdict(self.statistics[spec.name])
            tensors.append(entry)
        architecture = architecture_in(contents)
        return {
            "path": str(self.weights.path),
            "format": self.weights.format.name,
            "framework": self.weights.framework,
            "writer": contents.writer,
            "container": contents.container,
            "tensors": tensors,
            "total": {
                "tensors": len(tensors),
                "bytes": sum(spec.nbytes for spec in contents.specs),
                "elements": sum(spec.size for spec in contents.specs),
            },
            "architecture": None if architecture is None else msgspec.json.decode(architecture),
            "left_out": [{"name": item.name, "reason": item.reason} for item in self._net.left_out],
            "refused": self._refusal,
        }

    def __str__(self) -> str:
        contents = self.weights.contents
        writer = f", written by {contents.writer}" if contents.writer else ""
        lines = [f"{self.weights.path}: {self.weights.format.title}, {self.weights.framework} names{writer}", ""]
        heads = ["name", "shape", "dtype", "bytes", "layer", "kind"]
        rows = [heads + (["min", "max", "mean", "non-finite"] if self.statistics is not None else [])]
        layer_of = self._layers()
        for spec in contents.specs:
            row = [spec.name, str(spec.shape), spec.dtype.name, f"{spec.nbytes:,}", *layer_of.get(spec.name, ("", ""))]
            rows.append(row + self._row(spec))
        lines += [*table(rows), ""]
        lines += [f"left out: {item.name} ({item.reason})" for item in self._net.left_out]
        lines += [f"not converted: {self._refusal}"] if self._refusal else []
        if architecture_in(contents) is not None:
            lines.append("it holds the architecture, too: converter scaffold prints the code of the net")
        elements, size = (sum(getattr(spec, of) for spec in contents.specs) for of in ("size", "nbytes"))
        lines.append(f"{len(contents.specs)} tensors, {elements:,} values, {size:,} bytes")
        return text_of(lines)

    def _row(self, spec: TensorSpec) -> list[str]:
        if self.statistics is None:
            return []
        statistics = self.statistics[spec.name]
        values = (statistics.minimum, statistics.maximum, statistics.mean)
        return [*("" if value is None else f"{value:.4g}" for value in values), str(statistics.non_finite)]

    def _layers(self) -> dict[str, tuple[str, str]]:
        return {spec.name: (layer.path, layer.kind) for layer in self._net.layers for spec in layer.tensors}

    @cached_property
    def _found(self) -> tuple[Net, str]:
        """The net, and why there is none: then it is empty, and the tensors are still worth a look."""
        try:
            return self.weights.net, ""
        except ConversionError as error:
            reason = error.reason if isinstance(error, FormatError) else str(error)
            return Net(self.weights.framework, (), left_out=self.weights.contents.left_out), reason

    @property
    def _net(self) -> Net:
        return self._found[0]

    @property
    def _refusal(self) -> str:
        return self._found[1]


def inspect(weights: Weights, statistics: bool = False) -> Inspection:
    """Look at an open file. With ``statistics`` every tensor is read, one after the other."""
    each = {name: _statistics(array) for name, array in weights.items()} if statistics else None
    return Inspection(weights, each)


def _statistics(array: Array) -> Statistics:
    values = np.abs(array) if array.dtype.kind == "c" else array
    wide = values.astype(np.float64)  # float16 and bfloat16 overflow in a sum
    finite = wide[np.isfinite(wide)]
    non_finite = wide.size - finite.size
    if not finite.size:
        return Statistics(None, None, None, non_finite)
    return Statistics(float(finite.min()), float(finite.max()), float(finite.mean()), non_finite)
