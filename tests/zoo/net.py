"""A net of the zoo, and a family: the nets that compute the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from tests.zoo.sides import SIDES, Array, Side, to_numpy

#: A family whose failures lead to changes of the converter, one that is only counted, and another size of nets that the
#: tables of known names were written from.
TUNED, MEASURED, OTHER_SIZE = "tuned", "measured", "other size"
CLASSES = 17
#: Code bases of the same people, who gave the layers the same names: such pairs are no rows.
KIN = ({"transformers", "transformers-flax"}, {"pytorchcv", "gluoncv2"})


@dataclass(frozen=True)
class Net:
    """One architecture as one code base has it.

    build: a fresh net. inputs: what it takes, of the input of its family (images have the channels where the framework
    has them): an array, a tuple of arguments, a dict of them. output: the array that is compared, of what it returns.
    patched: what was changed so that it computes what the others do.
    """

    code: str
    framework: str
    build: Callable[[], Any]
    inputs: Callable[[Array], Any] = lambda x: x
    output: Callable[[Any], Any] = lambda y: y
    patched: str = ""

    @property
    def side(self) -> Side:
        return SIDES[self.framework]


@dataclass(frozen=True)
class Family:
    """Nets that compute the same, by code base. epsilon: that of all norms, where they would differ.

    differ: (code base, code base) -> why they do not compute the same, though they are called so.
    """

    name: str
    status: str
    sample: Array
    nets: Sequence[Net]
    epsilon: float | None = None
    differ: dict[frozenset[str], str] | None = None

    def pairs(self) -> list[tuple[Net, Net]]:
        return [(a, b) for a, b in permutations(self.nets, 2) if {a.code, b.code} not in KIN]

    def inputs(self, net: Net) -> Any:
        x = self.sample
        return net.inputs(np.ascontiguousarray(np.moveaxis(x, 1, -1)) if net.side.last and x.ndim == 4 else x)

    def build(self, net: Net) -> Any:
        built = net.build()
        if self.epsilon is not None:
            net.side.epsilon(built, self.epsilon)
        return built

    def run(self, net: Net, built: Any) -> Array:
        return to_numpy(net.output(net.side.run(built, self.inputs(net))))


def row_name(family: Family, source: Net, clone: Net) -> str:
    return f"{family.name}--{source.code}--{clone.code}".replace(" ", "_")


def image(size: int, channels: int = 3) -> Array:
    return np.random.default_rng(7).normal(0, 1, (2, channels, size, size)).astype(np.float32)


def tokens(length: int = 11, vocabulary: int = 99, start: int = 5) -> Array:
    return np.random.default_rng(7).integers(start, vocabulary, (2, length)).astype(np.int32)
