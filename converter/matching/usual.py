"""The usual case: a kernel that could be one of a convolution or of a transposed one is that of a convolution.

Unless its name says transposed, or the norm behind it has as many channels as only a transposed one gives. Where a net
has such layers, one of which nothing tells is asked about.
"""

from __future__ import annotations

from itertools import pairwise

from msgspec.structs import replace

from converter.core.layers import Layer, Net, Reading, sizes_of, split_path
from converter.matching.words import tokens_of

#: What is said of a layer that is taken so.
AS_USUAL = "a convolution, as is usual"
_CONV, _TRANSPOSED = "conv", "conv_transpose"
CONVOLUTIONS = frozenset({_CONV, _TRANSPOSED})
#: Words for a transposed convolution, and words that may be for one.
_SAY_SO = frozenset("transpose transposed deconv deconvolution convt tconv upconv convtranspose".split())
_MAY_SAY_SO = frozenset("up upsample upsampling upscale upscaling unpool decoder generator gen dec".split())


def usual(net: Net) -> tuple[Net, frozenset[str]]:
    """The net with each such layer as what it is likely to be, and the paths of those that are taken as is usual."""
    open_ = {layer.path for layer in net.layers if {r.kind for r in layer.readings} >= CONVOLUTIONS}
    if not open_:
        return net, frozenset()
    told = {path: kind for path in open_ if (kind := _named(path))} | _by_norm(net, open_)
    silent = open_ - told.keys()
    has_transposed = _TRANSPOSED in told.values() or any(layer.kind == _TRANSPOSED for layer in net.layers)
    taken = frozenset() if has_transposed else frozenset(path for path in silent if not _may_say_so(path))
    told |= dict.fromkeys(taken, _CONV)
    layers = tuple(_of_kind(layer, told[layer.path]) if layer.path in told else layer for layer in net.layers)
    return replace(net, layers=layers), taken


def _named(path: str) -> str:
    return _TRANSPOSED if _words(path) & _SAY_SO else ""


def _may_say_so(path: str) -> bool:
    return bool(_words(path) & _MAY_SAY_SO)


def _words(path: str) -> frozenset[str]:
    return frozenset(token for part in split_path(path) for token in (*tokens_of(part), part.lower().replace("_", "")))


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
