"""`make names`: tables of known names (`converter.schema.names`) from rows of the zoo that were right.

A row that was right has shown, by equal outputs, which layers belong together; so the layers of all nets of a family.

A layer has a name in each code base. Names that differ in numbers alone become one pattern, where what they stand for
is the same in every code base: the layers of a row must come in the same order everywhere, and no pattern may fit the
name of a layer of another row. Where that fails, one number that tells the layers apart is kept as it is.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from converter.core.layers import Layer, Net
from converter.core.natural_order import natural_key
from converter.endpoints.endpoint import opened
from converter.matching.matcher import is_index
from converter.options import ReadOptions
from converter.schema.names import compiled
from tests.places import ROOT
from tests.zoo.net import OTHER_SIZE
from tests.zoo.other_sizes import FAMILIES

FOLDER = ROOT / "schemas" / "names"
#: Table -> families of the zoo; the others have a table of their own name.
TABLES: Mapping[str, tuple[str, ...]] = {
    "resnet": ("resnet18", "resnet14", "resnet50"),
    "vgg": ("vgg11", "vgg13_bn"),
    "densenet": ("densenet121",),
    "efficientnet": ("efficientnet_b0",),
    "efficientnet_v2": ("efficientnet_v2_b0",),
    "mobilenet_v3": ("mobilenet_v3_small",),
    "regnet": ("regnetx_004", "regnetx_400mf"),
    "squeezenet": ("squeezenet1_1",),
    "vit": ("vit", "vit_of_others"),
    "llama": ("llama", "llama_lm"),
    "mistral": ("mistral_lm",),
    "repvgg": ("repvgg_a0",),
    "hgnet_v2": ("hgnetv2_b0",),
    "mobilevit": ("mobilevit_xxs",),
}
#: Other sizes, which show whether the tables hold for them.
UNSEEN = frozenset(family.name for family in FAMILIES if family.status == OTHER_SIZE)
#: Statistics of the data, which EfficientNet of Keras uses as soon as it has loaded them.
_OF_DATA = re.compile(r"normalization\.")
#: In whose order the rows are; then that of any other.
_FIRST = ("torchvision", "timm", "transformers", "pytorchcv", "gluon")

#: A number; or the letter of a block of EfficientNet in Keras, behind the number of its stage.
_VARYING = re.compile(r"(?<=\d)[a-z](?=[_.])|\d+")


@dataclass(frozen=True)
class Known:
    """One layer. net: which net of the family it is of. kind: "" where code bases have it as one of several. names:
    code base -> name.
    """

    net: str
    kind: str
    names: Mapping[str, str]

    @property
    def spelled(self) -> tuple[str, ...]:
        return self.net, *self.names.values()


@dataclass
class Group:
    """Layers of one row."""

    layers: list[Known]

    @property
    def kind(self) -> str:
        return self.layers[0].kind

    @cached_property
    def bases(self) -> list[str]:
        return list(dict.fromkeys(base for layer in self.layers for base in layer.names))

    def values(self, base: str) -> list[tuple[str, ...]]:
        return [tuple(_VARYING.findall(layer.names[base])) for layer in self.layers if base in layer.names]

    @cached_property
    def names(self) -> Mapping[str, set[str]]:
        """By code base."""
        return {base: {layer.names[base] for layer in self.layers if base in layer.names} for base in self.bases}

    @cached_property
    def patterns(self) -> Mapping[str, str]:
        """By code base, with what is the same in all layers as it is."""
        return {base: self._pattern(base) for base in self.bases}

    def _pattern(self, base: str) -> str:
        values = self.values(base)
        letters = iter("ijklmnopq")
        text = iter(_VARYING.split(next(layer.names[base] for layer in self.layers if base in layer.names)))
        pattern = next(text)
        for known in zip(*values, strict=True):
            if len(set(known)) == 1:
                pattern += known[0]
            else:
                sign = "" if known[0].isdigit() else "@"
                pattern += f"{{{sign}{next(letters)}}}"
            pattern += next(text)
        return pattern

    def split(self, base: str, place: int) -> list[Group]:
        parts: dict[str, list[Known]] = defaultdict(list)
        for layer in self.layers:
            numbers = _VARYING.findall(layer.names[base]) if base in layer.names else []
            parts[numbers[place] if numbers else ""].append(layer)
        return [Group(layers) for _, layers in sorted(parts.items())]

    def splits(self) -> Iterator[tuple[int, str, int]]:
        """(how many groups, code base, place) of each number that tells the layers apart."""
        for base in self.bases:
            for place, known in enumerate(zip(*self.values(base), strict=True)):
                if len(set(known)) > 1:
                    yield len(set(known)), base, place


def rows(known: Iterable[Known]) -> list[Group]:
    """The rows of a table for these layers, in the order of the first."""
    known = list(known)
    groups = [part for group in _spelled_alike(known) for part in _ordered(group)]
    while clash := _clash(groups):
        groups = _told_apart(groups, clash)
    place = {layer.spelled: number for number, layer in enumerate(known)}
    return sorted(groups, key=lambda group: min(place[layer.spelled] for layer in group.layers))


def _spelled_alike(known: Sequence[Known]) -> list[Group]:
    """By what the names are without numbers, in all code bases that have the net; layers of two nets, in one of them:
    where another one calls them otherwise in each net (``BasicBlock_0``, ``Bottleneck_0``), it has two names.
    """
    groups: list[tuple[str, list[Known]]] = []
    for layer in sorted(known, key=lambda layer: -len(layer.names)):
        found = (number for number, (kind, layers) in enumerate(groups) if kind == layer.kind and _alike(layer, layers))
        number = next(found, None)
        if number is None:
            groups.append((layer.kind, [layer]))
        else:
            groups[number][1].append(_renamed(layer, groups[number][1]))
    return [Group(layers) for _, layers in groups]


def _spelled(name: str) -> str:
    return _VARYING.sub("#", name)


def _alike(layer: Known, layers: Sequence[Known]) -> bool:
    met = False
    for other in layers:
        shared = [base for base in layer.names if base in other.names]
        same = [_spelled(layer.names[base]) == _spelled(other.names[base]) for base in shared]
        if layer.net == other.net and not all(same):
            return False
        met = met or any(same)
    return met


def _renamed(layer: Known, layers: Sequence[Known]) -> Known:
    """With ``CODE BASE|2`` for one that spells its name in this net otherwise than in those of the group."""
    names: dict[str, str] = {}
    for base, name in layer.names.items():
        keys = (base, *(f"{base}|{number}" for number in range(2, 9)))
        known = {key: _spelled(other.names[key]) for other in layers for key in keys if key in other.names}
        names[next(key for key in keys if known.get(key, _spelled(name)) == _spelled(name))] = name
    return replace(layer, names=names)


def _ordered(group: Group) -> list[Group]:
    """Groups whose layers come in one order in all code bases, in each net."""
    if _is_ordered(group):
        return [group]
    _, base, place = min(group.splits())
    return [part for smaller in group.split(base, place) for part in _ordered(smaller)]


def _is_ordered(group: Group) -> bool:
    for net in {layer.net for layer in group.layers}:
        layers = [layer for layer in group.layers if layer.net == net]
        bases = [base for base in group.bases if all(base in layer.names for layer in layers)]
        orders = {
            tuple(sorted(range(len(layers)), key=lambda number: natural_key(layers[number].names[base])))
            for base in bases
        }
        if len(orders) > 1:
            return False
    return True


@dataclass(frozen=True)
class Clash:
    """The name of a layer of a group, ``owner``, that is one of another group by its pattern."""

    owner: Group
    other: Group
    base: str
    name: str

    @property
    def is_open(self) -> bool:
        """Whether nothing tells: of patterns that fit, the one with fewer places holds."""
        ours, theirs = self.owner.patterns[self.base], self.other.patterns[self.base]
        fits = compiled(theirs).fullmatch(self.name) and self.name not in self.other.names[self.base]
        return theirs.count("{") <= ours.count("{") and bool(fits)


def _clash(groups: Sequence[Group]) -> Clash | None:
    for owner in groups:
        for base in owner.bases:
            others = [group for group in groups if group.kind == owner.kind and base in group.bases]
            for name in owner.names[base]:
                for other in others:
                    clash = Clash(owner, other, base, name)
                    if other is not owner and clash.is_open and any((*owner.splits(), *other.splits())):
                        return clash
    return None


def _told_apart(groups: Sequence[Group], clash: Clash) -> list[Group]:
    """With one of the two groups split by a number, so that there are as few groups as can be."""

    def holder(parts: Sequence[Group]) -> Group:
        return next(part for part in parts if clash.name in part.names.get(clash.base, ()))

    choices: list[tuple[bool, int, int, Group, list[Group]]] = []
    for number, group in enumerate((clash.owner, clash.other)):
        for count, base, place in group.splits():
            parts = group.split(base, place)
            owners = [holder(parts)] if number == 0 else [clash.owner]
            others = parts if number == 1 else [clash.other]
            is_open = any(Clash(owner, other, clash.base, clash.name).is_open for owner in owners for other in others)
            choices.append((is_open, count, len(choices), group, parts))
    *_, group, parts = min(choices, key=lambda choice: choice[:3])
    return [part for one in groups for part in (parts if one is group else [one])]


def written(family: str, groups: Sequence[Group], nets: Mapping[str, set[str]]) -> str:
    """The file. nets: code base -> the nets that it was seen in."""
    lines = [f"family: {family}", "layers:"]
    for group in groups:
        seen: dict[str, set[str]] = defaultdict(set)
        for layer in group.layers:
            for base in layer.names:
                seen[base.partition("|")[0]].add(layer.net)
        optional = any(len(seen[base]) < len(nets[base]) for base in seen)
        spelled: dict[str, list[str]] = defaultdict(list)
        for base in sorted(group.bases):
            spelled[base.partition("|")[0]].append(_quoted(group.patterns[base]))
        entries = [f"{base}: {_one_or_list(patterns)}" for base, patterns in spelled.items()]
        entries = [f"kind: {group.kind}", *entries] if group.kind else entries
        entries += ["alone: true"] if len(spelled) == 1 else ["optional: true"] if optional else []
        lines.append(f"  - {{{', '.join(entries)}}}")
    return "\n".join(lines) + "\n"


def _one_or_list(patterns: Sequence[str]) -> str:
    return patterns[0] if len(patterns) == 1 else f"[{', '.join(patterns)}]"


def _quoted(pattern: str) -> str:
    return (
        f'"{pattern}"'
        if set(pattern) & set("{}:#,'[] ") or re.fullmatch(r"[\d._]+|true|null|yes|no", pattern)
        else pattern
    )


# -- the layers that belong together -----------------------------------------------------------------------------------


class Together:
    """Layers of several nets that are one: each is (code base, path)."""

    def __init__(self) -> None:
        self._parents: dict[tuple[str, str], tuple[str, str]] = {}

    def of(self, layer: tuple[str, str]) -> tuple[str, str]:
        """The one that stands for all of them."""
        while (parent := self._parents.setdefault(layer, layer)) != layer:
            layer = parent
        return layer

    def join(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        self._parents[self.of(one)] = self.of(other)

    def all(self) -> dict[tuple[str, str], dict[str, str]]:
        found: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        for base, path in list(self._parents):
            found[self.of((base, path))][base] = path
        return found


def known_layers(caches: Sequence[Path], family: str) -> tuple[list[Known], set[str]]:
    """The layers of a family of the zoo that are in several of its code bases, and these."""
    together = Together()
    alone: dict[str, set[str]] = {}
    kinds: dict[tuple[str, str], list[str]] = {}
    for row in (row for cache in caches for row in sorted(cache.glob(f"{family}--*/truth.json"))):
        _, *bases = row.parent.name.split("--")
        about, truth = (json.loads(row.with_name(name).read_text()) for name in ("row.json", "truth.json"))
        source, clone = (net_of(row.parent, name, about[key]) for name, key in (("source", "from"), ("clone", "to")))
        for base, net in zip(bases, (source, clone), strict=True):
            for layer in net.layers:
                kinds.setdefault((base, layer.path), [reading.kind for reading in layer.readings])
        for one, other in pairs_in(truth, source, clone):
            together.join((bases[0], one), (bases[1], other))
        for base, unused in zip(bases, unused_in(truth, source, clone), strict=True):
            alone[base] = alone[base] & unused if base in alone else unused
    places = {layer: number for number, layer in enumerate(kinds)}
    known = []
    for names in together.all().values():
        possible = [kinds[layer] for layer in names.items()]
        kind = next((kind for kind in min(possible, key=len) if all(kind in of for of in possible)), "")
        known.append(Known(family, kind, names))
    known += [
        Known(family, kinds[base, path][0], {base: path})
        for base, paths in alone.items()
        for path in paths
        if not _OF_DATA.match(path)
    ]

    def place(layer: Known) -> tuple[int, int]:
        base = next((base for base in _FIRST if base in layer.names), min(layer.names))
        return (_FIRST.index(base) if base in _FIRST else len(_FIRST)), places[base, layer.names[base]]

    return sorted(known, key=place), {base for base, _ in kinds}


def net_of(folder: Path, name: str, framework: str) -> Net:
    with ExitStack() as stack:
        return opened(next(folder.glob(f"{name}.*")), stack, framework=framework, options=ReadOptions()).net


def pairs_in(truth: Mapping[str, Sequence[str]], source: Net, clone: Net) -> Iterator[tuple[str, str]]:
    """(layer of the source, layer of the clone) where either is made of the other alone."""
    ours, theirs = (
        {spec.name: layer.path for layer in net.layers for spec in layer.tensors} for net in (source, clone)
    )
    met = {
        (ours[name], theirs[target])
        for target, names in truth.items()
        for name in names
        if name in ours and target in theirs
    }
    count = Counter(one for one, _ in met), Counter(other for _, other in met)
    return ((one, other) for one, other in met if count[0][one] == count[1][other] == 1)


def unused_in(truth: Mapping[str, Sequence[str]], source: Net, clone: Net) -> tuple[set[str], set[str]]:
    """The layers of either that took no part, though all tensors were random and the outputs the same."""
    used = {name for names in truth.values() for name in names}
    filled = {target for target, names in truth.items() if names}
    ours, theirs = (
        {layer.path for layer in net.layers if layer.readings and not is_index(layer) and not taking & names_of(layer)}
        for net, taking in ((source, used), (clone, filled))
    )
    return ours, theirs


def names_of(layer: Layer) -> set[str]:
    return {spec.name for spec in layer.tensors}


def main() -> None:
    caches = list(map(Path, sys.argv[1:]))
    families = sorted({row.parent.name.split("--")[0] for cache in caches for row in cache.glob("*/truth.json")})
    families = [family for family in families if family not in UNSEEN]
    merged = {family: table for table, several in TABLES.items() for family in several}
    FOLDER.mkdir(exist_ok=True)
    for table in dict.fromkeys(merged.get(family, family) for family in families):
        known: list[Known] = []
        nets: dict[str, set[str]] = defaultdict(set)
        for family in TABLES.get(table, (table,)):
            layers, bases = known_layers(caches, family)
            known += layers
            for base in bases:
                nets[base].add(family)
        groups = rows(known)
        (FOLDER / f"{table}.yaml").write_text(written(table, groups, nets))
        print(f"{table}: {len(groups)} rows for {len(known)} layers")


if __name__ == "__main__":
    main()
