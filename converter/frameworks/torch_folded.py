"""Weight and spectral normalisation of PyTorch: a kernel that the file holds in pieces.

Old names (torch/nn/utils/weight_norm.py, spectral_norm.py) and those of torch.nn.utils.parametrizations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from converter.core.arithmetic import FoldSpectralNorm, FoldWeightNorm
from converter.core.layers import Layer, Stored
from converter.core.ops import Op
from converter.core.tensors import TensorSpec

_OLD_WEIGHT_NORM = ("{0}_g", "{0}_v")
_NEW_WEIGHT_NORM = ("parametrizations.{0}.original0", "parametrizations.{0}.original1")
_OLD_SPECTRAL_NORM = ("{0}_orig", "{0}_u", "{0}_v")
_NEW_SPECTRAL_NORM = ("parametrizations.{0}.original", "parametrizations.{0}.0._u", "parametrizations.{0}.0._v")
_PIECES = re.compile(
    r"(?:(?P<path>.+)\.)?(?:(?P<old>\w+?)_(?:g|v|orig|u)|parametrizations\.(?P<new>\w+)\.(?:original[01]?|0\._[uv]))"
)


class Folded(msgspec.Struct, frozen=True, gc=False):
    """A tensor of the net; ``fold`` makes it of ``sources`` where the file does not hold it itself."""

    spec: TensorSpec
    sources: tuple[TensorSpec, ...] = ()
    fold: Op | None = None


def folded(specs: Iterable[TensorSpec]) -> list[Folded]:
    """The tensors, with those that are pieces of one kernel put together into that kernel."""
    by_name = {spec.name: spec for spec in specs}
    made: dict[str, Folded] = {}
    used: set[str] = set()
    for name in by_name:
        piece = _PIECES.fullmatch(name)
        if not piece or name in used:
            continue
        kernel = _kernel(piece["path"] or "", piece["old"] or piece["new"], by_name)
        if kernel is not None:
            made[name] = kernel
            used.update(spec.name for spec in kernel.sources)
    return [made.get(name, Folded(spec)) for name, spec in by_name.items() if name in made or name not in used]


def _kernel(path: str, name: str, by_name: Mapping[str, TensorSpec]) -> Folded | None:
    for pieces in (_OLD_SPECTRAL_NORM, _NEW_SPECTRAL_NORM, _OLD_WEIGHT_NORM, _NEW_WEIGHT_NORM):
        names = [".".join(filter(None, (path, piece.format(name)))) for piece in pieces]
        if all(piece in by_name for piece in names):
            specs = tuple(by_name[piece] for piece in names)
            fold, spec = _fold(specs)
            return Folded(replace(spec, name=".".join(filter(None, (path, name)))), specs, fold)
    return None


def _fold(specs: Sequence[TensorSpec]) -> tuple[Op, TensorSpec]:
    if len(specs) == 2:
        return FoldWeightNorm(), specs[1]
    kernel, left, _ = specs
    # the output axis is the first, but the second of a transposed convolution; the left vector has its size
    axis = 0 if kernel.shape[:1] == left.shape else 1
    return FoldSpectralNorm(axis), kernel


def oriented(layer: Layer) -> Layer:
    """The spectral norm of a transposed convolution is taken along its second axis, also of one with equal axes."""
    if not any(reading.kind == "conv_transpose" for reading in layer.readings):
        return layer
    readings = (
        replace(reading, stored=tuple(map(_along_outputs, reading.stored)))
        if reading.kind == "conv_transpose"
        else reading
        for reading in layer.readings
    )
    return replace(layer, readings=tuple(readings))


def _along_outputs(stored: Stored) -> Stored:
    square = stored.fold == FoldSpectralNorm(0) and stored.spec.shape[0] == stored.spec.shape[1]
    return replace(stored, fold=FoldSpectralNorm(1)) if square else stored
