"""The neutral vocabulary: layer kinds, their roles, and the one axis order of each role.

This is the hub: a framework is described once against this table, never against another framework.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cache, cached_property
from types import MappingProxyType

import msgspec
from msgspec.structs import replace

from converter.core.axes import Axes, Sizes, rearrangement
from converter.core.contents import Container, LeftOut
from converter.core.ops import Op
from converter.core.tensors import Array, TensorSpec


class Kind(msgspec.Struct, frozen=True):
    """A layer kind: its roles with their neutral axes; ``optional`` roles may be absent (no bias).

    absent: the number that stands for a role which one side does not store (a scale of 1): it is filled in
    there, and checked before it is left behind here.
    unused: roles of tensors that are stored and count for nothing, so that they may be left behind unseen.
    whole: whether a layer with some of the roles of ``absent`` gets all of them in a new file.
    note: what a user should know whose conversion of it is refused.
    own, idle: whether one framework alone has it; and whether no output depends on it, so that others leave it out.
    alike: another kind that the same tensors may be, though it is another function.
    """

    roles: Mapping[str, Axes]
    optional: frozenset[str] = frozenset()
    absent: Mapping[str, int] = msgspec.field(default_factory=dict)
    note: str = ""
    alike: str = ""
    unused: frozenset[str] = frozenset()
    whole: bool = True
    own: bool = False
    idle: bool = False


def _recurrent(gates: str, note: str = "", alike: str = "") -> Kind:
    """The roles of a recurrent cell: one matrix and one bias for each gate, for the input and for the state.

    A bias that one side does not have is zero there: MXNet and Flax always have them, nnx.GRUCell all but one.
    """
    axes = {"input": "h in", "recurrent": "h r", "input_bias": "h", "recurrent_bias": "h"}
    roles = {f"{role}_{gate}": order for role, order in axes.items() for gate in gates}
    biases = frozenset(role for role in roles if "bias" in role)
    return Kind({**roles, "projection": "r h"}, biases | {"projection"}, dict.fromkeys(biases, 0), note, alike)


#: Axis order is that of PyTorch and Gluon, so that most conversions between files are plain moves. The gates of
#: the recurrent kinds are roles of their own, because no two frameworks keep them in the same tensors.
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "linear": Kind({"weight": "out in", "bias": "out"}, frozenset({"bias"})),
        "embedding": Kind({"weight": "num dim"}),
        "conv": Kind({"weight": "out in +", "bias": "out"}, frozenset({"bias"})),
        "conv_transpose": Kind({"weight": "in out +", "bias": "out"}, frozenset({"bias"})),
        "batch_norm": Kind(
            {"scale": "c", "offset": "c", "mean": "c", "variance": "c", "unused_scale": "c"},
            frozenset({"scale", "offset", "unused_scale"}),
            {"scale": 1, "offset": 0, "unused_scale": 1},
            unused=frozenset({"unused_scale"}),
        ),
        "norm": Kind(
            {"scale": "c", "offset": "c"}, frozenset({"scale", "offset"}), {"scale": 1, "offset": 0}, whole=False
        ),
        "prelu": Kind({"slope": "c"}),
        "rnn": _recurrent("h"),
        "lstm": _recurrent("ifgo"),
        "gru": _recurrent(
            "rzn",
            "flax.nnx.GRUCell is the only GRU without a recurrent bias of the new gate; flax.linen.GRUCell has it",
        ),
        "gru_reset_before": _recurrent(
            "rzn",
            "a Keras GRU with reset_after=False applies its reset gate before the recurrent matrix, and all others "
            "behind it: another function, which no weights make the same. Train it with reset_after=True",
            alike="gru",
        ),
        "mgu": replace(
            _recurrent(
                "fn", "MGUCell of Flax is a minimal gated unit, which no other framework has; GRUs have two gates"
            ),
            own=True,
        ),
        # Beside the projections of an attention.
        "key_value_bias": Kind(
            {"key": "1 1 dim", "value": "1 1 dim"},
            note="only nn.MultiheadAttention of PyTorch adds a key and a value that it learned (add_bias_kv=True)",
            own=True,
        ),
        "spectral_norm": Kind(
            {"weight": "* in out", "bias": "out", "vector": "1 out", "norm": ""},
            frozenset({"bias"}),
            note="SpectralNorm of Flax looks for the norm at every call, in n_steps steps that no file tells. "
            "Divide the kernel by its norm, and save a net without SpectralNorm",
            own=True,
        ),
        # What SpectralNormalization of Keras keeps beside its layer, whose kernel is normalised already.
        "power_iteration": Kind(
            {"weight": "* out", "vector": "1 out"},
            frozenset({"weight"}),
            note="only training uses it; the kernel of the layer is normalised already",
            own=True,
            idle=True,
        ),
        "parameter": Kind({"value": "*"}),
    }
)

#: What a user should know of roles that few frameworks have.
ROLE_NOTES: Mapping[str, str] = MappingProxyType(
    {
        "projection": "only PyTorch and MXNet have an LSTM that projects its state (proj_size, projection_size); "
        "elsewhere there is no such layer, so it stays with them, or is trained without"
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
        "h": "hidden size",
        "r": "size of the state",
        "heads": "number of heads",
        "multiplier": "channel multiplier",
        "head_dim": "size of a head",
        "+0": "kernel size",
        "+1": "kernel size",
        "+2": "kernel size",
    }
)

#: The kind of a group of tensors that look like a layer, but like none of the table. It can be copied
#: within its framework, and is refused everywhere else.
UNKNOWN = "unknown"


class Leaf(msgspec.Struct, frozen=True, gc=False):
    """How a framework stores one tensor of a layer.

    name: its last name there. also: other names that it may have, never written.
    roles: the role it plays; several when it holds them stacked, "" for one that is another layer's, and
        "a+b" for the sum of two.
    axes: the order of its axes. neutral: the order that they have in neutral; of stacked roles the first axis,
        ``g``, counts the roles.
    """

    name: str
    roles: tuple[str, ...]
    axes: Axes
    neutral: Axes
    also: tuple[str, ...] = ()


def leaf(kind: str, name: str, roles: str, axes: Axes, neutral: Axes = "", also: str = "") -> Leaf:
    """A row of a framework's table. ``neutral`` is by default that of `KINDS`."""
    stacked = tuple("" if role == "-" else role for role in roles.split())
    first = next(role for role in stacked if role).partition("+")[0]
    order = neutral or ("g " if len(stacked) > 1 else "") + KINDS[kind].roles[first]
    return Leaf(name, stacked, axes, order, tuple(also.split()))


