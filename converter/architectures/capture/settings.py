"""How the settings of a live layer are read: sizes and paddings, and what is refused of them.

``same`` depends on the size of the input and becomes numbers; a padding that is a step of its own becomes an option of
the layer after it, where that can have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import structs

from converter.architectures import vocabulary as v


class RefusedError(Exception):
    """Why a layer or a function is none of the vocabulary, as the end of a sentence: ``which has groups=2``."""


def only(layer: Any, **wanted: Any) -> None:
    """Raises RefusedError for a setting that not all frameworks have."""
    for name, value in wanted.items():
        found = getattr(layer, name)
        if found != value:
            raise RefusedError(f"which has {name}={found}")


def sizes(value: int | Sequence[int]) -> Any:
    """One number, or one for each axis where these differ."""
    if isinstance(value, int):
        return value
    found = tuple(int(size) for size in value)
    return found[0] if len(set(found)) == 1 else found


class LowestPad(v.NetStep, frozen=True, kw_only=True):
    """Minus infinity around space, which no maximum takes: of a net, and no step of the vocabulary."""

    padding: tuple[tuple[int, int], ...]


def same(space: Sequence[int | None], windows: Sequence[int], strides: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """For each axis how many before and behind. Raises RefusedError where that depends on sizes that are not known."""
    pairs = []
    for size, window, stride in zip(space, windows, strides, strict=True):
        if size is None and stride > 1:
            raise RefusedError("which pads 'same' with strides, by the size of the image: give an example_input")
        places = -(-(size or 0) // stride)
        total = window - 1 if stride == 1 else max((places - 1) * stride + window - (size or 0), 0)
        pairs.append((total // 2, total - total // 2))
    return tuple(pairs)


def around(pairs: Sequence[tuple[int, int]]) -> tuple[list[v.NetStep], Any]:
    """Zeros before a layer, where it cannot have them itself, and those that it has, as many on both sides."""
    if any(before != behind for before, behind in pairs):
        return [v.ZeroPad(padding=tuple(pairs))], 0
    return [], sizes([before for before, _ in pairs])


def merged(steps: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for step in steps:
        before = found[-1] if found else None
        if isinstance(before, v.ZeroPad | LowestPad) and _takes(step, before):
            found[-1] = structs.replace(step, padding=sizes([first for first, _ in before.padding]))
        else:
            found.append(step)
    return found


def _takes(step: Any, pad: v.ZeroPad | LowestPad) -> bool:
    if any(before != behind for before, behind in pad.padding) or getattr(step, "padding", None) != 0:
        return False
    if isinstance(pad, LowestPad):
        return isinstance(step, v.MaxPool)
    return isinstance(step, v.Conv) or (isinstance(step, v.AveragePool) and step.count_padding)
