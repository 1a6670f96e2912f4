"""What a PyTorch file holds of a training: the state of its optimizers, as plain dicts and lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from converter.core.tensors import DTYPES, Array, TensorSpec
from converter.errors import FormatError
from converter.formats.base import StateTensor
from converter.formats.pickle.load import PickleError
from converter.formats.pickle.nested import MAX_DEPTH
from converter.formats.torch.tensors import FileTensor, StridedTensor, TorchFile

__all__ = ["PLACE", "TIED", "training_in"]

#: Where `training_in` has the names of weights that are one tensor: further name -> the first one.
TIED = "tied weights"
#: Where it has the place of the weights in the object of the file.
PLACE = "place of the weights"
#: The keys of ``torch.optim.Optimizer.state_dict()``.
_OPTIMIZER = {"state", "param_groups"}
#: Levels of containers in which an optimizer is looked for, and items of each.
_LEVELS, _LOOKED_AT = 4, 10_000
#: Bytes that a container or a value of a state takes, which a shared one takes again.
_VALUE = 300


def training_in(
    root: object, path: Path, file: TorchFile, weights: Mapping[str, FileTensor | Array], place: str
) -> Mapping[str, Any]:
    """Place -> the ``state_dict`` of an optimizer there; the numbers beside it; `TIED` and `PLACE`. Raises FormatError.

    place: that of the weights.
    """
    plain = _Plain(path, file)
    found = {place: plain.of(value, place) for place, value in _optimizers(root, "", _LEVELS)}
    items = root.items() if isinstance(root, dict) else ()
    numbers = {str(key): value for key, value in items if isinstance(value, int | float) and not isinstance(key, int)}
    return {**numbers, **found, TIED: _tied(weights), PLACE: place}


def _optimizers(value: object, place: str, levels: int) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        if value.keys() >= _OPTIMIZER and isinstance(value["param_groups"], list):
            yield place, value
            return
        items: list[tuple[object, object]] = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    else:
        return
    if levels:
        for key, item in items[:_LOOKED_AT]:
            yield from _optimizers(item, f"{place}/{key}" if place else str(key), levels - 1)


def _tied(weights: Mapping[str, FileTensor | Array]) -> dict[str, str]:
    """Names of one tensor; an optimizer counts it once, under its first name."""
    first: dict[object, str] = {}
    tied: dict[str, str] = {}
    for name, leaf in weights.items():
        if isinstance(leaf, StridedTensor) and 0 not in leaf.shape:
            same = (leaf.storage.key, leaf.storage.begin, leaf.offset, leaf.shape, leaf.stride)
            known = first.setdefault(same, name)
            if known != name:
                tied[name] = known
    return tied


class _Plain:
    """Makes plain values of what a pickle described. What is shared is made anew each time, and charged."""

    def __init__(self, path: Path, file: TorchFile) -> None:
        self._path, self._file = path, file

    def of(self, value: object, name: str, depth: int = 0) -> object:
        if depth > MAX_DEPTH:
            raise FormatError(self._path, f"containers nested deeper than {MAX_DEPTH} levels, at '{name[:60]}'")
        self._file.budget.charge(_VALUE + len(name), "the state of its optimizer")
        if isinstance(value, dict):
            return {key: self.of(item, f"{name}/{key}", depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.of(item, f"{name}/{index}", depth + 1) for index, item in enumerate(value)]
        if isinstance(value, FileTensor) or (isinstance(value, np.ndarray) and value.dtype in _NUMBERS):
            return self._tensor(value, name)
        return value if isinstance(value, bool | int | float | str) else None

    def _tensor(self, leaf: FileTensor | Array, name: str) -> StateTensor:
        if isinstance(leaf, FileTensor):
            try:
                leaf.check(self._file)
            except PickleError as error:
                raise FormatError(self._path, f"'{name}': {error}") from None
        spec = TensorSpec(name, tuple(leaf.shape), leaf.dtype)
        return StateTensor(spec, partial(_read, leaf, name, self._path, self._file))


_NUMBERS = frozenset(DTYPES.values())


def _read(leaf: FileTensor | Array, name: str, path: Path, file: TorchFile) -> Array:
    if isinstance(leaf, np.ndarray):
        return leaf
    try:
        with file.budget.lent(leaf.beyond, f"the whole of '{name}'"):
            return leaf.read(file)
    except PickleError as error:
        raise FormatError(path, f"'{name}': {error}") from None
