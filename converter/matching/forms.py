"""A layer in the form that the other net has it in: a bare tensor, or a kernel in pieces."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Set
from itertools import chain

from msgspec.structs import replace

from converter.core.arithmetic import FoldSpectralNorm, FoldWeightNorm, JoinedGates, SumOfHalves
from converter.core.kinds import UNKNOWN
from converter.core.layers import Layer, Leaf, Net, Reading, Stored
from converter.core.ops import OfCudnn
from converter.frameworks.base import bare, parameter
from converter.frameworks.linear import MANY_AXES
from converter.matching.untrained import is_index


def as_there(net: Net, other: Net) -> Net:
    """The net with each lone vector as a bare tensor where the other net has a bare tensor of that name.

    The ``gamma`` of a layer scale: in one framework ``ls.gamma`` is a name like any other, in the next it is read as
    the scale of a norm. So is a lone number, whatever it is called, where the other net has bare ones alone; several
    numbers of one layer are as many lone ones.
    """
    if net.framework != other.framework:
        net, other = _numbers_apart(net), _numbers_apart(other)
    named = {layer.path: layer for layer in other.layers if layer.kind == "parameter"}
    numbers = [layer for layer in other.layers if _is_number(layer) and not is_index(layer)]
    if numbers and all(layer.path in named for layer in numbers):
        net = replace(net, layers=tuple(map(_number_as_bare, net.layers)))
    layers = tuple(_as_bare(layer, named, net, other) for layer in net.layers) if named else net.layers
    dense = {layer.readings[0].form for layer in other.layers if len(layer.readings) == 1}.intersection(MANY_AXES)
    return replace(net, layers=tuple(_or_dense(layer, dense) for layer in layers) if dense else layers)


def _or_dense(layer: Layer, forms: Set[str]) -> Layer:
    """The layer that may be of one of these forms, too, for the other net has layers of them without a doubt.

    A kernel of four axes is one of a convolution, unless there is a dense layer of three inputs beside it.
    """
    there = tuple(reading for reading in layer.unlikely if reading.form in forms)
    if not there:
        return layer
    rest = tuple(reading for reading in layer.unlikely if reading not in there)
    return replace(layer, readings=(*layer.readings, *there), unlikely=rest)


def _is_number(layer: Layer) -> bool:
    """Whether one element is all that there is of it."""
    return len(layer.tensors) == 1 and math.prod(layer.tensors[0].shape) == 1


def _numbers_apart(net: Net) -> Net:
    """The net with each layer that nobody knows as bare tensors where it is of numbers alone, which no framework lays
    out otherwise: the scale and the bias of an affine block, which a live net has as one layer.
    """
    layers = ([layer] if layer.kind != UNKNOWN or not _of_numbers(layer) else bare(layer) for layer in net.layers)
    return replace(net, layers=tuple(chain.from_iterable(layers)))


def _of_numbers(layer: Layer) -> bool:
    return all(math.prod(spec.shape) == 1 and len(spec.shape) < 2 for spec in layer.tensors)


def _number_as_bare(layer: Layer) -> Layer:
    (item, *_) = layer.readings[0].stored
    if layer.kind == "parameter" or not _is_number(layer) or len(item.spec.shape) > 1:
        return layer
    return parameter(".".join(filter(None, (layer.path, _leaf(item.spec.name)))), item.spec, item.sources)


def _leaf(name: str) -> str:
    return re.split(r"[./:]", re.sub(r":0$", "", name))[-1]


def _as_bare(layer: Layer, named: dict[str, Layer], net: Net, other: Net) -> Layer:
    stored = layer.readings[0].stored
    spec = stored[0].spec
    if layer.kind == "parameter" or len(stored) != 1 or len(spec.shape) != 1:
        return layer
    for path in (layer.path, ".".join(filter(None, (layer.path, _leaf(spec.name))))):
        counterpart = named.get(path)
        free = path == layer.path or (path not in net.by_path and layer.path not in other.by_path)
        if counterpart is not None and free and counterpart.tensors[0].shape == spec.shape:
            return parameter(path, spec, stored[0].sources)
    return layer


_UNWRAP = (
    "is normalised ({0}), and the source has no such pieces. Take the normalisation off the clone "
    "(torch.nn.utils.parametrize.remove_parametrizations) and save it again"
)
_OLD_CELL = (
    "is a cell of TensorFlow 1, CuDNN or Haiku ({0}), which is read, and written only for a source that has the same. "
    "Save a clone with today's layers (LSTM, GRU, SimpleRNN)"
)
#: What makes a tensor of its pieces (`Stored.fold`; not used where both nets have these) -> what each piece is, by
#: whatever name, and why a clone does not take the whole. (Old names and those of parametrizations go into each other.)
_PIECES: Mapping[type, tuple[tuple[str, ...], str]] = {
    FoldWeightNorm: (("magnitude", "direction"), _UNWRAP),
    FoldSpectralNorm: (("kernel", "left", "right"), _UNWRAP),
    **dict.fromkeys((JoinedGates, OfCudnn, SumOfHalves), ((), _OLD_CELL)),
}


def pieces_of(layer: Layer) -> frozenset[type]:
    """How the tensors are made of which the file has the pieces alone."""
    stored = (item for reading in layer.readings for item in reading.stored)
    return frozenset(type(item.fold) for item in stored if type(item.fold) in _PIECES)


def in_pieces(layer: Layer) -> Layer:
    """The layer as the tensors that the file holds of it; nothing but a layer of the same pieces can take them."""
    pieces = {piece.spec: piece for item in layer.readings[0].stored for piece in _pieces(item)}
    return replace(layer, readings=(Reading(UNKNOWN, tuple(pieces.values())),), unlikely=())


def _pieces(stored: Stored) -> list[Stored]:
    roles, _ = _PIECES.get(type(stored.fold), ((), ""))
    named = roles or ("", *map(str, range(1, len(stored.specs))))
    return [
        Stored(spec, Leaf(stored.leaf.name, (frozenset({f"{stored.leaf.name} {role}"}),), "*", "*"))
        for spec, role in zip(stored.specs, named, strict=True)
    ]


def not_whole(target: Layer) -> str:
    """The refusal of a clone that has tensors in pieces, where those of the source are not."""
    _, why = _PIECES[min(pieces_of(target), key=list(_PIECES).index)]
    return f"'{target.path}' of the clone {why.format(', '.join(spec.name for spec in target.tensors))}."
