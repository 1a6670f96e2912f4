"""Which source layer goes into which target layer, and why: never a guess.

A reason is one of REASONS. Where two pairings are equally good the match is refused, with the
candidates and the ``--map`` line that would settle it. All problems are collected and raised together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import msgspec

from converter.core.contents import LeftOut
from converter.core.layers import Layer, Net, join_path
from converter.core.patterns import Indices, indices_of, letters
from converter.errors import MatchError
from converter.matching.applied_options import Rules, covers, narrowed, with_size, without_compiled
from converter.matching.bare_parameters import as_there
from converter.matching.compatibility import agreements, disagreement, noted, shapes
from converter.matching.order import Naming, in_turn, numbered_alike, same_tails
from converter.matching.structure import Alignment
from converter.matching.tied import Ties, tied_to, twins
from converter.schema.loader import SchemaLayer

SCHEMA, MAP, SAME_NAME, ONLY_ONE = "schema", "--map", "same name", "only one with this shape"
STRUCTURE, SAME_TAIL, POSITION = "same place in the tree", "same end of the name", "position"
#: `--strict` accepts these alone.
CERTAIN = frozenset({SCHEMA, MAP, SAME_NAME})


class Pair(msgspec.Struct, frozen=True, gc=False):
    source: Layer
    target: Layer
    reason: str


class Matched(msgspec.Struct, frozen=True):
    """The pairs; what is tied to one of them; and the target layers that the source lacks and may lack."""

    pairs: tuple[Pair, ...]
    ties: Ties
    kept: tuple[Layer, ...]


class Renaming(msgspec.Struct, frozen=True, gc=False):
    """A source layer and the path that it gets in a file made without a template."""

    source: Layer
    path: str
    reason: str


def match(source: Net, target: Net, rules: Rules, strict: bool = False) -> tuple[Pair, ...]:
    """Pair every layer of the target with one of the source. Raises MatchError with all problems."""
    return match_all(source, target, rules, strict).pairs


def match_all(source: Net, target: Net, rules: Rules, strict: bool = False) -> Matched:
    """`match`, and what has no pair and needs none. Raises MatchError with all problems."""
    work = _Matching(as_there(source, target), as_there(target, source))
    work.by_schema(rules)
    work.by_map(rules)
    work.by_name(lambda path: path, lambda path: path)
    work.by_name(plain_names(source), plain_names(target))
    work.by_structure()
    work.by_tail()
    work.by_elimination()
    work.by_position()
    work.by_elimination(anywhere=True)
    work.let_go(rules)
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
    pairs = sorted(work.pairs, key=lambda pair: order[pair.target.path])
    return Matched(tuple(pairs), ties, tuple(work.kept))


def rename(source: Net, framework_name: str, rules: Rules) -> tuple[Renaming, ...]:
    """The path of every source layer in a new file: by schema, by --map, or as it is. Raises MatchError."""
    renamed: dict[str, Renaming] = {}
    problems: list[str] = []
    for found in _by_entry(rules, source, problems):
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


#: What the report says of each step of an `Alignment`.
_STEPS = (STRUCTURE, ONLY_ONE, POSITION)


def _fit(source: Layer, target: Layer, same_framework: bool) -> bool:
    return bool(agreements(source, target, same_framework))


class _Matching:
    """The pairs found so far, the layers still free on both sides, and the problems met."""

    def __init__(self, source: Net, target: Net) -> None:
        self.source, self.target = source, target
        self.same_framework = source.framework == target.framework
        self.free_sources = dict(source.by_path)
        self.free_targets = dict(target.by_path)
        self.pairs: list[Pair] = []
        #: path -> the modules around it that belong together, of source and target (see `Alignment`)
        self.places: tuple[Mapping[str, int], Mapping[str, int]] = {}, {}
        #: target layers that nothing in the source is for, and that may stay as they are
        self.kept: list[Layer] = []
        self.problems: list[str] = []

    def by_schema(self, rules: Rules) -> None:
        for found in _by_entry(rules, self.source, self.problems):
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

    def by_name(self, ours: Naming, theirs: Naming) -> None:
        """Pair layers whose names are equal, where the name stands once on either side."""
        sources, targets = _once(self.free_sources, ours), _once(self.free_targets, theirs)
        alike = numbered_alike(self.source, ours, self.target, theirs)
        for name, layer in targets.items():
            source = sources.get(name)
            if source is not None and alike(source, layer):
                self._pair(source, layer, SAME_NAME)

    def by_structure(self) -> None:
        """Pair layers that stand in the same place of the two trees of modules."""
        if not self.free_sources or not self.free_targets:
            return
        settled = {pair.source.path: pair.target.path for pair in self.pairs}
        fits = partial(_fit, same_framework=self.same_framework)
        alignment = Alignment(self.source, self.target, fits, settled)
        for source, target, step in alignment.pairs():
            if source.path in self.free_sources and target.path in self.free_targets:
                self._pair(source, target, _STEPS[step])
        self.places = alignment.source_places, alignment.target_places

    def by_tail(self) -> None:
        """Pair layers of one place whose names end alike below other modules, where they fit."""
        for source, target in same_tails(self.source, self.target, self.free_sources, self.free_targets):
            if self._in_one_place(source, target) and agreements(source, target, self.same_framework):
                self._pair(source, target, SAME_TAIL)

    def by_elimination(self, anywhere: bool = False) -> None:
        """Pair layers that fit each other and nothing else that is free in their place, or anywhere."""
        fits = self._fits(anywhere)
        uses = Counter(layer.path for found in fits.values() for layer in found)
        for path, found in fits.items():
            if len(found) == 1 and uses[found[0].path] == 1:
                self._pair(found[0], self.target.by_path[path], ONLY_ONE)

    def by_position(self) -> None:
        """Pair layers that all fit each other in the order in which they are called, where both sides tell it."""
        groups: dict[tuple[str, ...], list[Layer]] = {}
        for path, found in self._fits().items():
            groups.setdefault(tuple(layer.path for layer in found), []).append(self.free_targets[path])
        for paths, targets in groups.items():
            if len(paths) == len(targets) > 1:
                beside = [(pair.source, pair.target) for pair in self.pairs]
                sources = [self.source.by_path[path] for path in paths]
                for source, target in in_turn(self.source, self.target, sources, targets, beside):
                    self._pair(source, target, POSITION)

    def _fits(self, anywhere: bool = False) -> dict[str, list[Layer]]:
        """For each free target the free sources that it could take."""
        return {
            path: [
                other
                for other in self.free_sources.values()
                if (anywhere or self._in_one_place(other, layer)) and agreements(other, layer, self.same_framework)
            ]
            for path, layer in self.free_targets.items()
        }

    def _in_one_place(self, source: Layer, target: Layer) -> bool:
        return self.places[0].get(source.path) == self.places[1].get(target.path)

    def let_go(self, rules: Rules) -> None:
        """Take away what the source may lack, and lacks."""
        self.kept = [layer for path, layer in self.free_targets.items() if rules.may_miss(path)]
        for layer in self.kept:
            del self.free_targets[layer.path]
        known = (*self.target.by_path, *(entry.path for entry in (rules.schema.layers if rules.schema else ())))
        self.problems += [
            f"--allow-missing {pattern}: no layer of the clone is called so. It has {listed(self.target.by_path)}."
            for pattern in rules.allow_missing
            if not any(covers(pattern, path) for path in known)
        ]

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
                self.problems.append(
                    f"nothing in the source fits '{target.path}' of the clone: {shapes(target)} "
                    "(--map gives it one, --allow-missing leaves it as it is)"
                )
        if not self.same_framework:
            self.problems += [
                f"'{path}' is {layer.kind}, which the clone cannot be{noted(layer)}"
                for path, layer in self.free_sources.items()
                if self.free_targets and noted(layer)
            ]
        if not self.free_targets:
            self.problems += [
                f"'{path}' ({shapes(layer)}) has no counterpart in the clone "
                f"(--map gives it one, --ignore leaves it out){noted(layer)}"
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


def plain_names(net: Net) -> Callable[[str], str]:
    """Names without case, separators, and the leading modules that all layers of the net share."""
    paths = [without_compiled(layer.path) for layer in net.layers]
    shared = 0
    while paths and all(len(path) > shared + 1 for path in paths) and len({path[: shared + 1] for path in paths}) == 1:
        shared += 1
    return lambda path: _plain(join_path(without_compiled(path)[shared:]))


def _plain(name: str) -> str:
    """Without case and separators, but for those between two numbers."""
    return re.sub(r"(?<!\d)[\W_]+|[\W_]+(?!\d)", "", re.sub(r"[\W_]+", ".", name)).casefold()


def _once(layers: Mapping[str, Layer], name: Callable[[str], str]) -> dict[str, Layer]:
    count = Counter(name(path) for path in layers)
    return {name(path): layer for path, layer in layers.items() if count[name(path)] == 1}


class _Found(msgspec.Struct, frozen=True):
    """A layer of the source that an entry of the schema stands for, as the kind that it says."""

    entry: SchemaLayer
    layer: Layer
    indices: Indices


def _by_entry(rules: Rules, source: Net, problems: list[str]) -> list[_Found]:
    """Every layer of the source that the schema knows, in its order; what speaks against it goes to ``problems``."""
    result: list[_Found] = []
    owner: dict[str, SchemaLayer] = {}
    for entry in rules.schema.layers if rules.schema else ():
        found = _layers_of(entry, source)
        if not found and not (entry.optional or entry.tied or rules.may_miss(entry.path)):
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
