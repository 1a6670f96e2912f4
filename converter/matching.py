"""Which source layer goes into which target layer, and why: never a guess.

A reason is one of REASONS. Where two pairings are equally good the match is refused, with the
candidates and the ``--map`` line that would settle it. All problems are collected and raised together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TypeVar

from converter.bare import as_there
from converter.errors import MatchError
from converter.fit import agreements, disagreement, shapes
from converter.formats.base import LeftOut
from converter.frameworks import FRAMEWORKS, named_forms
from converter.fused import apart, expanded
from converter.layers import Layer, Net, join_path, split_path
from converter.patterns import Indices, indices_of, letters
from converter.schema import Schema, SchemaLayer
from converter.structure import is_numbered, numbered_alike, same_tails, true_order, without_numbers
from converter.tied import Ties, tied_to, twins

SCHEMA, MAP, SAME_NAME, ONLY_ONE = "schema", "--map", "same name", "only one with this shape"
SAME_TAIL, POSITION = "same end of the name", "position"
#: `--strict` accepts these alone.
CERTAIN = frozenset({SCHEMA, MAP, SAME_NAME})


#: The wrapper of torch.compile.
COMPILED = "_orig_mod"


_Said = TypeVar("_Said", str, int)


@dataclass(frozen=True)
class Pair:
    source: Layer
    target: Layer
    reason: str


@dataclass(frozen=True)
class Renaming:
    """A source layer and the path that it gets in a file made without a template."""

    source: Layer
    path: str
    reason: str


@dataclass(frozen=True)
class Rules:
    """What the user settled: a schema, and source path -> target path (also of everything below it; see `fused`).

    strip: modules to leave out of the source's paths where they lead (``module`` of DataParallel).
    kinds, heads, flatten: pattern of paths -> the kind or form of those layers, the number of heads, the channels
    before the flatten (0: there was none); unflatten: those that the outputs of a layer become. flatten_fix: whether
    any is looked for at all.
    ignore: patterns of source layers to leave out.
    """

    schema: Schema | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    strip: frozenset[str] = frozenset()
    kinds: Mapping[str, str] = field(default_factory=dict)
    heads: Mapping[str, int] = field(default_factory=dict)
    flatten: Mapping[str, int] = field(default_factory=dict)
    flatten_fix: bool = True
    ignore: tuple[str, ...] = ()
    unflatten: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mapping", expanded(self.mapping))

    def settled(self, clone: Net) -> Net:
        """The clone with all that was said of it. Raises MatchError."""
        return apart(self._with_kinds(clone), (*self.mapping.values(), *self._spelled(clone.framework)))

    def _spelled(self, framework_name: str) -> Iterable[str]:
        return [path for layer in (self.schema.layers if self.schema else ()) for path in layer.paths(framework_name)]

    def _with_kinds(self, net: Net) -> Net:
        """The net with kinds and heads as the user says. Raises MatchError for a kind that a layer cannot be.

        A pattern with a wildcard is for those that can be of that kind: ``*=conv`` settles a whole net.
        """
        if not self.kinds and not self.heads:
            return net
        layers, problems = [], []
        for layer in net.layers:
            kind = _of(self.kinds, layer.path)
            chosen = narrowed(layer, kind) if kind is not None else layer
            if not chosen.readings and self.kinds.get(layer.path) is None:
                chosen = layer
            heads = _of(self.heads, layer.path)
            if not chosen.readings:
                kinds = ", ".join(dict.fromkeys(reading.form or reading.kind for reading in layer.readings))
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

    def flatten_of(self, path: str) -> int | None:
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
        parts = list(_without_compiled(path) if COMPILED in self.strip else split_path(path))
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

    A form that this framework stores like the usual one (the projections of an attention) is noted on it.
    """
    possible = (*layer.readings, *layer.unlikely)
    exact = tuple(reading for reading in possible if reading.called == kind)
    alike = tuple(reading for reading in layer.readings if reading.kind == kind)
    formed = tuple(replace(reading, form=kind) for reading in layer.readings if reading.kind == _form_kinds().get(kind))
    return replace(layer, readings=exact or alike or formed)


