"""Hints: what the user and a schema state of two nets, applied to their layers before these are paired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from converter.core.contents import LeftOut
from converter.core.kinds import UNKNOWN
from converter.core.layers import Form, Layer, Net, join_path, split_path
from converter.errors import MatchError, Problem, Remedy, unknown_name
from converter.frameworks import FRAMEWORKS, named_forms
from converter.frameworks.base import bare
from converter.frameworks.linear import CONV1D, HEADS
from converter.matching.compatibility import shapes
from converter.matching.covering import check_count, covers, longest, longest_pattern
from converter.matching.fused import apart, expanded, whole_name
from converter.matching.names import WRAPPERS, without
from converter.matching.rotary import with_rotary
from converter.matching.words import tokens_in
from converter.option_values import Channels, channels_text, shares_text
from converter.options import MatchOptions
from converter.schema.loader import NO_SCHEMA, Schema, SchemaLayer, load_schema


class Found(msgspec.Struct, frozen=True):
    """What lockstep found of a layer of the source (see `converter.lockstep`).

    source, target: its path, and that of its counterpart. kind: which of its readings it is; "" where that is not in
    doubt. order: the places at which the inputs of its counterpart stand among its own; () where they stand alike, None
    where that is not in doubt.
    """

    source: str
    target: str
    kind: str = ""
    order: tuple[int, ...] | None = None


class Hints(msgspec.Struct, frozen=True):
    """The options of matching, ready to be applied. mapping: source path -> target path, one entry a layer or module
    (``a=b+c`` is two of them, see `fused`). of_one: patterns of ``kind`` that tell the form of one net alone.
    found: source path -> what running both nets showed of the layer.
    """

    options: MatchOptions = MatchOptions()
    schema: Schema | None = None
    mapping: Mapping[str, str] = {}
    of_one: Mapping[str, Literal["source", "clone"]] = {}
    found: Mapping[str, Found] = {}

    @classmethod
    def of(cls, options: MatchOptions) -> Hints:
        """Raises ConversionError for a schema that cannot be read, and for sums in ``map`` of different lengths."""
        schema = None if options.schema == NO_SCHEMA else options.schema
        return cls(options, load_schema(schema) if isinstance(schema, str) else schema, expanded(options.map))

    @property
    def knows_names(self) -> bool:
        """Whether names of well-known code bases tell: the user has named no schema, and not said that none holds."""
        return self.schema is None and self.options.schema != NO_SCHEMA

    def told_apart(self, source: Net, clone: Net) -> Hints:
        """The hints for two nets of one framework, whose layers often have the same names: where a layer may be stored
        in several forms in one of the nets, ``kind`` tells which it is there, and not that it is so in both.
        """
        if source.framework != clone.framework:
            return self
        nets = self.stripped(source), clone
        of_one: dict[str, Literal["source", "clone"]] = {}
        for pattern, kind in self.options.kind.items():
            met = [[layer for layer in net.layers if covers(pattern, layer.path)] for net in nets]
            may_be = [any(_has_reading(layer, kind) for layer in layers) for layers in met]
            if all(met) and any(may_be):
                is_open = [any(_is_open(layer, kind) for layer in layers) for layers in met]
                of_one[pattern] = "clone" if is_open[1] and not is_open[0] else "source"
        return replace(self, of_one=of_one)

    def of_source(self, net: Net) -> Net:
        """The source without what is stripped and ignored, with its kinds and heads. Raises MatchError."""
        check_count(net, self.options, self.schema)
        net = self._with_kinds(self._without_ignored(self.stripped(net)), "source")
        net = with_rotary(net, self.options.rotary, longest_pattern)
        return apart(net, (*self.mapping, *self._schema_paths(net.framework)), self.options.joined)

    def of_clone(self, net: Net) -> Net:
        """The clone with its kinds and heads. Raises MatchError."""
        check_count(net, self.options, self.schema)
        names = (*self.mapping.values(), *self._schema_paths(net.framework))
        return apart(self._with_kinds(net, "clone"), names, self.options.joined)

    def _schema_paths(self, framework_name: str) -> Iterable[str]:
        return [path for layer in (self.schema.layers if self.schema else ()) for path in layer.paths(framework_name)]

    def _with_kinds(self, net: Net, side: Literal["source", "clone"]) -> Net:
        """A pattern with a wildcard is for those that can be of that kind: ``*=conv`` decides a whole net. One that
        names a form (``*=linear_in_out``) sets it for the layers of that kind, and leaves open which layers these are.
        """
        if not self.options.kind and not self.options.heads:
            return net
        layers, problems = [], []
        for layer in net.layers:
            pattern = longest_pattern(self.options.kind, layer.path)
            kind = None if pattern is None else self.options.kind[pattern]
            if kind == "parameter" and layer.kind == UNKNOWN:
                layers += bare(layer)
                continue
            of_other = pattern is not None and self.of_one.get(pattern, side) != side
            chosen = layer if kind is None else _of_kind(layer, kind) if of_other else narrowed(layer, kind)
            if kind is not None and layer.path not in self.options.kind:
                chosen = _where_possible(layer, chosen, kind)
            if not chosen.readings:
                problems.append(_other_kind(layer, str(kind)))
            heads = longest(self.options.heads, layer.path)
            layers.append(with_size(chosen, "heads", heads) if heads is not None else chosen)
        if problems:
            raise MatchError(problems)
        return replace(net, layers=tuple(layers))

    def _without_ignored(self, net: Net) -> Net:
        patterns = self.options.ignore
        ignored = {path: pattern for path in net.by_path for pattern in patterns if covers(pattern, path)}
        unused = [pattern for pattern in patterns if pattern not in ignored.values()]
        if unused:
            where = "the source has no layer"
            raise MatchError([unknown_name(Remedy("ignore", name), name, where, net.by_path) for name in unused])
        left_out = [
            LeftOut(spec.name, f"ignored: {ignored[layer.path]}")
            for layer in net.layers
            if layer.path in ignored
            for spec in layer.tensors
        ]
        kept = tuple(layer for layer in net.layers if layer.path not in ignored)
        return replace(net, layers=kept, left_out=(*net.left_out, *left_out))

    def stripped(self, net: Net) -> Net:
        """The net without the modules to leave out. Raises MatchError when two paths become one."""
        strip = self.options.strip
        if not strip:
            return net
        paths = {layer.path: self._stripped(layer.path) for layer in net.layers}
        problems = [
            Problem(f"the source has no leading module '{name}'.", "unknown name", name, about=Remedy("strip", name))
            for name in strip
            if not any(_leads(name, parts) for parts in map(split_path, net.by_path))
        ]
        problems += [
            Problem(f"two layers would be named '{path}'.", "same name", path, about=Remedy("strip", strip[0]))
            for path, count in Counter(paths.values()).items()
            if count > 1
        ]
        if problems:
            raise MatchError(problems)
        return replace(net, layers=tuple(replace(layer, path=paths[layer.path]) for layer in net.layers))

    def _stripped(self, path: str) -> str:
        parts = list(without(WRAPPERS.intersection(self.options.strip), path))
        modules = [list(split_path(name)) for name in self.options.strip]
        while leading := next((names for names in modules if names and parts[: len(names)] == names), None):
            del parts[: len(leading)]
        return join_path(parts)

    def mapped(self, path: str) -> str | None:
        """The target path that ``map`` gives to a source path; the longest entry wins."""
        end = len(path) if self.mapping else -1
        while end >= 0:  # the path itself, then what is before each dot, from the last on
            if path[:end] in self.mapping:
                return self.mapping[path[:end]] + path[end:]
            end = path.rfind(".", 0, end)
        return None

    def may_miss(self, path: str) -> bool:
        """Whether the source may lack the layer of this path in the clone or the schema."""
        return any(covers(pattern, path) for pattern in self.options.allow_missing)

    def flatten_of(self, path: str) -> Channels | None:
        """The channels before the flatten that leads to this layer, if the user or the schema states them.

        None are where lockstep found the order of the features.
        """
        if self.knows_order(path):
            return 0
        channels: Channels | None = self._stated("flatten", path)
        return channels

    def knows_order(self, path: str) -> bool:
        """Whether lockstep found the order of the features that come into this layer of the source."""
        return path in self.found and self.found[path].order is not None

    def unflatten_of(self, path: str) -> int | None:
        """The channels that the outputs of this layer become, if the user or the schema states them."""
        channels: int | None = self._stated("unflatten", path)
        return channels

    def _stated(self, option: str, path: str) -> Any:
        """The value of the user's option for the path, else that of the schema's field of this name."""
        value = longest(getattr(self.options, option), path)
        entries = [self.schema.entry(row.name, path) for row in FRAMEWORKS] if self.schema and value is None else []
        return next((own for entry in entries if (own := getattr(entry, option, None)) is not None), value)

    def check_used(self, source: Net, target: Net | None) -> None:
        """No hint is ignored. Raises MatchError for a pattern that meets no layer of either net (``target``: None
        where a new file is laid out), and for one whose layers it cannot apply to.
        """
        nets = (source, target) if target is not None else (source,)
        problems = []
        for option, needed in _NEEDED.items():
            for pattern in getattr(self.options, option):
                met = [layer for net in nets for layer in net.layers if self._meets(pattern, layer)]
                about = _entry(option, getattr(self.options, option), pattern)
                if not met:
                    known = dict.fromkeys(path for net in nets for path in net.by_path)
                    where = "the source has no layer" if target is None else "neither net has a layer"
                    problems.append(unknown_name(about, pattern, where, known))
                elif not any(map(needed.applies, met)):
                    text = f"'{met[0].path}' is {met[0].kind}, {needed.lacks}."
                    problems.append(Problem(text, "option", pattern, about=about))
                elif option == "kind" and not any(_is_of(layer, self.options.kind[pattern]) for layer in met):
                    text = f"it settles nothing: '{met[0].path}' can only be {_kinds_of(met[0])}."
                    problems.append(Problem(text, "option", pattern, about=about))
        problems += self._unused_allowances(target)
        if problems:
            raise MatchError(problems)

    def _meets(self, pattern: str, layer: Layer) -> bool:
        names = (layer.path, self.mapped(layer.path) or layer.path)
        return any(covers(pattern, name) or covers(pattern, whole_name(name)) for name in names)

    def _unused_allowances(self, target: Net | None) -> list[Problem]:
        """Patterns of ``allow_missing`` for no layer of the clone or the schema."""
        entries: tuple[SchemaLayer, ...] = self.schema.layers if self.schema else ()
        known = (*(target.by_path if target else ()), *(entry.path for entry in entries))
        where = "the clone has no layer" if target else "the schema has no layer"
        problems = []
        for pattern in self.options.allow_missing:
            about = Remedy("allow_missing", pattern)
            if target is None and self.schema is None:
                text = "a new file has every layer of the source, so that none can be missing. This is for a clone."
                problems.append(Problem(text, "option", pattern, about=about))
            elif not any(covers(pattern, path) for path in known):
                problems.append(unknown_name(about, pattern, where, known))
        return problems


def _entry(option: str, values: Mapping[str, Any] | Iterable[str], pattern: str) -> Remedy:
    if not isinstance(values, Mapping):
        return Remedy(option, pattern)
    value = values[pattern]
    text = shares_text if option == "joined" else channels_text
    return Remedy(option, (pattern, text(value) if isinstance(value, tuple) else value))


def _leads(name: str, path: tuple[str, ...]) -> bool:
    """Whether a module that is to be stripped (``model``, ``model._orig_mod``) leads this path, or comes second; a
    wrapper stands anywhere.
    """
    names = split_path(name)
    starts = range(len(path)) if name in WRAPPERS else range(2)
    return bool(names) and any(path[start : start + len(names)] == names for start in starts)


#: Words in the path of an attention, or of one of its projections.
_ATTENTION = frozenset("attention attn att mha multihead q k v query key value qkv kv".split())


def _may_have_heads(layer: Layer) -> bool:
    """Whether it may be a projection of an attention: no other layer has heads."""
    formed = any(reading.form in HEADS for reading in layer.readings)
    linear = any(reading.kind == "linear" for reading in layer.readings)
    return formed or (linear and not _ATTENTION.isdisjoint(tokens_in(layer.path)))


def _has_features(layer: Layer) -> bool:
    """Whether it has inputs or outputs that a flatten may have made: all layers but convolutions and bare tensors."""
    return any(reading.kind not in ("conv", "conv_transpose", "parameter", "embedding") for reading in layer.readings)


class _Needed(msgspec.Struct, frozen=True):
    """What an option needs of a layer. lacks: what is wrong with a layer that it does not apply to."""

    applies: Callable[[Layer], bool]
    lacks: str


_NEEDED: Mapping[str, _Needed] = {
    "kind": _Needed(lambda layer: True, ""),
    "heads": _Needed(_may_have_heads, "which has no heads"),
    "joined": _Needed(lambda layer: any(item.kind == "linear" for item in layer.readings), "and holds no others"),
    "rotary": _Needed(lambda layer: any(item.kind == "linear" for item in layer.readings), "and no queries or keys"),
    "flatten": _Needed(_has_features, "whose inputs are no features"),
    "unflatten": _Needed(_has_features, "whose outputs are no features"),
}


def narrowed(layer: Layer, kind: str) -> Layer:
    """The layer with only the readings of that kind or form (none, when it cannot be one); a kind is its usual form.

    A form that this framework stores like the usual one (the projections of an attention) is noted on it. Where both
    nets prove to have GPT-2's Conv1D, either name of it is that of the other framework, too.
    """
    possible = (*layer.readings, *layer.unlikely)
    exact = tuple(reading for reading in possible if reading.called == kind)
    exact = exact or tuple(reading for reading in layer.readings if {kind, reading.called} == CONV1D)
    alike = tuple(reading for reading in layer.readings if reading.kind == kind)
    alike = alike or tuple(reading for reading in layer.unlikely if reading.kind == kind)
    form = _forms().get(kind)
    formed = tuple(
        replace(reading, form=form.name, lacks=form.lacks)
        for reading in layer.readings
        if form and reading.kind == form.kind == reading.called
    )
    return replace(layer, readings=exact or alike or formed)


def _of_kind(layer: Layer, kind: str) -> Layer:
    """The layer as one of that kind, or of the kind of that form, in whatever form."""
    form = _forms().get(kind)
    wanted = form.kind if form else kind
    return replace(layer, readings=tuple(reading for reading in layer.readings if reading.kind == wanted))


def _has_reading(layer: Layer, kind: str) -> bool:
    return any(reading.called == kind for reading in (*layer.readings, *layer.unlikely))


def _is_open(layer: Layer, kind: str) -> bool:
    """Whether the layer may be of that form, and of another one of its kind."""
    alike = next((reading.kind for reading in layer.readings if reading.called == kind), None)
    return len({reading.called for reading in layer.readings if reading.kind == alike}) > 1


def _where_possible(layer: Layer, chosen: Layer, kind: str) -> Layer:
    """What a pattern for many layers leaves of one of them; ``chosen`` is what it could be of that kind or form."""
    form = _forms().get(kind)
    others = tuple(reading for reading in layer.readings if form is not None and reading.kind != form.kind)
    return replace(chosen, readings=(*chosen.readings, *others)) if chosen.readings else layer


@lru_cache
def _forms() -> Mapping[str, Form]:
    return named_forms()


def _is_of(layer: Layer, kind: str) -> bool:
    """Whether the layer may be of that kind, or of the kind of that form."""
    form = _forms().get(kind)
    return any(reading.kind == (form.kind if form else kind) for reading in layer.readings)


def _kinds_of(layer: Layer) -> str:
    return ", ".join(dict.fromkeys(reading.called for reading in layer.readings))


def _other_kind(layer: Layer, kind: str) -> Problem:
    kinds = _kinds_of(layer)
    text = f"'{layer.path}' ({shapes(layer)}) can only be {kinds}."
    return Problem(text, "kind", layer.path, kinds, kind, about=Remedy("kind", (layer.path, kind)))


def with_size(layer: Layer, axis: str, size: int) -> Layer:
    """The layer with a size that its shapes do not tell, such as the number of heads."""
    return layer.with_tensors(lambda stored: replace(stored, sizes=((axis, size),)))
