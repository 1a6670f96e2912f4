"""Classes of Keras, and layers that hold other layers: recurrent cells, separable convolutions, attentions; in and out.

A model goes through its attributes in the order of the alphabet, ``layers`` among them, and looks for a layer wherever
it meets it: under the attribute (``rnn/rnn``), or under its class in a list or a dict (``hparams/gru/layers/gru``).
Where the first of these does not have it, the others are not always tried: what fails twice is taken for done
(`_load_state` of keras/src/saving/saving_lib.py). So a new file has them all, as further names of one group.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from converter.core.kinds import RECURRENT
from converter.core.layers import Layer, split_path
from converter.core.natural_order import natural_key
from converter.frameworks.base import Part, class_table
from converter.frameworks.cells import OLD_CELL, cell_path, cells_placed, is_bare, numbered
from converter.frameworks.linear import ATTENTION, BY_HEAD, FROM_HEADS, MANY_AXES, TO_HEADS, attentions, shares_heads

#: Class in snake case -> its forms; a layer of a new file has the first that its form, or else its kind, stands at.
CLASSES = class_table(
    {
        "dense": "linear",
        "einsum_dense": " ".join(("linear", TO_HEADS, FROM_HEADS, *MANY_AXES)),
        "einsum_of_other_axes": "",
        **{f"attention {name}": FROM_HEADS if name == "output" else TO_HEADS for name in ATTENTION},
        **{f"attention {name} by head": BY_HEAD for name in ATTENTION},
        "embedding": "embedding",
        "reversible_embedding": "embedding",
        **{f"conv{space}d": "conv" for space in (1, 2, 3)},
        **{f"depthwise_conv{space}d": "depthwise" for space in (1, 2)},
        **{f"conv{space}d_transpose": "conv_transpose" for space in (1, 2, 3)},
        "batch_normalization": "batch_norm",
        "layer_normalization": "norm",
        "group_normalization": "group_norm instance_norm",
        "rms_normalization": "rms_norm",
        "p_re_lu": "prelu",
        **dict.fromkeys(("simple_rnn", "simple_rnn_cell"), "rnn"),
        **dict.fromkeys(("lstm", "lstm_cell"), "lstm"),
        **dict.fromkeys(("gru", "gru_cell"), "gru gru_reset_before"),
        # of whole models and live nets, which say what the weights of a GRU without biases do not
        "gru_reset_after": "gru",
        "gru_reset_before": "gru_reset_before",
        "spectral_normalization": "spectral_normalization",
        OLD_CELL: "",
    }
)


def with_cells(parts: Sequence[Part]) -> list[Part]:
    """``lstm.cell`` -> ``lstm``; ``rnn.cell.cells.gru_cell_1`` -> ``rnn.l1``; ``bidirectional.forward_layer.cell``."""
    paths = {split_path(part.path) for part in parts}
    stacks: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for path in sorted(filter(_is_cell, paths), key=lambda path: natural_key(path[-1])):
        stacks.setdefault(path[:-1], []).append(path)
    moved = []
    for part in parts:
        path = split_path(part.path)
        if _is_cell(path) and len(path) > 2 and re.fullmatch(r"cells|stacked_rnn_cells(_\d+)?", path[-2]):
            head = path[:-3] if path[-3] == "cell" else path[:-2]
            path = (*head, f"l{stacks[path[:-1]].index(path)}")  # their own numbers may begin anywhere
        elif _is_cell(path) and len(path) > 1:
            path = _direction(path[:-1], {other[:-1] for other in paths})
        moved.append(replace(part, path=cell_path(path)))
    return moved


def _is_cell(path: tuple[str, ...]) -> bool:
    return bool(path) and re.fullmatch(r"(?:simple_rnn|lstm|gru)_cell(?:_\d+)?", path[-1]) is not None


def _direction(path: tuple[str, ...], known: set[tuple[str, ...]]) -> tuple[str, ...]:
    """``rnn.forward_lstm_3`` -> ``rnn.forward_layer`` where there is a ``rnn.backward_lstm_3``, too (Keras 2 HDF5)."""
    side_and_name = re.fullmatch(r"(forward|backward)_(.+)", path[-1])
    both = side_and_name and {(*path[:-1], f"{side}_{side_and_name[2]}") for side in ("forward", "backward")} <= known
    return (*path[:-1], f"{side_and_name[1]}_layer") if side_and_name and both else path


def with_separable(parts: Sequence[Part]) -> list[Part]:
    """A separable convolution is a depthwise one without bias and a pointwise one."""
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(part.path, []).append(part)
    return [new for path, group in groups.items() for new in (_separated(path, group) if _separable(group) else group)]


def _separable(group: Sequence[Part]) -> bool:
    """By name, or by shape: the second kernel has no extent, and as many inputs as the first has outputs."""
    leaves = {part.leaf: part.spec.shape for part in group}
    first, second = leaves.get("0", ()), leaves.get("1", ())
    by_shape = len(first) == len(second) > 2 and set(second[:-2]) == {1} and second[-2] == first[-2] * first[-1]
    return {"depthwise_kernel", "pointwise_kernel"} <= leaves.keys() or by_shape


def _separated(path: str, group: Sequence[Part]) -> list[Part]:
    below = {"0": ("depthwise", "0"), "1": ("pointwise", "0"), "2": ("pointwise", "1"), "bias": ("pointwise", "bias")}
    below |= {f"{name}_kernel": (name, f"{name}_kernel") for name in ("depthwise", "pointwise")}
    classes = {"depthwise": "depthwise_conv2d", "pointwise": "conv2d"}
    return [
        replace(part, path=f"{path}.{name}" if path else name, leaf=leaf, layer_class=classes[name])
        for part in group
        for name, leaf in [below[part.leaf]]
    ]


def projection(name: str) -> str:
    """``_query_dense``, ``query_dense`` and ``query`` -> ``query``; ``attention_output`` -> ``output``."""
    return "output" if name == "attention_output" else name.lstrip("_").removesuffix("_dense")


def numbered_by_class(layers: Sequence[Layer]) -> Mapping[str, str]:
    """Path of each layer -> its group in Keras 3 HDF5, ``layers/dense_1``.

    Keras numbers the layers of a flat net by class; for nested ones only the names of the attributes are
    known, under which a subclassed net finds them.
    """
    counter: Counter[str] = Counter()
    placed: dict[str, str] = {}

    def next_of(name: str) -> str:
        counter[name] += 1
        return f"layers/{name}_{counter[name] - 1}" if counter[name] > 1 else f"layers/{name}"

    attention = {
        layer.path: (path, name, shares_heads(four))
        for path, four in attentions(layers).items()
        for name, layer in four.items()
    }
    both_ways = {cell[0] for layer in layers if (cell := _cell(layer)) and cell[2]}
    groups: dict[str, str] = {}
    for layer in layers:
        cell, name = _cell(layer), class_name(layer)
        inside = "/cell" if layer.readings[0].kind in RECURRENT else ""
        if layer.path in attention:
            path, projection, grouped = attention[layer.path]
            top = len(split_path(path)) == 1
            own = "grouped_query_attention" if grouped else "multi_head_attention"
            group = groups.get(path) or (next_of(own) if top else "/".join(split_path(path)))
            groups[path] = group
            placed[layer.path] = f"{group}/{'_' * grouped}{projection}_dense"
        elif cell and len(split_path(cell[0])) <= 1:
            key = f"{cell[0]}.{cell[1]}"
            groups[key] = groups.get(key) or next_of("bidirectional" if cell[0] in both_ways else name or "rnn")
            side = f"/{'backward' if cell[2] else 'forward'}_layer" if cell[0] in both_ways else ""
            placed[layer.path] = f"{groups[key]}{side}/cell"
        elif name and len(split_path(layer.path)) == 1:
            placed[layer.path] = next_of(name) + inside
        else:
            placed[layer.path] = nested_group(layer, layer.path)
    return placed


def by_attribute(layers: Sequence[Layer]) -> Mapping[str, str]:
    """Path of each layer -> the attributes that lead to it."""
    attributes = {layer.path: layer.path for layer in layers}
    attributes |= cells_placed(layers, ("forward_layer", "backward_layer"), bare_cells=False)
    return {path: "/".join(split_path(place)) for path, place in attributes.items()}


def _cell(layer: Layer) -> tuple[str, str, bool] | None:
    """``rnn.l1_reverse`` -> module, number, whether it runs backwards."""
    recurrent = bool(layer.readings) and layer.readings[0].kind in RECURRENT
    return numbered(layer.path) if recurrent else None


def class_name(layer: Layer) -> str:
    """The class of a layer in snake case, as Keras writes it; "" for what has none."""
    reading = layer.readings[0]
    if reading.kind in RECURRENT and is_bare(layer.path):
        return "rnn"  # what Keras puts around a cell
    spatial = max(len(stored.spec.shape) for stored in reading.stored) - 2
    return (_class_of(reading.form) or _class_of(reading.kind)).replace("1d", f"{spatial}d")


def _class_of(form: str) -> str:
    return next((name for name, forms in CLASSES.items() if form in forms), "")


def nested_group(layer: Layer, path: str) -> str:
    """The group of a layer of that path inside of another one: by attributes.

    ``rnn.l1`` is the second cell of the one layer ``rnn``, as Keras has it; see `further_groups`.
    """
    kind, cell = layer.readings[0].kind, numbered(path)
    if kind not in RECURRENT:
        return "/".join(split_path(path))
    if cell is None or cell[2]:
        return "/".join((*split_path(path), "cell"))
    module, number, _ = cell
    suffix = f"_{number}" if int(number) else ""
    return "/".join((*split_path(module), "cell", "cells", f"{_class_of(kind)}_cell{suffix}"))


def further_groups(layers: Sequence[Layer], placed: Mapping[str, str]) -> Mapping[str, str]:
    """Further names of groups: those of the layer's other names, and ``rnn/l1`` for a layer of its own."""
    links: dict[str, str] = {}
    for layer in layers:
        place = placed[layer.path]
        names = [nested_group(layer, name) for name in layer.also if len(split_path(name)) > 1]
        if is_cell_of_stack(place):
            names.append("/".join((*split_path(layer.path), "cell")))
        links |= {name: place for name in names if name != place and not name.startswith(f"{place}/")}
    return links


def is_cell_of_stack(group: str) -> bool:
    return re.search(r"/cell/cells/\w+$", group) is not None


def is_own_weight(group: str) -> bool:
    """``encoder/vars/1``: no group of a layer, but one of several weights that a layer has for itself."""
    return re.search(r"(^|/)vars/\d+$", group) is not None
