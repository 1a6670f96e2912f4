"""Two nets as trees of modules, laid on each other: which module of the one corresponds to which of the other.

Inside two modules that belong together, those inside pair by their names, by names that mean the same (``q_proj``
and ``query``), by being the only ones there that fit each other, or by their position where both sides tell a true
order. What leaves two answers is left alone. A module with but one module inside counts as that one: wrappers and
containers differ between frameworks.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import msgspec

from converter.core.layers import Layer, Net, split_path
from converter.frameworks import framework
from converter.matching.names import bare_word, meaning
from converter.matching.order import in_turn

#: How surely two modules belong together, the surest first.
BY_NAME, ALONE, BY_ORDER = range(3)


class _Module(msgspec.Struct):
    """The modules below a path. layer: the tensors that are its own."""

    name: str = ""
    layer: Layer | None = None
    inside: dict[str, _Module] = msgspec.field(default_factory=dict)

    def children(self) -> list[_Module]:
        """The modules inside, in the order of the net; its own tensors are one without a name."""
        own = [_Module("", self.layer)] if self.layer is not None else []
        return [*own, *self.inside.values()]

    def layers(self) -> Iterator[Layer]:
        if self.layer is not None:
            yield self.layer
        for module in self.inside.values():
            yield from module.layers()

    def opened(self) -> _Module:
        """The first module inside that holds more than another one."""
        module = self
        while module.layer is None and len(module.inside) == 1:
            (module,) = module.inside.values()
        return module


def _tree(net: Net) -> _Module:
    root = _Module()
    for layer in net.layers:
        module = root
        for part in split_path(layer.path):
            module = module.inside.setdefault(part, _Module(part))
        module.layer = layer
    return root if framework(net.framework).counts_classes else _with_lists(root)


def _with_lists(module: _Module) -> _Module:
    """With ``blks_0``, ``blks_1`` … inside of a module ``blks``: these are Flax's names of the items of a list.

    In Keras ``blks_1`` is the second of a class, beside ``blks``.
    """
    result = _Module(module.name, module.layer)
    for name, inner in ((name, _with_lists(inner)) for name, inner in module.inside.items()):
        stem, line, number = name.rpartition("_")
        if line and number.isdecimal() and all(f"{stem}_{n}" in module.inside for n in range(int(number))):
            inner.name = number
            result.inside.setdefault(stem, _Module(stem)).inside[number] = inner
        else:
            result.inside[name] = inner
    return result


_Couple = tuple[_Module, _Module]


class Alignment:
    """Two nets laid on each other. fits: whether a source layer could be a target layer.

    paired: source path -> target path of the layers that are paired already: they fit each other alone.
    """

    def __init__(
        self, source: Net, target: Net, fits: Callable[[Layer, Layer], bool], paired: Mapping[str, str]
    ) -> None:
        self._source, self._target = source, target
        self._fits = fits
        self._answers: dict[tuple[Hashable, Hashable], bool] = {}
        self._looks: dict[int, Hashable] = {}
        for path, other in paired.items():
            self._looks |= dict.fromkeys((id(source.by_path[path]), id(target.by_path[other])), other)
        self._contents: dict[int, Mapping[Hashable, list[Layer]]] = {}
        self._numbers = itertools.count()
        #: path of a source or a target layer -> number of the innermost modules around it that belong together
        self.source_regions: dict[str, int] = {}
        self.target_regions: dict[str, int] = {}

    def pairs(self) -> Iterator[tuple[Layer, Layer, int]]:
        """Source layer, target layer, and the least sure step that led to them."""
        yield from self._aligned(_tree(self._source), _tree(self._target), BY_NAME)

    def _aligned(self, ours: _Module, theirs: _Module, by: int) -> Iterator[tuple[Layer, Layer, int]]:
        ours, theirs = ours.opened(), theirs.opened()
        region = next(self._numbers)
        self.source_regions |= {layer.path: region for layer in ours.layers()}
        self.target_regions |= {layer.path: region for layer in theirs.layers()}
        if ours.layer and theirs.layer and not ours.inside and not theirs.inside:
            if self._may_be(ours, theirs):
                yield ours.layer, theirs.layer, by
            return
        for one, other, step in self._couples(ours.children(), theirs.children()):
            yield from self._aligned(one, other, max(by, step))

    def _couples(self, ours: Sequence[_Module], theirs: Sequence[_Module]) -> Iterator[tuple[_Module, _Module, int]]:
        """Which of these modules belong together."""
        pairs: list[tuple[_Module, _Module, int]] = []
        for spelled in (bare_word, meaning):
            for couples in _alike(_families(ours, spelled), _families(theirs, spelled)):
                sure = spelled is bare_word and not re.search(r"\d", couples[0][0].name)
                if sure or all(self._may_be(*couple) for couple in couples):
                    pairs += [(one, other, BY_NAME) for one, other in couples]
            taken = {id(module) for couple in pairs for module in couple[:2]}
            ours, theirs = ([module for module in side if id(module) not in taken] for side in (ours, theirs))
        groups = [group for group in self._groups(ours, theirs) if len(group[0]) == len(group[1])]
        pairs += [(some[0], others[0], ALONE) for some, others in groups if len(some) == 1]
        beside = [(one, other) for one, other, _ in pairs]
        for some, others in groups:
            if len(some) > 1:
                pairs += [(one, other, BY_ORDER) for one, other in self._in_order(some, others, beside)]
        yield from pairs

    def _groups(
        self, ours: Sequence[_Module], theirs: Sequence[_Module]
    ) -> Iterator[tuple[list[_Module], list[_Module]]]:
        """The modules of both sides that fit each other, directly or by way of others."""
        left, right = list(ours), list(theirs)
        while left:
            some, others = [left.pop(0)], list[_Module]()
            fresh = list(some)
            while fresh:
                new = [module for module in right if any(self._may_be(one, module) for one in fresh)]
                right = [module for module in right if module not in new]
                fresh = [module for module in left if any(self._may_be(module, other) for other in new)]
                left = [module for module in left if module not in fresh]
                others += new
                some += fresh
            yield some, others

    def _in_order(self, some: Sequence[_Module], others: Sequence[_Module], beside: Sequence[_Couple]) -> list[_Couple]:
        """The two sides one by one, where both tell their order and every couple fits."""
        ours, theirs = ({_first(module): module for module in side} for side in (some, others))
        paired = [(_first(one), _first(other)) for one, other in beside]
        layers = in_turn(self._source, self._target, list(ours), list(theirs), paired)
        couples = [(ours[one], theirs[other]) for one, other in layers]
        return couples if all(self._may_be(*couple) for couple in couples) else []

    def _may_be(self, one: _Module, other: _Module) -> bool:
        """Whether there are as many layers in both, and for each of them enough in the other that it fits."""
        ours, theirs = self._content(one), self._content(other)
        if sum(map(len, ours.values())) != sum(map(len, theirs.values())):
            return False
        fitting = [(a, b) for a in ours for b in theirs if self._answer(a, ours[a][0], b, theirs[b][0])]
        return all(len(ours[a]) <= sum(len(theirs[b]) for x, b in fitting if x == a) for a in ours) and all(
            len(theirs[b]) <= sum(len(ours[a]) for a, x in fitting if x == b) for b in theirs
        )

    def _content(self, module: _Module) -> Mapping[Hashable, list[Layer]]:
        """The layers in it, by what they look like."""
        if id(module) not in self._contents:
            by_looks: dict[Hashable, list[Layer]] = {}
            for layer in module.layers():
                by_looks.setdefault(self._look(layer), []).append(layer)
            self._contents[id(module)] = by_looks
        return self._contents[id(module)]

    def _look(self, layer: Layer) -> Hashable:
        """Equal for layers that fit the same ones: what they may be, and their shapes."""
        if id(layer) not in self._looks:
            self._looks[id(layer)] = tuple(
                (reading.kind, reading.form, *((item.leaf, item.spec.shape, item.sizes) for item in reading.stored))
                for reading in layer.readings
            )
        return self._looks[id(layer)]

    def _answer(self, ours: Hashable, one: Layer, theirs: Hashable, other: Layer) -> bool:
        if isinstance(ours, str) or isinstance(theirs, str):  # paired already
            return ours == theirs
        if (ours, theirs) not in self._answers:
            self._answers[ours, theirs] = self._fits(one, other)
        return self._answers[ours, theirs]


def _first(module: _Module) -> Layer:
    """The layer whose path is compared for the module."""
    return next(module.layers())


#: A name, the numbers in it aside -> what those are -> the module.
_Families = Mapping[str, Mapping[str, _Module]]


def _alike(ours: _Families, theirs: _Families) -> Iterator[list[_Couple]]:
    """Modules of one name; those that numbers tell apart all together, and only where both sides have the same."""
    for name, modules in ours.items():
        others = theirs.get(name, {})
        if modules.keys() == others.keys():
            yield [(module, others[number]) for number, module in modules.items()]


def _families(modules: Sequence[_Module], spelled: Callable[[str], str]) -> _Families:
    """The modules by their names as they are spelled; without those of one name, and those that are numbers alone."""
    names = {module.name for module in modules}
    families: dict[str, dict[str, list[_Module]]] = {}
    for module in modules:
        stem = re.sub(r"_?\d+", "#", module.name)
        if stem == module.name and f"{stem}_1" in names:  # the first that Keras counts has no number
            stem = f"{stem}#"
        if stem.strip("#"):
            numbers = " ".join(re.findall(r"\d+", module.name))
            families.setdefault(spelled(stem), {}).setdefault(numbers, []).append(module)
    return {
        name: {number: same[0] for number, same in family.items()}
        for name, family in families.items()
        if all(len(same) == 1 for same in family.values())
    }
