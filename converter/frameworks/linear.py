"""Linear layers that are not stored as one matrix of outputs and inputs: several axes, a transposed matrix, attentions.

Multi-head attention is four linear layers below one path, named alike whatever the framework calls them. So a net's
own attention, made of four dense layers, fits that of any framework; and only who keeps the heads apart in the shapes
(Keras, Flax) has to know their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

from msgspec.structs import replace

from converter.core.layers import Form, Layer, form, join_path, split_path
from converter.frameworks.base import Part

#: The projections of an attention, in the order in which PyTorch stacks them.
ATTENTION = ("query", "key", "value", "output")
#: Forms of a linear layer whose outputs, or inputs, are heads of an attention.
TO_HEADS, FROM_HEADS = "to_heads", "from_heads"
#: A matrix for each head, as Gemma's code has it: the einsum ``btd,ndh->btnh`` (keras_hub, gemma_attention.py).
BY_HEAD = "to_heads_by_head"
HEADS = frozenset({TO_HEADS, FROM_HEADS, BY_HEAD})
#: The Conv1D of the GPT-2 code: its matrix runs the other way than that of all other linear layers (in PyTorch as in
#: Flax, which is why the two names are not one).
IN_OUT, OUT_IN = "linear_in_out", "linear_out_in"
CONV1D = frozenset({IN_OUT, OUT_IN})
#: How many axes in, how many out; one and two are those of an attention.
_COUNTS = tuple(pair for pair in product((1, 2, 3), repeat=2) if sum(pair) > 3)

#: ``dense_2_to_3`` … as `DenseGeneral` and `EinsumDense` may be.
MANY_AXES = tuple(f"dense_{axes_in}_to_{axes_out}" for axes_in, axes_out in _COUNTS)


def many_axes() -> tuple[Form, ...]:
    """Dense layers from several axes to several, as Keras and Flax store them (flax/linen/linear.py, DenseGeneral)."""
    kernel = ("kernel", "weight", "in heads head_dim", "(heads head_dim) in")
    to_heads = form("linear", kernel, ("bias", "bias", "heads head_dim", "(heads head_dim)"), name=TO_HEADS)
    kernel = ("kernel", "weight", "heads head_dim out", "out (heads head_dim)")
    from_heads = form("linear", kernel, ("bias", "bias", "out"), name=FROM_HEADS)
    kernel = ("kernel", "weight", "heads in head_dim", "(heads head_dim) in")
    by_head = form("linear", kernel, ("bias", "bias", "heads head_dim", "(heads head_dim)"), name=BY_HEAD)
    others = (_dense(i, o, name) for (i, o), name in zip(_COUNTS, MANY_AXES, strict=True))
    return to_heads, from_heads, by_head, *others


def _dense(axes_in: int, axes_out: int, name: str) -> Form:
    inputs = " ".join(f"in{i}" for i in range(axes_in))
    outputs = " ".join(f"out{i}" for i in range(axes_out))
    kernel = ("kernel", "weight", f"{inputs} {outputs}", f"({outputs}) ({inputs})")
    return form("linear", kernel, ("bias", "bias", outputs, f"({outputs})"), name=name)


def without_conv1d(layers: Sequence[Layer], name: str) -> tuple[Layer, ...]:
    """A matrix is a Conv1D only where the shapes of another layer of the net prove that there are any, or on demand."""
    if any([reading.form for reading in layer.readings] == [name] for layer in layers):
        return tuple(layers)
    return tuple(_unlikely(layer, name) for layer in layers)


def _unlikely(layer: Layer, name: str) -> Layer:
    """The layer that is of this form only on demand."""
    of_form = tuple(reading for reading in layer.readings if reading.form == name)
    if not of_form:
        return layer
    others = tuple(reading for reading in layer.readings if reading.form != name)
    return replace(layer, readings=others, unlikely=(*layer.unlikely, *of_form))


def attentions(layers: Sequence[Layer]) -> Mapping[str, Mapping[str, Layer]]:
    """Path of each attention -> its four layers, where at least one is known to be split into heads."""
    return {
        path: four
        for path, four in _fours(layers).items()
        if any(reading.form in HEADS for layer in four.values() for reading in layer.readings)
    }


def with_attentions(parts: Sequence[Part], projection: Callable[[str], str]) -> list[Part]:
    """The four dense layers of an attention under their neutral names, where the kernels have three axes.

    projection: the neutral name of one, from that in the file.
    """
    inside: dict[str, dict[str, tuple[int, ...]]] = {}
    for part in parts:
        names = split_path(part.path)
        if names and len(part.spec.shape) == 3:
            inside.setdefault(join_path(names[:-1]), {})[projection(names[-1])] = part.spec.shape
    whole = {path: kernels for path, kernels in inside.items() if kernels.keys() >= set(ATTENTION)}
    moved = []
    for part in parts:
        *parent, name = split_path(part.path) or ("",)
        neutral, path = projection(name), join_path(parent)
        if neutral in ATTENTION and path in whole:
            layer_class = f"attention {neutral}{' by head' if _is_by_head(neutral, whole[path]) else ''}"
            moved.append(replace(part, path=join_path((*parent, neutral)), layer_class=layer_class))
        else:
            moved.append(part)
    return moved


def _is_by_head(name: str, kernels: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the inputs, as many as the outputs of the attention, are the second axis of the kernel, not the first."""
    width = kernels["output"][-1]
    return name != "output" and kernels[name][1] == width != kernels[name][0]


def with_projections(layers: Sequence[Layer]) -> list[Layer]:
    """The layers, in which four linear ones are an attention where the number of its heads is known."""
    formed = {
        layer.path: FROM_HEADS if name == "output" else TO_HEADS
        for four in _fours(layers).values()
        if any("heads" in dict(reading.sizes) for layer in four.values() for reading in layer.readings)
        for name, layer in four.items()
    }
    return [_formed(layer, formed[layer.path]) if layer.path in formed else layer for layer in layers]


def _formed(layer: Layer, form: str) -> Layer:
    linear = (replace(reading, form=form) for reading in layer.readings if reading.kind == "linear")
    return replace(layer, readings=tuple(linear))


def _fours(layers: Sequence[Layer]) -> Mapping[str, Mapping[str, Layer]]:
    """Path -> the four linear layers below it that are named as those of an attention."""
    groups: dict[str, dict[str, Layer]] = {}
    for layer in layers:
        path, _, name = layer.path.rpartition(".")
        if name in ATTENTION and any(reading.kind == "linear" for reading in layer.readings):
            groups.setdefault(path, {})[name] = layer
    return {path: {name: four[name] for name in ATTENTION} for path, four in groups.items() if len(four) == 4}


def widths(layer: Layer) -> tuple[int, int] | None:
    """The output and input size of a projection; None where its tensors do not tell."""
    for reading in layer.readings:
        for role, (stored, _) in reading.roles.items():
            shape = stored.neutral_shape() if reading.kind == "linear" and role == {"weight"} else None
            if shape is not None and len(shape) == 2:
                return shape[0], shape[1]
    return None


def has_bias(layer: Layer) -> bool:
    return any("bias" in role for reading in layer.readings for role in reading.roles)


def shares_heads(names: Mapping[str, Layer]) -> bool:
    """Whether several heads of queries use one of keys (grouped-query attention)."""
    query, key = (dict(names[name].readings[0].sizes).get("heads") for name in ("query", "key"))
    return query != key
