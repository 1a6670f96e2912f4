"""What the other frameworks call the layers of a net that was captured in one of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec import structs

from converter.architectures.codegen.keras import KerasDialect
from converter.architectures.codegen.modules import NamedSteps, StepList, layers_in, runs_by_name
from converter.architectures.codegen.tree import camel, is_attribute
from converter.architectures.document import Architecture, layer_paths
from converter.architectures.units import Fork, Unit, Units, units_in
from converter.formats.keras.config import snake_case

#: What a module of each framework has already, and a layer inside of it must not be called.
_TAKEN: Mapping[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "torch": "apply buffers children double eval float forward half modules parameters to train training type",
        "tensorflow": "build call compile dtype evaluate fit input inputs layers losses metrics name optimizer output"
        " outputs path predict summary trainable variables weights",
        "flax": "apply batch_stats bind clone init name param params parent path scope setup sow train unbind"
        " variable variables",
        "mxnet": "apply cast collect_params export forward hybridize initialize name params prefix row summary",
    }.items()
}

#: Path of a layer -> the parts of its name.
_Names = Mapping[str, tuple[str, ...]]


def named(architecture: Architecture, units: Units, framework_name: str) -> Architecture:
    """With names in the other frameworks, where they are not the neutral paths, which are those of this framework.

    The modules of a Sequential are numbered there as its neighbours without weights leave them room.
    """
    paths = {unit.path: tuple(unit.path.split(".")) for unit in units_in(units.row) if unit.path}
    names: dict[str, dict[str, tuple[str, ...]]] = {}
    for other in sorted(_TAKEN.keys() - {framework_name}):
        for unit, parts in _Naming(paths, other).net(list(units.row)):
            for path in layer_paths(unit.step):
                name = ".".join(parts) + path.removeprefix(unit.path)
                if name != path:
                    names.setdefault(path, {})[other] = (name,)
    return structs.replace(architecture, names={path: names[path] for path in sorted(names)})


class _Naming(msgspec.Struct, frozen=True):
    """names: those that the net itself has; framework_name: whose are looked for."""

    names: _Names
    framework_name: str

    def net(self, row: StepList) -> list[tuple[Unit, tuple[str, ...]]]:
        """Each layer with its name. In Keras the net is a Sequential: its files count what is in it by class."""
        found, parts = list(self.row(row, 0)), runs_by_name(row, self.names, 0)
        named = [part for part in parts or () if part.name]
        kinds = [self._kind(part, 0) for part in named]
        if self.framework_name != "tensorflow" or (parts and self._is_sequential(parts, 0) and all(kinds)):
            return found
        if len(named) != 1:
            return [(unit, ("net", *rest)) for unit, rest in found]
        name = named[0].name
        around = kinds[0] or (name if is_attribute(name) and snake_case(camel(name)) == name else "net")
        return [(unit, (around, *rest)) for unit, (_, *rest) in found]

    def row(self, row: StepList, depth: int) -> Iterator[tuple[Unit, tuple[str, ...]]]:
        """Each layer with its name below the modules around this row."""
        parts = runs_by_name(row, self.names, depth)
        if parts is None or not self._is_sequential(parts, depth):
            found = {name: self._steps_of(row, name, depth) for name in self._next_names(row, depth)}
            chosen = {name: self._alone(name) for name in found}
        else:
            found = {part.name: part.steps for part in parts if part.name}
            chosen = self._numbered(parts, depth)
        for name, steps in found.items():
            own = [unit for unit in units_in(steps) if len(self.names.get(unit.path, ())) == depth + 1]
            yield from ((unit, (chosen[name],)) for unit in own)
            inside = self.row(steps, depth + 1) if not own else ()
            yield from ((unit, (chosen[name], *rest)) for unit, rest in inside)

    def _is_sequential(self, parts: Sequence[NamedSteps], depth: int) -> bool:
        """Whether the names are those that a Sequential gives: numbers, or in Keras its classes with a count."""
        names = [part.name for part in parts if part.name]
        if all(_number(name) is not None for name in names):
            return True
        stems = [re.sub(r"_\d+$", "", name) for name in names]
        seen: Counter[str] = Counter()
        for name, stem in zip(names, stems, strict=True):
            if name != (f"{stem}_{seen[stem]}" if seen[stem] else stem):
                return False
            seen[stem] += 1
        kinds = [self._kind(part, depth) for part in parts if part.name]
        return any([*kinds, len(names) > 1]) and all(
            kind in ("", stem) for kind, stem in zip(kinds, stems, strict=True)
        )

    def _numbered(self, parts: Sequence[NamedSteps], depth: int) -> dict[str, str]:
        if self.framework_name != "tensorflow":
            form = "layers_{}" if self.framework_name == "flax" else "{}"
            return {part.name: form.format(place) for place, part in enumerate(parts) if part.name}
        kinds = {part.name: self._kind(part, depth) for part in parts if part.name}
        if not all(kinds.values()):  # classes of our own, by whose names Keras would count
            return {name: self._alone(name) for name in kinds}
        counts: Counter[str] = Counter()
        chosen = {}
        for name, kind in kinds.items():
            chosen[name] = f"{kind}_{counts[kind]}" if counts[kind] else kind
            counts[kind] += 1
        return chosen

    def _kind(self, part: NamedSteps, depth: int) -> str:
        """What Keras counts a module in a Sequential by; "" where that is a class of one's own."""
        first = part.steps[0]
        if isinstance(first, Unit) and len(self.names.get(first.path, ())) == depth + 1:
            return snake_case(KerasDialect().expression(first).function.rpartition(".")[2])
        inside = runs_by_name(part.steps, self.names, depth + 1)
        if inside is None or not self._is_sequential(inside, depth + 1):
            return ""
        return "sequential" if all(self._kind(each, depth + 1) for each in inside if each.name) else ""

    def _next_names(self, row: StepList, depth: int) -> list[str]:
        return list(dict.fromkeys(self.names[path][depth] for path in layers_in(row)))

    def _steps_of(self, row: StepList, name: str, depth: int) -> StepList:
        """The steps of one module, with those between them that have no weights."""
        inside = [any(self.names[path][depth] == name for path in layers_in([step])) for step in row]
        if True not in inside:
            return []
        first, last = inside.index(True), len(inside) - inside[::-1].index(True)
        run = row[first:last]
        if all(self.names[path][depth] == name for path in layers_in(run)):
            return run
        branches = (list(branch) for step in run if isinstance(step, Fork) for branch in step.branches)
        units = [step for step in run if isinstance(step, Unit) and self._next_names([step], depth) == [name]]
        return [*units, *(step for branch in branches for step in self._steps_of(branch, name, depth))]

    def _alone(self, name: str) -> str:
        number = _number(name)
        if number is None:
            return f"{name}_layer" if name in _TAKEN[self.framework_name] else name
        forms = {"flax": "layers_{}", "tensorflow": "layer_{}"}
        return forms.get(self.framework_name, "{}").format(number)


def _number(name: str) -> int | None:
    """The place in a Sequential that a name says: ``3``, or in Flax ``layers_3``."""
    found = re.fullmatch(r"(?:layers_)?(0|[1-9]\d*)", name)
    return int(found[1]) if found else None
