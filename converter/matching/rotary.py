"""Rotary positions: which features of a head are rotated together, neighbours or those of its two halves.

Meta's Llama and GPT-J rotate neighbours, Hugging Face's Llama and GPT-NeoX halves; the rows of queries and keys stand
in another order for each (`permute` of transformers/models/llama/convert_llama_weights_to_hf.py). No shape tells it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from msgspec.structs import replace

from converter.core.axes import groups
from converter.core.layers import Net, Stored
from converter.core.ops import Turn
from converter.errors import MatchError, Problem, Remedy
from converter.matching.compatibility import shapes

#: Queries and keys by the names of Meta, which rotates neighbours, and of Hugging Face, which rotates halves.
_NEIGHBOURS = re.compile(r"(^|[./])attention[./]w[qk]($|[./])")
_HALVES = re.compile(r"(^|[./])self_attn[./][qk]_proj($|[./])")

_EITHER_WAY = ((_NEIGHBOURS, _HALVES), (_HALVES, _NEIGHBOURS))
#: How a user says it.
_STATED = re.compile(r"([1-9][0-9]{0,8}):(halves|neighbours)")


def differ(source: str, target: str) -> bool:
    """Whether by these names one rotates neighbours, and the other halves."""
    return any(one.search(source) and other.search(target) for one, other in _EITHER_WAY)


def with_rotary(net: Net, rotary: Mapping[str, str], covering: Callable[[Iterable[str], str], str | None]) -> Net:
    """The net with the outputs of these layers in the order that the clone rotates. Raises MatchError.

    rotary: pattern of layers -> ``32:halves``, heads and what is rotated. covering: the one that a path falls under.
    """
    if not rotary:
        return net
    problems: list[str | Problem] = []
    layers = []
    for layer in net.layers:
        pattern = covering(rotary, layer.path)
        linear = tuple(reading for reading in layer.readings if reading.kind == "linear")
        if pattern is None or not linear:
            layers.append(layer)
            continue
        stated = _STATED.fullmatch(rotary[pattern])
        about = Remedy("rotary", (pattern, rotary[pattern]))
        if stated is None:
            text = (
                f"'{rotary[pattern]}' is no number of heads with what the clone rotates, as 32:halves or 32:neighbours."
            )
            raise MatchError([Problem(text, "option", pattern, about=about)])
        turned = replace(layer, readings=linear).with_tensors(partial(_reordered, int(stated[1]), stated[2]))
        if any(item.fold is None for reading in turned.readings for item in reading.stored):
            text = f"'{layer.path}' ({shapes(layer)}) has no {stated[1]} heads of two halves."
            problems.append(Problem(text, "option", layer.path, about=about))
        layers.append(turned)
    if problems:
        raise MatchError(problems)
    return replace(net, layers=tuple(layers))


def _reordered(heads: int, order: str, stored: Stored) -> Stored:
    """The tensor as it was where its outputs are no such heads, or where it is made of others."""
    axes = groups(stored.leaf.axes, len(stored.spec.shape)) or ()
    axis = axes.index(("out",)) if ("out",) in axes else None
    if axis is None or stored.fold is not None or stored.spec.shape[axis] % (2 * heads):
        return stored
    half = stored.spec.shape[axis] // (2 * heads)
    part = (half, 2) if order == "halves" else (2, half)
    return replace(stored, sources=stored.specs, fold=Turn(axis, (part,) * heads))
