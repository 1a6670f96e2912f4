"""The values of a pickle that are no built-in types: globals, instances of unknown classes, unfinished objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np


class PickleError(ValueError):
    """What is wrong with a pickle; `load` adds the file and the position. Functions of `known` may raise it too."""


class UnsafePickleError(PickleError):
    """The pickle asks for something to be called that is not data."""


class Global(msgspec.Struct, frozen=True, eq=False):
    """A class or function that the pickle mentions. `make` is called instead of it; None: it may not be called."""

    name: str
    make: Callable[..., object] | None


class Opaque:
    """An instance of a class that is not imported: the name of the class, and what the pickle says of it."""

    __slots__ = ("args", "items", "mapping", "name", "state")

    def __init__(self, name: str, args: tuple[object, ...] = ()) -> None:
        self.name = name
        self.args = args
        self.state: object = None
        self.items: list[object] = []
        self.mapping: dict[object, object] = {}

    def __repr__(self) -> str:
        """As the name of a key: ``Colour(1)``."""
        simple = [repr(arg) if isinstance(arg, (str, bool, int, float, type(None))) else "..." for arg in self.args]
        return f"{self.name.split()[-1]}({', '.join(simple)})"

    @property
    def attributes(self) -> dict[object, object]:
        """The attributes: the state, which is a dict, or a pair (dict, slots)."""
        parts = self.state if isinstance(self.state, tuple) and len(self.state) == 2 else (self.state,)
        return {key: value for part in parts if isinstance(part, dict) for key, value in part.items()}


class Ordered(dict[Any, Any]):
    """An ``OrderedDict``: a dict that may have attributes. state: these, or None."""

    __slots__ = ("state",)

    def __init__(self, items: Mapping[Any, Any]) -> None:
        super().__init__(items)
        self.state: object = None


class Shell:
    """An object that is made in two steps: a call first, its state (BUILD) later.

    A subclass defines `finish(state)`, which returns the finished object; that replaces the shell.
    """

    finished: object = None

    def finish(self, state: object) -> object:
        raise NotImplementedError


def has_simple_hash(key: object) -> bool:
    """Whether nobody can choose many such keys of one hash: text (its hash is random), numbers up to 64 bits."""
    if isinstance(key, tuple):
        return all(isinstance(part, str) for part in key)
    if isinstance(key, int):
        return key.bit_length() <= 64
    return key is None or isinstance(key, (str, bytes, float, Opaque, Global))


def is_small_key(key: object, depth: int = 0) -> bool:
    if isinstance(key, tuple):
        return depth < 4 and len(key) <= 16 and all(is_small_key(part, depth + 1) for part in key)
    return (
        isinstance(key, (complex, np.generic))
        or (has_simple_hash(key) and not isinstance(key, int))
        or (isinstance(key, int) and key.bit_length() <= 1024)
    )
