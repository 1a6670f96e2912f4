"""The neutral vocabulary: layer kinds, their roles, and the one axis order of each role.

This is the hub: a framework is described once against this table, never against another framework.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from converter.formats.base import Container, LeftOut
from converter.tensors import TensorSpec

#: Axes are words in order; "*" stands for any number of axes that keep their order (spatial ones, or
#: all axes of a bare parameter).
Axes = str


@dataclass(frozen=True)
class Kind:
    """A layer kind: its roles with their neutral axes; ``optional`` roles may be absent (no bias)."""

    roles: Mapping[str, Axes]
    optional: frozenset[str] = frozenset()


#: Axis order is that of PyTorch and Gluon, so that most conversions between files are plain moves.
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "linear": Kind({"weight": "out in", "bias": "out"}, frozenset({"bias"})),
        "embedding": Kind({"weight": "num dim"}),
        "batch_norm": Kind({"scale": "c", "offset": "c", "mean": "c", "variance": "c"}),
        "norm": Kind({"scale": "c", "offset": "c"}),
        "parameter": Kind({"value": "*"}),
    }
)

#: What an axis counts, in the words of a user.
AXIS_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "in": "input size",
        "out": "output size",
        "num": "number of rows",
        "dim": "embedding size",
        "c": "number of channels",
    }
)

#: The kind of a group of tensors that look like a layer, but like none of the table. It can be copied
#: within its framework, and is refused everywhere else.
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Stored:
    """One role of a layer as a framework stores it: the tensor, and the order of its axes there."""

    spec: TensorSpec
    axes: Axes


@dataclass(frozen=True)
class Reading:
    """What a group of tensors is if it is a layer of this kind."""

    kind: str
    roles: Mapping[str, Stored]


@dataclass(frozen=True)
class Layer:
    """A layer of a file or a net.

    path: the names of the modules around it, joined with "." (a "." inside a name is written "\\.").
    readings: every kind that its tensors could be, the likeliest first. More than one is no problem
        until the kinds would be converted differently; then the plan refuses.
    """

    path: str
    readings: tuple[Reading, ...]

    @property
    def kind(self) -> str:
        return " or ".join(reading.kind for reading in self.readings)

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        return tuple(stored.spec for stored in self.readings[0].roles.values())


@dataclass(frozen=True)
class Net:
    """The layers of a file or a live net, as one framework stores them.

    ordered: whether the order of ``layers`` is that in which the net was built. Files that sort their
        names (Flax trees, TensorFlow checkpoints) have lost it.
    """

    framework: str
    layers: tuple[Layer, ...]
    ordered: bool = True
    container: Container = "dict"
    left_out: tuple[LeftOut, ...] = ()
    by_path: Mapping[str, Layer] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_path", {layer.path: layer for layer in self.layers})

    @property
    def is_data(self) -> bool:
        """True for the tensors, lists and dicts of tensors that belong to no net."""
        return all(layer.kind == "parameter" for layer in self.layers)


def join_path(parts: Iterable[str]) -> str:
    return ".".join(part.replace("\\", "\\\\").replace(".", "\\.") for part in parts)


def split_path(path: str) -> tuple[str, ...]:
    return tuple(re.sub(r"\\(.)", r"\1", part) for part in re.findall(r"(?:[^.\\]|\\.)+", path))


def natural_key(path: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts ``Dense_10`` after ``Dense_9``."""
    pieces = re.split(r"(\d+)", path)
    return tuple((0, int(piece)) if piece.isdigit() else (1, piece) for piece in pieces)


def permutation(given: Axes, wanted: Axes, ndim: int) -> tuple[int, ...]:
    """The axes argument of ``transpose`` that takes an array from one axis order to another."""
    have = _expand(given, ndim)
    return tuple(have.index(axis) for axis in _expand(wanted, ndim))


def axis_sizes(axes: Axes, shape: Sequence[int]) -> Mapping[str, int] | None:
    """The size of each named axis; None when an array of this shape cannot have these axes."""
    words = axes.split()
    if len(shape) < len(words) - ("*" in words) or (len(shape) != len(words) and "*" not in words):
        return None
    return dict(zip(_expand(axes, len(shape)), shape, strict=True))


def _expand(axes: Axes, ndim: int) -> list[str]:
    words = axes.split()
    free = [f"*{i}" for i in range(ndim - len(words) + 1)]
    return [name for word in words for name in (free if word == "*" else [word])]
