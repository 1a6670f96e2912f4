"""The layers of a net, and the tensors in which a framework stores them."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cache, cached_property
from typing import Literal

import msgspec

from converter.core.axes import Axes, Sizes, rearrangement
from converter.core.contents import Container, LeftOut
from converter.core.kinds import KINDS, Flow, Role
from converter.core.ops import Op
from converter.core.parts import Part
from converter.core.tensors import Array, TensorSpec


class Leaf(msgspec.Struct, frozen=True, gc=False):
    """How a framework stores one tensor of a layer.

    name: its last name there. also: other names that it may have, never written.
    roles: the role it plays; several when it holds them stacked.
    axes: the order of its axes. neutral: the order that they have in neutral; of stacked roles the first axis,
        ``g``, counts the roles.
    """

    name: str
    roles: tuple[Role, ...]
    axes: Axes
    neutral: Axes
    also: tuple[str, ...] = ()


def leaf(kind: str, name: str, roles: str, axes: Axes, neutral: Axes = "", also: str = "") -> Leaf:
    """A row of a framework's table: roles that are stacked are parted by spaces, ``a+b`` is the sum of two, and ``-``
    is another layer's. ``neutral`` is by default that of `KINDS`.
    """
    stacked = tuple(frozenset(() if role == "-" else role.split("+")) for role in roles.split())
    order = neutral or ("g " if len(stacked) > 1 else "") + KINDS[kind].roles[min(first_of(stacked))]
    return Leaf(name, stacked, axes, order, tuple(also.split()))


def first_of(roles: Iterable[Role]) -> Role:
    """The first that is not another layer's."""
    return next(filter(None, roles))


def shown(role: Role) -> str:
    """A role as people read it: ``input_bias_h + recurrent_bias_h``."""
    return " + ".join(sorted(role))


class Form(msgspec.Struct, frozen=True, gc=False):
    """One of the ways in which a framework stores a layer kind. The first of a kind is the usual one, named "".

    lacks: the roles that its layers do without, though others stored so have them (a BatchNorm without a scale).
    """

    kind: str
    leaves: tuple[Leaf, ...]
    name: str = ""
    lacks: frozenset[str] = frozenset()

    @property
    def called(self) -> str:
        return user_word(self.kind, self.name, self.lacks)


def form(kind: str, *rows: tuple[str, ...], name: str = "") -> Form:
    """``form("linear", ("kernel", "weight", "in out"), ("bias", "bias", "out"))``; a row as in `leaf`."""
    return Form(kind, tuple(leaf(kind, *row) for row in rows), name)


def batch_norm(scale: str, offset: str, mean: str, variance: str, *, role: str = "scale", name: str = "") -> Form:
    """A BatchNorm with these leaves; role: that of its scale."""
    rows = ((scale, role), (offset, "offset"), (mean, "mean"), (variance, "variance"))
    return form("batch_norm", *((*row, "c") for row in rows), name=name)


def user_word(kind: str, form: str, lacks: frozenset[str]) -> str:
    """What a user calls a form (the kind, where it is the usual one): ``batch_norm_without_scale_and_offset``."""
    missing = [role for role in KINDS[kind].roles if role in lacks] if lacks else []
    return "_without_".join(filter(None, (form or kind, "_and_".join(missing))))


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A tensor of a layer as a framework stores it.

    sizes: of the axes that its shape does not tell (the heads of a fused matrix).
    sources: the tensors that ``fold`` makes it of, where the file does not hold it itself.
    """

    spec: TensorSpec
    leaf: Leaf
    sizes: Sizes = ()
    sources: tuple[TensorSpec, ...] = ()
    fold: Op | None = None

    @property
    def parts(self) -> int:
        """How many roles are stacked in it; 0 when it holds a single one."""
        return len(self.leaf.roles) if len(self.leaf.roles) > 1 else 0

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """What the file holds of it."""
        return self.sources or (self.spec,)

    @property
    def is_part(self) -> bool:
        """Whether the file holds it in one tensor with other layers."""
        return isinstance(self.fold, Part)

    def to_neutral(self) -> tuple[Op, ...] | None:
        """The operations that bring it into neutral axis order; None when the shape does not fit."""
        sizes = (*self.sizes, ("g", self.parts)) if self.parts else self.sizes
        return rearrangement(self.leaf.axes, self.leaf.neutral, self.spec.shape, sizes)

    def neutral_shape(self) -> tuple[int, ...] | None:
        """The shape of one role in neutral; None when the tensor's own does not fit."""
        ops = self.to_neutral()
        if ops is None:
            return None
        specs: tuple[TensorSpec, ...] = (self.spec,)
        for op in ops:
            specs = op.infer(specs)
        return specs[0].shape[1:] if self.parts else specs[0].shape


