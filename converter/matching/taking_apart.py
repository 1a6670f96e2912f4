"""Layers that one net has as one and the other apart, seen where nothing there fits the whole, and something each part.

The sizes of the parts are those that fit: of queries, keys and values the output beside them tells how many are
queries, else the layers of the other net. Two nets that both have them as one may have the parts in another order, as
their names tell (see `held`): then both are taken apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from converter.core.axes import groups
from converter.core.layers import Layer, Leaf, Net
from converter.errors import MatchError, Problem
from converter.frameworks.linear import widths
from converter.matching.covering import longest
from converter.matching.fused import by_name, no_parts, part_name, parts_of, said, sizes_beside, unknown_heads
from converter.matching.held import Held, has_heads_apart, heads_of, held_by, outputs_of
from converter.matching.looks import Fitting
from converter.matching.words import Spelling, tokens_of
from converter.option_values import Shares


def taken_apart(net: Net, other: Net, joined: Mapping[str, Shares]) -> Net:
    """The net with the queries, keys and values of one matrix as layers of their own, where the other net has them so.

    joined: pattern of layers -> what their parts have of the outputs. Raises MatchError where the parts lie by heads of
    unknown number, or several sizes of them are as good.
    """
    if not any(held_by(layer.path) or longest(joined, layer.path) for layer in net.layers):
        return net
    return _Apart(net, other, joined).net()


class _Apart:
    """How the layers of a net are taken apart for another. fitting: of layers of this net and the other."""

    def __init__(self, net: Net, other: Net, joined: Mapping[str, Shares]) -> None:
        self._net, self._joined = net, joined
        self._fitting = Fitting(net.framework == other.framework)
        self._others = self._fitting.unlike(other.layers)
        self._held = [layer for layer in other.layers if held_by(layer.path)]
        self._named = {word: _called(word, other.layers) for word in ("query", "key", "value")}
        self._problems: list[str | Problem] = []

    def net(self) -> Net:
        layers: list[Layer] = []
        placed: set[str] = set()
        for layer in self._net.layers:
            parts = self._parts(layer)
            biases = _biases_beside(layer, self._net) if parts else {}
            layers += [_biased(part, biases.get(place)) for place, part in enumerate(parts)] or [layer]
            placed.update(bias.path for bias in biases.values())
        if self._problems:
            raise MatchError(self._problems)
        return replace(self._net, layers=tuple(layer for layer in layers if layer.path not in placed))

    def _parts(self, layer: Layer) -> list[Layer]:
        """The layer as its parts; none where it stays whole."""
        stated, held = longest(self._joined, layer.path), held_by(layer.path)
        if part_name(layer.path) or (stated is None and held is None):
            return []
        if stated is not None:
            runs = said(layer, self._net, len(stated[1]), self._joined)
            if runs is None:
                self._problems.append(no_parts(layer, len(stated[1]), self._joined))
            return parts_of(layer, runs) if runs else []
        assert held is not None
        otherwise = self._otherwise(layer, held)
        if otherwise is None or not outputs_of(layer):
            return []
        return self._seen(layer, held, otherwise)

    def _otherwise(self, layer: Layer, held: Held) -> bool | None:
        """Whether the other net has such layers whole, with the parts in another order; None where it has the same."""
        if not any(self._fitting.fits(layer, one) for one in self._others):
            return False
        fitting = (own for one in self._held if (own := held_by(one.path)) and self._fitting.fits(layer, one))
        orders = {(own.runs, own.order) for own in fitting if own.words == held.words}
        return True if orders and (held.runs, held.order) not in orders else None

    def _seen(self, layer: Layer, held: Held, otherwise: bool) -> list[Layer]:
        """The parts of the sizes that fit. otherwise: the other net has them as one, too."""
        fitting = {}
        for sizes in self._possible(layer, held):
            in_turn = by_name(layer, sizes, heads=1)
            parts = self._with_biases(layer, parts_of(layer, in_turn)) if in_turn else []
            if parts and (otherwise or all(map(self._fits_any, parts))):
                fitting[sizes] = parts
        if len(fitting) > 1:
            fitting = {sizes: parts for sizes, parts in fitting.items() if self._is_named(sizes, held)} or fitting
        if len(fitting) > 1:
            self._problems.append(_several(layer, fitting, self._joined))
        for sizes, parts in list(fitting.items())[:1]:
            runs = by_name(layer, sizes, heads_of(layer) or self._heads_there(parts, sizes, held))
            if runs is not None:
                return parts_of(layer, runs)
            self._problems.append(unknown_heads(layer.path))
        return []

    def _possible(self, layer: Layer, held: Held) -> Iterator[tuple[int, ...]]:
        """Sizes that the parts may have."""
        outputs, count = outputs_of(layer), len(held.words)
        equal = (outputs // count,) * count
        if has_heads_apart(layer) or count != 3:
            yield equal
            return
        beside = sizes_beside(layer, self._net, count)
        if beside is not None:
            yield beside
            return
        whole = widths(layer)
        there = (size for one in self._others if (size := widths(one)) is not None)
        fitting = {size[0] for size in there if whole is not None and size[1] == whole[1]}
        if not outputs % count:
            yield equal
        for key in sorted(fitting):
            query = outputs - 2 * key
            if query > key and query % key == 0 and query in fitting:
                yield query, key, key

    def _fits_any(self, part: Layer) -> bool:
        return any(self._fitting.fits(part, one) for one in self._others)

    def _with_biases(self, layer: Layer, parts: Sequence[Layer]) -> list[Layer]:
        biases = _biases_beside(layer, self._net)
        return [_biased(part, biases.get(place)) for place, part in enumerate(parts)]

    def _is_named(self, sizes: Sequence[int], held: Held) -> bool:
        """Whether layers that are called so have these sizes."""
        named = [self._named.get(word, frozenset()) for word in held.words]
        return all(size in known for size, known in zip(sizes, named, strict=True))

    def _heads_there(self, parts: Sequence[Layer], sizes: Sequence[int], held: Held) -> int | None:
        """The number of heads of the queries, where the layers of the other net tell it that the keys fit."""
        part = parts[held.words.index("key")] if "key" in held.words else parts[0]
        fitting = [one for one in self._others if self._fitting.fits(part, one)]
        heads = {number for one in fitting for number in _heads_in(one)}
        if len(heads) != 1:
            return None
        return heads.pop() * sizes[0] // min(sizes)


def _called(word: str, layers: Iterable[Layer]) -> frozenset[int]:
    """The sizes of layers whose names have this word, or its letter, in their last part."""
    named = (layer for layer in layers if word in Spelling(tokens_of(layer.path.rpartition(".")[2])).meaning())
    return frozenset(size[0] for layer in named if (size := widths(layer)) is not None)


def _heads_in(layer: Layer) -> Iterator[int]:
    """How many heads the kernel of a layer has, where these have an axis of their own."""
    for reading in layer.readings:
        for item in reading.stored:
            axes = groups(item.leaf.axes, len(item.spec.shape)) or ()
            if ("heads",) in axes and ("in",) in axes:
                yield item.spec.shape[axes.index(("heads",))]


def _several(layer: Layer, found: Mapping[tuple[int, ...], object], joined: Mapping[str, Shares]) -> Problem:
    sizes = " or ".join(":".join(map(str, each)) for each in found)
    problem = no_parts(layer, len(next(iter(found))), joined)
    return replace(problem, text=f"'{layer.path}' may hold parts of {sizes}, and both fit.")


def _biases_beside(layer: Layer, net: Net) -> Mapping[int, Layer]:
    """Place of a layer in the matrix -> its bias, where the module of the matrix has it under a name of its own:
    ``q_bias`` and ``v_bias`` of BEiT, whose keys have none.
    """
    held = held_by(layer.path)
    if held is None or len(layer.tensors) != 1:
        return {}
    module, _, _ = layer.path.rpartition(".")
    found: dict[int, Layer] = {}
    for place, word in enumerate(held.words):
        names = (f"{module}.{name}".lstrip(".") for name in (f"{word[0]}_bias", f"{word}_bias"))
        bias = next((net.by_path[name] for name in names if name in net.by_path), None)
        if bias is not None and bias.kind == "parameter" and len(bias.tensors[0].shape) == 1:
            found[place] = bias
    return found


def _biased(part: Layer, bias: Layer | None) -> Layer:
    """The part with a bias that stands beside its matrix."""
    if bias is None:
        return part
    (item,) = bias.readings[0].stored
    stored = replace(item, leaf=Leaf("bias", (frozenset({"bias"}),), "out", "out"))
    linear = (reading for reading in part.readings if reading.kind == "linear")
    return replace(part, readings=tuple(replace(reading, stored=(*reading.stored, stored)) for reading in linear))
