"""Weight and spectral normalisation of PyTorch: a kernel that the file holds in pieces.

Old names (torch/nn/utils/weight_norm.py, spectral_norm.py) and those of torch.nn.utils.parametrizations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from converter.frameworks.base import Part
from converter.ops import FoldSpectralNorm, FoldWeightNorm, Op
from converter.tensors import TensorSpec

_OLD_WEIGHT_NORM = ("{0}_g", "{0}_v")
_NEW_WEIGHT_NORM = ("parametrizations.{0}.original0", "parametrizations.{0}.original1")
_OLD_SPECTRAL_NORM = ("{0}_orig", "{0}_u", "{0}_v")
_NEW_SPECTRAL_NORM = ("parametrizations.{0}.original", "parametrizations.{0}.0._u", "parametrizations.{0}.0._v")
_PIECES = re.compile(
    r"(?:(?P<path>.+)\.)?(?:(?P<old>\w+?)_(?:g|v|orig|u)|parametrizations\.(?P<new>\w+)\.(?:original[01]?|0\._[uv]))"
)


def folded(parts: Sequence[Part]) -> Iterable[Part]:
    """The parts, with those that are pieces of one kernel put together into that kernel."""
    by_name = {part.spec.name: part for part in parts}
    made: dict[str, Part] = {}
    used: set[str] = set()
    for part in parts:
        found = _PIECES.fullmatch(part.spec.name)
        if not found or part.spec.name in used:
            continue
        kernel = _kernel(found["path"] or "", found["old"] or found["new"], by_name)
        if kernel is not None:
            made[part.spec.name] = kernel
            used.update(spec.name for spec in kernel.sources)
    return [made.get(part.spec.name, part) for part in parts if part.spec.name in made or part.spec.name not in used]


def _kernel(path: str, name: str, by_name: dict[str, Part]) -> Part | None:
    for pieces in (_OLD_SPECTRAL_NORM, _NEW_SPECTRAL_NORM, _OLD_WEIGHT_NORM, _NEW_WEIGHT_NORM):
        names = [".".join(filter(None, (path, piece.format(name)))) for piece in pieces]
        if all(piece in by_name for piece in names):
            specs = tuple(by_name[piece].spec for piece in names)
            fold, spec = _fold(specs)
            full = ".".join(filter(None, (path, name)))
            return Part(replace(spec, name=full), path, name, sources=specs, fold=fold)
    return None


def _fold(specs: Sequence[TensorSpec]) -> tuple[Op, TensorSpec]:
    if len(specs) == 2:
        return FoldWeightNorm(), specs[1]
    kernel, left, _ = specs
    # the output axis is the first, but the second of a transposed convolution; the left vector has its size
    axis = 0 if kernel.shape[:1] == left.shape else 1
    return FoldSpectralNorm(axis), kernel