@lru_cache
def _form_kinds() -> Mapping[str, str]:
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
    """Whether the pattern stands for the path, or for a module above it."""
    return fnmatchcase(path, pattern) or path.startswith(f"{pattern}.")


def match(source: Net, target: Net, rules: Rules, strict: bool = False) -> tuple[Pair, ...]:
    """Pair every layer of the target with one of the source. Raises MatchError with all problems."""
    return match_tied(source, target, rules, strict)[0]


def match_tied(source: Net, target: Net, rules: Rules, strict: bool = False) -> tuple[tuple[Pair, ...], Ties]:
    """`match`, and what has no pair because it is tied to something that has. Raises MatchError with all problems."""
    work = _Matching(as_there(source, target), as_there(target, source))
    work.by_schema(rules.schema)
    work.by_map(rules)
    work.by_name(lambda path: path)
    work.by_name(plain_names(source), plain_names(target))
    work.by_tail()
    work.by_elimination()
    work.by_position()
    ties = work.tied()
    work.finish()
    if strict:
        uncertain = [pair for pair in work.pairs if pair.reason not in CERTAIN]
        if uncertain:
            raise MatchError(
                [
                    f"--strict: '{p.source.path}' -> '{p.target.path}' rests on: {p.reason}. {_map_hint(p)}"
                    for p in uncertain
                ]
            )
    order = {layer.path: i for i, layer in enumerate(work.target.layers)}
    return tuple(sorted(work.pairs, key=lambda pair: order[pair.target.path])), ties


def rename(source: Net, framework_name: str, rules: Rules) -> tuple[Renaming, ...]:
    """The path of every source layer in a new file: by schema, by --map, or as it is. Raises MatchError."""
    renamed: dict[str, Renaming] = {}
    problems: list[str] = []
    for found in _by_entry(rules.schema, source, problems):
        path = found.entry.spelled(framework_name, found.indices)[0]
        renamed[found.layer.path] = Renaming(found.layer, path, SCHEMA)
    problems += unused_rules(source, rules)
    for layer in source.layers:
        mapped = rules.mapped(layer.path)
        if mapped is not None:
            renamed[layer.path] = Renaming(layer, mapped, MAP)
        else:
            renamed.setdefault(layer.path, Renaming(layer, layer.path, SAME_NAME))
    taken = Counter(renaming.path for renaming in renamed.values())
    problems += [
        f"{count} layers would be named '{path}'. Give each its own with --map."
        for path, count in taken.items()
        if count > 1
    ]
    if problems:
        raise MatchError(problems)
    return tuple(renamed.values())


