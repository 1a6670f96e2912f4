"""PyTorch: ``hidden.weight``. Layouts are the neutral ones (torch/nn/modules)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from converter.core.contents import Contents
from converter.core.layers import Form, Layer, Leaf, Net, Reading, batch_norm, form, words_in
from converter.core.tensors import TensorSpec
from converter.frameworks import linear
from converter.frameworks.base import Framework, LiveClass, Part, Placement, class_table, classed
from converter.frameworks.cells import is_bare, stacked_cell
from converter.frameworks.linear import ATTENTION, FROM_HEADS, HEADS, IN_OUT, TO_HEADS
from converter.frameworks.torch_folded import folded, oriented

#: ``nn.MultiheadAttention`` keeps the projections of queries, keys and values in one tensor (torch/nn/modules/
#: activation.py), or in three when they have other input sizes; their biases always in one.
_IN_BIASES = tuple((f"in_proj_bias.{i}", "- " * i + "bias" + " -" * (2 - i), "(g out)") for i in range(3))
_IN_PROJECTIONS = tuple(
    form("linear", (f"in_proj_weight.{i}", "- " * i + "weight" + " -" * (2 - i), "(g out) in"), bias, name=TO_HEADS)
    for i, bias in enumerate(_IN_BIASES)
)
_IN_PROJECTIONS_APART = tuple(
    form("linear", (f"{letter}_proj_weight", "weight", "out in"), bias, name=TO_HEADS)
    for letter, bias in zip("qkv", _IN_BIASES, strict=True)
)
_OUT_PROJECTION = form(
    "linear", ("out_proj.weight", "weight", "out in"), ("out_proj.bias", "bias", "out"), name=FROM_HEADS
)


EQUINOX = "conv_of_equinox"


def cells(input: str, state: str, input_bias: str, state_bias: str, projection: str) -> tuple[Form, ...]:
    """The recurrent layers of PyTorch and of MXNet, which differ in the names alone."""
    return tuple(
        stacked_cell(
            kind,
            gates,
            (input, "input", "(g h) in"),
            (state, "recurrent", "(g h) r"),
            (input_bias, "input_bias", "(g h)"),
            (state_bias, "recurrent_bias", "(g h)"),
            *([(projection, "projection", "r h")] if kind == "lstm" else []),  # proj_size is for LSTMs alone
        )
        for kind, gates in (("rnn", "h"), ("lstm", "ifgo"), ("gru", "rzn"))
    )


class Torch(Framework):
    name = "torch"
    title = "PyTorch"
    aliases = ("pytorch",)
    forms = (
        form("linear", ("weight", "weight", "out in"), ("bias", "bias", "out")),
        form("linear", ("weight", "weight", "in out"), ("bias", "bias", "out"), name=IN_OUT),
        *_IN_PROJECTIONS,
        *_IN_PROJECTIONS_APART,
        _OUT_PROJECTION,
        form("embedding", ("weight", "weight", "num dim")),
        form("conv", ("weight", "weight", "out in +"), ("bias", "bias", "out")),
        # Equinox has PyTorch's names, and a bias with axes for the spatial ones (equinox/nn/_conv.py).
        form("conv", ("weight", "weight", "out in +"), ("bias", "bias", "out 1*", "out"), name=EQUINOX),
        form("conv_transpose", ("weight", "weight", "in out +"), ("bias", "bias", "(groups out)", "(groups out)")),
        batch_norm("weight", "bias", "running_mean", "running_var"),
        form("norm", ("weight", "scale", "c"), ("bias", "offset", "c")),
        form("prelu", ("weight", "slope", "c")),
        *cells("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"),
        form("key_value_bias", ("bias_k", "key", "1 1 dim"), ("bias_v", "value", "1 1 dim")),
        form("parameter", ("", "value", "*")),
    )
    #: Of live nets.
    classes = class_table(
        {
            "Linear": "linear",
            "Conv1D": IN_OUT,
            "Embedding": "embedding",
            **{f"Conv{space}d": "conv" for space in (1, 2, 3)},
            **{f"ConvTranspose{space}d": "conv_transpose" for space in (1, 2, 3)},
            "PReLU": "prelu",
        }
    )
    on_demand = frozenset({EQUINOX})
    complete = frozenset({"batch_norm"})
    ignored = {"num_batches_tracked": "a counter that strict loading does not ask for"}
    live = (LiveClass("torch.nn.modules.module", "Module", "torch", "a torch.nn.Module"),)
    default_format = "torch"
    data_format = "torch"

    def split(self, contents: Contents) -> Iterable[Part]:
        parts = [
            replace(part, sources=item.sources, fold=item.fold) if item.fold else part
            for item in folded(contents.specs)
            for part in _parts(item.spec, contents)
        ]
        fused = {part.path.rpartition(".")[0] for part in parts if part.layer_class == "projection"}
        outputs = {".".join(filter(None, (path, "out_proj"))): path for path in fused}
        parts = [
            replace(part, path=_join(outputs[part.path], "output"), leaf=f"out_proj.{part.leaf}", layer_class="")
            if part.path in outputs
            else part
            for part in parts
        ]
        return alone(_with_norms(parts))

    def net(self, contents: Contents) -> Net:
        net = super().net(contents)
        return replace(net, layers=tuple(map(oriented, linear.without_conv1d(net.layers, IN_OUT))))

    def placed(self, layers: Sequence[Layer], dialect: str) -> Mapping[str, Placement]:
        """An attention whose heads are known was a layer of its own, as it is here where its sizes allow that."""
        places = {layer.path: Placement(layer.path) for layer in layers}
        for path, projections in linear.attentions(layers).items():
            inside = [layer for layer in layers if layer.path.startswith(f"{path}." if path else "")]
            forms = _own_attention(projections) if len(inside) == len(projections) else ()
            for layer, own in zip(projections.values(), forms, strict=False):
                places[layer.path] = Placement(path, own)
        return places

    def form_for(self, reading: Reading, dialect: str) -> Form:
        return super().form_for(replace(reading, form="") if reading.form in HEADS else reading, dialect)

    def kept(self, form: Form, reading: Reading) -> Iterable[Leaf]:
        """A BatchNorm has both scale and offset, or neither (affine=False)."""
        leaves = super().kept(form, reading)
        lost = reading.lacks if reading.lacks == {"scale", "offset"} else frozenset()
        return [leaf for leaf in leaves if not lost & words_in(leaf.roles)]

    def spell(self, prefix: str, leaf: str, dialect: str, is_data: bool) -> str:
        if leaf in _CELL_LEAVES:
            layer = re.search(r"(?:^|\.)(l\d+(?:_reverse)?)$", prefix)
            prefix = prefix[: layer.start()] if layer else prefix
            leaf = leaf if not layer and is_bare(prefix) else f"{leaf}_{layer[1] if layer else 'l0'}"
        return _join(prefix, re.sub(r"^(in_proj_(?:weight|bias))\.\d$", r"\1", leaf))


_CELL_LEAVES = frozenset({"weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"})


def _with_norms(parts: Sequence[Part]) -> list[Part]:
    """The ``gamma`` and ``beta`` of old files (BERT before transformers 4) are the weight and bias of a norm.

    One of them alone is a tensor of its own, such as that of a layer scale.
    """
    leaves: dict[str, set[str]] = {}
    for part in parts:
        leaves.setdefault(part.path, set()).add(part.leaf if len(part.spec.shape) == 1 else "")
    return [
        replace(part, leaf=_OLD_NORM[part.leaf]) if leaves[part.path] == _OLD_NORM.keys() else part for part in parts
    ]


_OLD_NORM = {"gamma": "weight", "beta": "bias"}


def _own_attention(projections: Mapping[str, Layer]) -> tuple[Form, ...]:
    """How ``nn.MultiheadAttention`` would store each of these; () when it has none of such sizes and biases."""
    sizes = [pair for layer in projections.values() if (pair := linear.widths(layer))]
    if len(sizes) < len(projections) or len({linear.has_bias(layer) for layer in projections.values()}) > 1:
        return ()
    query, key, value, output = sizes
    if len({*query, *output, key[0], value[0]}) > 1:
        return ()
    return (*(_IN_PROJECTIONS if query == key == value else _IN_PROJECTIONS_APART), _OUT_PROJECTION)


def _join(*parts: str) -> str:
    return ".".join(filter(None, parts))


def _parts(spec: TensorSpec, contents: Contents) -> list[Part]:
    """``rnn.weight_ih_l1_reverse`` -> path ``rnn.l1_reverse``; ``attn.in_proj_bias`` -> a part for each projection."""
    part = dotted(spec.name, spec)
    cell = re.fullmatch(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)_(l\d+(?:_reverse)?)", part.leaf)
    if cell:
        return [Part(spec, _join(part.path, cell[2]), cell[1], "cell")]
    if part.leaf in ("in_proj_weight", "in_proj_bias"):
        return [
            Part(spec, _join(part.path, name), f"{part.leaf}.{i}", "projection") for i, name in enumerate(ATTENTION[:3])
        ]
    if part.leaf in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        return [Part(spec, _join(part.path, ATTENTION["qkv".index(part.leaf[0])]), part.leaf, "projection")]
    return classed([part], contents)


def alone(parts: Sequence[Part]) -> list[Part]:
    """A recurrent module of one layer and direction is that layer: ``rnn.l0`` -> ``rnn``."""
    layers: dict[str, set[str]] = {}
    for part in parts:
        if part.layer_class == "cell":
            module, _, name = part.path.rpartition(".")
            layers.setdefault(module, set()).add(name)
    return [
        replace(part, path=part.path.rpartition(".")[0])
        if part.layer_class == "cell" and layers[part.path.rpartition(".")[0]] == {"l0"}
        else part
        for part in parts
    ]


def dotted(name: str, spec: TensorSpec) -> Part:
    """``a.b.weight`` -> path ``a.b``, leaf ``weight``."""
    path, _, leaf = name.rpartition(".")
    return Part(spec, path, leaf)