class Form(msgspec.Struct, frozen=True, gc=False):
    """One of the ways in which a framework stores a layer kind. The first of a kind is the usual one, named ""."""

    kind: str
    leaves: tuple[Leaf, ...]
    name: str = ""

    @property
    def called(self) -> str:
        """What a user calls it: its own name, or the kind where it is the usual form of that."""
        return self.name or self.kind

    @property
    def usual(self) -> str:
        """What it is called where no role is missing (see `lacking`)."""
        return self.called.partition("_without_")[0]


def form(kind: str, *rows: tuple[str, ...], name: str = "") -> Form:
    """``form("linear", ("kernel", "weight", "in out"), ("bias", "bias", "out"))``; a row as in `leaf`."""
    return Form(kind, tuple(leaf(kind, *row) for row in rows), name)


def lacking(form: str) -> frozenset[str]:
    """The roles that layers of a form do without: ``batch_norm_without_scale_and_offset``."""
    _, _, roles = form.partition("_without_")
    return frozenset(roles.split("_and_")) - {""}


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
    """What a group of tensors is if it is a layer of this kind, stored in this form."""

    kind: str
    stored: tuple[Stored, ...]
    form: str = ""

    @property
    def called(self) -> str:
        """As `Form.called`."""
        return self.form or self.kind

    @cached_property
    def roles(self) -> Mapping[frozenset[str], tuple[Stored, int]]:
        """Where each role is: the tensor, and its place among those stacked there. The key of a sum has them all."""
        return {
            words_of(role): (stored, place)
            for stored in self.stored
            for place, role in enumerate(stored.leaf.roles)
            if role
        }

    @property
    def nameless(self) -> Hashable:
        """What it is but for the names of its tensors. Of folded ones with all names, for such are seldom alike."""
        stored = [
            (item, "folded") if item.sources else (item.leaf, item.spec.shape, item.spec.dtype, item.sizes)
            for item in self.stored
        ]
        return self.kind, self.form, tuple(stored)

    @property
    def sizes(self) -> Sizes:
        """The named axes whose sizes no shape would tell, had the tensors another form."""
        found = {pair for stored in self.stored for pair in stored.sizes}
        return tuple(sorted(found)) if found else ()


@cache
def words_of(role: str) -> frozenset[str]:
    """The roles that are added up in one of a `Leaf`."""
    return frozenset(role.split("+"))


@cache
def words_in(roles: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word for role in roles for word in words_of(role))


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
        return tuple(dict.fromkeys(spec for stored in self.readings[0].stored for spec in stored.specs))


class Observed(msgspec.Struct, frozen=True):
    """What a forward of a live net showed, by the paths of its layers (only of those that were seen).

    calls: the place in the order of calls. inputs: digest of what it took first: of layers that take the same none has
    to be called before the other. flattened: the channels of what was flattened into the inputs, 0 where nothing was;
    unflattened: those that the outputs became.
    """

    calls: Mapping[str, int]
    inputs: Mapping[str, bytes] = msgspec.field(default_factory=dict)
    flattened: Mapping[str, int] = msgspec.field(default_factory=dict)
    unflattened: Mapping[str, int] = msgspec.field(default_factory=dict)

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
    read: gives a tensor by its name, where there are data behind the net; peek, digest: as those of a `Reader`.
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
    return ".".join(part.replace("\\", "\\\\").replace(".", "\\.") for part in parts)


def split_path(path: str) -> tuple[str, ...]:
    return tuple(re.sub(r"\\(.)", r"\1", part) for part in re.findall(r"(?:[^.\\]|\\.)+", path))


def stacked(role: str, gates: str) -> str:
    """The roles of the gates of a recurrent layer in that order, for a row of a table: ``input_i input_f …``."""
    return " ".join("+".join(f"{word}_{gate}" for word in role.split("+")) for gate in gates)
