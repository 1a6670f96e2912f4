"""What a net has and no training changes, so that one code base may store it and another does not: tables of indices,
and the mean and variance by which the Normalization of Keras prepares the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec
import numpy as np

from converter.core.layers import Layer, join_path, split_path
from converter.core.tensors import Array
from converter.matching.words import tokens_of

INDEX = "whole numbers that a net computes, and no training changes"
IDENTITY = "it normalises the input by a mean of 0 and a variance of 1, which changes nothing"
#: What is to know of statistics that have no counterpart.
STATISTICS_NOTE = (
    ". Note: it normalises the input by a mean and a variance of the data that are not 0 and 1; a net without it is to "
    "be given (x - mean) / sqrt(variance)"
)
#: How the clone keeps its own, where these do something.
OWN_STATISTICS = "it normalises the input, and the source does not"

_Read = Callable[[str], Array]
#: What the variables are called, in order of definition; in HDF5 of Keras 3 they have numbers alone.
_NAMES = (("mean", "variance", "count"), ("0", "1", "2"))


class Kept(msgspec.Struct, frozen=True):
    """A layer of the clone that stays as it is. why: what speaks for that, where it is not a matter of course."""

    layer: Layer
    why: str = ""


class Statistics(msgspec.Struct, frozen=True):
    """The mean, the variance and the count of the examples that they are of."""

    mean: Layer
    variance: Layer
    count: Layer

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.mean, self.variance, self.count

    def change_nothing(self, read: _Read | None) -> bool:
        """Whether what is normalised so stays what it is; unknown without data."""
        wanted = ((self.mean, 0), (self.variance, 1))
        return read is not None and all(bool((read(one.tensors[0].name) == value).all()) for one, value in wanted)


def is_index(layer: Layer) -> bool:
    """Whether it is a bare tensor of whole numbers: PyTorch counts and points with int64, which no weight is packed in,
    and Keras keeps single numbers.
    """
    return layer.kind == "parameter" and all(
        np.dtype(spec.dtype) == np.int64 or (spec.shape == () and np.dtype(spec.dtype).kind in "iu")
        for spec in layer.tensors
    )


def statistics(layers: Iterable[Layer]) -> Mapping[str, Statistics]:
    """Path of a mean or a variance -> the statistics that it is of."""
    modules: dict[str, dict[str, Layer]] = {}
    for layer in layers:
        *module, name = split_path(layer.path) or ("",)
        modules.setdefault(join_path(module), {})[name] = layer
    found = (_statistics(module, inside) for module, inside in modules.items())
    return {one.path: each for each in found if each is not None for one in (each.mean, each.variance)}


def _statistics(module: str, inside: Mapping[str, Layer]) -> Statistics | None:
    names = next((names for names in _NAMES if set(names) == inside.keys()), None)
    is_numbered = names == _NAMES[1]
    if names is None or (is_numbered and not _is_called_so(module)):
        return None
    mean, variance, count = (inside[name] for name in names)
    shapes = [layer.tensors[0].shape for layer in (mean, variance)]
    are_bare = all(layer.kind == "parameter" for layer in inside.values())
    fits = are_bare and shapes[0] == shapes[1] and count.tensors[0].shape == () and is_index(count)
    return Statistics(mean, variance, count) if fits else None


def _is_called_so(module: str) -> bool:
    """Whether HDF5 of Keras 3 has them there: ``normalization_1.vars``."""
    *_, name, group = "", "", *split_path(module)
    return group == "vars" and "normalization" in tokens_of(name)
