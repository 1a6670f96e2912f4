"""Several linear layers that one framework keeps as one: queries, keys and values in a single matrix.

``attn.qkv[0/3]`` is a name for the first of three parts of ``attn.qkv``, along its outputs. Wherever a ``--map`` or a
schema has such a name the layer is taken as its parts, which are layers like any other; and
``--map 'attn.qkv=attn.query+attn.key+attn.value'``, or the other way round, pairs all three at once. How the parts lie
is told by names (`held`), by the sizes of the layers around, by ``heads``, or by ``joined``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from converter.core.layers import Layer, Net, Reading, Stored, split_path
from converter.core.parts import Part, Runs
from converter.core.patterns import indices_of
from converter.errors import ConversionError, MatchError, Placeholder, Problem, Remedy
from converter.frameworks.linear import widths
from converter.matching.covering import longest
from converter.matching.held import (
    BY_HEAD,
    axis_of_parts,
    has_heads_apart,
    heads_of,
    held_by,
    is_by_head,
    outputs_of,
    runs_of,
)
from converter.option_values import Shares

_PART = re.compile(r"(?P<whole>.+)\[(?P<position>\d+)/(?P<count>\d+)\]")


class PartName(msgspec.Struct, frozen=True):
    """``whole[position/count]``. Raises ConversionError unless 0 <= position < count and count > 1."""

    whole: str
    position: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.position < self.count > 1:
            raise ConversionError(
                f"'{self}' is no part of a layer: the first of three is '{self.whole}[0/3]', the last '[2/3]'"
            )

    def __str__(self) -> str:
        return f"{self.whole}[{self.position}/{self.count}]"

    @property
    def place(self) -> int:
        """Where it lies among the parts."""
        held = held_by(self.whole)
        return held.order[self.position] if held and len(held.order) == self.count else self.position


def part_name(path: str) -> PartName | None:
    match = _PART.fullmatch(path) if path.endswith("]") else None
    return PartName(match["whole"], int(match["position"]), int(match["count"])) if match else None


def whole_name(path: str) -> str:
    """The name of the layer that this is a part of, or its own."""
    name = part_name(path)
    return name.whole if name else path


def expanded(mapping: Mapping[str, str]) -> Mapping[str, str]:
    """The rules one by one: ``a=b+c`` is ``a[0/2]=b`` and ``a[1/2]=c``, and ``b+c=a`` is ``b=a[0/2]`` and ``c=a[1/2]``.

    Raises ConversionError for sums of different lengths.
    """
    single: dict[str, str] = {}
    for old, new in mapping.items():
        olds, news = old.split("+"), new.split("+")
        if len(olds) == 1:
            olds = _parts_of(old, len(news))
        elif len(news) == 1:
            news = _parts_of(new, len(olds))
        if len(olds) != len(news):
            raise ConversionError(f"--map {old}={new}: {len(olds)} layers cannot be {len(news)} others")
        single |= dict(zip(olds, news, strict=True))
    return single


def _parts_of(path: str, count: int) -> list[str]:
    return [str(PartName(path, position, count)) for position in range(count)] if count > 1 else [path]


def apart(net: Net, names: Iterable[str], joined: Mapping[str, Shares]) -> Net:
    """The net with each layer as its parts where one of the names (patterns of a schema, too) is a part of it.

    joined: pattern of layers -> what their parts have of the outputs. Raises MatchError for a layer without such parts.
    """
    wanted = {(part.whole, part.count) for name in names if (part := part_name(name))}
    if not wanted:
        return net
    layers: list[Layer] = []
    problems: list[str | Problem] = []
    for layer in net.layers:
        count = next((n for whole, n in wanted if indices_of(whole, layer.path) is not None), 0)
        runs = said(layer, net, count, joined) if count else None
        parts = parts_of(layer, runs) if runs else []
        if count and runs is None and is_by_head(layer.path) and heads_of(layer) is None:
            problems.append(unknown_heads(layer.path))
        elif count and (len(parts) != count or any(not part.readings for part in parts)):
            problems.append(no_parts(layer, count, joined))
        layers += parts or [layer]
    if problems:
        raise MatchError(problems)
    return replace(net, layers=tuple(layers))


def said(layer: Layer, net: Net, count: int, joined: Mapping[str, Shares]) -> Runs | None:
    """The runs of so many parts by what is said of the layer, what it is called, and what stands beside it; None where
    that does not tell.
    """
    stated, outputs = longest(joined, layer.path), outputs_of(layer)
    if stated is not None:
        return runs_of(outputs, stated[1], stated[0]) if len(stated[1]) == count else None
    sizes = sizes_beside(layer, net, count) or (1,) * count
    return by_name(layer, sizes, heads_of(layer))


def by_name(layer: Layer, sizes: Sequence[int], heads: int | None) -> Runs | None:
    """The runs of parts of these sizes, or shares, as a layer of this name has them; heads: how many there are of the
    first part (1: the parts lie one after the other, whatever the name).
    """
    held, outputs = held_by(layer.path), outputs_of(layer)
    if held is not None and held.runs == BY_HEAD and not has_heads_apart(layer):
        if heads is None:
            return None
        count, rest = divmod(heads * min(sizes), sizes[0])
        return runs_of(outputs, sizes, 1 if heads == 1 else 0 if rest else count)
    if held is not None and _takes_turns(layer):
        return runs_of(outputs, sizes, outputs // len(sizes))
    runs = held.runs if held is not None and held.runs > 0 and len(held.order) == len(sizes) else 1
    placed = sizes
    if held is not None and len(held.order) == len(sizes):
        placed = [size for _, size in sorted(zip(held.order, sizes, strict=True))]
    return runs_of(outputs, placed, runs)


def _takes_turns(layer: Layer) -> bool:
    """Whether gate and up take turns, as in the experts of GPT-OSS, which alone have biases (`GptOssExperts` of
    transformers/models/gpt_oss/modeling_gpt_oss.py).
    """
    biased = any("bias" in role for reading in layer.readings for role in reading.roles)
    return biased and re.search(r"(^|\.)experts\.\d+\.gate_up_proj$", layer.path) is not None


def sizes_beside(layer: Layer, net: Net, count: int) -> tuple[int, ...] | None:
    """The sizes of queries, keys and values, for the output of an attention takes as much as the queries have; None
    where no layer of the same module, or several, could be that.
    """
    sizes = widths(layer)
    if count != 3 or sizes is None or has_heads_apart(layer):
        return None
    outputs, inputs = sizes
    module = layer.path.rpartition(".")[0]
    beside = (widths(one) for one in net.layers if one.path.rpartition(".")[0] == module and one.path != layer.path)
    taken = {size[1] for size in beside if size is not None and size[0] == inputs}
    found = {(query, (outputs - query) // 2) for query in taken if 0 < query < outputs and not (outputs - query) % 2}
    possible = {(query, key, key) for query, key in found if query % key == 0}
    return possible.pop() if len(possible) == 1 else None


def lacks_heads(path: str) -> bool:
    """Whether this is a part of a layer that holds its parts head by head."""
    return whole_name(path) != path and is_by_head(whole_name(path))


def unknown_heads(path: str) -> Problem:
    """The refusal of parts of this layer, where the number of heads is unknown."""
    text = (
        f"'{path}' holds its parts head by head in most nets that call it so, and the number of heads is "
        "unknown. 1 takes the parts one after the other."
    )
    *_, name = split_path(path)
    number, summary = Placeholder("N"), "{count} layers hold their parts by heads, whose number is unknown."
    here, everywhere = (Remedy("heads", (path, number)),), (Remedy("heads", (f"*.{name}", number)),)
    return Problem(text, "heads", path, remedies=here, summary=summary, wide=everywhere)


def no_parts(layer: Layer, count: int, joined: Mapping[str, Shares]) -> Problem:
    """The refusal of parts that a layer does not have."""
    shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in layer.tensors)
    stated = longest(joined, layer.path)
    what = "equal parts" if stated is None else f"parts as {stated[0]}x{':'.join(map(str, stated[1]))}"
    text = f"'{layer.path}' ({shapes}) is no linear layer of {count} {what}"
    *_, name = split_path(layer.path)
    shares = Placeholder(":".join("ABCDEFGH"[:count]) if count <= 8 else "A:B:…")
    ways = (Remedy("joined", (layer.path, shares), "says what each has"),)
    return Problem(f"{text}.", "joined", layer.path, remedies=ways, wide=(Remedy("joined", (f"*.{name}", shares)),))


def parts_of(layer: Layer, runs: Runs) -> list[Layer]:
    """The parts as layers, those without readings where the layer has no such parts."""
    count = len(runs.sizes)
    return [_part(layer, PartName(layer.path, position, count), runs) for position in range(count)]


def _part(layer: Layer, name: PartName, runs: Runs) -> Layer:
    readings = (part_of(reading, name, runs) for reading in layer.readings)
    fitting = (r for r in readings if r is not None and all(s.neutral_shape() for s in r.stored))
    return replace(layer, path=str(name), readings=tuple(fitting), unlikely=())


def part_of(reading: Reading, name: PartName, runs: Runs) -> Reading | None:
    """The reading of a linear layer as one of its parts; None for what has no such outputs."""
    parts = tuple(part for item in reading.stored if (part := _parted(item, name, runs)) is not None)
    fits = reading.kind == "linear" and len(parts) == len(reading.stored)
    return replace(reading, stored=parts) if fits else None


def _parted(stored: Stored, name: PartName, runs: Runs) -> Stored | None:
    axis = axis_of_parts(stored)
    if axis is None or stored.fold is not None or stored.spec.shape[axis] not in (-1, runs.total):
        return None
    op = Part(axis, runs, name.place)
    shape = stored.spec.shape if -1 in stored.spec.shape else op.shaped(stored.spec.shape)
    spec = replace(stored.spec, name=f"{stored.spec.name}[{name.position}/{name.count}]", shape=shape)
    return replace(stored, spec=spec, sources=(stored.spec,), fold=op, sizes=_heads(stored, runs, name))


def _heads(stored: Stored, runs: Runs, name: PartName) -> tuple[tuple[str, int], ...]:
    """The sizes, with the heads of this part: of several queries that share one of keys these are fewer."""
    first = PartName(name.whole, 0, name.count).place
    heads = dict(stored.sizes).get("heads")
    if heads is None or not all(runs.sizes):
        return stored.sizes
    own = heads * runs.sizes[name.place] // runs.sizes[first]
    return () if heads == 1 else tuple((axis, own if axis == "heads" else size) for axis, size in stored.sizes)


def open_runs(path: str, count: int, reading: Reading, joined: Mapping[str, Shares]) -> Runs | None:
    """The runs of a new layer, whose parts tell their sizes: ``count`` is that of the heads of the first part, or 1.

    None where it is to be head by head, and the number of heads is unknown.
    """
    stated, none = longest(joined, path), (0,) * count
    if stated is not None:
        return Runs(none, max(stated[0] * stated[1][0] // min(stated[1]), 1))
    held = held_by(path)
    if held is None or held.runs != BY_HEAD:
        return Runs(none, held.runs if held else 1)
    heads = dict(reading.sizes).get("heads")
    return Runs(none, heads) if heads is not None else None


def whole(layers: Sequence[Layer]) -> list[Layer]:
    """The layers of a new file, with those that are parts put together again."""
    joined: dict[str, Layer] = {}
    for layer in layers:
        path = whole_name(layer.path)
        if path not in joined:
            joined[path] = layer if path == layer.path else replace(layer.with_tensors(_as_whole), path=path)
    return list(joined.values())


def _as_whole(stored: Stored) -> Stored:
    if not isinstance(stored.fold, Part):
        return stored
    return replace(stored, spec=stored.sources[0], sources=(), fold=None)
