"""Tied tensors: one that a net uses twice, and that some files hold twice (PyTorch, MXNet), others once.

Names do not tell, so the contents are compared, but only of layers that nothing else explains. Tensors of one
number throughout prove nothing: every fresh net has many that are equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

import msgspec
import numpy as np
from msgspec.structs import replace

from converter.core.contents import LeftOut
from converter.core.layers import Layer, Net, Stored
from converter.core.tensors import Array, TensorSpec
from converter.frameworks.base import parameter

Read = Callable[[str], Array]
#: So many elements are looked at before all are.
_SAMPLE = 64


class Ties(msgspec.Struct, frozen=True):
    """The tied tensors of a matching: source tensors that are left out, and target tensor -> the one it is equal to."""

    left_out: tuple[LeftOut, ...] = ()
    copies: Mapping[str, str] = msgspec.field(default_factory=dict)


def tied_to(name: str) -> str:
    return f"tied to {name}"


def twins(layer: Layer, others: Iterable[TensorSpec], read: Read | None) -> Mapping[str, str] | None:
    """Each tensor of the layer -> the name of another that it is equal to, bit for bit; None unless all have one.

    A tensor that several layers share is no twin of itself: what another one has of it is not what this one has.
    """
    shared = {
        spec.name for reading in layer.readings for item in reading.stored if _is_shared(item) for spec in item.specs
    }
    known = [spec for spec in others if spec.name not in shared]
    equal: dict[str, str] = {}
    for spec in layer.tensors:
        twin = _twin(spec, known, read)
        if twin is None:
            return None
        equal[spec.name] = twin
    return equal or None


def _is_shared(stored: Stored) -> bool:
    return stored.is_part or not all(stored.leaf.roles)


def all_equal(layers: Sequence[Layer], read: Read | None) -> bool:
    """Whether they are the same tensors, bit for bit."""
    return all(twins(layer, layers[0].tensors, read) for layer in layers[1:])


def loosened(net: Net, other: Net) -> tuple[Net, Mapping[str, str]]:
    """The net with each output layer that is tied in all but its bias as that bias alone, where the other net has no
    more of it; and each matrix that is left out so -> the tensor that it is equal to.
    """
    lone = {layer.path: layer.tensors[0] for layer in other.layers if len(layer.tensors) == 1}
    layers: list[Layer] = []
    repeated: dict[str, str] = {}
    for layer in net.layers:
        bias, rest = _bias_alone(layer, lone)
        equal = twins(rest, _others(net, layer), net.read) if bias and rest else None
        if bias is None or equal is None:
            layers.append(layer)
        else:
            layers.append(bias)
            repeated |= equal
    return replace(net, layers=tuple(layers)), repeated


def _bias_alone(layer: Layer, lone: Mapping[str, TensorSpec]) -> tuple[Layer | None, Layer | None]:
    """The layer as a bias that the other net has under this name, and as all but that bias."""
    reading = next((reading for reading in layer.readings if reading.kind == "linear"), None)
    bias = [item for item in reading.stored if item.leaf.roles == (frozenset({"bias"}),)] if reading else []
    if reading is None or len(bias) != 1 or len(reading.stored) != 2:
        return None, None
    leaf = re.split(r"[./:]", re.sub(r":0$", "", bias[0].spec.name))[-1]
    path = next((path for path in (layer.path, f"{layer.path}.{leaf}") if path in lone), None)
    if path is None or lone[path].shape != bias[0].spec.shape:
        return None, None
    kernel = tuple(item for item in reading.stored if item not in bias)
    return parameter(path, bias[0].spec, bias[0].sources), replace(layer, readings=(replace(reading, stored=kernel),))


def _others(net: Net, layer: Layer) -> list[TensorSpec]:
    return [spec for other in net.layers if other.path != layer.path for spec in other.tensors]


def _twin(spec: TensorSpec, others: Iterable[TensorSpec], read: Read | None) -> str | None:
    alike = [other for other in others if (other.shape, other.dtype) == (spec.shape, spec.dtype)]
    if any(other.name == spec.name for other in alike):  # a neutral file holds it once, under two names
        return spec.name
    if not alike or read is None or -1 in spec.shape:
        return None
    bits = _bits(read(spec.name))
    equal = (other.name for other in alike if np.array_equal(bits, _bits(read(other.name))))
    return next(equal, None) if _tells(bits) else None


def _tells(bits: Array) -> bool:
    """Whether another tensor with these contents must be the same one."""
    return bits.size > 1 and not (bool((bits[:_SAMPLE] == bits[0]).all()) and bool((bits == bits[0]).all()))


def _bits(array: Array) -> Array:
    """The elements as they are stored, so that NaNs are equal, too."""
    width = array.dtype.itemsize
    return np.ascontiguousarray(array).reshape(-1).view(f"u{width}" if width in (1, 2, 4, 8) else f"V{width}")


def aliases(specs: Sequence[TensorSpec], net: Net) -> Mapping[str, str]:
    """Each tensor that repeats one before it -> that one. Reads no more than those that look like others."""
    from xxhash import xxh3_128_digest

    assert net.read is not None, "there are no data to compare"
    first: dict[object, str] = {}
    repeats: dict[str, str] = {}
    for alike in _alike(specs, net.peek or net.read, net.digest or (lambda name: None)):
        for spec in alike:
            bits = _bits(net.read(spec.name))
            if _tells(bits):
                twin = first.setdefault((spec.shape, spec.dtype, xxh3_128_digest(bits.data)), spec.name)
                repeats |= {spec.name: twin} if twin != spec.name else {}
    return repeats


def _alike(specs: Sequence[TensorSpec], peek: Read, digest: Callable[[str], Hashable]) -> Iterator[list[TensorSpec]]:
    """Tensors of one shape, several in each list, that have the same checksum in the file, or the same ends."""
    shapes: dict[object, list[TensorSpec]] = {}
    for spec in specs:
        shapes.setdefault((spec.shape, spec.dtype), []).append(spec)
    for same_shape in (group for group in shapes.values() if len(group) > 1):
        marks = [digest(spec.name) for spec in same_shape]
        if None in marks:  # then all are compared in the same way
            marks = [_ends(peek(spec.name)) for spec in same_shape]
        groups: dict[Hashable, list[TensorSpec]] = {}
        for spec, mark in zip(same_shape, marks, strict=True):
            groups.setdefault(mark, []).append(spec)
        yield from (group for group in groups.values() if len(group) > 1)


def _ends(array: Array) -> Hashable:
    flat = array.reshape(-1)
    return flat[:_SAMPLE].tobytes(), flat[-_SAMPLE:].tobytes()
