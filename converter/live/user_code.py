"""Nets of the user's own code by name: ``package.module:Net``, a class, a function that makes a net, or a net."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from converter.core.tensors import DTYPES, Array
from converter.errors import ConversionError
from converter.live import open_net

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_name(text: object) -> bool:
    """Whether it names something in a module, and no file."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None and not os.path.exists(text)


def net_of(name: str) -> object:
    """Import it (from the current folder, too), and call it without arguments unless it is a net already.

    This runs the user's own code, as the user asks for. Raises ConversionError for whatever goes wrong there.
    """
    module, _, path = name.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        value: Any = importlib.import_module(module)
        for part in path.split("."):
            value = getattr(value, part)
        return value() if isinstance(value, type) or not _is_net(value) else value
    except Exception as error:
        raise ConversionError(f"{name}: {type(error).__name__}: {error}") from error


def _is_net(value: object) -> bool:
    try:
        open_net(value)
    except ConversionError:
        return False
    return True


def example_inputs(texts: tuple[str, ...]) -> tuple[Array, ...]:
    """``2,20`` -> random normal values of that shape (the same at each run); ``2,7:int64`` -> zeros and ones;
    ``x.npy`` and ``x.npz`` -> the arrays in that file.

    Raises ConversionError for a text that is neither a shape nor such a file.
    """
    return tuple(array for number, text in enumerate(texts) for array in _examples(text, np.random.default_rng(number)))


def _examples(text: str, rng: np.random.Generator) -> Iterable[Array]:
    if not text.endswith((".npy", ".npz")):
        return (_example(text, rng),)
    try:
        loaded = np.load(text, allow_pickle=False)
        return tuple(loaded.values()) if text.endswith(".npz") else (loaded,)
    except (OSError, ValueError) as error:
        raise ConversionError(f"'{text}' is no example input: {error}") from error


def _example(text: str, rng: np.random.Generator) -> Array:
    shape, _, dtype = text.partition(":")
    name = dtype or "float32"
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", shape) or name not in DTYPES:
        raise ConversionError(f"'{text}' is no example input. Give its shape, like 2,20 or 2,7:int64, or a .npy file.")
    sizes = [int(size) for size in shape.split(",")]
    if DTYPES[name].kind in "biu":
        return rng.integers(0, 2, sizes).astype(DTYPES[name])
    return rng.normal(size=sizes).astype(DTYPES[name])