class Reading(msgspec.Struct, frozen=True, dict=True):
    """What a group of tensors is if it is a layer of this kind, stored in this form; form, lacks: those of `Form`."""

    kind: str
    stored: tuple[Stored, ...]
    form: str = ""
    lacks: frozenset[str] = frozenset()

    @property
    def called(self) -> str:
        return user_word(self.kind, self.form, self.lacks)

    @cached_property
    def roles(self) -> Mapping[Role, tuple[Stored, int]]:
        """Where each role is: the tensor, and its place among those stacked there."""
        return {role: (stored, place) for stored in self.stored for place, role in enumerate(stored.leaf.roles) if role}

    @property
    def nameless(self) -> Hashable:
        """What it is but for the names of its tensors. Of folded ones with all names, for such are seldom alike; parts
        are.
        """
        stored = [
            (item, "folded")
            if item.sources and not item.is_part
            else (item.leaf, item.spec.shape, item.spec.dtype, item.sizes, item.fold)
            for item in self.stored
        ]
        return self.kind, self.form, self.lacks, tuple(stored)

    @property
    def sizes(self) -> Sizes:
        """The named axes whose sizes no shape would tell, had the tensors another form."""
        sizes = {pair for stored in self.stored for pair in stored.sizes}
        return tuple(sorted(sizes)) if sizes else ()

    def with_tensors(self, change: Callable[[Stored], Stored]) -> Reading:
        """The reading with every tensor changed so."""
        return msgspec.structs.replace(self, stored=tuple(map(change, self.stored)))


@cache
def words_in(roles: tuple[Role, ...]) -> frozenset[str]:
    """The words of several roles."""
    return frozenset().union(*roles)


