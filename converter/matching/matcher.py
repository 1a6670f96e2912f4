"""Which source layer goes into which target layer, and why.

What the user or a schema says, and equal names, are certain; what all evidence speaks for is likely (see `evidence`).
Where two pairings are as good the match is refused, with the candidates and the ``map`` that decides. All problems are
collected and raised together. Partial reuse pairs some layers of the source alone, so there is less evidence for a pair
(see `Matcher.partial`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from converter.core.contents import LeftOut
from converter.core.layers import Layer, Net
from converter.errors import MatchError, Problem, Remedy, listed
from converter.matching import known_names
from converter.matching import problems as questions
from converter.matching.compatibility import noted
from converter.matching.evidence import ONLY_ONE, POSITION, Evidence
from converter.matching.forms import as_there
from converter.matching.hints import Hints, narrowed
from converter.matching.looks import Fitting, Groups
from converter.matching.names import Naming, numbered_alike, plain_names
from converter.matching.order import true_order
from converter.matching.pairs import LOCKSTEP, MAP, SAME_NAME, SCHEMA, Matched, Pair, check_strict, of_schema
from converter.matching.schema_layers import layers_by_entry, with_entry_sizes
from converter.matching.tied import Ties, all_equal, tied_to, twins
from converter.matching.untrained import IDENTITY, INDEX, OWN_STATISTICS, STATISTICS_NOTE, Kept, is_index, statistics

ONE_TENSOR = "one tensor under several names"
ALONE = "of this code base alone: the other one gives the same without it"


def match(source: Net, target: Net, hints: Hints) -> Matched:
    """Pair every layer of the target with one of the source. Raises MatchError with all problems."""
    matcher = evident(source, target, hints)
    kept = matcher.let_go(hints)
    ties = matcher.tied()
    matcher.explain()
    if hints.options.strict:
        check_strict(matcher.pairs)
    order = {layer.path: position for position, layer in enumerate(matcher.target.layers)}
    return Matched(tuple(sorted(matcher.pairs, key=lambda pair: order[pair.target.path])), ties, kept)


def evident(source: Net, target: Net, hints: Hints) -> Matcher:
    """The pairs that hints, names and all other evidence make, and what these leave free."""
    matcher = Matcher(as_there(source, target), as_there(target, source))
    matcher.by_what_is_said(hints, plain_names(source), plain_names(target))
    matcher.by_evidence()
    matcher.by_equality()
    matcher.again()
    return matcher


class Matcher:
    """The pairs so far, the layers still free on both sides, and the problems met.

    partial: only ``wanted`` layers of the source are paired, and neither net is whole: a name must be unique in the
    whole nets, a shape must be that of no other layer of either, and position counts only where numbers tell it.
    misfits: pairs that a hint or a name makes though they do not fit.
    """

    def __init__(self, source: Net, target: Net, wanted: Sequence[Layer] | None = None) -> None:
        self.source, self.target = source, target
        self.partial = wanted is not None
        self.same_framework = source.framework == target.framework
        self.free_sources = {layer.path: layer for layer in (source.layers if wanted is None else wanted)}
        self.free_targets = dict(target.by_path)
        self._fitting = Fitting(self.same_framework)
        #: what each free target could be, as far as that is narrowed down
        self._rivals: Mapping[str, Sequence[Layer]] = {}
        #: layers of either net that the tables of known names say the other has not (see `known_names`)
        self._alone: frozenset[str] = frozenset()
        self.pairs: list[Pair] = []
        self.misfits: list[Pair] = []
        self.problems: list[Problem] = []

    # -- the evidence, the surest first ------------------------------------------------------------------------------

    def by_what_is_said(self, hints: Hints, ours: Naming, theirs: Naming) -> None:
        """Pair by all that is certain: hints, and names, as they are and plain (see `plain_names`)."""
        self.by_schema(hints)
        self.by_map(hints)
        self.by_lockstep(hints)
        self.by_name(lambda path: path, lambda path: path)
        if hints.knows_names and not self.partial:
            self.by_known_names()
        self.by_name(ours, theirs)

    def by_schema(self, hints: Hints) -> None:
        for known in layers_by_entry(hints, self.source, self.problems, optional=self.partial):
            paths = known.entry.spelled(self.target.framework, known.indices)
            target = next((self.target.by_path[path] for path in paths if path in self.target.by_path), None)
            if target is not None and target.path in self.free_targets and known.layer.path in self.free_sources:
                chosen = narrowed(target, known.entry.kind)
                self._pair(known.layer, with_entry_sizes(chosen if chosen.readings else target, known.entry), SCHEMA)

    def by_known_names(self) -> None:
        """Pair by the names that well-known code bases use, unless layers that have the same name are others there."""
        if not self.free_sources or not self.free_targets:
            return
        found = known_names.known(self.source, self.target, self.fits)
        if found is None:
            return
        named = {pair.source.path: pair.target.path for pair in self.pairs if pair.reason == SAME_NAME}
        if all(named.get(source.path, target.path) == target.path for source, target in found.pairs):
            self._alone = found.alone
            for source, target in found.pairs:
                if self._are_free(source, target):
                    self._pair(source, target, found.reason)

    def by_map(self, hints: Hints) -> None:
        self.problems += questions.unknown_sources(self.source, hints)
        for path in list(self.free_sources):
            mapped = hints.mapped(path)
            if mapped in self.free_targets:
                self._pair(self.free_sources[path], self.free_targets[mapped], MAP)
            elif mapped is not None and not self._is_left_open(path, mapped, hints):
                net = "the new net" if self.partial else "the clone"
                why = "is taken already" if mapped in self.target.by_path else f"is not in {net}"
                text = f"'{mapped}' {why}. Free there: {listed(self.free_targets)}."
                about = Remedy("map", (path, mapped))
                self.problems.append(Problem(text, "unknown name", path, candidates=(mapped,), about=about))

    def _is_left_open(self, path: str, mapped: str, hints: Hints) -> bool:
        """Whether a module that is mapped to another has a layer that this lacks, though it has others of them: names
        and shapes may find its place.
        """
        if mapped in self.target.by_path or path in hints.mapping:
            return False
        entry = max((old for old in hints.mapping if path.startswith(f"{old}.")), key=len)
        below = (hints.mapped(other) for other in self.source.by_path if other.startswith(f"{entry}."))
        return any(other in self.target.by_path for other in below)

    def by_lockstep(self, hints: Hints) -> None:
        for path, found in hints.found.items():
            source, target = self.free_sources.get(path), self.free_targets.get(found.target)
            if source is not None and target is not None:
                self._pair(narrowed(source, found.kind) if found.kind else source, target, LOCKSTEP)

    def by_name(self, ours: Naming, theirs: Naming) -> None:
        """Pair layers whose names are equal, where the name is unique on either side."""
        pools = (self.source.by_path, self.target.by_path) if self.partial else (self.free_sources, self.free_targets)
        sources, targets = _once(pools[0], ours), _once(pools[1], theirs)
        alike = numbered_alike(self.source, ours, self.target, theirs, in_part=self.partial)
        for name, target in targets.items():
            source = sources.get(name)
            if source is not None and self._are_free(source, target) and alike(source, target):
                self._pair(source, target, SAME_NAME)

    def by_evidence(self) -> None:
        """Pair layers that all the evidence there is speaks for."""
        if not self.free_sources or not self.free_targets:
            return
        paired = {pair.source.path: pair.target.path for pair in self.pairs}
        groups = Groups(self.source, self.target, self._fitting, paired)
        evidence = Evidence(self.source, self.target, groups, paired)
        for likely in evidence.pairs():
            if self._are_free(likely.source, likely.target):
                self._pair(likely.source, likely.target, likely.reason, likely=likely.reason != ONLY_ONE)
        self._rivals = evidence.rivals()

    def by_equality(self) -> None:
        """Pair layers that could be several, where these are one tensor under several names: any of them is right."""
        judged: set[tuple[str, ...]] = set()
        for target in list(self.free_targets.values()):
            ours = self._sources_of(target) if target.path in self.free_targets else []
            paths = tuple(source.path for source in ours)
            if paths in judged:
                continue  # their contents were read for another target
            judged.add(paths)
            theirs = [other for other in self.free_targets.values() if ours and self.fits(ours[0], other)]
            if max(len(ours), len(theirs)) < 2 or not all_equal(ours, self.source.read):
                continue
            if len(theirs) <= len(ours) or all_equal(theirs, self.target.read):
                for one, other in zip(ours, theirs, strict=False):
                    self._pair(one, other, ONE_TENSOR)

    def again(self) -> None:
        """Pair a layer that the user mapped to another one with that of its own name, too, where nothing else fits it:
        a net that is not tied takes from one that is both what it looks up and what it gives out.
        """
        mapped = [pair.source for pair in self.pairs if pair.reason == MAP]
        for source in mapped:
            target = self.free_targets.get(source.path)
            if target is not None and self.fits(source, target) and not self._sources_of(target):
                del self.free_targets[target.path]
                self.pairs.append(Pair(source, target, SAME_NAME))

    def by_elimination(self) -> None:
        """Of a part: pair layers that fit each other and nothing else that is free."""
        fitting = self._fitting_any()
        uses = Counter(layer.path for layers in fitting.values() for layer in layers)
        for path, layers in fitting.items():
            if len(layers) == 1 and uses[layers[0].path] == 1 and layers[0].path in self.free_sources:
                self._pair(layers[0], self.target.by_path[path], ONLY_ONE)

    def by_number(self) -> None:
        """Of a part: pair layers of the same position in the order of calls, among those whose names differ in numbers
        alone, or among all. Where that leads to a layer that does not fit, nothing else is tried.
        """
        paired = {pair.source.path: pair.target.path for pair in (*self.pairs, *self.misfits)}
        for layer in list(self.free_sources.values()):
            name = _letters(layer.path)
            alike = [[one for one in net.layers if _letters(one.path) == name] for net in (self.source, self.target)]
            either = (alike, [list(net.layers) for net in (self.source, self.target)])
            target = next((at for ours, theirs in either if (at := self._at(layer, ours, theirs, paired))), None)
            if target is not None and target.path in self.free_targets:
                if self.fits(layer, target):
                    self._pair(layer, target, POSITION)
                else:  # the target stays free for another
                    self.misfits.append(Pair(self.free_sources.pop(layer.path), target, POSITION))

    def by_own_number(self) -> None:
        """Of a part, within one framework: a path of the user's own numbering (``block3``) is a name as any other."""
        for path, layer in list(self.free_sources.items()) if self.same_framework else ():
            if path in self.free_targets:
                self._pair(layer, self.free_targets[path], SAME_NAME)

    def let_go(self, hints: Hints) -> tuple[Kept, ...]:
        """Take away the target layers that the source may lack, and lacks: also what no training changes, such as a
        table of indices.
        """
        kept = [
            Kept(layer)
            for path, layer in self.free_targets.items()
            if hints.may_miss(path) or ((path in self._alone or is_index(layer)) and not self._sources_of(layer))
        ]
        kept += self._own_statistics(hints)
        for one in kept:
            self.free_targets.pop(one.layer.path, None)
        return tuple(kept)

    def _own_statistics(self, hints: Hints) -> Iterator[Kept]:
        for path, found in statistics(self.target.layers).items() if self.free_targets else ():
            layer = self.free_targets.get(path)
            if layer is None or hints.may_miss(path) or self._sources_of(layer):
                continue
            same = found.change_nothing(self.target.read)
            if same or not hints.options.strict:
                yield Kept(layer, "" if same else OWN_STATISTICS)

    def tied(self) -> Ties:
        """Take away the layers that are equal to paired ones, bit for bit."""
        used = [spec for pair in self.pairs for spec in pair.target.tensors]
        copies: dict[str, str] = {}
        for target in list(self.free_targets.values()):
            equal = twins(target, used, self.target.read)
            if equal is not None:
                del self.free_targets[target.path]
                copies |= equal
        taken = [spec for pair in self.pairs for spec in pair.source.tensors]
        left_out = list(self._untrained())
        for source in list(self.free_sources.values()) if not self.free_targets else ():
            equal = twins(source, taken, self.source.read)
            if equal is not None:
                del self.free_sources[source.path]
                left_out += [LeftOut(name, tied_to(twin)) for name, twin in equal.items() if name != twin]
        return Ties(tuple(left_out), copies)

    def _untrained(self) -> Iterator[LeftOut]:
        """Take away the source layers that the target has no place for, and does not need."""
        found = statistics(self.source.layers) if self.free_sources else {}
        for path, layer in list(self.free_sources.items()):
            changes_nothing = path in found and found[path].change_nothing(self.source.read)
            reason = ALONE if path in self._alone else INDEX if is_index(layer) else IDENTITY if changes_nothing else ""
            if reason and not self.candidates(layer):
                del self.free_sources[path]
                yield from (LeftOut(spec.name, reason) for spec in layer.tensors)

    def explain(self) -> None:
        """Raises MatchError with all that could not be paired."""
        self.problems += [questions.misfit(pair, self.same_framework) for pair in self.misfits]
        self.problems += self._unfilled()
        modules = questions.outermost_modules(self.free_sources, self.source)
        surplus: list[Problem] = []
        of_data = statistics(self.source.layers) if self.free_sources else {}
        for path, layer in self.free_sources.items():
            if self.free_targets and not self.same_framework and noted(layer):
                text = f"'{path}' is {layer.kind}, which the clone cannot be{noted(layer)}."
                self.problems.append(Problem(text, "no such kind", path))
            elif not self.free_targets:
                fitting = next((pair.target for pair in self._unsaid if self.fits(layer, pair.target)), None)
                note = STATISTICS_NOTE if path in of_data else noted(layer)
                surplus.append(questions.without_counterpart(layer, modules[path], fitting, note))
        self.problems += questions.in_modules(surplus, {pair.source.path for pair in self.pairs})
        if self.problems:
            raise MatchError(self.problems, paired=(pair.told for pair in self.pairs))

    def candidates(self, source: Layer) -> list[Layer]:
        """The free target layers that it fits."""
        return [target for target in self.free_targets.values() if self.fits(source, target)]

    def _sources_of(self, target: Layer) -> list[Layer]:
        """The free source layers that fit it."""
        return [source for source in self.free_sources.values() if self.fits(source, target)]

    def fits(self, source: Layer, target: Layer) -> bool:
        return self._fitting.fits(source, target)

    def _unfilled(self) -> Iterator[Problem]:
        """The layers of the clone that have no source: several fit them, or none does."""
        maps = questions.module_maps(self.free_sources, self.free_targets, self.fits)
        modules = questions.outermost_modules(self.free_targets, self.target)
        doubts: list[questions.Doubt] = []
        lacking: list[Problem] = []
        for path, target in self.free_targets.items():
            fitting = self._sources_of(target)
            if fitting:
                doubts.append((target, self._rivals.get(path) or fitting))
            else:
                paired = next((pair.source for pair in self._unsaid if self.fits(pair.source, target)), None)
                free = list(self.free_sources)
                lacking.append(questions.without_source(target, modules[path], self.source, free, paired))
        yield from questions.in_modules(lacking, {pair.target.path for pair in self.pairs})
        for group in questions.together(doubts):
            yield questions.ambiguous(group, [remedy for target, _ in group for remedy in maps.get(target.path, ())])

    @property
    def _unsaid(self) -> Iterator[Pair]:
        """The pairs that the user did not say, so that a map may part them."""
        return (pair for pair in self.pairs if pair.reason != MAP and not of_schema(pair.reason))

    def _pair(self, source: Layer, target: Layer, reason: str, likely: bool = False) -> None:
        del self.free_sources[source.path], self.free_targets[target.path]
        (self.pairs if self.fits(source, target) else self.misfits).append(Pair(source, target, reason, likely))

    def _fitting_any(self) -> dict[str, list[Layer]]:
        """For each free target the sources that it could take, also those that are not wanted."""
        paired = {pair.source.path for pair in (*self.pairs, *self.misfits)}
        whole = [layer for layer in self.source.layers if layer.path not in paired]
        return {
            path: [source for source in whole if self.fits(source, target)]
            for path, target in self.free_targets.items()
        }

    def _are_free(self, source: Layer, target: Layer) -> bool:
        return source.path in self.free_sources and target.path in self.free_targets

    def _at(
        self, layer: Layer, ours: Sequence[Layer], theirs: Sequence[Layer], paired: Mapping[str, str]
    ) -> Layer | None:
        """The target layer at the position of the source; None if an order is unknown, or a pair speaks against it."""
        before, after = true_order(self.source, ours), true_order(self.target, theirs)
        if not before or not after:
            return None
        positions = {one.path: position for position, one in enumerate(after)}
        moved = any(positions.get(paired.get(one.path, ""), i) != i for i, one in enumerate(before))
        position = before.index(layer)
        return after[position] if position < len(after) and not moved else None


def _letters(path: str) -> str:
    """The same for ``dense``, ``dense_1`` and ``Dense_0``: the first of a class may have no number."""
    return re.sub(r"[\W_\d]+", "", path).casefold()


def _once(layers: Mapping[str, Layer], name: Naming) -> dict[str, Layer]:
    names = [name(path) for path in layers]
    count = Counter(names)
    return {called: layer for called, layer in zip(names, layers.values(), strict=True) if count[called] == 1}
