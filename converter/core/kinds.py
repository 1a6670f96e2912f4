"""The neutral vocabulary: layer kinds, their roles, and the one axis order of each role.

This is the hub: a framework is described once against this table, never against another framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import msgspec
from msgspec.structs import replace

from converter.core.axes import Axes

#: A role of a layer's tensors, as the words of the roles that are added up in it: mostly one, two for the single bias
#: that some frameworks keep of a recurrent cell, and none for a part of a stacked tensor that is another layer's.
Role = frozenset[str]

#: What a layer does to what flows through a net: it convolves channels, makes features of features, runs over a
#: sequence of them, normalises either; or something else.
Flow = Literal["channels", "features", "recurrent", "norm", "other"]


class Kind(msgspec.Struct, frozen=True):
    """A layer kind: its roles with their neutral axes; ``optional`` roles may be absent (no bias).

    absent: the value that stands for a role which one side does not store (a scale of 1): it is filled in
    there, and checked before it is left out here.
    unused: roles of tensors that are stored and count for nothing, so that they may be left out unseen.
    whole: whether a layer with some of the roles of ``absent`` gets all of them in a new file.
    note: what a user should know whose conversion of it is refused.
    own, idle: whether one framework alone has it; and whether no output depends on it, so that others leave it out.
    alike: another kind that the same tensors may be, though it is another function.
    flow: what the layer does to what flows through the net. inputs, outputs: the axes that count what comes in and goes
        out ("": nothing does, or any number). transposed: of a transposed convolution.
    gates: the letters of the gates of a recurrent cell, in the order in which PyTorch stacks them.
    words: what people call such layers in names.
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
    flow: Flow = "other"
    inputs: str = ""
    outputs: str = ""
    transposed: bool = False
    gates: str = ""
    words: str = ""

    @property
    def flattened(self) -> tuple[str, str]:
        """The axes of inputs and of outputs that may be channels of spatial positions, flattened ("": never)."""
        inputs = self.inputs if self.flow in ("features", "recurrent", "norm") else ""
        return inputs, self.outputs if self.flow == "features" else ""


def _weighted(weight: Axes, flow: Flow, words: str = "") -> Kind:
    """A kernel of these axes, and a bias that it may do without."""
    roles = {"weight": weight, "bias": "out"}
    return Kind(roles, frozenset({"bias"}), flow=flow, inputs="in", outputs="out", words=words)


def _recurrent(gates: str, note: str = "", alike: str = "") -> Kind:
    """The roles of a recurrent cell: one matrix and one bias for each gate, for the input and for the state.

    A bias that one side does not have is zero there: MXNet and Flax always have them, nnx.GRUCell all but one.
    """
    axes = {"input": "h in", "recurrent": "h r", "input_bias": "h", "recurrent_bias": "h"}
    roles = {f"{role}_{gate}": order for role, order in axes.items() for gate in gates}
    biases = frozenset(role for role in roles if "bias" in role)
    return Kind(
        {**roles, "projection": "r h"},
        biases | {"projection"},
        dict.fromkeys(biases, 0),
        note,
        alike,
        flow="recurrent",
        inputs="in",
        outputs="r",
        gates=gates,
    )


def _norm(roles: str, *, unused: str = "", whole: bool) -> Kind:
    """A normalisation of channels, whose scale is one and whose offset is zero where they are not stored."""
    absent = {"scale": 1, "offset": 0, **dict.fromkeys(unused.split(), 1)}
    return Kind(
        dict.fromkeys((*roles.split(), *unused.split()), "c"),
        frozenset(absent),
        absent,
        unused=frozenset(unused.split()),
        whole=whole,
        flow="norm",
        inputs="c",
        outputs="c",
        words="" if unused else "ln layernorm",
    )


#: Axis order is that of PyTorch and Gluon, so that most conversions between files are plain moves. The gates of
#: the recurrent kinds are roles of their own, because no two frameworks keep them in the same tensors.
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "linear": _weighted("out in", "features", "fc dense lin"),
        "embedding": Kind({"weight": "num dim"}, outputs="dim", words="emb embed embeddings"),
        "conv": _weighted("out in +", "channels", "conv1d conv2d conv3d convolution"),
        "conv_transpose": replace(_weighted("in out +", "channels"), transposed=True),
        "batch_norm": _norm("scale offset mean variance", unused="unused_scale", whole=True),
        "norm": _norm("scale offset", whole=False),
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
            "after it: another function, which no weights make the same. Train it with reset_after=True",
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

RECURRENT = frozenset(name for name, kind in KINDS.items() if kind.gates)

#: What a user should know of roles that few frameworks have.
ROLE_NOTES: Mapping[str, str] = MappingProxyType(
    {
        "projection": "only PyTorch and MXNet have an LSTM that projects its state (proj_size, projection_size); "
        "elsewhere there is no such layer, so it stays with them, or is trained without"
    }
)

#: What a user should know of kinds of which one framework stores fewer values than the others.
SIZE_NOTES: Mapping[str, str] = MappingProxyType(
    {
        "prelu": "PReLU of Flax has one slope for all channels (nn.PReLU(num_parameters=1) of PyTorch), so several "
        "cannot be there. In the clone, make it a parameter of your own: jnp.where(x >= 0, x, slopes * x)"
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
        **dict.fromkeys(("+0", "+1", "+2"), "kernel size"),
    }
)

#: The kind of a group of tensors that look like a layer, but like none of the table. It can be copied
#: within its framework, and is refused everywhere else.
UNKNOWN = "unknown"
