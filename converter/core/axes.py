"""Axis orders as text, in the notation of einops: ``"(g h) in"`` is a matrix whose rows count g times h.

``+`` stands for one or more axes that keep their order (spatial ones), ``*`` for any number of them, ``~+``
for spatial axes that run backwards, ``1`` for an axis of size one and ``1*`` for any number of those;
``side=2`` is an axis of that size.
From two orders of the same axes `rearrangement` derives the operations that lead from one to the other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from converter.core.ops import Flip, Op, Repeat, Reshape, Transpose, simplified

Axes = str
#: The axes that one axis of an array is made of, slowest first; none for an axis of size one.
Group = tuple[str, ...]
#: Sizes of named axes, sorted by name, so that they can be compared and hashed.
Sizes = tuple[tuple[str, int], ...]

#: Axes that only one side has: there each value stands as often as the axis is long.
REPEATED = frozenset({"each"})

_WILD = {"+": 1, "~+": 1, "*": 0, "1*": 0}


@lru_cache(maxsize=4096)
def groups(axes: Axes, ndim: int) -> tuple[Group, ...] | None:
    """What each of ``ndim`` axes is made of; None when an array of so many axes cannot have this order."""
    tokens = re.findall(r"\(.*?\)|\S+", axes)
    free = ndim - sum(token not in _WILD for token in tokens)
    wild = [token for token in tokens if token in _WILD]
    if free < sum(_WILD[token] for token in wild) or (free and not wild):
        return None
    axes_of: list[Group] = []
    for token in tokens:
        if token in _WILD:
            axes_of += [() if token == "1*" else (f"+{i}",) for i in range(free)]
        else:
            axes_of.append(tuple(word for word in token.strip("()").split() if word != "1"))
    return tuple(axes_of)


@lru_cache(maxsize=4096)
def wild_axes(axes: Axes, ndim: int) -> int:
    """How many axes the wildcard of this order stands for in an array of ``ndim`` axes."""
    return ndim - sum(token not in _WILD for token in re.findall(r"\(.*?\)|\S+", axes))


@lru_cache(maxsize=4096)
def ndim_of(axes: Axes, wild: int) -> int:
    """The number of axes of an array of this order, when its wildcard stands for ``wild`` of them."""
    tokens = re.findall(r"\(.*?\)|\S+", axes)
    return sum(wild if token in _WILD else 1 for token in tokens)


def solve(constraints: Iterable[tuple[Group, int]], known: Mapping[str, int]) -> dict[str, int] | None:
    """The size of each axis from the sizes of their products (-1: unknown); None when they contradict.

    An axis that they do not determine is left out.
    """
    waiting = [(group, size) for group, size in constraints if size != -1]
    sizes = {axis: int(axis.partition("=")[2]) for group, _ in waiting for axis in group if "=" in axis} | dict(known)
    while waiting:
        later = []
        for group, size in waiting:
            unknown = [axis for axis in group if axis not in sizes]
            product = math.prod(sizes[axis] for axis in group if axis in sizes)
            if len(unknown) > 1:
                later.append((group, size))
            elif not unknown:
                if product != size:
                    return None
            elif product == 0 or size % product:
                return None
            else:
                sizes[unknown[0]] = size // product
        if len(later) == len(waiting):
            break
        waiting = later
    return sizes


@lru_cache(maxsize=4096)
def rearrangement(before: Axes, after: Axes, shape: tuple[int, ...], sizes: Sizes) -> tuple[Op, ...] | None:
    """The operations that take an array of this shape from one axis order to the other.

    ``sizes`` holds the axes that the shape alone does not tell. None when the shape does not fit, or when
    an axis that must be taken apart has an unknown size.
    """
    have = groups(before, len(shape))
    want = groups(after, ndim_of(after, wild_axes(before, len(shape)))) if have is not None else None
    if have is None or want is None:
        return None
    whole = [group for group in have if len(group) > 1 and group in want]  # kept together: no need to know its parts
    have, want = _fused(have, whole), _fused(want, whole)
    size_of = solve(zip(have, shape, strict=True), dict(sizes))
    atoms = [axis for group in have for axis in group]
    order = [axis for group in want for axis in group]
    repeated = [axis for axis in order if axis in REPEATED and axis not in atoms]
    apart, atoms = atoms, [*atoms, *repeated]
    if size_of is None or sorted(atoms) != sorted(order) or any(axis not in size_of for axis in atoms):
        return None
    turned = tuple(size_of[axis] for axis in order)
    together = tuple(math.prod(size_of[axis] for axis in group) for group in want)
    backwards = ("~" in before) != ("~" in after)
    ops: list[Op] = [Reshape(tuple(size_of[axis] for axis in apart), shape)]
    ops += [Repeat(size_of[axis]) for axis in repeated]
    if backwards:
        ops.append(Flip(tuple(i for i, axis in enumerate(atoms) if axis.startswith("+"))))
    ops += [Transpose(tuple(atoms.index(axis) for axis in order)), Reshape(together, turned)]
    return simplified(ops)


def _fused(order: tuple[Group, ...], whole: list[Group]) -> tuple[Group, ...]:
    return tuple((" ".join(group),) if group in whole else group for group in order)
