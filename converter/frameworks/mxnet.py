"""MXNet / Gluon: ``hidden.weight`` (`Block.save_parameters`), ``mlp0_dense0_weight`` (`collect_params().save`),
``arg:fc1_weight`` and ``aux:bn_moving_mean`` (exports and `Module` checkpoints). Layouts are the neutral ones
(mxnet/gluon/nn/basic_layers.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from converter.formats.base import Contents
from converter.frameworks.base import Framework, Leaf, Part
from converter.frameworks.torch import dotted
from converter.tensors import TensorSpec

#: `Module` graphs say moving_mean where gluon says running_mean.
_OLDER = {"moving_mean": "running_mean", "moving_var": "running_var"}


class MXNet(Framework):
    name = "mxnet"
    title = "MXNet"
    aliases = ("gluon",)
    layouts = {
        "linear": (Leaf("weight", "weight", "out in"), Leaf("bias", "bias", "out")),
        "embedding": (Leaf("weight", "weight", "num dim"),),
        "batch_norm": (
            Leaf("gamma", "scale", "c"),
            Leaf("beta", "offset", "c"),
            Leaf("running_mean", "mean", "c"),
            Leaf("running_var", "variance", "c"),
        ),
        "norm": (Leaf("gamma", "scale", "c"), Leaf("beta", "offset", "c")),
        "parameter": (Leaf("", "value", "*"),),
    }
    default_format = "mxnet"
    data_format = "mxnet"

    def split(self, contents: Contents) -> Iterable[Part]:
        return [self._part(spec) for spec in contents.specs]

    def _part(self, spec: TensorSpec) -> Part:
        name = re.sub(r"^(arg|aux):", "", spec.name)
        leaves = [leaf.name for kind in self.layouts.values() for leaf in kind if leaf.name] + list(_OLDER)
        prefixed = re.fullmatch(rf"(.+)_({'|'.join(sorted(set(leaves), key=len, reverse=True))})", name)
        if "." in name or not prefixed:
            return dotted(name, spec)
        path, leaf = prefixed.groups()
        return Part(spec, path, _OLDER.get(leaf, leaf))

    def spell(self, prefix: str, leaf: Leaf, dialect: str, is_data: bool) -> str:
        return ".".join(filter(None, (prefix, leaf.name)))