class Layer(msgspec.Struct, frozen=True, gc=False):
    """A layer of a file or a net.

    path: the names of the modules around it, joined with "." (a "." inside a name is written "\\.").
    readings: every kind that its tensors could be, the likeliest first. More than one is no problem
        until the kinds would be converted differently; then the plan refuses.
    unlikely: what it is only when the user says so.
    also: further paths that are to lead to it in a new file, where its format has links.
    """

    path: str
    readings: tuple[Reading, ...]
    unlikely: tuple[Reading, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        if len(self.readings) == 1:
            return self.readings[0].kind
        return " or ".join(dict.fromkeys(reading.kind for reading in self.readings))

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        first = self.readings[0].stored if self.readings else ()  # none where two sides have nothing in common
        return tuple(dict.fromkeys(spec for stored in first for spec in stored.specs))

    def with_tensors(self, change: Callable[[Stored], Stored]) -> Layer:
        """The layer with every tensor of every reading changed so."""
        return msgspec.structs.replace(self, readings=tuple(item.with_tensors(change) for item in self.readings))


class LayerSizes(msgspec.Struct, frozen=True):
    """How many channels or features come into a layer and go out of it (0 where that is unknown); see `Kind.flow`."""

    inputs: int
    outputs: int
    flow: Flow = "other"
    transposed: bool = False


def sizes_of(layer: Layer) -> LayerSizes:
    """What comes into a layer and goes out; of a convolution in groups only the channels of one group come in."""
    reading = layer.readings[0]
    kind = KINDS.get(reading.kind)
    if kind is None:
        return LayerSizes(0, 0)
    stored = {word: item for role, (item, _) in reading.roles.items() for word in role}
    inputs, outputs = (_size(reading.kind, axis, stored) for axis in (kind.inputs, kind.outputs))
    multiplier = dict(reading.sizes).get("multiplier")
    if multiplier:  # of a depthwise convolution
        inputs = outputs // multiplier
    known = outputs and (inputs or not kind.inputs)
    return LayerSizes(inputs, outputs, kind.flow, kind.transposed) if known or kind.flow == "norm" else LayerSizes(0, 0)


def _size(kind: str, axis: str, stored: Mapping[str, Stored]) -> int:
    """The size of an axis of that kind, from the first tensor that has it."""
    for role, position in _having(kind, axis):
        shape = stored[role].neutral_shape() if role in stored else None
        if shape and len(shape) > position:
            return shape[position]
    return 0


@cache
def _having(kind: str, axis: str) -> tuple[tuple[str, int], ...]:
    """The roles that have the axis, and its position there; those of few axes first, for of groups a bias has all."""
    having = ((role, axes.split()) for role, axes in KINDS[kind].roles.items())
    return tuple(
        (role, axes.index(axis)) for role, axes in sorted(having, key=lambda item: len(item[1])) if axis in axes
    )


#: How inputs of a layer were permuted before they were flattened: into the order that a flatten gives in frameworks
#: with the channels on the other side, or into any other.
Permuted = Literal["as there", "otherwise"]


class Observed(msgspec.Struct, frozen=True):
    """What a forward of a live net showed, by the paths of its layers (only of those that were seen).

    calls: the place in the order of calls. inputs: digest of what it took first: of layers that take the same none has
    to be called before the other. flattened: the channels of what was flattened into the inputs, 0 where nothing was;
    unflattened: those that the outputs became. permuted: the layers whose inputs were permuted before the flatten.
    """

    calls: Mapping[str, int]
    inputs: Mapping[str, bytes] = msgspec.field(default_factory=dict)
    flattened: Mapping[str, int] = msgspec.field(default_factory=dict)
    unflattened: Mapping[str, int] = msgspec.field(default_factory=dict)
    permuted: Mapping[str, Permuted] = msgspec.field(default_factory=dict)

    def compare(self, first: str, second: str) -> int | None:
        """Negative where the layer of the first path is called before the other; None where that is not known."""
        if first not in self.calls or second not in self.calls or self.calls[first] == self.calls[second]:
            return None
        if first in self.inputs and self.inputs[first] == self.inputs.get(second):
            return None
        return self.calls[first] - self.calls[second]


class Net(msgspec.Struct, frozen=True, dict=True):
    """The layers of a file or a live net, as one framework stores them.

    ordered: whether the order of ``layers`` is that in which the net was built. Files that sort their
        names (Flax trees, TensorFlow checkpoints) have lost it.
    read: gives a tensor by its name, where the net has data; peek, digest: as those of a `Reader`.
    observed: what a forward showed of a live net.
    """

    framework: str
    layers: tuple[Layer, ...]
    ordered: bool = True
    container: Container = "dict"
    left_out: tuple[LeftOut, ...] = ()
    read: Callable[[str], Array] | None = None
    peek: Callable[[str], Array] | None = None
    digest: Callable[[str], Hashable] | None = None
    observed: Observed | None = None

    @cached_property
    def by_path(self) -> Mapping[str, Layer]:
        return {layer.path: layer for layer in self.layers}

    @property
    def is_data(self) -> bool:
        """True for the tensors, lists and dicts of tensors that belong to no net."""
        return all(layer.kind == "parameter" for layer in self.layers)


def join_path(parts: Iterable[str]) -> str:
    parts = tuple(parts)
    joined = ".".join(parts)
    if "\\" not in joined and joined.count(".") == len(parts) - 1:
        return joined  # most of them
    return ".".join(part.replace("\\", "\\\\").replace(".", "\\.") for part in parts)


def split_path(path: str) -> tuple[str, ...]:
    if "\\" not in path:
        return tuple(filter(None, path.split(".")))  # most paths, and a file may have long ones
    return tuple(re.sub(r"\\(.)", r"\1", part) for part in re.findall(r"(?:[^.\\]+|\\.)+", path))


def stacked(role: str, gates: str) -> str:
    """The roles of the gates of a recurrent layer in that order, for a row of a table: ``input_i input_f …``."""
    return " ".join("+".join(f"{word}_{gate}" for word in role.split("+")) for gate in gates)
