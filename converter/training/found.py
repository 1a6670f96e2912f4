"""Where the state of a training is looked for: the layers, the tensors and the file of one end of a conversion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from converter.core.contents import Contents
from converter.core.layers import Net
from converter.core.tensors import Array, TensorSpec
from converter.errors import ConversionError, Placeholder, Problem, Remedy
from converter.options import TrainingOptions

#: Roles of tensors that no optimizer changes.
STATISTICS = frozenset({"mean", "variance", "count", "num_batches"})


class Place(msgspec.Struct, frozen=True):
    """One end. title: the file, for errors. values: what `Reader.training` gave. read: gives a tensor. is_source: or
    the clone.
    """

    title: str
    net: Net
    contents: Contents
    values: Mapping[str, Any]
    read: Callable[[str], Array]
    options: TrainingOptions
    strict: bool
    stated: Sequence[str]
    is_source: bool = True

    @property
    def asks(self) -> Remedy:
        """The option that tells the order of this end's parameters."""
        effect = "has their names, one a line, in the order of the optimizer"
        return Remedy("parameter_order" if self.is_source else "clone_order", Placeholder("FILE"), effect)

    @property
    def parameters(self) -> tuple[TensorSpec, ...]:
        """What may be trained, in the order of the file: not the statistics, and no whole numbers."""
        aside = {
            stored.spec.name
            for layer in self.net.layers
            for stored in layer.readings[0].stored
            if all(role & STATISTICS for role in stored.leaf.roles)
        }
        return tuple(spec for spec in self.contents.specs if spec.name not in aside and spec.dtype.kind in "fVc")


def refusal(text: str, kind: str = "training state") -> ConversionError:
    return ConversionError(Problem(text, kind))
