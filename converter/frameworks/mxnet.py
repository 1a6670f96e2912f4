"""MXNet / Gluon: ``hidden.weight`` (`Block.save_parameters`), ``mlp0_dense0_weight`` (`collect_params().save`),
``arg:fc1_weight`` and ``aux:bn_moving_mean`` (exports and `Module` checkpoints). Layouts are the neutral ones
(mxnet/gluon/nn/basic_layers.py, conv_layers.py, rnn/rnn_layer.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from converter.core.contents import Contents
from converter.core.kinds import RECURRENT
from converter.core.layers import Layer, batch_norm, form
from converter.core.tensors import TensorSpec
from converter.frameworks.base import Framework, LiveClass, Part, class_table, classed
from converter.frameworks.cells import is_bare, numbered
from converter.frameworks.torch import alone, cells, dotted

#: `Module` graphs say moving_mean where gluon says running_mean.
_OLDER = {"moving_mean": "running_mean", "moving_var": "running_var"}
_CELL_LEAVES = frozenset({"i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias", "h2r_weight"})


class MXNet(Framework):
    name = "mxnet"
    title = "MXNet"
    aliases = ("gluon",)
    forms = (
        form("linear", ("weight", "weight", "out in"), ("bias", "bias", "out")),
        form("embedding", ("weight", "weight", "num dim")),
        form("conv", ("weight", "weight", "out in +"), ("bias", "bias", "out")),
        form("conv_transpose", ("weight", "weight", "in out +"), ("bias", "bias", "(groups out)", "(groups out)")),
        batch_norm("gamma", "beta", "running_mean", "running_var"),
        # With fix_gamma the scale is one, whatever is stored (src/operator/nn/batch_norm.cc).
        batch_norm("gamma", "beta", "running_mean", "running_var", role="unused_scale", name="fix_gamma"),
        form("norm", ("gamma", "scale", "c"), ("beta", "offset", "c")),
        # GroupNorm has one for each group, not for each channel (python/mxnet/gluon/nn/basic_layers.py, 1.9.1).
        form(
            "norm",
            ("gamma", "scale", "groups", "(groups each)"),
            ("beta", "offset", "groups", "(groups each)"),
            name="group_norm",
        ),
        form("prelu", ("alpha", "slope", "c")),
        *cells("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias", "h2r_weight"),
        form("parameter", ("", "value", "*")),
    )
    #: The names that blocks get by themselves (``conv0_weight``) tell their class; Conv2DTranspose says conv, too.
    classes = class_table(
        {
            "dense": "linear",
            "embedding": "embedding",
            "batchnorm": "batch_norm",
            "batchnorm_fix_gamma": "fix_gamma",
            **{f"conv{space}d": "conv" for space in (1, 2, 3)},
            **{f"conv{space}dtranspose": "conv_transpose" for space in (1, 2, 3)},
            # The operators of an exported graph.
            "fullyconnected": "linear",
            "convolution": "conv",
            "deconvolution": "conv_transpose",
            "leakyrelu": "prelu",
            "layernorm": "norm",
            "groupnorm": "group_norm",
            "instancenorm": "norm",
            "prelu": "prelu",
            **{kind: kind for kind in ("lstm", "gru", "rnn")},
        }
    )
    complete = frozenset({"rnn", "lstm", "gru", "batch_norm"})
    on_demand = frozenset({"fix_gamma", "group_norm"})
    live = (LiveClass("mxnet.gluon.block", "Block", "gluon", "a gluon Block"),)
    default_format = "mxnet"
    data_format = "mxnet"

    def split(self, contents: Contents) -> Iterable[Part]:
        return alone(classed(map(self._part, contents.specs), contents))

    def _part(self, spec: TensorSpec) -> Part:
        name = re.sub(r"^(arg|aux):", "", spec.name)
        leaves = [*self._words(""), *_OLDER]
        prefixed = re.fullmatch(rf"(.+?)_({'|'.join(sorted(leaves, key=len, reverse=True))})", name)
        if "." in name or not prefixed:
            part = dotted(name, spec)
            return _unfused(part) if part.leaf in _CELL_LEAVES else part
        path, leaf = prefixed.groups()
        cell = re.fullmatch(r"(.+)_([lr])(\d+)", path)
        if leaf in _CELL_LEAVES and cell:
            return Part(spec, _layer_path(cell[1], cell[3], cell[2]), leaf, "cell")
        return Part(spec, path, _OLDER.get(leaf, leaf), path.rpartition("_")[2].rstrip("0123456789"))

    def prefixes(self, layers: Sequence[Layer], dialect: str) -> Mapping[str, str]:
        """A recurrent layer writes its cells as ``_unfused.1.l_cell``, or ``_unfused.1`` in one direction."""
        two_ways = {path[0] for layer in layers if (path := numbered(layer.path)) and path[2]}
        prefixes = {}
        for layer in layers:
            cell = numbered(layer.path)
            recurrent = any(reading.kind in RECURRENT for reading in layer.readings)
            if not recurrent or (cell is None and is_bare(layer.path)):
                prefixes[layer.path] = layer.path
            elif cell is None:
                prefixes[layer.path] = f"{layer.path}._unfused.0"
            else:
                side = f".{'r' if cell[2] else 'l'}_cell" if cell[0] in two_ways else ""
                prefixes[layer.path] = f"{cell[0]}._unfused.{cell[1]}{side}"
        return prefixes

    def spell(self, prefix: str, leaf: str, dialect: str, is_data: bool) -> str:
        return ".".join(filter(None, (prefix, leaf)))


def _unfused(part: Part) -> Part:
    """``lstm._unfused.1.r_cell.i2h_weight`` -> path ``lstm.l1_reverse``."""
    cell = re.fullmatch(r"(?:(.+)\.)?_unfused\.(\d+)(?:\.([lr])_cell)?", part.path)
    if not cell:
        return part
    return Part(part.spec, _layer_path(cell[1] or "", cell[2], cell[3] or "l"), part.leaf, "cell")


def _layer_path(module: str, number: str, side: str) -> str:
    return ".".join(filter(None, (module, f"l{number}{'_reverse' if side == 'r' else ''}")))
