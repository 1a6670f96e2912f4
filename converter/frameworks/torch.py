"""PyTorch: ``hidden.weight``. Layouts are the neutral ones (torch/nn/modules)."""

from __future__ import annotations

from collections.abc import Iterable

from converter.formats.base import Contents
from converter.frameworks.base import Framework, Leaf, Part
from converter.tensors import TensorSpec


class Torch(Framework):
    name = "torch"
    title = "PyTorch"
    aliases = ("pytorch",)
    layouts = {
        "linear": (Leaf("weight", "weight", "out in"), Leaf("bias", "bias", "out")),
        "embedding": (Leaf("weight", "weight", "num dim"),),
        "batch_norm": (
            Leaf("weight", "scale", "c"),
            Leaf("bias", "offset", "c"),
            Leaf("running_mean", "mean", "c"),
            Leaf("running_var", "variance", "c"),
        ),
        "norm": (Leaf("weight", "scale", "c"), Leaf("bias", "offset", "c")),
        "parameter": (Leaf("", "value", "*"),),
    }
    ignored = {"num_batches_tracked": "a counter that strict loading does not ask for"}
    default_format = "torch"
    data_format = "torch"

    def split(self, contents: Contents) -> Iterable[Part]:
        return [dotted(spec.name, spec) for spec in contents.specs]

    def spell(self, prefix: str, leaf: Leaf, dialect: str, is_data: bool) -> str:
        return ".".join(filter(None, (prefix, leaf.name)))


def dotted(name: str, spec: TensorSpec) -> Part:
    """``a.b.weight`` -> path ``a.b``, leaf ``weight``."""
    path, _, leaf = name.rpartition(".")
    return Part(spec, path, leaf)
