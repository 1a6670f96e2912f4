"""What the paths of a net tell beside the names: an order that is true, and the tail that two names share.

The order of a file is that in which the layers were made, or of the alphabet; neither says in which order
they are called. Numbers that a framework itself gives do: the children of a Sequential (``net.0``, ``net.2``,
``layers_0``), and the layers that are counted by class (``dense``, ``dense_1``; ``Conv_0``, ``Conv_1``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cmp_to_key

from converter.frameworks import FRAMEWORKS
from converter.layers import Layer, Net, split_path

#: Names that get a number by themselves: of classes, and of the containers of Keras and Flax.
_COUNTED = frozenset(
    {name for row in FRAMEWORKS for name in row.classes} | {"sequential", "functional", "model", "layers", "conv"}
)


class _UnknownError(Exception):
    """Two layers of which none is known to come first."""


def true_order(net: Net, layers: Iterable[Layer]) -> list[Layer] | None:
    """The layers in the order in which they are called; None where only the file's order is known."""
    position = {layer.path: place for place, layer in enumerate(net.layers)}

    def compare(first: Layer, second: Layer) -> int:
        for one, other in zip(split_path(first.path), split_path(second.path), strict=False):
            if one == other:
                continue
            ours, theirs = _counted(one), _counted(other)
            if ours is None or theirs is None:
                break
            if ours[0] == theirs[0]:
                return ours[1] - theirs[1]
            if net.ordered and net.framework == "tensorflow":  # Keras writes the layers of a model in its order
                return position[first.path] - position[second.path]
            break
        raise _UnknownError

    try:
        return sorted(layers, key=cmp_to_key(compare))
    except _UnknownError:
        return None


def _counted(name: str) -> tuple[str, int] | None:
    """``dense_2`` -> ("dense", 2), ``dense`` -> ("dense", 0), ``7`` -> ("", 7); None for a name of the user's."""
    if name.isdecimal():
        return "", int(name)
    found = re.fullmatch(r"(.*?\D)(?:_?(\d+))?", name)
    stem = found[1].rstrip("_") if found else ""
    automatic = stem in _COUNTED or re.fullmatch(r"[A-Z]\w*_\d+", name)
    return (stem, int(found[2] or 0)) if found and automatic else None


def numbered_alike(sources: Iterable[str], targets: Iterable[str]) -> frozenset[str]:
    """Paths, numbers aside, whose numbers mean the same on both sides because both have the same ones.

    One Sequential counts activations and the other does not: ``2`` is then another layer in each.
    """
    ours, theirs = _numbers(sources), _numbers(targets)
    return frozenset(pattern for pattern in ours if ours[pattern] == theirs.get(pattern))


def _numbers(paths: Iterable[str]) -> Mapping[str, set[tuple[str, ...]]]:
    found: dict[str, set[tuple[str, ...]]] = {}
    for path in paths:
        found.setdefault(without_numbers(path), set()).add(tuple(re.findall(r"\d+", path)))
    return found


def without_numbers(path: str) -> str:
    """``net.0.fc`` and ``net.12.fc`` -> the same text."""
    return re.sub(r"[\W_]*\d+[\W_]*", "#", path).casefold()


def is_numbered(path: str) -> bool:
    """Whether some part of it is a number or an automatic name, and not the user's word."""
    return any(_counted(part) is not None for part in split_path(path))


def same_tails(sources: Mapping[str, Layer], targets: Mapping[str, Layer]) -> list[tuple[Layer, Layer]]:
    """Layers whose names end alike, as no other names do: ``model.encoder.fc`` and ``encoder/fc``; longest first.

    A tail of numbers and automatic names says nothing.
    """
    depth = max((len(split_path(path)) for path in (*sources, *targets)), default=0)
    free, wanted = dict(sources), dict(targets)
    found = []
    for length in range(depth, 0, -1):
        ours, theirs = _by_tail(free.values(), length), _by_tail(wanted.values(), length)
        for tail, layers in theirs.items():
            if len(layers) == len(ours.get(tail, ())) == 1:
                found.append((ours[tail][0], layers[0]))
                del free[ours[tail][0].path], wanted[layers[0].path]
    return found


def _by_tail(layers: Iterable[Layer], length: int) -> Mapping[str, list[Layer]]:
    result: dict[str, list[Layer]] = {}
    for layer in layers:
        parts = split_path(layer.path)
        if len(parts) >= length and any(_counted(part) is None for part in parts[-length:]):
            result.setdefault(_plain(parts[-length:]), []).append(layer)
    return result


def _plain(parts: Sequence[str]) -> str:
    return ".".join(re.sub(r"[\W_]", "", part).casefold() for part in parts)