class _Matching:
    """The pairs found so far, the layers still free on both sides, and the problems met."""

    def __init__(self, source: Net, target: Net) -> None:
        self.source, self.target = source, target
        self.same_framework = source.framework == target.framework
        self.free_sources = dict(source.by_path)
        self.free_targets = dict(target.by_path)
        self.pairs: list[Pair] = []
        self.problems: list[str] = []

    def by_schema(self, schema: Schema | None) -> None:
        for found in _by_entry(schema, self.source, self.problems):
            theirs = _first(self.target, found.entry.spelled(self.target.framework, found.indices))
            if theirs is not None and theirs.path in self.free_targets:
                chosen = narrowed(theirs, found.entry.kind)
                self._pair(found.layer, _with_options(chosen if chosen.readings else theirs, found.entry), SCHEMA)

    def by_map(self, rules: Rules) -> None:
        self.problems += unused_rules(self.source, rules)
        for path in list(self.free_sources):
            mapped = rules.mapped(path)
            if mapped is None:
                continue
            if mapped in self.free_targets:
                self._pair(self.source.by_path[path], self.target.by_path[mapped], MAP)
            else:
                why = "is taken already" if mapped in self.target.by_path else "is not in the clone"
                self.problems.append(
                    f"--map {path}={mapped}: '{mapped}' {why}. Free there: {listed(self.free_targets)}."
                )

    def by_name(self, ours: Callable[[str], str], theirs: Callable[[str], str] | None = None) -> None:
        """Pair layers whose names are equal, where the name stands once on either side."""
        sources = _once(self.free_sources, ours)
        targets = _once(self.free_targets, theirs or ours)
        alike = numbered_alike(map(ours, self.source.by_path), map(theirs or ours, self.target.by_path))
        for name, layer in targets.items():
            source = sources.get(name)
            numbered = source is not None and (is_numbered(source.path) or is_numbered(layer.path))
            if source is not None and (not numbered or without_numbers(name) in alike):
                self._pair(source, layer, SAME_NAME)

    def by_tail(self) -> None:
        """Pair layers whose names end alike below other modules, where they fit."""
        for source, target in same_tails(self.free_sources, self.free_targets):
            if agreements(source, target, self.same_framework):
                self._pair(source, target, SAME_TAIL)

    def by_position(self) -> None:
        """Pair layers that all fit each other in the order in which they are called, where both sides tell it."""
        groups: dict[tuple[str, ...], list[Layer]] = {}
        for path, found in self._fits().items():
            groups.setdefault(tuple(layer.path for layer in found), []).append(self.free_targets[path])
        for paths, targets in groups.items():
            if len(paths) == len(targets) > 1:
                ours = true_order(self.source, [self.source.by_path[path] for path in paths])
                theirs = true_order(self.target, targets)
                for source, target in zip(ours or (), theirs or (), strict=False):
                    self._pair(source, target, POSITION)

    def _fits(self) -> dict[str, list[Layer]]:
        """For each free target the free sources that it could take."""
        return {
            path: [other for other in self.free_sources.values() if agreements(other, layer, self.same_framework)]
            for path, layer in self.free_targets.items()
        }

    def by_elimination(self) -> None:
        """Pair layers that fit each other and nothing else that is free."""
        fits = self._fits()
        uses = Counter(layer.path for found in fits.values() for layer in found)
        for path, found in fits.items():
            if len(found) == 1 and uses[found[0].path] == 1:
                self._pair(found[0], self.target.by_path[path], ONLY_ONE)

    def tied(self) -> Ties:
        """Take away the layers that are equal to paired ones, bit for bit."""
        used = [spec for pair in self.pairs for spec in pair.target.tensors]
        copies: dict[str, str] = {}
        for target in list(self.free_targets.values()):
            found = twins(target, used, self.target.read)
            if found is not None:
                del self.free_targets[target.path]
                copies |= found
        taken = [spec for pair in self.pairs for spec in pair.source.tensors]
        left_out: list[LeftOut] = []
        for source in list(self.free_sources.values()) if not self.free_targets else ():
            found = twins(source, taken, self.source.read)
            if found is not None:
                del self.free_sources[source.path]
                left_out += [LeftOut(name, tied_to(twin)) for name, twin in found.items() if name != twin]
        return Ties(tuple(left_out), copies)

    def finish(self) -> None:
        """Explain whatever could not be paired."""
        for target in self.free_targets.values():
            fitting = [layer for layer in self.free_sources.values() if agreements(layer, target, self.same_framework)]
            if fitting:
                lines = " or ".join(f"--map {layer.path}={target.path}" for layer in fitting)
                self.problems.append(
                    f"'{target.path}' of the clone could be {listed(layer.path for layer in fitting)}. "
                    f"Settle it with {lines}."
                )
            else:
                self.problems.append(f"nothing in the source fits '{target.path}' of the clone: {shapes(target)}")
        if not self.free_targets:
            self.problems += [
                f"'{path}' ({shapes(layer)}) has no counterpart in the clone"
                for path, layer in self.free_sources.items()
            ]
        if self.problems:
            raise MatchError(self.problems)

    def _pair(self, source: Layer, target: Layer, reason: str) -> None:
        del self.free_sources[source.path], self.free_targets[target.path]
        if agreements(source, target, self.same_framework):
            self.pairs.append(Pair(source, target, reason))
        else:
            self.problems.append(disagreement(source, target, self.same_framework))


def _leads(net: Net, name: str) -> bool:
    parts = [split_path(layer.path) for layer in net.layers]
    return any(name in (path if name == COMPILED else path[:2]) for path in parts)


