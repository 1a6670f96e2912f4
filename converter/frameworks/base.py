"""How a framework is described: a table kind -> stored tensors, and how it spells their names.

A framework touches no files and is never imported to be described.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from converter.errors import ConversionError
from converter.formats.base import Contents, LeftOut
from converter.layers import KINDS, UNKNOWN, Axes, Layer, Net, Reading, Stored, axis_sizes, natural_key
from converter.tensors import TensorSpec


@dataclass(frozen=True)
class Leaf:
    """The framework's last name of a tensor, the role it plays, and the order of its axes there."""

    name: str
    role: str
    axes: Axes


#: kind -> the tensors that a layer of this kind stores, in the framework's own order.
Layouts = Mapping[str, tuple[Leaf, ...]]


@dataclass(frozen=True)
class Part:
    """A tensor's name taken apart: the layer's path, the leaf, and the layer's class where the file tells it."""

    spec: TensorSpec
    path: str
    leaf: str
    layer_class: str = ""


class Framework(ABC):
    """One framework's names and layouts. Subclasses are stateless; see `converter.frameworks.FRAMEWORKS`.

    Where a framework's formats spell names differently (Keras), each way is a *dialect*; most have one, "".
    """

    name: ClassVar[str]
    title: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    layouts: ClassVar[Layouts]
    #: Class names that settle the kind, where a file holds them.
    classes: ClassVar[Mapping[str, str]] = {}
    #: Leaf names that are no weights, and why.
    ignored: ClassVar[Mapping[str, str]] = {}
    #: The format written when the user names none; and that for bare tensors that belong to no net.
    default_format: ClassVar[str]
    data_format: ClassVar[str]

    @abstractmethod
    def split(self, contents: Contents) -> Iterable[Part]:
        """Each tensor's name taken apart, in the order of the file."""

    @abstractmethod
    def spell(self, prefix: str, leaf: Leaf, dialect: str, is_data: bool) -> str:
        """The name of a tensor in a new file; ``is_data`` when the file holds bare tensors of no net."""

    def prefixes(self, layers: Sequence[Layer], dialect: str) -> Mapping[str, str]:
        """Path of each layer of a new file -> what `spell` puts before the names of its tensors."""
        return {layer.path: layer.path for layer in layers}

    def dress(self, contents: Contents, layers: Sequence[Layer], dialect: str, source: Net) -> Contents:
        """Add what a new file of this framework holds beside the tensors (labels, links, metadata).

        ``layers`` are those of the new file, ``source`` the net that they were converted from.
        """
        return contents

    def dialect_of(self, contents: Contents) -> str:
        """How the names of this file are spelled."""
        return ""

    def dialect_for(self, format_name: str) -> str:
        """How names are spelled in new files of this format."""
        return ""

    def is_ordered(self, contents: Contents) -> bool:
        """Whether the file keeps the order in which the net was built."""
        return True

    def leaves(self, kind: str, dialect: str) -> tuple[Leaf, ...]:
        """The tensors of a layer of this kind. Raises KeyError for a kind that the framework cannot hold."""
        return self.layouts[kind]

    def net(self, contents: Contents) -> Net:
        """The neutral layers of a file of this framework."""
        dialect = self.dialect_of(contents)
        left_out = list(contents.left_out)
        groups: dict[str, list[Part]] = {}
        taken: dict[tuple[str, str], str] = {}
        for part in self.split(contents):
            reason = self.ignored.get(part.leaf)
            if reason:
                left_out.append(LeftOut(part.spec.name, reason))
                continue
            twin = taken.setdefault((part.path, part.leaf), part.spec.name)
            if twin != part.spec.name:
                raise ConversionError(
                    f"'{twin}' and '{part.spec.name}' are both the {part.leaf} of layer '{part.path}'"
                )
            groups.setdefault(part.path, []).append(part)
        layers = [layer for path, parts in groups.items() for layer in self._recognise(path, parts, dialect)]
        ordered = self.is_ordered(contents)
        if not ordered:
            layers.sort(key=lambda layer: natural_key(layer.path))
        return Net(self.name, tuple(layers), ordered, contents.container, tuple(left_out))

    def _recognise(self, path: str, parts: Sequence[Part], dialect: str) -> Iterable[Layer]:
        """The group as a layer, and every tensor with a name of its own as a bare parameter."""
        known = [part for part in parts if self._is_layer_word(part.leaf, dialect)]
        if known:
            specs = {part.leaf: part.spec for part in known}
            yield Layer(path, self._readings(specs, known[0].layer_class, dialect) or (_unknown(specs),))
        for part in parts:
            if part not in known:
                yield parameter(".".join(filter(None, (path, part.leaf))), part.spec)

    def _is_layer_word(self, leaf: str, dialect: str) -> bool:
        """Whether the name is, or contains, a name that some layer of this framework uses (weight_ih_l0)."""
        words = {known.name for kind in self.layouts for known in self.leaves(kind, dialect)} - {""}
        return leaf in words or any(word in words for word in re.split(r"[_.]", leaf))

    def _readings(self, specs: Mapping[str, TensorSpec], layer_class: str, dialect: str) -> tuple[Reading, ...]:
        settled = self.classes.get(re.sub(r"_\d+$", "", layer_class))
        kinds = [settled] if settled else [kind for kind in self.layouts if kind != "parameter"]
        found = (read_as(kind, self.leaves(kind, dialect), specs) for kind in kinds)
        return tuple(reading for reading in found if reading)


def read_as(kind: str, leaves: Sequence[Leaf], specs: Mapping[str, TensorSpec]) -> Reading | None:
    """The group of tensors as a layer of that kind, or None when names, axes or sizes speak against it."""
    by_name = {leaf.name: leaf for leaf in leaves}
    if not specs.keys() <= by_name.keys():
        return None
    roles: dict[str, Stored] = {}
    sizes: dict[str, int] = {}
    for name, spec in specs.items():
        leaf = by_name[name]
        found = axis_sizes(leaf.axes, spec.shape)
        if found is None:
            return None
        for axis, size in found.items():
            if size != -1 and sizes.setdefault(axis, size) != size:
                return None
        roles[leaf.role] = Stored(spec, leaf.axes)
    required = KINDS[kind].roles.keys() - KINDS[kind].optional
    return Reading(kind, roles) if required <= roles.keys() else None


def parameter(path: str, spec: TensorSpec) -> Layer:
    """A bare tensor that belongs to no layer."""
    return Layer(path, (Reading("parameter", {"value": Stored(spec, "*")}),))


def _unknown(specs: Mapping[str, TensorSpec]) -> Reading:
    return Reading(UNKNOWN, {leaf: Stored(spec, "*") for leaf, spec in specs.items()})
