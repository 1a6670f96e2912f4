"""The usual case: a kernel that could be one of a convolution or of a transposed one is that of a convolution.

Unless its name says transposed, or the norm behind it has as many channels as only a transposed one gives. Where a net
has such layers, one of which nothing tells is asked about.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import msgspec
from msgspec.structs import replace

from converter.core.layers import Layer, Net, Reading, sizes_of, split_path
from converter.matching.words import tokens_in

#: What is said of a layer that is taken so.
_AS_USUAL = "a convolution, as is usual"
_CONV, _TRANSPOSED = "conv", "conv_transpose"
#: Words for a transposed convolution, and words that may be for one.
_SAY_SO = frozenset("transpose transposed deconv deconvolution convt tconv upconv convtranspose".split())
_MAY_SAY_SO = frozenset("up upsample upsampling upscale upscaling unpool decoder generator gen dec".split())


class Usual(msgspec.Struct, frozen=True):
    """What each layer that could be either convolution is likely to be, by its path; taken: those of them of which
    nothing tells.
    """

    kinds: Mapping[str, str]
    taken: frozenset[str]

    def of(self, layer: Layer) -> Layer:
        """The layer as what it is likely to be; as it is where somebody has said that already."""
        kind = self.kinds.get(layer.path, "")
        return _of_kind(layer, kind) if kind and _is_open(layer) else layer

    def reason(self, path: str, reason: str) -> str:
        return f"{reason}; {_AS_USUAL}" if path in self.taken else reason


def usual(net: Net) -> Usual:
    open_ = {layer.path for layer in net.layers if _is_open(layer)}
    told = {path: kind for path in open_ if (kind := _named(path))} | (_by_norm(net, open_) if open_ else {})
    silent = open_ - told.keys()
    has_transposed = _TRANSPOSED in told.values() or any(layer.kind == _TRANSPOSED for layer in net.layers)
    taken = frozenset() if has_transposed else frozenset(path for path in silent if not _may_say_so(path))
    return Usual(told | dict.fromkeys(taken, _CONV), taken)


def _is_open(layer: Layer) -> bool:
    return {reading.kind for reading in layer.readings} >= {_CONV, _TRANSPOSED}


def _named(path: str) -> str:
    return _TRANSPOSED if _words(path) & _SAY_SO else ""


def _may_say_so(path: str) -> bool:
    return bool(_words(path) & _MAY_SAY_SO)


def _words(path: str) -> frozenset[str]:
    return frozenset((*tokens_in(path), *(part.lower().replace("_", "") for part in split_path(path))))


def _by_norm(net: Net, open_: set[str]) -> dict[str, str]:
    """What the channels of the norm behind a layer in its module tell, in a file that keeps the order of definition."""
    told: dict[str, str] = {}
    for layer, behind in pairwise(net.layers) if net.ordered else ():
        together = split_path(layer.path)[:-1] == split_path(behind.path)[:-1]
        channels = sizes_of(behind).outputs if together and sizes_of(behind).flow == "norm" else 0
        if layer.path in open_ and channels:
            kinds = {reading.kind for reading in layer.readings if _outputs(layer, reading) == channels}
            if len(kinds) == 1:
                told[layer.path] = kinds.pop()
    return told


def _outputs(layer: Layer, reading: Reading) -> int:
    return sizes_of(replace(layer, readings=(reading,))).outputs


def _of_kind(layer: Layer, kind: str) -> Layer:
    other = _TRANSPOSED if kind == _CONV else _CONV
    return replace(layer, readings=tuple(reading for reading in layer.readings if reading.kind != other))
