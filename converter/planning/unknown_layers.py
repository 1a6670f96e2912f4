"""Bare tensors that look like the weights of a layer whose names no table has.

Within its framework such a tensor is moved as it is. Another framework may keep its axes in another order, so that a
copy would be wrong wherever the shapes allow it: across frameworks it is a question.
"""

from __future__ import annotations

import re

from converter.core.layers import Layer, Net, join_path, split_path
from converter.errors import Problem, Remedy
from converter.frameworks.linear import BY_HEAD
from converter.matching.compatibility import shapes
from converter.matching.covering import longest
from converter.matching.hints import Hints
from converter.matching.stacked import as_stack

#: What people and libraries call the weight of a layer, and the vector beside it (Haiku: ``w`` and ``b``).
_WEIGHTS = frozenset("w weight weights kernel kernels filter filters".split())
_BIASES = frozenset("b bias biases beta offset".split())
#: What people call the projections of an attention.
_PROJECTION = re.compile(r"(.*_)?(q|k|v|o|qkv|kv|query|key|value|out|output|queries|keys|values)(_.*)?(\d*)")


def unknown_layers(source: Net, hints: Hints) -> list[Problem]:
    """A question for each of them that nobody calls a bare tensor. source: what goes to another framework."""
    vectors: dict[str, list[tuple[str, int]]] = {}
    bare = [(layer, *_module_and_name(layer)) for layer in source.layers if layer.kind == "parameter"]
    for layer, module, name in bare:
        shape = layer.tensors[0].shape
        if len(shape) == 1:
            vectors.setdefault(module, []).append((name, shape[0]))
    return [
        _question(layer)
        for layer, module, name in bare
        if len(layer.tensors[0].shape) > 1
        and (_is_weight(name) or any(_are_beside(name, layer, *vector) for vector in vectors.get(module, ())))
        and not _is_stated(layer.path, source.framework, hints, "parameter")
    ]


def _module_and_name(layer: Layer) -> tuple[str, str]:
    *module, name = split_path(layer.path) or ("",)
    return join_path(module), name.casefold()


def _is_weight(name: str) -> bool:
    """``weights`` and ``depthwise_weights``, but not ``position_bias_table``."""
    return name.rpartition("_")[2] in _WEIGHTS


def _are_beside(name: str, layer: Layer, vector: str, size: int) -> bool:
    """Whether the vector is the bias of the tensor: by its name, or, of numbered variables, by its size alone."""
    numbered = name.isdecimal() and vector.isdecimal()
    return size in layer.tensors[0].shape and (vector in _BIASES or numbered)


def _is_stated(path: str, framework_name: str, hints: Hints, *kinds: str) -> bool:
    entry = hints.schema.entry(framework_name, path) if hints.schema is not None else None
    return longest(hints.options.kind, path) in kinds or (entry is not None and entry.kind in kinds)


def stacked_layers(source: Net, hints: Hints) -> list[Problem]:
    """A question for each layer that is a matrix for each head of an attention by its shapes alone, as several layers
    in one are, too (Flax: ``nn.scan``, ``nn.vmap``). source: what goes to another framework, without a clone."""
    return [
        _stack(layer)
        for layer in source.layers
        if layer.readings
        and all(reading.form == BY_HEAD for reading in layer.readings)
        and not _PROJECTION.fullmatch(_module_and_name(layer)[1])
        and not _is_stated(layer.path, source.framework, hints, BY_HEAD, "linear")
    ]


def _stack(layer: Layer) -> Problem:
    return Problem(
        f"'{layer.path}' ({shapes(layer)}) could be one layer with a matrix for each head, or several layers in one.",
        "stack",
        layer.path,
        remedies=(
            Remedy("kind", (layer.path, BY_HEAD), "takes it for one"),
            *as_stack(layer),
            Remedy("ignore", layer.path, "leaves it out"),
        ),
        summary="{count} layers could each be one with a matrix for each head, or several in one.",
        wide=(Remedy("kind", ("*", BY_HEAD)),),
    )


def _question(layer: Layer) -> Problem:
    return Problem(
        f"'{layer.path}' ({shapes(layer)}) looks like the weight of a layer, and no table has its names: another "
        "framework may store its axes in another order.",
        "unknown layer",
        layer.path,
        remedies=(
            Remedy("kind", (layer.path, "parameter"), "moves it as it is"),
            Remedy("ignore", layer.path, "leaves it out"),
        ),
        summary="{count} tensors look like weights of layers whose names no table has.",
        wide=(Remedy("kind", ("*", "parameter")),),
    )
