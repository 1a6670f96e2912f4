"""Weight normalisation of Flax: the scales are kept by a module beside the layer, or around it.

In linen ``params/WeightNorm_0/fc/kernel/scale`` belongs to ``params/fc/kernel`` (flax/linen/normalization.py), in nnx
``fc/scales/('kernel',)`` to ``fc/layer_instance/kernel``, whose layer is ``fc`` then (flax/nnx/nn/normalization.py).
What ``SpectralNorm`` keeps is brought to its layer, too, and makes it a kind of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec.structs import replace

from converter.core.arithmetic import FoldWeightNorm
from converter.core.layers import join_path, split_path
from converter.frameworks.base import Part

#: What Flax adds to the sum of squares before its root, unless it is told otherwise.
EPSILON = 1e-12
_SPECTRAL = frozenset({"u", "sigma"})
#: What nnx calls the layer that it normalises; and what stands for the module, as linen would call it.
_INSTANCE, _MODULE = "layer_instance", "WeightNorm_0"


def folded(parts: Sequence[Part]) -> list[Part]:
    """The parts, with scales put together with their kernels, and spectral norms at the layers that they are of."""
    parts = _unwrapped(parts)
    by_name = {(part.path, part.leaf): part for part in parts}
    made: dict[int, Part] = {}
    scales: set[int] = set()
    for part in parts:
        owner = _owner(part)
        kernel = by_name.get(owner) if owner else None
        if kernel is None:
            continue
        if part.leaf in _SPECTRAL:
            made[id(part)] = replace(part, path=kernel.path, leaf=f"{kernel.leaf}.{part.leaf}", layer_class="")
        elif part.spec.shape in ((), kernel.spec.shape[-1:]):
            sources = (part.spec, kernel.spec)
            made[id(kernel)] = replace(kernel, sources=sources, fold=FoldWeightNorm(EPSILON))
            scales.add(id(part))
    return [made.get(id(part), part) for part in parts if id(part) not in scales]


def _unwrapped(parts: Sequence[Part]) -> list[Part]:
    """Layers that a module of nnx normalises under its path, with what it keeps of them named as in linen."""
    kept = {id(part): renamed for part in parts if (renamed := _kept(part))}
    around = {module for module, _ in kept.values()}
    result = []
    for part in parts:
        path = split_path(part.path)
        if id(part) in kept:
            result.append(kept[id(part)][1])
        elif _INSTANCE in path and join_path(path[: path.index(_INSTANCE)]) in around:
            place = path.index(_INSTANCE)
            result.append(replace(part, path=join_path((*path[:place], *path[place + 1 :]))))
        else:
            result.append(part)
    return result


def _kept(part: Part) -> tuple[str, Part] | None:
    """Of what a module of nnx keeps of a tensor of its layer: the module's path, and the part as linen names it."""
    path = split_path(part.path)
    names = re.findall(r"'([^']+)'", part.leaf) if re.fullmatch(r"\(('[^']+'(, )?,?)+\)", part.leaf) else []
    if not path or not names or path[-1] not in ("scales", "batch_stats"):
        return None
    *inside, leaf = [*names, "scale"] if path[-1] == "scales" else names
    return join_path(path[:-1]), replace(part, path=join_path((*path[:-1], _MODULE, *inside)), leaf=leaf)


def _owner(part: Part) -> tuple[str, str] | None:
    """Layer and leaf of what a scale or a spectral norm is for: ``net.WeightNorm_0.fc.kernel`` is ``net.fc``'s kernel.

    The module stands anywhere above the layer; the shortest path below it that leads somewhere is taken.
    """
    path = split_path(part.path)
    if part.leaf not in (*_SPECTRAL, "scale") or len(path) < 3:
        return None
    return join_path((*path[: _module(path)], *path[_module(path) + 1 : -1])), path[-1]


def _module(path: Sequence[str]) -> int:
    """Where the normalising module stands in the path: its own name, or the place before the layer."""
    named = (place for place, name in enumerate(path) if name.startswith(("WeightNorm_", "SpectralNorm_")))
    return next(named, len(path) - 3)
