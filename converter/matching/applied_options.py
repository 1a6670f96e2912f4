"""What the user settled of a conversion: names, kinds, sizes, and what to leave out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from converter.core.channel_groups import ChannelGroups, parsed
from converter.core.layers import Form, Layer, Net, join_path, split_path
from converter.errors import MatchError
from converter.formats.base import LeftOut
from converter.frameworks import FRAMEWORKS, named_forms
from converter.frameworks.linear import CONV1D
from converter.matching.compatibility import shapes
from converter.matching.fused import apart, expanded
from converter.schema.loader import Schema, load_schema

#: The wrapper of torch.compile.
COMPILED = "_orig_mod"


_Said = TypeVar("_Said")


class Rules(msgspec.Struct, frozen=True):
    """What the user settled: a schema, and source path -> target path (also of everything below it; see `fused`).

    strip: modules to leave out of the source's paths where they lead (``module`` of DataParallel).
    kinds, heads, flatten: pattern of paths -> the kind or form of those layers, the number of heads, the channels
    before the flatten (0: there was none; or those of several tensors, see `flatten_parts`); unflatten: those that the
    outputs of a layer become. flatten_fix: whether any is looked for at all.
    ignore: patterns of source layers to leave out. allow_missing: patterns of layers that the source may lack.
    """

    schema: Schema | None = None
    mapping: Mapping[str, str] = msgspec.field(default_factory=dict)
    strip: frozenset[str] = frozenset()
    kinds: Mapping[str, str] = msgspec.field(default_factory=dict)
    heads: Mapping[str, int] = msgspec.field(default_factory=dict)
    flatten: Mapping[str, int | ChannelGroups] = msgspec.field(default_factory=dict)
    flatten_fix: bool = True
    ignore: tuple[str, ...] = ()
    unflatten: Mapping[str, int] = msgspec.field(default_factory=dict)
    allow_missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "mapping", expanded(self.mapping))

    @classmethod
    def of(
        cls,
        schema: str | Schema | None = None,
        map: Mapping[str, str] | None = None,
        strip: Iterable[str] = (),
        kind: Mapping[str, str] | None = None,
        heads: Mapping[str, int] | None = None,
        flatten: Mapping[str, int | str] | None = None,
        unflatten: Mapping[str, int] | None = None,
        flatten_fix: bool = True,
        ignore: Iterable[str] = (),
        allow_missing: Iterable[str] = (),
    ) -> Rules:
        """From the arguments of `converter.convert`. Raises ConversionError for a schema that is none."""
        return cls(
            load_schema(schema) if isinstance(schema, str) else schema,
            dict(map or {}),
            frozenset(strip),
            dict(kind or {}),
            dict(heads or {}),
            parsed(flatten),
            flatten_fix,
            tuple(ignore),
            dict(unflatten or {}),
            tuple(allow_missing),
        )

    def may_miss(self, path: str) -> bool:
        """Whether the source may lack the layer that the clone or the schema calls so."""
        return any(covers(pattern, path) for pattern in self.allow_missing)

    def settled(self, clone: Net) -> Net:
        """The clone with all that was said of it. Raises MatchError."""
        return apart(self._with_kinds(clone), (*self.mapping.values(), *self._spelled(clone.framework)))

    def _spelled(self, framework_name: str) -> Iterable[str]:
        return [path for layer in (self.schema.layers if self.schema else ()) for path in layer.paths(framework_name)]

    def _with_kinds(self, net: Net) -> Net:
        """The net with kinds and heads as the user says. Raises MatchError for a kind that a layer cannot be.

        A pattern with a wildcard is for those that can be of that kind: ``*=conv`` settles a whole net. One that gives
        a form (``*=linear_in_out``) tells it of the layers of that kind, and leaves open which layers these are.
        """
        if not self.kinds and not self.heads:
            return net
        layers, problems = [], []
        for layer in net.layers:
            kind = _of(self.kinds, layer.path)
            chosen = narrowed(layer, kind) if kind is not None else layer
            if kind is not None and self.kinds.get(layer.path) is None:
                chosen = _where_possible(layer, chosen, kind)
            heads = _of(self.heads, layer.path)
            if not chosen.readings:
                kinds = ", ".join(dict.fromkeys(reading.called for reading in layer.readings))
                problems.append(f"--kind {layer.path}={kind}: '{layer.path}' ({shapes(layer)}) can only be {kinds}")
            layers.append(with_size(chosen, "heads", heads) if heads is not None else chosen)
        if problems:
            raise MatchError(problems)
        return replace(net, layers=tuple(layers))

    def unflatten_of(self, path: str) -> int | None:
        """The channels that the outputs of this layer become, if the user or the schema says so."""
        entries = [self.schema.entry(row.name, path) for row in FRAMEWORKS] if self.schema else []
        said = next((entry.unflatten for entry in entries if entry and entry.unflatten is not None), None)
        return _of(self.unflatten, path) if _of(self.unflatten, path) is not None else said

    def flatten_of(self, path: str) -> int | ChannelGroups | None:
        """The channels before the flatten that leads to this layer, if the user or the schema says so."""
        entries = [self.schema.entry(row.name, path) for row in FRAMEWORKS] if self.schema else []
        said = next((entry.flatten for entry in entries if entry and entry.flatten is not None), None)
        return _of(self.flatten, path) if _of(self.flatten, path) is not None else said

    def applied(self, source: Net) -> Net:
        """The source with all that was said of it. Raises MatchError."""
        said = self._with_kinds(self._without_ignored(self.stripped(source)))
        return apart(said, (*self.mapping, *self._spelled(source.framework)))

    def _without_ignored(self, net: Net) -> Net:
        """The net without the layers to leave out. Raises MatchError for a pattern that fits none."""
        gone = {layer.path: pattern for layer in net.layers for pattern in self.ignore if covers(pattern, layer.path)}
        unused = [pattern for pattern in self.ignore if pattern not in gone.values()]
        if unused:
            raise MatchError([f"--ignore {p}: no layer of the source is called so" for p in unused])
        left_out = [
            LeftOut(spec.name, f"--ignore {gone[layer.path]}")
            for layer in net.layers
            if layer.path in gone
            for spec in layer.tensors
        ]
        kept = tuple(layer for layer in net.layers if layer.path not in gone)
        return replace(net, layers=kept, left_out=(*net.left_out, *left_out))

    def stripped(self, net: Net) -> Net:
        """The net without the modules to leave out. Raises MatchError when two paths become one."""
        if not self.strip:
            return net
        paths = {layer.path: self._stripped(layer.path) for layer in net.layers}
        problems = [f"--strip: the source has no module '{name}'" for name in self.strip if not _leads(net, name)]
        twice = [path for path, count in Counter(paths.values()).items() if count > 1]
        problems += [f"--strip: two layers would be named '{path}'" for path in twice]
        if problems:
            raise MatchError(problems)
        return replace(net, layers=tuple(replace(layer, path=paths[layer.path]) for layer in net.layers))

    def _stripped(self, path: str) -> str:
        # torch.compile puts its wrapper around any module, not only around the whole net
        parts = list(without_compiled(path) if COMPILED in self.strip else split_path(path))
        while parts and parts[0] in self.strip:
            del parts[0]
        return join_path(parts)

    def mapped(self, path: str) -> str | None:
        """The target path that ``--map`` gives to a source path; the longest rule wins."""
        for old in sorted(self.mapping, key=len, reverse=True):
            if path == old or path.startswith(old + "."):
                return self.mapping[old] + path[len(old) :]
        return None


def narrowed(layer: Layer, kind: str) -> Layer:
    """The layer with only the readings of that kind or form (none, when it cannot be one); a kind is its usual form.

    A form that this framework stores like the usual one (the projections of an attention) is noted on it. Where both
    nets prove to have GPT-2's Conv1D, either name of it is that of the other framework, too.
    """
    possible = (*layer.readings, *layer.unlikely)
    exact = tuple(reading for reading in possible if reading.called == kind)
    exact = exact or tuple(reading for reading in layer.readings if {kind, reading.called} == CONV1D)
    alike = next(
        (found for side in (layer.readings, layer.unlikely) if (found := tuple(r for r in side if r.kind == kind))), ()
    )
    form = _forms().get(kind)
    formed = tuple(
        replace(reading, form=form.name, lacks=form.lacks)
        for reading in layer.readings
        if form and reading.kind == form.kind == reading.called
    )
    return replace(layer, readings=exact or alike or formed)


def _where_possible(layer: Layer, chosen: Layer, kind: str) -> Layer:
    """What a pattern for many layers leaves of one of them; ``chosen`` is what it could be of that kind or form."""
    form = _forms().get(kind)
    others = tuple(reading for reading in layer.readings if form is not None and reading.kind != form.kind)
    return replace(chosen, readings=(*chosen.readings, *others)) if chosen.readings else layer


@lru_cache
def _forms() -> Mapping[str, Form]:
    return named_forms()


def with_size(layer: Layer, axis: str, size: int) -> Layer:
    """The layer with a size that its shapes do not tell, such as the number of heads."""
    readings = (
        replace(reading, stored=tuple(replace(stored, sizes=((axis, size),)) for stored in reading.stored))
        for reading in layer.readings
    )
    return replace(layer, readings=tuple(readings))


def _of(said: Mapping[str, _Said], path: str) -> _Said | None:
    """What is said of a path: the longest pattern that fits; a path stands for all below it, too."""
    fitting = [pattern for pattern in said if covers(pattern, path)]
    return said[max(fitting, key=len)] if fitting else None


def covers(pattern: str, path: str) -> bool:
    """Whether the pattern stands for the path, or for a module above it: ``*.attention`` does for both."""
    return path.startswith(f"{pattern}.") or fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}.*")


def _leads(net: Net, name: str) -> bool:
    parts = [split_path(layer.path) for layer in net.layers]
    return any(name in (path if name == COMPILED else path[:2]) for path in parts)


def without_compiled(path: str) -> tuple[str, ...]:
    return tuple(part for part in split_path(path) if part != COMPILED)
