"""Keras layers that hold other layers: recurrent cells, separable convolutions, attentions; in and out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from converter.core.layers import Layer, join_path, split_path
from converter.core.natural_order import natural_key
from converter.frameworks.attention import ATTENTION, attentions, shares_heads
from converter.frameworks.base import Part
from converter.frameworks.cells import cell_path, cells_placed, is_bare, numbered
from converter.frameworks.dense import MANY_AXES
from converter.frameworks.keras_groups import nested_group

_RECURRENT = {"rnn": "simple_rnn", "lstm": "lstm", "gru": "gru", "gru_reset_before": "gru"}
_CLASSES = {
    "embedding": "embedding",
    "batch_norm": "batch_normalization",
    "norm": "layer_normalization",
    "group_norm": "group_normalization",
    "instance_norm": "group_normalization",  # of as many groups as channels
    "rms_norm": "rms_normalization",
    "prelu": "p_re_lu",
    **_RECURRENT,
}


def with_cells(parts: Sequence[Part]) -> list[Part]:
    """``lstm.cell`` -> ``lstm``; ``rnn.cell.cells.gru_cell_1`` -> ``rnn.l1``; ``bidirectional.forward_layer.cell``."""
    paths = {split_path(part.path) for part in parts}
    stacks: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for path in sorted(filter(_is_cell, paths), key=lambda path: natural_key(path[-1])):
        stacks.setdefault(path[:-1], []).append(path)
    found = []
    for part in parts:
        path = split_path(part.path)
        if _is_cell(path) and len(path) > 2 and re.fullmatch(r"cells|stacked_rnn_cells(_\d+)?", path[-2]):
            head = path[:-3] if path[-3] == "cell" else path[:-2]
            path = (*head, f"l{stacks[path[:-1]].index(path)}")  # their own numbers may begin anywhere
        elif _is_cell(path) and len(path) > 1:
            path = _direction(path[:-1], {other[:-1] for other in paths})
        found.append(replace(part, path=cell_path(path)))
    return found


def _is_cell(path: tuple[str, ...]) -> bool:
    return bool(path) and re.fullmatch(r"(?:simple_rnn|lstm|gru)_cell(?:_\d+)?", path[-1]) is not None


def _direction(path: tuple[str, ...], known: set[tuple[str, ...]]) -> tuple[str, ...]:
    """``rnn.forward_lstm_3`` -> ``rnn.forward_layer`` where there is a ``rnn.backward_lstm_3``, too (Keras 2 HDF5)."""
    found = re.fullmatch(r"(forward|backward)_(.+)", path[-1])
    both = found and {(*path[:-1], f"{side}_{found[2]}") for side in ("forward", "backward")} <= known
    return (*path[:-1], f"{found[1]}_layer") if found and both else path


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


def with_attentions(parts: Sequence[Part]) -> list[Part]:
    """The four dense layers of an attention under their neutral names, where the kernels have three axes."""
    inside: dict[str, set[str]] = {}
    for part in parts:
        path = split_path(part.path)
        if path and len(part.spec.shape) == 3:
            inside.setdefault(join_path(path[:-1]), set()).add(_projection(path[-1]))
    whole = {path for path, names in inside.items() if names >= set(ATTENTION)}
    found = []
    for part in parts:
        *parent, name = split_path(part.path) or ("",)
        if _projection(name) in ATTENTION and join_path(parent) in whole:
            neutral = _projection(name)
            found.append(replace(part, path=join_path((*parent, neutral)), layer_class=f"attention {neutral}"))
        else:
            found.append(part)
    return found


def _projection(name: str) -> str:
    """``_query_dense``, ``query_dense`` and ``query`` -> ``query``; ``attention_output`` -> ``output``."""
    return "output" if name == "attention_output" else name.lstrip("_").removesuffix("_dense")


def numbered_by_class(layers: Sequence[Layer]) -> Mapping[str, str]:
    """Path of each layer -> its group in Keras 3 HDF5, ``layers/dense_1``.

    Keras numbers the layers of a flat net by class; for nested ones only the names of the attributes are
    known, under which a subclassed net finds them.
    """
    counter: Counter[str] = Counter()
    found: dict[str, str] = {}

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
        inside = "/cell" if layer.readings[0].kind in _RECURRENT else ""
        if layer.path in attention:
            path, projection, grouped = attention[layer.path]
            top = len(split_path(path)) == 1
            own = "grouped_query_attention" if grouped else "multi_head_attention"
            group = groups.get(path) or (next_of(own) if top else "/".join(split_path(path)))
            groups[path] = group
            found[layer.path] = f"{group}/{'_' * grouped}{projection}_dense"
        elif cell and len(split_path(cell[0])) <= 1:
            key = f"{cell[0]}.{cell[1]}"
            groups[key] = groups.get(key) or next_of("bidirectional" if cell[0] in both_ways else name or "rnn")
            side = f"/{'backward' if cell[2] else 'forward'}_layer" if cell[0] in both_ways else ""
            found[layer.path] = f"{groups[key]}{side}/cell"
        elif name and len(split_path(layer.path)) == 1:
            found[layer.path] = next_of(name) + inside
        else:
            found[layer.path] = nested_group(layer, layer.path)
    return found


def by_attribute(layers: Sequence[Layer]) -> Mapping[str, str]:
    """Path of each layer -> the attributes that lead to it."""
    found = {layer.path: layer.path for layer in layers}
    found |= cells_placed(layers, ("forward_layer", "backward_layer"), bare_cells=False)
    return {path: "/".join(split_path(place)) for path, place in found.items()}


def _cell(layer: Layer) -> tuple[str, str, bool] | None:
    """``rnn.l1_reverse`` -> module, number, whether it runs backwards."""
    recurrent = bool(layer.readings) and layer.readings[0].kind in _RECURRENT
    return numbered(layer.path) if recurrent else None


def class_name(layer: Layer) -> str:
    """The class of a layer in snake case, as Keras writes it; "" for what has none."""
    reading = layer.readings[0]
    if reading.kind in _RECURRENT and is_bare(layer.path):
        return "rnn"  # what Keras puts around a cell
    if reading.kind == "linear":
        return "einsum_dense" if reading.form in ("to_heads", "from_heads", *MANY_AXES) else "dense"
    if reading.kind in ("conv", "conv_transpose"):
        spatial = max(len(stored.spec.shape) for stored in reading.stored) - 2
        depthwise = "depthwise_" if reading.form == "depthwise" else ""
        return f"{depthwise}conv{spatial}d{'_transpose' if reading.kind == 'conv_transpose' else ''}"
    return _CLASSES.get(reading.form, _CLASSES.get(reading.kind, ""))
