"""TensorFlow / Keras, in the four ways its files spell names (its *dialects*):

vars        ``layers/dense_1/vars/0``: Keras 3 HDF5. Variables by number, layers by class and counter.
attributes  ``hidden/kernel/.ATTRIBUTES/VARIABLE_VALUE``: object-based checkpoints (Keras 2 `save_weights`).
keras2      ``dense/mlp/dense/kernel:0``: Keras 2 HDF5 and graph variables.
plain       ``hidden/kernel``: what is left for npz, safetensors and live nets.

Kernels are ``[in, out]`` (keras/src/layers/core/dense.py, normalization/batch_normalization.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from converter.errors import ConversionError
from converter.formats.base import Contents
from converter.frameworks.base import Framework, Leaf, Part
from converter.layers import Layer, Net, join_path, split_path
from converter.tensors import TensorSpec

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_FORMAT_DIALECTS = {"keras": "vars", "keras-h5": "vars", "keras2-h5": "keras2", "tf-checkpoint": "attributes"}


class TensorFlow(Framework):
    name = "tensorflow"
    title = "TensorFlow"
    aliases = ("tf", "keras")
    #: In the order in which a layer creates its variables: that is their number in HDF5.
    layouts = {
        "linear": (Leaf("kernel", "weight", "in out"), Leaf("bias", "bias", "out")),
        "embedding": (Leaf("embeddings", "weight", "num dim"),),
        "batch_norm": (
            Leaf("gamma", "scale", "c"),
            Leaf("beta", "offset", "c"),
            Leaf("moving_mean", "mean", "c"),
            Leaf("moving_variance", "variance", "c"),
        ),
        "norm": (Leaf("gamma", "scale", "c"), Leaf("beta", "offset", "c")),
        "parameter": (Leaf("", "value", "*"),),
    }
    classes = {
        "dense": "linear",
        "embedding": "embedding",
        "batch_normalization": "batch_norm",
        "layer_normalization": "norm",
        "group_normalization": "norm",
    }
    default_format = "keras-h5"
    data_format = "npy"

    def dialect_for(self, format_name: str) -> str:
        return _FORMAT_DIALECTS.get(format_name, "plain")

    def dialect_of(self, contents: Contents) -> str:
        names = [spec.name for spec in contents.specs]
        if any(name.endswith(VALUE) for name in names):
            return "attributes"
        if any(re.search(r"(^|/)vars/\d+$", name) for name in names):
            return "vars"
        return "keras2" if any(name.endswith(":0") for name in names) else "plain"

    def is_ordered(self, contents: Contents) -> bool:
        """Checkpoints sort their keys; HDF5 files number the layers."""
        return contents.container != "dict" or self.dialect_of(contents) in ("vars", "keras2")

    def leaves(self, kind: str, dialect: str) -> tuple[Leaf, ...]:
        leaves = self.layouts[kind]
        if dialect == "vars" and kind != "parameter":
            return tuple(replace(leaf, name=str(number)) for number, leaf in enumerate(leaves))
        return leaves

    def split(self, contents: Contents) -> Iterable[Part]:
        dialect = self.dialect_of(contents)
        if dialect == "vars":
            parts = [_numbered(spec, contents.labels, self.classes) for spec in contents.specs]
            return _apart(parts)
        return [_SPLIT[dialect](spec) for spec in contents.specs]

    def spell(self, prefix: str, leaf: Leaf, dialect: str, is_data: bool) -> str:
        if dialect == "vars":
            return f"{prefix}/vars/{leaf.name or 0}"
        name = "/".join(filter(None, (prefix, leaf.name)))
        if dialect == "keras2":
            return f"{prefix}/{name}:0"  # the group of the layer, then the variable's own name
        return name + VALUE if dialect == "attributes" else name

    def prefixes(self, layers: Sequence[Layer], dialect: str) -> Mapping[str, str]:
        """Path -> ``layers/dense_1`` in Keras 3 HDF5, else the attribute path.

        Keras numbers the layers of a flat net by class; for nested ones only the names of the
        attributes are known, under which a subclassed net finds them.
        """
        if dialect != "vars":
            return {layer.path: "/".join(split_path(layer.path)) for layer in layers}
        class_of = {kind: name for name, kind in reversed(self.classes.items())}
        counter: Counter[str] = Counter()
        found = {}
        for layer in layers:
            parts = split_path(layer.path)
            name = class_of.get(layer.readings[0].kind)
            if len(parts) == 1 and name:
                found[layer.path] = f"layers/{name}_{counter[name]}" if counter[name] else f"layers/{name}"
                counter[name] += 1
            else:
                found[layer.path] = "/".join(parts)
        return found

    def dress(self, contents: Contents, layers: Sequence[Layer], dialect: str, source: Net) -> Contents:
        if dialect == "vars":
            _refuse_lost_order(layers, source)
            prefixes = self.prefixes(layers, dialect)
            flat = {path: prefix for path, prefix in prefixes.items() if prefix.startswith("layers/")}
            labels = {f"{prefix}/vars": split_path(path)[-1] for path, prefix in prefixes.items()}
            return replace(contents, labels=labels, links=flat)
        if dialect == "attributes" and not source.is_data:
            return replace(contents, links=_other_edges(contents, layers))
        return contents


def _numbered(spec: TensorSpec, labels: Mapping[str, str], classes: Mapping[str, str]) -> Part:
    """``layers/sequential/layers/dense_1/vars/0`` -> path ``sequential.dense_1``, leaf ``0``.

    The user's name of the layer, where the file kept one, takes the place of ``dense_1``. An automatic
    name (``dense_7``) depends on what else the writing program had built, so it tells only the class.
    """
    group, _, number = spec.name.rpartition("/")
    parts = group.split("/")[:-1]
    label = labels.get(group, "")
    automatic = re.sub(r"_\d+$", "", label) in classes
    in_container = len(parts) > 1 and parts[-2] == "layers"
    layer_class = parts[-1] if in_container else (label if automatic else "")
    path = [part for i, part in enumerate(parts) if part != "layers" or i == len(parts) - 1]
    if path and label and in_container and not automatic:
        path[-1] = label
    return Part(spec, join_path(path), number, layer_class)


def _apart(parts: Sequence[Part]) -> list[Part]:
    """Two groups whose layers have one name (the user's own may repeat) keep the file's names instead."""
    groups: dict[str, set[str]] = {}
    for part in parts:
        groups.setdefault(part.path, set()).add(part.spec.name.rpartition("/")[0])
    return [
        replace(part, path=join_path(part.spec.name.split("/")[:-2])) if len(groups[part.path]) > 1 else part
        for part in parts
    ]


def _attribute(spec: TensorSpec) -> Part:
    """``model/hidden/_kernel/.ATTRIBUTES/VARIABLE_VALUE`` -> path ``model.hidden``, leaf ``kernel``."""
    parts = spec.name.removesuffix(VALUE).split("/")
    parts = [re.sub(r"\.(S|\.)", lambda found: "/" if found[1] == "S" else ".", part) for part in parts]
    return Part(spec, join_path(parts[:-1]), parts[-1].removeprefix("_"))


def _keras2(spec: TensorSpec) -> Part:
    """``dense/mlp/dense/kernel:0`` -> path ``dense``: the group, then the variable with its scopes.

    What stands behind the group's name there is inside of it: ``net/top/net/dense_8/bias:0`` is ``net.dense_8``.
    """
    group, *scopes, leaf = spec.name.removesuffix(":0").removeprefix("model_weights/").split("/")
    inside = scopes[len(scopes) - scopes[::-1].index(group) :] if group in scopes else scopes
    path = [group, *inside]
    return Part(spec, join_path(path), leaf, path[-1])


def _plain(spec: TensorSpec) -> Part:
    parts = spec.name.split("/")
    return Part(spec, join_path(parts[:-1]), parts[-1])


_SPLIT = {"attributes": _attribute, "keras2": _keras2, "plain": _plain}


def _refuse_lost_order(layers: Sequence[Layer], source: Net) -> None:
    """Keras HDF5 tells equal layers apart by their order alone; a source without one must number its names."""
    if source.ordered:
        return
    seen: dict[tuple[object, ...], str] = {}
    for layer in layers:
        signature = (layer.kind, tuple(spec.shape for spec in layer.tensors))
        twin = seen.setdefault(signature, layer.path)
        if re.sub(r"\d+", "#", twin) != re.sub(r"\d+", "#", layer.path):
            raise ConversionError(
                f"'{twin}' and '{layer.path}' have the same shapes, and the source does not keep the order of its "
                "layers, which a Keras .weights.h5 file needs. Give the clone with --like, or a --schema."
            )


def _other_edges(contents: Contents, layers: Sequence[Layer]) -> Mapping[str, str]:
    """Further names for the same objects, so that one checkpoint restores into every sort of net.

    ``tf.train.Checkpoint(model=net)`` asks for ``model``, a Sequential for ``layer_with_weights-0``, and
    Keras 3 variables for ``_kernel`` and ``_embeddings``.
    """
    edges = {"model": ""}
    for number, layer in enumerate(layers):
        prefix = "/".join(split_path(layer.path))
        edges.setdefault(f"layer_with_weights-{number}", prefix)
        for spec in layer.tensors:
            name = spec.name.removesuffix(VALUE)
            stem, _, leaf = name.rpartition("/")
            if leaf in ("kernel", "embeddings"):
                edges[f"{stem}/_{leaf}"] = name
    known = {
        "/".join(name.removesuffix(VALUE).split("/")[: depth + 1]) for name in contents.by_name for depth in range(9)
    }
    return {edge: end for edge, end in edges.items() if edge not in known}
