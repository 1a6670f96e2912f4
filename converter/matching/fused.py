"""Several linear layers that one framework keeps as one: queries, keys and values in a single matrix.

``attn.qkv[0/3]`` is a name for the first of three equal parts of ``attn.qkv``, along its outputs. Wherever a
``--map`` or a schema has such a name the layer is taken as its parts, which are layers like any other; and
``--map 'attn.qkv=attn.query+attn.key+attn.value'``, or the other way round, pairs all three at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from converter.core.layers import Layer, Net, Reading, Stored, split_path
from converter.core.patterns import indices_of
from converter.errors import ConversionError, MatchError
from converter.matching.looks import Fitting

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


def part_name(path: str) -> PartName | None:
    match = _PART.fullmatch(path) if path.endswith("]") else None
    return PartName(match["whole"], int(match["position"]), int(match["count"])) if match else None


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


def apart(net: Net, names: Iterable[str]) -> Net:
    """The net with each layer as its parts where one of the names (patterns of a schema, too) is a part of it.

    Raises MatchError for a layer that has no such parts.
    """
    wanted = {(part.whole, part.count) for name in names if (part := part_name(name))}
    if not wanted:
        return net
    layers, problems = [], []
    for layer in net.layers:
        count = next((n for whole, n in wanted if indices_of(whole, layer.path) is not None), 0)
        parts = [_part(layer, PartName(layer.path, position, count)) for position in range(count)]
        if any(not part.readings for part in parts):
            shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in layer.tensors)
            problems.append(f"'{layer.path}' ({shapes}) is no linear layer of {count} equal parts")
        layers += parts or [layer]
    if problems:
        raise MatchError(problems)
    return replace(net, layers=tuple(layers))


#: Names of a layer that holds several, one after the other. (``query_key_value`` of GPT-NeoX, BLOOM and Falcon holds
#: them by heads, so nobody but the user can say what is in a layer of that name.)
_JOINED: Mapping[str, tuple[str, ...]] = {
    r"w?_?qkv(_proj)?|c_attn|in_proj": ("query", "key", "value"),
    r"w?_?kv(_proj)?": ("key", "value"),
    r"gate_up(_proj)?": ("gate", "up"),
}


def held_in(path: str) -> tuple[str, ...]:
    """What a layer of this name holds, if it holds several."""
    *_, name = "", *split_path(path)
    return next((words for pattern, words in _JOINED.items() if re.fullmatch(pattern, name, re.IGNORECASE)), ())


def taken_apart(net: Net, other: Net) -> Net:
    """The net with the queries, keys and values of one matrix as layers of their own, where nothing in the other net
    fits the whole, and something fits each of them.
    """
    if not any(held_in(layer.path) for layer in net.layers):
        return net
    fitting = Fitting(net.framework == other.framework)
    others = {fitting.look(layer): layer for layer in other.layers}.values()
    layers: list[Layer] = []
    for layer in net.layers:
        count = len(held_in(layer.path))
        parts = [_part(layer, PartName(layer.path, place, count)) for place in range(count)]
        apart = parts and not any(fitting.fits(layer, one) for one in others)
        fits = apart and all(any(fitting.fits(part, one) for one in others) for part in parts)
        layers += parts if fits else [layer]
    return replace(net, layers=tuple(layers))


def _part(layer: Layer, name: PartName) -> Layer:
    readings = (part_of(reading, name) for reading in layer.readings)
    fitting = (r for r in readings if r is not None and all(s.neutral_shape() for s in r.stored))
    return replace(layer, path=str(name), readings=tuple(fitting), unlikely=())


def part_of(reading: Reading, name: PartName) -> Reading | None:
    """The reading of a linear layer as one of its parts; None for what has no outputs that could be parted."""
    parts = tuple(part for item in reading.stored if (part := _stacked(item, name)) is not None)
    fits = reading.kind == "linear" and len(parts) == len(reading.stored)
    return replace(reading, stored=parts) if fits else None


def _stacked(stored: Stored, name: PartName) -> Stored | None:
    leaf = stored.leaf
    if leaf.axes.split().count("out") != 1 or len(leaf.roles) > 1:
        return None
    roles = (frozenset[str](),) * name.position + leaf.roles + (frozenset[str](),) * (name.count - name.position - 1)
    axes = " ".join("(g out)" if axis == "out" else axis for axis in leaf.axes.split())
    return replace(stored, leaf=replace(leaf, roles=roles, axes=axes, neutral=f"g {leaf.neutral}"))


def whole(layers: Sequence[Layer]) -> list[Layer]:
    """The layers of a new file, with those that are parts put together again."""
    joined: dict[str, Layer] = {}
    for layer in layers:
        name = part_name(layer.path)
        path = name.whole if name else layer.path
        if path not in joined:
            joined[path] = replace(layer.with_tensors(_unstacked), path=path) if name else layer
    return list(joined.values())


def _unstacked(stored: Stored) -> Stored:
    leaf = stored.leaf
    roles = tuple(role for role in leaf.roles if role)
    axes, neutral = leaf.axes.replace("(g out)", "out"), leaf.neutral.removeprefix("g ")
    return replace(stored, leaf=replace(leaf, roles=roles, axes=axes, neutral=neutral))
