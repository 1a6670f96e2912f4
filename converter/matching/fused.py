"""Several linear layers that one framework keeps as one: queries, keys and values in a single matrix.

``attn.qkv[0/3]`` is a name for the first of three equal parts of ``attn.qkv``, along its outputs. Wherever a
``--map`` or a schema has such a name the layer is taken as its parts, which are layers like any other; and
``--map 'attn.qkv=attn.query+attn.key+attn.value'``, or the other way round, pairs all three at once. In some nets each
head has its parts side by side (see `_BY_HEADS`); there ``heads`` has to say of how many.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from converter.core.layers import Layer, Leaf, Net, Reading, Stored, split_path
from converter.core.patterns import indices_of
from converter.errors import ConversionError, MatchError, Placeholder, Problem, Remedy
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


def apart(net: Net, names: Iterable[str]) -> Net:
    """The net with each layer as its parts where one of the names (patterns of a schema, too) is a part of it.

    Raises MatchError for a layer that has no such parts.
    """
    wanted = {(part.whole, part.count) for name in names if (part := part_name(name))}
    if not wanted:
        return net
    layers: list[Layer] = []
    problems: list[str | Problem] = []
    for layer in net.layers:
        count = next((n for whole, n in wanted if indices_of(whole, layer.path) is not None), 0)
        parts = [_part(layer, PartName(layer.path, position, count)) for position in range(count)]
        if any(not part.readings for part in parts) and _is_by_heads(layer.path) and heads_of(layer) is None:
            problems.append(unknown_heads(layer.path))
        elif any(not part.readings for part in parts):
            shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in layer.tensors)
            problems.append(f"'{layer.path}' ({shapes}) is no linear layer of {count} equal parts")
        layers += parts or [layer]
    if problems:
        raise MatchError(problems)
    return replace(net, layers=tuple(layers))


#: Names of a layer that holds several, one after the other.
_JOINED: Mapping[str, tuple[str, ...]] = {
    r"query_key_value|linear_qkv|w?_?qkv(_proj)?|c_attn|in_proj": ("query", "key", "value"),
    r"w?_?kv(_proj)?": ("key", "value"),
    r"gate_up(_proj)?": ("gate", "up"),
}


#: Of these, names of those that hold them head by head, [heads, 3, size of a head, inputs]: GPT-NeoX, BLOOM, Falcon and
#: Megatron (`_split_heads` of transformers/models/bloom/modeling_bloom.py), and, under a name that others use, too,
#: InternLM2. With ``heads`` of 1 they are one after the other.
_BY_HEADS = re.compile(r"query_key_value|linear_qkv|wqkv")


def _is_by_heads(path: str) -> bool:
    *_, name = "", *split_path(path)
    return _BY_HEADS.fullmatch(name) is not None


def heads_of(layer: Layer) -> int | None:
    """The number of heads, where it is known."""
    return next((dict(reading.sizes)["heads"] for reading in layer.readings if "heads" in dict(reading.sizes)), None)


def lacks_heads(path: str) -> bool:
    """Whether this is a part of a layer that holds its parts head by head."""
    return whole_name(path) != path and _is_by_heads(whole_name(path))


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


def held_in(path: str) -> tuple[str, ...]:
    """What a layer of this name holds, if it holds several."""
    *_, name = "", *split_path(path)
    return next((words for pattern, words in _JOINED.items() if re.fullmatch(pattern, name, re.IGNORECASE)), ())


def taken_apart(net: Net, other: Net) -> Net:
    """The net with the queries, keys and values of one matrix as layers of their own, where nothing in the other net
    fits the whole, and something fits each of them. Raises MatchError where these are held by heads of unknown number.
    """
    if not any(held_in(layer.path) for layer in net.layers):
        return net
    fitting = Fitting(net.framework == other.framework)
    others = fitting.unlike(other.layers)
    layers: list[Layer] = []
    open_heads: list[str | Problem] = []
    placed: set[str] = set()
    for layer in net.layers:
        count = len(held_in(layer.path))
        has_heads = not _is_by_heads(layer.path) or heads_of(layer) is not None
        known = layer if has_heads else layer.with_tensors(lambda item: replace(item, sizes=(("heads", 1),)))
        biases = _biases_beside(layer, net)
        parts = [_biased(_part(known, PartName(layer.path, place, count)), biases.get(place)) for place in range(count)]
        apart = parts and not any(fitting.fits(layer, one) for one in others)
        fits = apart and all(any(fitting.fits(part, one) for one in others) for part in parts)
        layers += parts if fits else [layer]
        placed.update(bias.path for bias in biases.values() if fits)
        open_heads += [unknown_heads(layer.path)] if fits and not has_heads else []
    if open_heads:
        raise MatchError(open_heads)
    return replace(net, layers=tuple(layer for layer in layers if layer.path not in placed))


def _biases_beside(layer: Layer, net: Net) -> Mapping[int, Layer]:
    """Place of a layer in the matrix -> its bias, where the module of the matrix has it under a name of its own:
    ``q_bias`` and ``v_bias`` of BEiT, whose keys have none.
    """
    held = held_in(layer.path)
    if len(layer.tensors) != 1:
        return {}
    module, _, _ = layer.path.rpartition(".")
    found: dict[int, Layer] = {}
    for place, word in enumerate(held):
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
    leaf, sizes, by_heads = stored.leaf, stored.sizes, _is_by_heads(name.whole)
    heads = dict(sizes).get("heads") if by_heads else 1
    if leaf.axes.split().count("out") != 1 or len(leaf.roles) > 1 or heads is None:
        return None
    if by_heads and heads == 1:  # said to be one after the other: of heads nothing is known
        sizes, by_heads = (), False
    stacked, whole = _HEAD_BY_HEAD if by_heads else _IN_TURN
    roles = (frozenset[str](),) * name.position + leaf.roles + (frozenset[str](),) * (name.count - name.position - 1)
    axes, neutral = _replaced(leaf.axes, "out", stacked), f"g {_replaced(leaf.neutral, 'out', whole)}"
    return replace(stored, leaf=replace(leaf, roles=roles, axes=axes, neutral=neutral), sizes=sizes)


#: The outputs of a layer that holds several, and those of one of them.
_IN_TURN, _HEAD_BY_HEAD = ("(g out)", "out"), ("(heads g head_dim)", "(heads head_dim)")


def _replaced(axes: str, old: str, new: str) -> str:
    return " ".join(new if axis == old else axis for axis in axes.split())


def whole(layers: Sequence[Layer]) -> list[Layer]:
    """The layers of a new file, with those that are parts put together again."""
    joined: dict[str, Layer] = {}
    for layer in layers:
        path = whole_name(layer.path)
        if path not in joined:
            joined[path] = layer if path == layer.path else replace(layer.with_tensors(_unstacked), path=path)
    return list(joined.values())


def _unstacked(stored: Stored) -> Stored:
    leaf = stored.leaf
    roles = tuple(role for role in leaf.roles if role)
    axes, neutral = leaf.axes, leaf.neutral.removeprefix("g ")
    for stacked, one in (_IN_TURN, _HEAD_BY_HEAD):
        axes, neutral = axes.replace(stacked, "out"), neutral.replace(one, "out")
    return replace(stored, leaf=replace(leaf, roles=roles, axes=axes, neutral=neutral))
