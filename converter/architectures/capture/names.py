"""Names in the other frameworks for the layers of a net that was captured in one of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec import structs

from converter.architectures.codegen.keras import KerasDialect
from converter.architectures.codegen.tree import NamedSteps, StepList, camel, is_attribute, runs_by_name
from converter.architectures.document import Architecture, layer_paths
from converter.architectures.units import Fork, Unit, Units, layers_in, units_in
from converter.formats.keras.config import snake_case

#: Attributes of the module class of each framework, which a layer cannot be called.
_RESERVED: Mapping[str, frozenset[str]] = {
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


def with_names(architecture: Architecture, units: Units, framework_name: str) -> Architecture:
    """The architecture with names in the other frameworks, where they differ from the neutral paths.

    The neutral paths are the names in this framework. Modules of a Sequential are numbered with room for the steps
    without weights between them.
    """
    paths = {unit.path: tuple(unit.path.split(".")) for unit in units_in(units.row) if unit.path}
    names: dict[str, dict[str, tuple[str, ...]]] = {}
    for other in sorted(_RESERVED.keys() - {framework_name}):
        for unit, parts in _Naming(paths, other).net(list(units.row)):
            for path in layer_paths(unit.step):
                name = ".".join(parts) + path.removeprefix(unit.path)
                if name != path:
                    names.setdefault(path, {})[other] = (name,)
    return structs.replace(architecture, names={path: names[path] for path in sorted(names)})


class _Naming(msgspec.Struct, frozen=True):
    """names: those of the net itself. framework_name: the framework that gets names."""

    names: _Names
    framework_name: str

    def net(self, row: StepList) -> list[tuple[Unit, tuple[str, ...]]]:
        """Each layer with its name. In Keras the net is a Sequential, whose files count modules by class."""
        layers, parts = list(self.row(row, 0)), runs_by_name(row, self.names, 0)
        named = [part for part in parts or () if part.name]
        kinds = [self._kind(part, 0) for part in named]
        if self.framework_name != "tensorflow" or (parts and self._is_sequential(parts, 0) and all(kinds)):
            return layers
        if len(named) != 1:
            return [(unit, ("net", *rest)) for unit, rest in layers]
        name = named[0].name
        around = kinds[0] or (name if is_attribute(name) and snake_case(camel(name)) == name else "net")
        return [(unit, (around, *rest)) for unit, (_, *rest) in layers]

    def row(self, row: StepList, depth: int) -> Iterator[tuple[Unit, tuple[str, ...]]]:
        """Each layer with its name relative to the modules around this row."""
        parts = runs_by_name(row, self.names, depth)
        if parts is None or not self._is_sequential(parts, depth):
            runs = {name: self._steps_of(row, name, depth) for name in self._next_names(row, depth)}
            chosen = {name: self._single(name) for name in runs}
        else:
            runs = {part.name: part.steps for part in parts if part.name}
            chosen = self._numbered(parts, depth)
        for name, steps in runs.items():
            own = [unit for unit in units_in(steps) if len(self.names.get(unit.path, ())) == depth + 1]
            yield from ((unit, (chosen[name],)) for unit in own)
            inside = self.row(steps, depth + 1) if not own else ()
            yield from ((unit, (chosen[name], *rest)) for unit, rest in inside)

    def _is_sequential(self, parts: Sequence[NamedSteps], depth: int) -> bool:
        """Whether the names are those of a Sequential: numbers, or in Keras classes with a count."""
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
        if not all(kinds.values()):  # custom classes, by whose names Keras would count
            return {name: self._single(name) for name in kinds}
        counts: Counter[str] = Counter()
        chosen = {}
        for name, kind in kinds.items():
            chosen[name] = f"{kind}_{counts[kind]}" if counts[kind] else kind
            counts[kind] += 1
        return chosen

    def _kind(self, part: NamedSteps, depth: int) -> str:
        """The name by which Keras counts a module in a Sequential; "" for a custom class."""
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
        """The steps of one module, including steps without weights between them."""
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

    def _single(self, name: str) -> str:
        number = _number(name)
        if number is None:
            return f"{name}_layer" if name in _RESERVED[self.framework_name] else name
        forms = {"flax": "layers_{}", "tensorflow": "layer_{}"}
        return forms.get(self.framework_name, "{}").format(number)


def _number(name: str) -> int | None:
    """The index in a Sequential that a name stands for: ``3``, or in Flax ``layers_3``."""
    match = re.fullmatch(r"(?:layers_)?(0|[1-9]\d*)", name)
    return int(match[1]) if match else None
