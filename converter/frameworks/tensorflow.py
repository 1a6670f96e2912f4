"""TensorFlow / Keras, in the four ways its files spell names (its *dialects*):

vars        ``layers/dense_1/vars/0``: Keras 3 HDF5. Variables by number, layers by class and counter.
attributes  ``hidden/kernel/.ATTRIBUTES/VARIABLE_VALUE``: object-based checkpoints (Keras 2 `save_weights`).
keras2      ``dense/mlp/dense/kernel:0``: Keras 2 HDF5 and graph variables.
plain       ``hidden/kernel``: what is left for npz, safetensors and live nets.

Kernels are ``[in, out]`` (keras/src/layers/core/dense.py, normalization/batch_normalization.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations

from msgspec.structs import replace

from converter.core.contents import Contents
from converter.core.kinds import KINDS
from converter.core.layers import (
    Form,
    Layer,
    Net,
    Reading,
    batch_norm,
    form,
    join_path,
    sizes_of,
    split_path,
    stacked,
    words_in,
)
from converter.core.tensors import TensorSpec
from converter.errors import ConversionError
from converter.formats.keras.config import OWN
from converter.frameworks import keras_layers, linear
from converter.frameworks.base import Framework, LiveClass, Part, classed, parameter, unknown
from converter.frameworks.cells import stacked_cell
from converter.frameworks.tensorflow_folded import with_folded_cells

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_KERNELS = (("kernel", "input", "in (g h)"), ("recurrent_kernel", "recurrent", "r (g h)"))
#: Recurrent kinds whose one bias is the sum of both, and their gates in order.
_ONE_BIAS = (("rnn", "h"), ("lstm", "ifgo"))
#: Kinds whose kernels other frameworks store in another order of axes.
_TURNED = frozenset(("linear", "conv", "conv_transpose"))
_FORMAT_DIALECTS = {"keras": "vars", "keras-h5": "vars", "keras2-h5": "keras2", "tf-checkpoint": "attributes"}
#: The one tensor of a factor of a LoRA, which are linear layers elsewhere; files of Keras have them merged.
_ADAPTER = "lora kernel"


class TensorFlow(Framework):
    name = "tensorflow"
    title = "TensorFlow"
    aliases = ("tf", "keras")
    channels_last = True
    counts_classes = True
    #: In the order in which a layer creates its variables: that is their number in HDF5.
    forms = (
        # The Conv1D of the GPT-2 code calls it ``weight``, and has one axis more in its bias; TF-Slim has plurals.
        form("linear", ("kernel", "weight", "in out", "", "weight weights"), ("bias", "bias", "1* out", "", "biases")),
        form("linear", (_ADAPTER, "weight", "in out"), name="lora"),
        *linear.many_axes(),
        form("embedding", ("embeddings", "weight", "num dim", "", "weight")),
        form(
            "conv",
            ("kernel", "weight", "+ in out", "", "pointwise_kernel weights"),
            ("bias", "bias", "out", "", "biases"),
        ),
        form(
            "conv",
            ("depthwise_kernel", "weight", "+ c multiplier", "(c multiplier) 1 +", "kernel depthwise_weights"),
            ("bias", "bias", "(c multiplier)", "(c multiplier)", "biases"),
            name="depthwise",
        ),
        form("conv_transpose", ("kernel", "weight", "+ out in", "", "weights"), ("bias", "bias", "out", "", "biases")),
        batch_norm("gamma", "beta", "moving_mean", "moving_variance"),
        *(
            form("norm", ("gamma", "scale", "c", "", "scale weight"), ("beta", "offset", "c"), name=name)
            for name in ("", "group_norm", "instance_norm", "rms_norm")  # stored alike, under other class names
        ),
        form("prelu", ("alpha", "slope", "1* c")),
        *(
            stacked_cell(kind, gates, *_KERNELS, ("bias", "input_bias+recurrent_bias", "(g h)"))
            for kind, gates in _ONE_BIAS
        ),
        form(
            "gru",
            ("kernel", stacked("input", "zrn"), "in (g h)"),
            ("recurrent_kernel", stacked("recurrent", "zrn"), "r (g h)"),
            (
                "bias",
                f"{stacked('input_bias', 'zrn')} {stacked('recurrent_bias', 'zrn')}",
                "side=2 (gate=3 h)",
                "(side=2 gate=3) h",
            ),
        ),
        stacked_cell("gru_reset_before", "zrn", *_KERNELS, ("bias", "input_bias", "(g h)")),
        form(
            "power_iteration",
            ("kernel", "weight", "* out"),
            ("vector_u", "vector", "1 out"),
            name="spectral_normalization",
        ),
        form("parameter", ("", "value", "*")),
    )
    classes = keras_layers.CLASSES
    on_demand = frozenset(
        {"spectral_normalization", "group_norm", "instance_norm", "rms_norm", linear.BY_HEAD, *linear.MANY_AXES}
    )
    live = (
        LiveClass("keras.", "Layer", "keras", "a Keras model"),
        LiveClass("tf_keras.", "Layer", "keras", "a tf_keras model"),
    )
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

    @lru_cache  # noqa: B019 (there is one)
    def forms_of(self, dialect: str) -> tuple[Form, ...]:
        if dialect != "vars":
            return self.forms
        return tuple(numbered for form in self.forms if form.name != "lora" for numbered in _numbered_forms(form))

    def form_for(self, reading: Reading, dialect: str) -> Form:
        """In HDF5 the number of a variable depends on which others the layer has (a norm without an offset)."""
        usual = super().form_for(reading, dialect)
        roles = [leaf.roles for leaf in self.kept(usual, reading)]
        alike = [form for form in self.forms_of(dialect) if (form.kind, form.name) == (usual.kind, usual.name)]
        return next((form for form in alike if [leaf.roles for leaf in form.leaves][: len(roles)] == roles), usual)

    def _readings(self, parts: Sequence[Part], dialect: str) -> tuple[Reading, ...]:
        """HDF5 keeps no name of a variable, so the only one of a user's own layer may be a bare tensor."""
        readings = super()._readings(parts, dialect)
        if dialect != "vars" or len(parts) != 1 or _without_number(parts[0].layer_class) in self.classes:
            return readings
        return (*readings, *parameter("", parts[0].spec).readings)

    def _recognise(self, path: str, parts: Sequence[Part], dialect: str) -> Iterable[Layer]:
        """In HDF5 the weights of a model, and those of a user's own layer, are called by index: ``vars.0``."""
        known = _without_number(parts[0].layer_class) in self.classes
        if dialect != "vars" or known:
            return super()._recognise(path, parts, dialect)
        if not path or (len(parts) > 1 and not self._readings(parts, dialect)):
            return [parameter(join_path((*split_path(path), "vars", part.leaf)), part.spec) for part in parts]
        layers = super()._recognise(path, parts, dialect)
        return map(_doubted, layers) if _tells_class(parts[0]) else layers

    def split(self, contents: Contents) -> Iterable[Part]:
        dialect = self.dialect_of(contents)
        if dialect == "vars":
            numbered = [_numbered(spec, contents.labels, self.classes) for spec in contents.specs]
            parts = classed(_apart(numbered), contents)
        else:
            parts = classed((_SPLIT[dialect](spec) for spec in contents.specs), contents)
            parts = [self._of_list(part, contents.labels) for part in parts]
            parts = [replace(part, layer_class="") if part.leaf == _ADAPTER else part for part in parts]
        return linear.with_attentions(
            keras_layers.with_separable(keras_layers.with_cells(with_folded_cells(parts))), keras_layers.projection
        )

    def _of_list(self, part: Part, labels: Mapping[str, str]) -> Part:
        """A variable of a list under the name that it has in the program, where that is one of a layer's."""
        *path, leaf = labels.get(part.spec.name.removesuffix(VALUE), "").split("/")
        return replace(part, path=join_path(path), leaf=leaf) if leaf in self._words("attributes") else part

    def spell(self, prefix: str, leaf: str, dialect: str, is_data: bool) -> str:
        leaf = "" if leaf == _ADAPTER else leaf
        if dialect == "vars":
            return prefix if keras_layers.is_own_weight(prefix) else f"{prefix}/vars/{leaf or 0}"
        name = "/".join(filter(None, (prefix, leaf)))
        if dialect == "keras2":
            return f"{prefix}/{name}:0"  # the group of the layer, then the variable's own name
        return name + VALUE if dialect == "attributes" else name

    def prefixes(self, layers: Sequence[Layer], dialect: str) -> Mapping[str, str]:
        """Path -> ``layers/dense_1`` in Keras 3 HDF5, else the attribute path."""
        return (keras_layers.numbered_by_class if dialect == "vars" else keras_layers.by_attribute)(layers)

    def dress(self, contents: Contents, layers: Sequence[Layer], dialect: str, source: Net) -> Contents:
        if dialect == "vars":
            _refuse_lost_order(layers, source)
            places = self.prefixes(layers, dialect)
            groups = {path: place for path, place in places.items() if not keras_layers.is_own_weight(place)}
            flat = {path: place for path, place in groups.items() if place.startswith("layers/") and "." not in path}
            further = keras_layers.further_groups([layer for layer in layers if layer.path in groups], groups)
            alone = {path: place for path, place in groups.items() if not keras_layers.is_cell_of_stack(place)}
            labels = {f"{place}/vars": split_path(path)[-1] for path, place in alone.items()}
            containers = _container_links((*groups.values(), *further))
            classes = {spec.name: name for layer in layers if (name := _told_class(layer)) for spec in layer.tensors}
            return replace(contents, labels=labels, links={**flat, **further, **containers}, classes=classes)
        if dialect == "attributes" and not source.is_data:
            return replace(contents, links=_other_edges(contents, layers))
        return contents


