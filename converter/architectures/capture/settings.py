"""How settings of a live layer are read: sizes and paddings; settings outside the vocabulary are refused.

``same`` depends on the size of the input and becomes numbers; a padding that is a step of its own becomes an option of
the layer after it, where that can have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import structs

from converter.architectures import vocabulary as v


class RefusedError(Exception):
    """Why a layer or function is outside the vocabulary, as the end of a sentence: ``which has groups=2``."""


def only(layer: Any, **settings: Any) -> None:
    """Raises RefusedError for a setting with another value than the one that all frameworks share."""
    for name, expected in settings.items():
        setting = getattr(layer, name)
        if setting != expected:
            raise RefusedError(f"which has {name}={setting}")


def sizes(value: int | Sequence[int]) -> Any:
    """One number if all axes are equal, otherwise one for each."""
    if isinstance(value, int):
        return value
    each = tuple(int(size) for size in value)
    return each[0] if len(set(each)) == 1 else each


class LowestPad(v.NetStep, frozen=True, kw_only=True):
    """Padding with minus infinity before a max pool. No step of the vocabulary: it is merged into the pool."""

    padding: tuple[tuple[int, int], ...]


def same(space: Sequence[int | None], windows: Sequence[int], strides: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The padding ``same`` as (before, after) for each axis. Raises RefusedError if it depends on an unknown size."""
    pairs = []
    for size, window, stride in zip(space, windows, strides, strict=True):
        if size is None and stride > 1:
            raise RefusedError("which pads 'same' with strides, by the size of the image: give an example_input")
        positions = -(-(size or 0) // stride)
        total = window - 1 if stride == 1 else max((positions - 1) * stride + window - (size or 0), 0)
        pairs.append((total // 2, total - total // 2))
    return tuple(pairs)


def as_steps_and_option(pairs: Sequence[tuple[int, int]]) -> tuple[list[v.NetStep], Any]:
    """An explicit zero-pad step where the sides differ, and the padding option of the layer itself."""
    if any(before != after for before, after in pairs):
        return [v.ZeroPad(padding=tuple(pairs))], 0
    return [], sizes([before for before, _ in pairs])


def with_pads_merged(steps: Iterable[Any]) -> list[Any]:
    """The steps with every pad merged into the layer after it, if that has an equal padding option."""
    result: list[Any] = []
    for step in steps:
        before = result[-1] if result else None
        if isinstance(before, v.ZeroPad | LowestPad) and _takes(step, before):
            result[-1] = structs.replace(step, padding=sizes([first for first, _ in before.padding]))
        else:
            result.append(step)
    return result


def _takes(step: Any, pad: v.ZeroPad | LowestPad) -> bool:
    if any(before != after for before, after in pad.padding) or getattr(step, "padding", None) != 0:
        return False
    if isinstance(pad, LowestPad):
        return isinstance(step, v.MaxPool)
    return isinstance(step, v.Conv) or (isinstance(step, v.AveragePool) and step.count_padding)