def plain_names(net: Net) -> Callable[[str], str]:
    """Names without case, separators, and the leading modules that all layers of the net share."""
    paths = [_without_compiled(layer.path) for layer in net.layers]
    shared = 0
    while paths and all(len(path) > shared + 1 for path in paths) and len({path[: shared + 1] for path in paths}) == 1:
        shared += 1
    return lambda path: _plain(join_path(_without_compiled(path)[shared:]))


def _plain(name: str) -> str:
    """Without case and separators, but for those between two numbers."""
    return re.sub(r"(?<!\d)[\W_]+|[\W_]+(?!\d)", "", re.sub(r"[\W_]+", ".", name)).casefold()


def _without_compiled(path: str) -> tuple[str, ...]:
    return tuple(part for part in split_path(path) if part != COMPILED)


def _once(layers: Mapping[str, Layer], name: Callable[[str], str]) -> dict[str, Layer]:
    count = Counter(name(path) for path in layers)
    return {name(path): layer for path, layer in layers.items() if count[name(path)] == 1}


@dataclass(frozen=True)
class _Found:
    """A layer of the source that an entry of the schema stands for, as the kind that it says."""

    entry: SchemaLayer
    layer: Layer
    indices: Indices


def _by_entry(schema: Schema | None, source: Net, problems: list[str]) -> list[_Found]:
    """Every layer of the source that the schema knows, in its order; what speaks against it goes to ``problems``."""
    result: list[_Found] = []
    owner: dict[str, SchemaLayer] = {}
    for entry in schema.layers if schema else ():
        found = _layers_of(entry, source)
        if not found and not entry.optional:
            problems.append(_not_in_source(source, entry))
        for layer, indices in found:
            other = owner.setdefault(layer.path, entry)
            if other is not entry:
                problems.append(f"two entries of the schema stand for '{layer.path}': {other.path} and {entry.path}")
            elif not narrowed(layer, entry.kind).readings:
                problems.append(_other_kind(layer, entry))
            else:
                result.append(_Found(entry, _with_options(narrowed(layer, entry.kind), entry), indices))
    return result


def _layers_of(entry: SchemaLayer, net: Net) -> list[tuple[Layer, Indices]]:
    """The layers of the net that the entry stands for: by the first of its names that is found there."""
    for pattern in entry.paths(net.framework):
        if not letters(pattern):
            found = [(net.by_path[pattern], indices_of(pattern, pattern) or {})] if pattern in net.by_path else []
        else:
            named = ((layer, indices_of(pattern, layer.path)) for layer in net.layers)
            found = [(layer, indices) for layer, indices in named if indices is not None]
        if found:
            return found
    return []


def _with_options(layer: Layer, entry: SchemaLayer) -> Layer:
    for axis, size in (("heads", entry.heads), ("multiplier", entry.multiplier)):
        layer = layer if size is None else with_size(layer, axis, size)
    return layer


def _first(net: Net, paths: Sequence[str]) -> Layer | None:
    return next((net.by_path[path] for path in paths if path in net.by_path), None)


def unused_rules(source: Net, rules: Rules) -> list[str]:
    """What is wrong with rules for layers that the source does not have."""
    unused = [old for old in rules.mapping if not any(p == old or p.startswith(old + ".") for p in source.by_path)]
    return [
        f"--map {old}={rules.mapping[old]}: the source has no layer '{old}'. It has {listed(source.by_path)}."
        for old in unused
    ]


def _not_in_source(source: Net, entry: SchemaLayer) -> str:
    paths = " or ".join(entry.paths(source.framework))
    return f"the schema's layer '{entry.path}' ({paths}) is not in the source, which has {listed(source.by_path)}"


def _other_kind(layer: Layer, entry: SchemaLayer) -> str:
    return f"'{layer.path}' ({shapes(layer)}) is {layer.kind}, and the schema's layer '{entry.path}' is {entry.kind}"


def _map_hint(pair: Pair) -> str:
    return f"If it is right, say --map {pair.source.path}={pair.target.path}."


def listed(paths: Iterable[str]) -> str:
    """Quoted, and no more than eight of them."""
    names = [f"'{path}'" for path in paths]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"