def _tells_class(part: Part) -> bool:
    """Whether the file tells the class of this very layer, by its group in a container or by its config: of what an
    attribute holds it tells none, and nearly all of that are layers of Keras.
    """
    *_, container, _, _, _ = "", "", "", "", *part.spec.name.split("/")
    return container == "layers" or part.layer_class == OWN


def _told_class(layer: Layer) -> str:
    """The class that a new file has to tell, for the shapes do not: see `_doubted`."""
    return keras_layers.class_name(layer) if layer.readings[0].kind in _TURNED else ""


def _container_links(groups: Iterable[str]) -> Mapping[str, str]:
    """Further names of nested groups, ``a/layers/b`` for ``a/b``: so Keras calls what is in a Sequential."""
    links = {}
    for group in groups:
        parts = group.split("/")
        for depth in range(len(parts) if parts[0] != "layers" else 0):
            links["/".join([*parts[:depth], "layers", parts[depth]])] = "/".join(parts[: depth + 1])
    return links


def _numbered_forms(form: Form) -> Iterable[Form]:
    """The form with indices for names: one for each choice of variables that moves the index of another."""
    optional = KINDS[form.kind].optional
    free = [leaf for leaf in form.leaves if words_in(leaf.roles) <= optional]
    for count in range(len(free) + 1):
        for dropped in combinations(free, count):
            kept = [leaf for leaf in form.leaves if leaf not in dropped]
            moves = kept != list(form.leaves[: len(kept)])
            if kept and (moves or not dropped):
                names = [str(number) if form.kind != "parameter" else "" for number in range(len(kept))]
                leaves = (replace(leaf, name=name, also=()) for leaf, name in zip(kept, names, strict=True))
                lacks = words_in(tuple(role for leaf in dropped for role in leaf.roles)) if moves else frozenset()
                yield replace(form, leaves=tuple(leaves), lacks=lacks)


