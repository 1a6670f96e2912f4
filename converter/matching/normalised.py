"""Kernels that a file holds in pieces (weight and spectral normalisation): kept so where the clone has them, too.

Everywhere else they are folded into the kernel that they stand for (`Stored.fold`).
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from converter.core.arithmetic import FoldSpectralNorm, FoldWeightNorm
from converter.core.kinds import UNKNOWN
from converter.core.layers import Layer, Leaf, Reading, Stored

#: What each piece is, whatever its name: the old names and those of the parametrizations go into each other.
_PIECES: Mapping[type, tuple[str, ...]] = {
    FoldWeightNorm: ("magnitude", "direction"),
    FoldSpectralNorm: ("kernel", "left", "right"),
}


def normalisations(layer: Layer) -> frozenset[type]:
    """The normalisations whose pieces the layer has."""
    stored = (item for reading in layer.readings for item in reading.stored)
    return frozenset(type(item.fold) for item in stored if type(item.fold) in _PIECES)


def in_pieces(layer: Layer) -> Layer:
    """The layer as the tensors that the file holds of it; nothing but a layer of the same pieces can take them."""
    stored = tuple(piece for item in layer.readings[0].stored for piece in _pieces(item))
    return replace(layer, readings=(Reading(UNKNOWN, stored),), unlikely=())


def _pieces(stored: Stored) -> list[Stored]:
    roles = _PIECES.get(type(stored.fold), ("",))
    return [
        Stored(spec, Leaf(stored.leaf.name, (frozenset({f"{stored.leaf.name} {role}"}),), "*", "*"))
        for spec, role in zip(stored.specs, roles, strict=True)
    ]


def wrapped(target: Layer) -> str:
    """The refusal of a clone that keeps in pieces what the source has not."""
    pieces = ", ".join(spec.name for spec in target.tensors)
    return (
        f"'{target.path}' of the clone is normalised ({pieces}), and the source has no such pieces. Take the "
        "normalisation off the clone (torch.nn.utils.parametrize.remove_parametrizations) and save it again."
    )
