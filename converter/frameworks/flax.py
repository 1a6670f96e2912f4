"""JAX / Flax: ``params/hidden/kernel``, statistics under ``batch_stats``; an nnx state has ``hidden/kernel/value``.

Kernels are ``[in, out]`` (flax/linen/linear.py, normalization.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from converter.formats.base import Contents
from converter.frameworks.base import Framework, Leaf, Part
from converter.layers import join_path, split_path
from converter.tensors import TensorSpec

_COLLECTIONS = ("params", "batch_stats")
_STATISTICS = ("mean", "variance")


class Flax(Framework):
    name = "flax"
    title = "Flax"
    aliases = ("jax",)
    layouts = {
        "linear": (Leaf("kernel", "weight", "in out"), Leaf("bias", "bias", "out")),
        "embedding": (Leaf("embedding", "weight", "num dim"),),
        "batch_norm": (
            Leaf("scale", "scale", "c"),
            Leaf("bias", "offset", "c"),
            Leaf("mean", "mean", "c"),
            Leaf("var", "variance", "c"),
        ),
        "norm": (Leaf("scale", "scale", "c"), Leaf("bias", "offset", "c")),
        "parameter": (Leaf("", "value", "*"),),
    }
    default_format = "flax-msgpack"
    data_format = "npy"

    def split(self, contents: Contents) -> Iterable[Part]:
        return [_part(spec) for spec in contents.specs]

    def is_ordered(self, contents: Contents) -> bool:
        """Trees are sorted by every ``jax.tree`` operation."""
        return contents.container != "dict"

    def spell(self, prefix: str, leaf: Leaf, dialect: str, is_data: bool) -> str:
        collection = "batch_stats" if leaf.role in _STATISTICS else "params"
        parts = (*split_path(prefix), leaf.name)
        return "/".join(filter(None, parts if is_data else (collection, *parts)))


def _part(spec: TensorSpec) -> Part:
    parts = spec.name.split("/")
    while len(parts) > 1 and parts[0] in _COLLECTIONS:
        del parts[0]
    if len(parts) > 1 and parts[-1] == "value":  # an nnx Variable
        del parts[-1]
    return Part(spec, join_path(parts[:-1]), parts[-1])