def _numbered(spec: TensorSpec, labels: Mapping[str, str], classes: Collection[str]) -> Part:
    """``layers/sequential/layers/dense_1/vars/0`` -> path ``sequential.dense_1``, leaf ``0``.

    The user's name of a layer, where the file kept one, takes the place of ``dense_1``. An automatic
    name (``dense_7``) depends on what else the writing program had built, so it tells only the class.
    """
    group, _, number = spec.name.rpartition("/")
    parts = group.split("/")[:-1]
    path = []
    layer_class = ""
    for i, part in enumerate(parts):
        label = labels.get("/".join([*parts[: i + 1], "vars"]), "")
        automatic = _without_number(label) in (*classes, _without_number(part))
        in_container = i > 0 and parts[i - 1] == "layers"
        if part != "layers" or i == len(parts) - 1:
            path.append(label if label and in_container and not automatic else part)
        if in_container or _without_number(part).lstrip("_") in classes:
            layer_class = part.lstrip("_")
        elif label:
            wrapped = re.sub("^(for|back)ward_", "", label)  # inside a Bidirectional
            layer_class = wrapped if automatic or wrapped != label else ""
    if _without_number(layer_class) == "reversible_embedding" and number == "1":  # its output layer, if it is not tied
        return Part(spec, join_path((*path, "reverse")), "0", "dense")
    return Part(spec, join_path(path), number, layer_class)


