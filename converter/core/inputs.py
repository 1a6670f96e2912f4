"""What a net is called with, in whatever way it takes that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from converter.core.tensors import Array


class Inputs(msgspec.Struct, frozen=True):
    """args: by position. keywords: by name.

    Each is an array, a dict of them, or what a net takes as it is: None for an argument that is left out, True, a word.
    """

    args: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = {}

    def __bool__(self) -> bool:
        return bool(self.args or self.keywords)

    def __str__(self) -> str:
        named = [("", value) for value in self.args] + [(f"{name}: ", value) for name, value in self.keywords.items()]
        return ", ".join(name + _told(value) for name, value in named)

    def map(self, change: Callable[[Array], Any]) -> Inputs:
        """With each array changed."""
        return Inputs(tuple(_changed(value, change) for value in self.args), _changed(self.keywords, change))


def _changed(value: Any, change: Callable[[Array], Any]) -> Any:
    if isinstance(value, Mapping):
        return {name: _changed(item, change) for name, item in value.items()}
    return change(value) if isinstance(value, np.ndarray) else value


def _told(value: Any) -> str:
    return f"{value.dtype.name} {value.shape}" if isinstance(value, np.ndarray) else repr(value)
