"""From the architecture of all nets of a schema to that of one: indices are expanded, conditions decided."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct, ValidationError, convert, structs

from converter.architectures import vocabulary as v
from converter.architectures.document import Family, layer_paths, of_name, rows_of, walk, with_rows
from converter.architectures.vocabulary import kind_of
from converter.core.patterns import Indices, check_pattern, fill, indices_of, letters
from converter.errors import ConversionError
from converter.frameworks import named_forms
from converter.schema.errors import explained
from converter.schema.loader import Schema, UncheckedArchitecture

#: Options that follow from the weights of a net.
SIZES_IN_WEIGHTS = ("num", "out", "kernel", "groups")


def of_weights(steps: v.Steps, paths: Collection[str], may_miss: Callable[[str], bool]) -> tuple[v.AnyStep, ...]:
    """The steps of a net with layers of these neutral paths.

    may_miss: whether the layer of this path is optional. Raises ConversionError where steps and layers differ.
    """
    expanded = tuple(_FromWeights(frozenset(paths), may_miss).row(steps, "", {}))
    surplus = sorted(set(paths) - _paths_once(expanded))
    if surplus:
        raise ConversionError(f"no step of the architecture uses the layer '{surplus[0]}'")
    return expanded


def of_defaults(steps: v.Steps, sizes: Mapping[str, int]) -> tuple[v.AnyStep, ...]:
    """The steps of a net without weights, with the default sizes of the steps.

    sizes: path of a layer -> another number of outputs. Raises ConversionError for an unknown path.
    """
    paths = {path for step, over in placed(steps) for path in _sized_paths(step, over)}
    expanded = tuple(_FromDefaults(frozenset(paths), sizes).row(steps, "", {}))
    below = next((path for path, size in sizes.items() if size < 1), None)
    if below is not None:
        raise ConversionError(f"sizes: '{below}' cannot have {sizes[below]} outputs")
    unknown = sorted(sizes.keys() - _paths_once(expanded))
    if unknown:
        raise ConversionError(f"sizes: the architecture has no layer '{unknown[0]}'")
    return expanded


def _paths_once(steps: Iterable[v.AnyStep]) -> set[str]:
    """The paths of the layers that the steps use. Raises ConversionError for a layer that is used twice."""
    paths = [path for step in walk(steps) for path in layer_paths(step)]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise ConversionError(f"architecture: the layer '{twice}' occurs twice")
    return set(paths)


def located(
    steps: v.Steps, prefix: str = "", over: tuple[str, ...] = ()
) -> Iterator[tuple[v.AnyStep, str, tuple[str, ...]]]:
    """Each step, the prefix of its path, and the indices over which it is repeated."""
    for each in steps:
        step = of_name(each)
        yield step, prefix, over
        inner = joined(prefix, step.path) if isinstance(step, v.Sequential) else prefix
        repeated = (*over, *step.each) if isinstance(step, v.Sequential) else over
        for row in rows_of(step):
            yield from located(row, inner, repeated)


def placed(steps: v.Steps, prefix: str = "") -> Iterator[tuple[v.WithWeights, tuple[str, ...]]]:
    """Each layer with its full path, whose indices are open, and the indices over which it is repeated."""
    for step, before, over in located(steps, prefix):
        if isinstance(step, v.WithWeights):
            yield structs.replace(step, path=joined(before, step.path)), over


class _SchemaPart(Struct, frozen=True):
    """The key in a schema file, so that errors have the path from there."""

    architecture: Family


def family_of(schema: Schema) -> Family | None:
    """The checked architecture of a schema; None if its file describes none. Raises ConversionError with the line."""
    return None if schema.architecture is None else _checked(schema.architecture)


@lru_cache(maxsize=32)
def _checked(written: UncheckedArchitecture) -> Family:
    forms = named_forms()
    layers = {
        layer.path: (forms[layer.kind].kind if layer.kind in forms else layer.kind, layer.optional)
        for layer in written.layers
    }
    file = f"{written.file}: " if written.file else ""
    try:
        family = convert({"architecture": written.data}, _SchemaPart).architecture
    except (ValidationError, RecursionError) as error:
        message = explained(error, written.text, (Family, *v.VOCABULARY))
        raise ConversionError(f"{file}not a schema: {message}") from None
    try:
        check_family(family, layers)
    except ConversionError as error:
        raise ConversionError(f"{file}{_with_line(str(error), written.text)}") from None
    return family


def _with_line(message: str, text: str) -> str:
    """With the line on which the first word that the message quotes stands in the architecture."""
    before, key, written = text.partition("architecture:")
    quoted = re.search("'([^']+)'", message)
    place = re.search(rf"(?<![\w.]){re.escape(quoted[1])}(?![\w.])", written) if quoted else None
    return f"line {(before + key + written[: place.start()]).count(chr(10)) + 1}: {message}" if place else message


def check_family(family: Family, layers: Mapping[str, tuple[str, bool]]) -> None:
    """Raises ConversionError where the steps do not fit the layers of the schema.

    layers: path -> its kind, and whether it is optional.
    """
    used: dict[str, list[tuple[str, str]]] = {}
    for step, over in placed(family.steps):
        condition = (step.only_if, step.unless)
        for path in layer_paths(step):
            problem = f"architecture: the {kind_of(step)} '{path}'"
            if path not in layers:
                raise ConversionError(f"{problem} is not a layer of the schema. There are {', '.join(layers)}.")
            if layers[path][0] != layer_kind(step):
                raise ConversionError(f"{problem} is {layers[path][0]} in the schema")
            if letters(path) - {*over}:
                raise ConversionError(f"{problem} has an index, and no sequential around it repeats over that (`each`)")
            others = used.setdefault(path, [])
            if others and (not any(condition) or condition[::-1] not in others):
                raise ConversionError(
                    f"{problem} occurs twice: only one with `if` and one with `unless` of the same layer are allowed"
                )
            others.append(condition)
    for any_step, before, _ in located(family.steps):
        for path in filter(None, (any_step.only_if, any_step.unless)):
            if joined(before, path) not in layers:
                raise ConversionError(f"architecture: '{joined(before, path)}' is not a layer of the schema")
    unused = [path for path in layers if path not in used]
    if unused:
        raise ConversionError(f"architecture: no step uses the layer '{unused[0]}'")


def layer_kind(step: v.WithWeights) -> str:
    """The kind of its layers in `converter.core.layers`."""
    if isinstance(step, v.LayerNorm | v.GroupNorm | v.InstanceNorm | v.RmsNorm):
        return "norm"
    return "linear" if isinstance(step, v.Attention) else kind_of(step)


class _Expansion(msgspec.Struct, frozen=True):
    """Expands the steps of a family. paths: the layers that the net has."""

    paths: frozenset[str]

    def row(self, steps: Iterable[str | v.AnyStep], prefix: str, bound: Indices) -> Iterator[v.AnyStep]:
        for each in steps:
            step = of_name(each)
            if step.only_if and joined(prefix, filled(step.only_if, bound)) not in self.paths:
                continue
            if step.unless and joined(prefix, filled(step.unless, bound)) in self.paths:
                continue
            yield from self.step(structs.replace(step, only_if="", unless=""), prefix, bound)

    def step(self, step: v.AnyStep, prefix: str, bound: Indices) -> Iterator[v.AnyStep]:
        if isinstance(step, v.Sequential):
            for indices in self._indices(step, prefix, bound):
                yield from self.row(step.steps, joined(prefix, filled(step.path, indices)), indices)
        elif isinstance(step, v.WithWeights):
            yield from self.layer(structs.replace(step, path=joined(prefix, filled(step.path, bound))), bound)
        else:
            yield with_rows(step, lambda row: self.row(row, prefix, bound))

    def layer(self, step: v.WithWeights, bound: Indices) -> Iterator[Any]:
        raise NotImplementedError

    def _indices(self, step: v.Sequential, prefix: str, bound: Indices) -> Iterator[Indices]:
        """The indices of each repetition."""
        if not step.each:
            yield bound
            return
        if step.each in bound:
            raise ConversionError(f"the index {step.each} is used by two nested sequentials")
        patterns = [path for inner, _ in placed(step.steps, joined(prefix, step.path)) for path in layer_paths(inner)]
        numbers = set()
        for pattern in patterns:
            for path in self.paths:
                indices = indices_of(pattern, path) or {}
                if step.each in indices and all(bound.get(key, number) == number for key, number in indices.items()):
                    numbers.add(indices[step.each])
        yield from ({**bound, step.each: number} for number in sorted(numbers))


class _FromWeights(_Expansion, frozen=True):
    may_miss: Callable[[str], bool]

    def layer(self, step: v.WithWeights, bound: Indices) -> Iterator[Any]:
        missing = [path for path in layer_paths(step) if path not in self.paths]
        if not missing:
            is_own = isinstance(getattr(step, "groups", None), int)  # set for this very layer, not a list of defaults
            yield structs.replace(step, **{name: None for name in size_options(step) if name != "groups" or not is_own})
        elif len(missing) < len(layer_paths(step)) or not self.may_miss(missing[0]):
            raise ConversionError(f"the architecture has a {kind_of(step)} '{missing[0]}' that has no weights")


class _FromDefaults(_Expansion, frozen=True):
    sizes: Mapping[str, int]

    def layer(self, step: v.WithWeights, bound: Indices) -> Iterator[Any]:
        lists = [name for name in size_options(step) if name != "kernel" and isinstance(getattr(step, name), tuple)]
        values = {name: _value(getattr(step, name), bound) for name in lists}
        if lists and not any(values.values()):
            return  # no layer has these indices
        if step.path in self.sizes:
            values["out"] = self.sizes[step.path]
        yield structs.replace(step, **values)


def size_options(step: v.WithWeights) -> list[str]:
    """Its options that follow from the weights; the groups of a norm do not."""
    return [name for name in SIZES_IN_WEIGHTS if name in step.__struct_fields__ and not isinstance(step, v.GroupNorm)]


def _value(size: Any, bound: Indices) -> int | None:
    """The size in the repetition with these indices; None where it has none."""
    for number in bound.values():
        if isinstance(size, tuple):
            size = size[number] if number < len(size) else None
    return size if isinstance(size, int) else None


def _sized_paths(step: v.WithWeights, over: tuple[str, ...]) -> Iterator[str]:
    """The layers for which a step has sizes: one that is not repeated, or those in its lists."""
    out = getattr(step, "out", None)
    for indices in _sized_indices(out, over) if over else [{}]:
        yield from (filled(path, indices) for path in layer_paths(step))


def _sized_indices(size: Any, over: tuple[str, ...]) -> Iterator[dict[str, int]]:
    if not isinstance(size, tuple):
        if size is not None and not over:
            yield {}
        return
    for number, inner in enumerate(size if over else ()):
        yield from ({over[0]: number, **rest} for rest in _sized_indices(inner, over[1:]))


def filled(pattern: str, bound: Indices) -> str:
    """The pattern with numbers for its indices. Raises ConversionError for an index that is not bound."""
    check_pattern(pattern)
    unbound = letters(pattern) - bound.keys()
    if unbound:
        raise ConversionError(
            f"'{pattern}' has the index {sorted(unbound)[0]}, over which no sequential around it repeats (`each`)"
        )
    return fill(pattern, bound)


def joined(*parts: str) -> str:
    return ".".join(filter(None, parts))