def _doubted(layer: Layer) -> Layer:
    """Of a class that is no part of Keras. The shapes of a kernel and a bias are those of any matrix and vector that a
    user's own layer may have, and do something else with: where they do not tell what comes in and what goes out, it is
    a layer of Keras only when somebody says so.
    """
    kernels = [reading for reading in layer.readings if reading.kind in _TURNED and len(reading.stored) > 1]
    sizes = sizes_of(replace(layer, readings=(kernels[0],))) if kernels else None
    if sizes is None or sizes.inputs != sizes.outputs:
        return layer
    return replace(layer, readings=(unknown(kernels[0]),), unlikely=(*layer.readings, *layer.unlikely))


def _without_number(name: str) -> str:
    return re.sub(r"_\d+$", "", name)


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
    parts = [re.sub(r"\.(S|\.)", lambda escaped: "/" if escaped[1] == "S" else ".", part) for part in parts]
    return Part(spec, join_path(parts[:-1]), parts[-1].removeprefix("_"))


def _keras2(spec: TensorSpec) -> Part:
    """``dense/mlp/dense/kernel:0`` -> path ``dense``: the group, then the variable with its scopes.

    What comes after the group's name there is inside of it: ``net/top/net/dense_8/bias:0`` is ``net.dense_8``.
    """
    group, *scopes, leaf = spec.name.removesuffix(":0").removeprefix("model_weights/").split("/")
    inside = scopes[len(scopes) - scopes[::-1].index(group) :] if group in scopes else scopes
    path = [group, *inside]
    return Part(spec, join_path(_indexed(path)), leaf, path[-1])


def _indexed(path: Iterable[str]) -> list[str]:
    """The path with indices of their own where Hugging Face writes ``h_._0`` or ``layers.0``; ``mlm___cls`` is cls."""
    return [part for name in path for part in re.split(r"_?\._?(?=\d)", re.sub(r"^.*___(?=.)", "", name))]


def _plain(spec: TensorSpec) -> Part:
    parts = spec.name.split("/")
    if parts[-1] in ("lora_kernel_a", "lora_kernel_b") and len(spec.shape) == 2:  # of `Dense.enable_lora`
        parts.append(_ADAPTER)
    return Part(spec, join_path(_indexed(parts[:-1])), parts[-1])


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
    placed = keras_layers.by_attribute(layers)
    owners = dict.fromkeys(re.sub(r"(/(for|back)ward_layer)?/cell$", "", place) for place in placed.values())
    edges |= {f"layer_with_weights-{number}": owner for number, owner in enumerate(owners)}
    for layer in layers:
        for spec in layer.tensors:
            name = spec.name.removesuffix(VALUE)
            stem, _, leaf = name.rpartition("/")
            if leaf in ("kernel", "embeddings"):
                edges[f"{stem}/_{leaf}"] = name
    known = {
        "/".join(name.removesuffix(VALUE).split("/")[: depth + 1]) for name in contents.by_name for depth in range(9)
    }
    return {edge: end for edge, end in edges.items() if edge not in known}
