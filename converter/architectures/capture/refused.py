"""What the tables of all frameworks have in common: how sizes are read, and how a setting is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


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
