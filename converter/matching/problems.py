"""What the matcher cannot decide, as problems with the options that decide it: one by one, and many at once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from msgspec.structs import replace

from converter.core.kinds import UNKNOWN
from converter.core.layers import Layer, Net, join_path, split_path
from converter.errors import NAMED, Placeholder, Problem, Remedy, listed, unknown_name
from converter.matching.compatibility import disagreement, shapes
from converter.matching.covering import covers
from converter.matching.hints import Hints
from converter.matching.pairs import Pair

#: Decides every pair: a schema names the layers of both nets.
_SCHEMA = Remedy("schema", Placeholder("NAMES.yaml"))
#: So many modules of the source are proposed for one of the clone.
_PROPOSED = 2


#: What many problems of a kind have in common.
_SUMMARIES: Mapping[str, str] = {
    "ambiguous": "{count} layers of the clone could each be several of the source: their shapes are the same, and "
    "their names do not tell.",
    "no source": "nothing in the source fits {count} layers of the clone.",
    "no target": "{count} layers of the source have no counterpart in the clone.",
}


def _problem(kind: str, layer: Layer, text: str, remedies: Iterable[Remedy], wide: Iterable[Remedy]) -> Problem:
    return Problem(text, kind, layer.path, remedies=tuple(remedies), summary=_SUMMARIES[kind], wide=tuple(wide))


#: A layer of the clone, and those of the source that it fits.
Doubt = tuple[Layer, Sequence[Layer]]


def together(doubts: Iterable[Doubt]) -> Iterator[list[Doubt]]:
    """Those that are one question: they could be the same layers, or those of that name in other blocks."""
    groups: dict[frozenset[str], list[Doubt]] = {}
    for doubt in doubts:
        groups.setdefault(frozenset(numberless(source.path) for source in doubt[1]), []).append(doubt)
    yield from groups.values()


def numberless(path: str) -> str:
    return re.sub(r"\d+", "#", path)


def ambiguous(doubts: Sequence[Doubt], modules: Iterable[Remedy]) -> Problem:
    """Layers of the clone that fit several of the source. modules: see `module_maps`."""
    first, sources = doubts[0]
    here = [target.path for target, others in doubts if others == sources]
    elsewhere = [target.path for target, others in doubts if others != sources]
    paths = tuple(layer.path for layer in sources)
    text = f"{listed(here)} of the clone could {'each ' if len(here) > 1 else ''}be {listed(paths)}."
    text += f" As open, and told by the same answer: {listed(elsewhere)}." if elsewhere else ""
    maps = (Remedy("map", (path, first.path)) for path in paths[:NAMED])
    problem = _problem("ambiguous", first, text, maps, (*modules, *[_SCHEMA] * len(doubts)))
    return replace(problem, candidates=paths, alike=(*here[1:], *elsewhere))


def without_source(target: Layer, module: str, source: Net, free: Sequence[str], fitting: Layer | None) -> Problem:
    """A layer of the clone that nothing in the source fits. module: the outermost one that has no other layers.

    free: the source layers that are left. fitting: one that would fit, and is paired with another layer.
    """
    text = f"nothing in the source fits '{target.path}' of the clone: {shapes(target)}."
    text += f" Left in the source: {listed(free)}." if free else ""
    remedies = [Remedy("allow_missing", target.path, "leaves it as it is")]
    if _has_no_names(source):
        remedies.insert(0, Remedy("names_from", Placeholder("FILE"), "names the tensors, which have none, as there"))
    elif fitting is not None:
        remedies.append(Remedy("map", (fitting.path, target.path), "gives it one that is paired with another"))
    problem = _problem("no source", target, text, remedies, [Remedy("allow_missing", module)])
    return replace(problem, expected=shapes(target))


def as_parameters(layer: Layer) -> tuple[Remedy, Remedy]:
    """The ways out for a layer that no table describes, on its way to another framework."""
    return (
        Remedy("kind", (layer.path, "parameter"), "moves its tensors as they are"),
        Remedy("ignore", layer.path, "leaves it out"),
    )


def misfit(pair: Pair, same_framework: bool) -> Problem:
    """Two layers that belong together and cannot be each other."""
    source, target = pair.source, pair.target
    text = disagreement(source, target, same_framework)
    problem = Problem(text, "misfit", source.path, shapes(target), shapes(source), (target.path,))
    if same_framework or UNKNOWN not in (source.kind, target.kind):
        return problem
    moved, left_out = as_parameters(source)
    kept = Remedy("allow_missing", target.path, "leaves that of the clone as it is")
    alike = Counter(spec.shape for spec in source.tensors) == Counter(spec.shape for spec in target.tensors)
    return replace(problem, remedies=(moved,) if alike else (left_out, kept))


def in_modules(problems: Iterable[Problem], paired: Collection[str]) -> Iterator[Problem]:
    """The problems; those of one module, or of modules of one name but for the numbers in it, as one.

    paired: the layers of that net that are paired, which no remedy may touch.
    """
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault(
            (problem.kind, numberless(problem.wide[0].value) if problem.wide else problem.subject), []
        ).append(problem)
    for alike in groups.values():
        subjects = [problem.subject for problem in alike]
        pattern = _pattern([problem.wide[0].value for problem in alike], paired) if len(alike) > 1 else ""
        if not pattern:
            yield from alike
            continue
        first = alike[0]
        text = f"{first.text} The same of {listed(subjects[1:])}."
        remedies = [replace(one, value=pattern) for one in first.remedies if one.option == first.wide[0].option]
        yield replace(first, text=text, alike=tuple(subjects[1:]), remedies=tuple(remedies))


def _pattern(modules: Sequence[str], paired: Collection[str]) -> str:
    """What names these modules, and no layers that are paired; "" where nothing does."""
    pattern = modules[0] if len(set(modules)) == 1 else re.sub(r"\d+", "*", modules[0])
    return "" if any(covers(pattern, path) for path in paired) else pattern


def _has_no_names(net: Net) -> bool:
    """Whether its tensors are in an order and have no names (Equinox, ``arr_0`` of NumPy)."""
    return all(re.fullmatch(r"(arr_)?[0-9]+", spec.name) for layer in net.layers for spec in layer.tensors)


def without_counterpart(source: Layer, module: str, fitting: Layer | None, note: str) -> Problem:
    """A layer of the source that the clone has no layer for. module: the outermost one that has no other layers.

    fitting: a layer of the clone that would fit, and is paired with another. note: what is to know of such a layer.
    """
    text = f"'{source.path}' ({shapes(source)}) has no counterpart in the clone{note}."
    remedies = [Remedy("ignore", source.path, "leaves it out")]
    if fitting is not None:
        remedies.append(Remedy("map", (source.path, fitting.path), "gives it one that is paired with another"))
    return replace(_problem("no target", source, text, remedies, [Remedy("ignore", module)]), met=shapes(source))


def unknown_sources(source: Net, hints: Hints) -> list[Problem]:
    """Entries of ``map`` for layers that the source does not have."""
    return [
        unknown_name(Remedy("map", (old, new)), old, "the source has no layer", source.by_path)
        for old, new in hints.mapping.items()
        if not any(path == old or path.startswith(old + ".") for path in source.by_path)
    ]


def outermost_modules(paths: Iterable[str], net: Net) -> Mapping[str, str]:
    """Each of these paths -> the outermost module around it all of whose layers are among them, or the path itself."""
    among = list(paths)
    if not among:
        return {}
    here = Counter(module for path in among for module in _around(path))
    total = Counter(module for path in net.by_path for module in _around(path))
    return {path: next((m for m in _around(path) if here[m] == total[m]), path) for path in among}


def module_maps(
    sources: Mapping[str, Layer], targets: Mapping[str, Layer], fits: Callable[[Layer, Layer], bool]
) -> Mapping[str, tuple[Remedy, ...]]:
    """Path of a target layer -> the entries of ``map`` that pair the outermost module around it as a whole with one of
    the source: where both have layers of the same names inside, and these fit.
    """
    ours, theirs = _insides(sources), _insides(targets)
    alike: dict[frozenset[str], list[str]] = {}
    for module, inside in ours.items():
        alike.setdefault(frozenset(inside), []).append(module)
    remedies: dict[str, tuple[Remedy, ...]] = {}
    for module in sorted(theirs, key=lambda module: module.count(".")):
        inside = theirs[module]
        if any(layer.path in remedies for layer in inside.values()):
            continue
        fitting = (
            other
            for other in alike.get(frozenset(inside), ())
            if all(fits(layer, inside[name]) for name, layer in ours[other].items())
        )
        maps = tuple(Remedy("map", (other, module)) for other in islice(fitting, _PROPOSED))
        remedies |= {layer.path: maps for layer in inside.values() if maps}
    return remedies


def _insides(layers: Mapping[str, Layer]) -> Mapping[str, Mapping[str, Layer]]:
    """Each module of several layers -> the names of these inside of it -> the layers."""
    insides: dict[str, dict[str, Layer]] = {}
    for path, layer in layers.items():
        for module in _around(path):
            insides.setdefault(module, {})[path[len(module) + 1 :]] = layer
    return {module: inside for module, inside in insides.items() if len(inside) > 1}


def _around(path: str) -> Iterator[str]:
    """The modules around a layer, the outermost first."""
    parts = split_path(path)
    return (join_path(parts[:depth]) for depth in range(1, len(parts)))
