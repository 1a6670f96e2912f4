"""JAX / Flax: ``params/hidden/kernel``, statistics under ``batch_stats``; an nnx state has ``hidden/kernel/value``.

Kernels are ``[in, out]`` (flax/linen/linear.py, normalization.py, recurrent.py, attention.py; flax/nnx/nn).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

from msgspec.structs import replace

from converter.core.contents import Contents
from converter.core.layers import Form, Layer, Net, Reading, batch_norm, form, join_path, split_path, stacked
from converter.core.tensors import TensorSpec
from converter.frameworks import linear
from converter.frameworks.base import Framework, LiveClass, Part, class_table, classed
from converter.frameworks.cells import OLD_CELL, cell_path, cells_placed, stacked_cell, without_old_cells
from converter.frameworks.flax_folded import folded
from converter.frameworks.haiku import IGNORED, as_flax
from converter.frameworks.linear import ATTENTION, BY_HEAD, FROM_HEADS, MANY_AXES, OUT_IN, TO_HEADS

_COLLECTIONS = ("params", "batch_stats")
_PROJECTIONS = ("query", "key", "value", "out")
_NEUTRAL_PROJECTIONS = dict(zip(_PROJECTIONS, ATTENTION, strict=True))
_STATISTICS = frozenset({"mean", "var"})

_SIDES = (("i", "input", "in h"), ("h", "recurrent", "r h"))
_LSTM = form(
    "lstm",
    *((f"i{g}.kernel", f"input_{g}", "in h", "", f"i{g}_.kernel") for g in "ifgo"),
    *((f"h{g}.kernel", f"recurrent_{g}", "r h") for g in "ifgo"),
    *((f"h{g}.bias", f"input_bias_{g}+recurrent_bias_{g}", "h") for g in "ifgo"),
)
_GRU, _MGU = (
    form(
        kind,
        *((f"{side}{g}.kernel", f"{role}_{g}", axes) for side, role, axes in _SIDES for g in (*gates, "n")),
        *((f"i{g}.bias", f"input_bias_{g}+recurrent_bias_{g}", "h") for g in gates),
        ("in.bias", "input_bias_n", "h"),
        ("hn.bias", "recurrent_bias_n", "h"),
    )
    for kind, gates in (("gru", "rz"), ("mgu", "f"))
)
_RNN = form(
    "rnn",
    ("i.kernel", "input_h", "in h"),
    ("h.kernel", "recurrent_h", "r h"),
    ("i.bias", "input_bias_h+recurrent_bias_h", "h"),
)
_NNX_LSTM, _NNX_RNN = (
    stacked_cell(
        kind,
        gates,
        ("dense_i.kernel", "input", "in (g h)"),
        ("dense_h.kernel", "recurrent", "r (g h)"),
        (bias, "input_bias+recurrent_bias", "(g h)"),
        name=f"nnx_{kind}",
    )
    for kind, gates, bias in (("lstm", "ifgo", "dense_h.bias"), ("rnn", "h", "dense_i.bias"))
)
_NNX_GRU = form(
    "gru",
    ("dense_i.kernel", stacked("input", "rzn"), "in (g h)"),
    ("dense_h.kernel", stacked("recurrent", "rzn"), "r (g h)"),
    ("dense_i.bias", f"{stacked('input_bias+recurrent_bias', 'rz')} input_bias_n", "(g h)"),
    name="nnx_gru",
)
#: Its two libraries, which name tensors otherwise.
_LINEN, _NNX = "linen", "nnx"
_CELLS = (_LSTM, _GRU, _RNN, _MGU, _NNX_LSTM, _NNX_GRU, _NNX_RNN)
_DENSE = " ".join(("linear", TO_HEADS, FROM_HEADS, *MANY_AXES))
#: The one tensor of an `nnx.LoRA`'s ``lora_a`` or ``lora_b``, which are linear layers everywhere else.
_ADAPTER = "lora kernel"


class Flax(Framework):
    name = "flax"
    title = "Flax"
    aliases = ("jax",)
    channels_last = True
    suffixes_lists = True
    forms = (
        form("linear", ("kernel", "weight", "in out"), ("bias", "bias", "out")),
        *linear.many_axes(),
        # As the GPT-2 code has it in Flax, whose own linear layers are stored the other way round.
        form("linear", ("kernel", "weight", "out in"), ("bias", "bias", "out"), name=OUT_IN),
        form("linear", (_ADAPTER, "weight", "in out"), name="lora"),
        form("embedding", ("embedding", "weight", "num dim")),
        form("conv", ("kernel", "weight", "+ in out"), ("bias", "bias", "out")),
        # A transposed convolution here is a convolution of the widened input: its kernel runs the other way.
        form("conv_transpose", ("kernel", "weight", "~+ in out"), ("bias", "bias", "out")),
        form("conv_transpose", ("kernel", "weight", "+ out in"), ("bias", "bias", "out"), name="transpose_kernel"),
        batch_norm("scale", "bias", "mean", "var"),
        form("norm", ("scale", "scale", "c", "", "weight"), ("bias", "offset", "c")),
        form("prelu", ("negative_slope", "slope", "", "1")),
        *_CELLS,
        form(
            "spectral_norm",
            ("kernel", "weight", "* in out"),
            ("bias", "bias", "out"),
            ("kernel.u", "vector", "1 out"),
            ("kernel.sigma", "norm", ""),
        ),
        form("parameter", ("", "value", "*")),
    )
    #: The names that linen gives by itself: ``Dense_0``; and the projections of an attention.
    classes = class_table(
        {
            "Dense": "linear",
            "Embed": "embedding",
            "Conv": "conv",
            "ConvTranspose": "conv_transpose transpose_kernel",
            # of live nets, which know more than the name of the class
            "ConvTransposeOfUsualKernel": "conv_transpose",
            "ConvTransposeOfTransposedKernel": "transpose_kernel",
            "Linear": "linear",
            **dict.fromkeys(("LinearGeneral", "DenseGeneral", "Einsum"), _DENSE),
            "EinsumOfOtherAxes": "",
            OLD_CELL: "",
            "BatchNorm": "batch_norm",
            **dict.fromkeys(("LayerNorm", "GroupNorm", "RMSNorm", "InstanceNorm"), "norm"),
            **{f"attention {name}": FROM_HEADS if name == "output" else TO_HEADS for name in ATTENTION},
            **{f"attention {name} by head": BY_HEAD for name in ATTENTION},
        }
    )
    on_demand = frozenset(MANY_AXES)
    complete = frozenset({"rnn", "lstm", "gru"})
    ignored = IGNORED
    live = (
        LiveClass("flax.nnx.", "Module", "nnx", "an nnx.Module"),
        LiveClass(
            "flax.linen.module",
            "Module",
            "linen",
            "or of Flax linen the params tree (a dict), a pair (module, variables) or a bound module",
            bare=True,
        ),
    )
    default_format = "flax-msgpack"
    data_format = "npy"

    def split(self, contents: Contents) -> Iterable[Part]:
        named = as_flax(classed(map(_part, contents.specs), contents))
        parts = folded(without_old_cells(named))
        return linear.with_attentions(_with_cells(parts), lambda name: _NEUTRAL_PROJECTIONS.get(name, ""))

    def net(self, contents: Contents) -> Net:
        net = super().net(contents)
        return replace(net, layers=linear.without_conv1d(net.layers, OUT_IN))

    def is_ordered(self, contents: Contents) -> bool:
        """Trees are sorted by every ``jax.tree`` operation."""
        return contents.container != "dict"

    def prefixes(self, layers: Sequence[Layer], dialect: str) -> Mapping[str, str]:
        """The projections of an attention, and cells that name themselves, under the names that Flax gives them."""
        prefixes = {layer.path: layer.path for layer in layers}
        prefixes |= cells_placed(layers, ("forward_rnn", "backward_rnn"), bare_cells=True)
        prefixes |= {path: path for path in prefixes if re.search(r"(^|\.)[A-Z]\w*Cell_\d+$", path)}
        for path, names in linear.attentions(layers).items():
            for theirs, layer in zip(_PROJECTIONS, names.values(), strict=True):
                prefixes[layer.path] = ".".join(filter(None, (path, theirs)))
        return prefixes

    def spell(self, prefix: str, leaf: str, dialect: str, is_data: bool) -> str:
        leaf = "" if leaf == _ADAPTER else leaf
        collection = "batch_stats" if leaf in _STATISTICS else "params"
        parts = (*split_path(prefix), *leaf.split("."))
        return "/".join(filter(None, parts if is_data or dialect == _NNX else (collection, *parts)))


class Linen(Flax):
    """Flax for who says that it is the older of its two libraries: new files have the collections of linen."""

    aliases = (_LINEN,)

    def dialect_of(self, contents: Contents) -> str:
        return _LINEN if _has_collections(contents) else ""

    def dialect_for(self, format_name: str) -> str:
        return _LINEN

    def form_for(self, reading: Reading, dialect: str) -> Form:
        """Its cells have a layer for each gate, also where nnx joins them."""
        own = reading.form.startswith(f"{_NNX}_")
        return super().form_for(replace(reading, form="") if own else reading, dialect)


class Nnx(Flax):
    """Flax for who says that it is the newer of its two libraries: new files are states of nnx, without collections.

    As ``nnx.to_pure_dict`` gives them; the cells of its recurrent layers join their gates (flax/nnx/nn/recurrent.py).
    """

    aliases = (_NNX,)

    def dialect_of(self, contents: Contents) -> str:
        return "" if _has_collections(contents) else _NNX

    def dialect_for(self, format_name: str) -> str:
        return _NNX

    def form_for(self, reading: Reading, dialect: str) -> Form:
        """That of nnx, where linen stores a kind otherwise."""
        own = f"{_NNX}_{reading.kind}"
        named = next((form for form in self.forms if form.name == own), None)
        return named or super().form_for(reading, dialect)


def _has_collections(contents: Contents) -> bool:
    return any(spec.name.partition("/")[0] in _COLLECTIONS for spec in contents.specs)


def _part(spec: TensorSpec) -> Part:
    parts = spec.name.split("/")
    outside = takewhile(_COLLECTIONS.__contains__, parts[:-1])
    del parts[: sum(1 for _ in outside)]
    if len(parts) > 1 and parts[-1] == "value":  # an nnx Variable
        del parts[-1]
    if parts[-1] in ("lora_a", "lora_b") and len(spec.shape) == 2:
        parts.append(_ADAPTER)
    automatic = re.fullmatch(r"([A-Z]\w*)_\d+", parts[-2]) if len(parts) > 1 else None
    return Part(spec, join_path(parts[:-1]), parts[-1], automatic[1] if automatic else "")


def _with_cells(parts: Sequence[Part]) -> list[Part]:
    """The dense layers inside a recurrent cell are leaves of the cell: ``rnn.cell.ir``, ``kernel`` -> ``rnn``."""
    inside: dict[str, set[str]] = {}
    for part in parts:
        path = split_path(part.path)
        if path:
            inside.setdefault(join_path(path[:-1]), set()).add(f"{path[-1]}.{part.leaf}")
    cells = {path for path, leaves in inside.items() if _is_cell(leaves)}
    moved = []
    for part in parts:
        path = split_path(part.path)
        if path and join_path(path[:-1]) in cells:
            moved.append(replace(part, path=cell_path(path[:-1]), leaf=f"{path[-1]}.{part.leaf}", layer_class=""))
        else:
            moved.append(part)
    return moved


def _is_cell(leaves: set[str]) -> bool:
    """Whether these are the dense layers of a cell, the biases aside (they may be missing)."""
    kernels = {leaf for leaf in leaves if leaf.endswith(".kernel")}
    for cell in _CELLS:
        names = {name for leaf in cell.leaves for name in (leaf.name, *leaf.also)}
        needed = {frozenset((leaf.name, *leaf.also)) for leaf in cell.leaves if leaf.name.endswith(".kernel")}
        if leaves <= names and all(kernels & choice for choice in needed):
            return True
    return False
