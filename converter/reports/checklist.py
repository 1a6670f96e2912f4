"""What is left to check in a clone after its weights are right: `checklist` for files, `differences` for live nets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import msgspec

from converter.core.kinds import KINDS
from converter.core.layers import Net
from converter.core.ops import Turn
from converter.errors import CloneWarning
from converter.frameworks import framework
from converter.frameworks.defaults import DEFAULTS, Default, Value, shown
from converter.matching import rotary
from converter.planning.steps import Step

#: Path of a layer -> property -> value, in the terms of `converter.frameworks.defaults`.
Settings = Mapping[str, Mapping[str, Value]]

_ROWS = MappingProxyType({row.property: row for row in DEFAULTS})


class Check(msgspec.Struct, frozen=True):
    """A property whose defaults differ. source, target: what they are there. remedy: what to do in the clone.

    layers: the layers of the source that it concerns.
    """

    property: str
    source: str
    target: str
    remedy: str
    layers: tuple[str, ...]

    def __str__(self) -> str:
        remedy = f" (in the clone: {self.remedy})" if self.remedy else ""
        return f"check: {self.property}: {self.source}, {self.target}{remedy}"


def checklist(steps: Sequence[Step], source: str, target: str) -> tuple[Check, ...]:
    """The properties that concern layers of the net and that the two frameworks set differently by default.

    source, target: names of frameworks. Nothing where both are the same, or the neutral form.
    """
    layers = _layers(steps, framework(target).channels_last)
    checks = []
    for row in DEFAULTS:
        a, b = row.settings.get(source), row.settings.get(target)
        if a is None or b is None or _equal(a.value, b.value):
            continue
        if concerned := _concerned(row, layers):
            said_a, said_b = (f"{framework(name).title} {of.said(of.value)}" for name, of in ((source, a), (target, b)))
            checks.append(Check(row.property, said_a, said_b, b.assigned(a.value), concerned))
    return (*checks, *_rotary(steps), *_adapters(steps, source, target))


def _rotary(steps: Sequence[Step]) -> Iterator[Check]:
    """Queries and keys that stay in their order, though by their names the clone rotates other pairs of features."""
    found = [
        step.layer
        for step in steps
        if len(step.sources) == 1
        and rotary.differ(step.sources[0].name, step.target.name)
        and not any(isinstance(op, Turn) for op in step.ops)
    ]
    if found:
        sides = "wq and wk of Meta's code rotate neighbours", "q_proj and k_proj of Hugging Face the halves of a head"
        remedy = "with the option 'rotary' their rows are put in its order"
        yield Check("rotary positions of queries and keys", *sides, remedy, tuple(dict.fromkeys(found)))


#: The factors of a LoRA: PEFT, kohya's scripts, nnx, Keras.
_FACTOR = re.compile(r"(^|[./_])lora_(A|B|a|b|kernel_a|kernel_b|down|up|embedding_A|embedding_B)([./]|$)")
_SCALES = MappingProxyType(
    {
        "torch": "PEFT scales B A by alpha / r (adapter_config.json)",
        "flax": "nnx.LoRA does not scale it",
        "tensorflow": "Keras scales it by lora_alpha / lora_rank",
    }
)


def _adapters(steps: Sequence[Step], source: str, target: str) -> Iterator[Check]:
    """Factors of a LoRA, whose scale is no weight, between frameworks that have it in other places."""
    found = [step.layer for step in steps if any(_FACTOR.search(spec.name) for spec in step.sources)]
    if found and source != target and source in _SCALES and target in _SCALES:
        remedy = "the scale of both sides has to be the same; where it is not, multiply B by the quotient"
        yield Check("scale of LoRA", _SCALES[source], _SCALES[target], remedy, tuple(dict.fromkeys(found)))


def differences(
    pairs: Iterable[tuple[str, str]],
    source: str,
    target: str,
    source_settings: Settings | None,
    target_settings: Settings,
) -> tuple[CloneWarning, ...]:
    """What a live clone sets otherwise than its source: one warning for each property and pair of values.

    pairs: paths of layers, as (in the source, in the clone). source, target: names of frameworks. source_settings:
    those of a live source; without them the defaults of its framework count, if that is another one. target_settings:
    the clone's.
    """
    if source_settings is None and source == target:
        return ()
    by_value: dict[tuple[str, Value, Value], list[str]] = {}
    paired = set()
    for source_path, target_path in pairs:
        paired.add(target_path)
        source_layer = None if source_settings is None else source_settings.get(source_path, {})
        target_layer = target_settings.get(target_path, {})
        for property in dict.fromkeys([*target_layer, *(source_layer or {})]):
            a, b = _value(property, source, source_layer), _value(property, target, target_layer)
            if a is not None and b is not None and not _equal(a, b):
                by_value.setdefault((property, a, b), []).append(target_path)
    # Layers without weights (LeakyReLU) have no partner: their values must be somewhere in the source.
    for path, settings in target_settings.items():
        for property, b in settings.items() if path not in paired else ():
            wanted = _values(property, source, source_settings)
            if wanted and not any(_equal(a, b) for a in wanted):
                by_value.setdefault((property, wanted[0], b), []).append(path)
    is_live = source_settings is not None
    return tuple(
        CloneWarning(_sentence(paths, *differing, source, target, is_live), paths, *differing)
        for differing, paths in by_value.items()
    )


def pairs(steps: Iterable[Step], clone: Net) -> list[tuple[str, str]]:
    """The paths of the layers that a plan pairs."""
    owners = {spec.name: layer.path for layer in clone.layers for spec in layer.tensors}
    return list(dict.fromkeys((step.layer, owners[step.target.name]) for step in steps if step.target.name in owners))


class _Layer(msgspec.Struct, frozen=True, gc=False):
    path: str
    kind: str
    roles: int
    #: a kernel of a single position needs no padding
    wide: bool


def _layers(steps: Sequence[Step], channels_last: bool) -> list[_Layer]:
    by_path: dict[str, list[Step]] = {}
    for step in steps:
        by_path.setdefault(step.layer, []).append(step)
    return [
        _Layer(path, of[0].kind, len(of), any(_is_wide(step.target.shape, channels_last) for step in of))
        for path, of in by_path.items()
    ]


def _is_wide(shape: tuple[int, ...], channels_last: bool) -> bool:
    return len(shape) > 2 and math.prod(shape[:-2] if channels_last else shape[2:]) > 1


def _concerned(row: Default, layers: Sequence[_Layer]) -> tuple[str, ...]:
    concerned = [
        layer
        for layer in layers
        if layer.kind in row.kinds
        and row.roles in (None, layer.roles)
        and (layer.wide or KINDS[layer.kind].flow != "channels")
    ]
    if row.together and {layer.kind for layer in concerned} != row.kinds:
        return ()
    return tuple(layer.path for layer in concerned)


def _value(property: str, name: str, settings: Mapping[str, Value] | None) -> Value | None:
    """What a layer has there; None when it is not known. settings: of a live layer, else the default counts."""
    if settings is not None and property in settings:
        return settings[property]
    setting = _ROWS[property].settings.get(name)
    return None if setting is None or (settings is not None and setting.where) else setting.value


def _values(property: str, name: str, settings: Settings | None) -> list[Value]:
    """What the layers of a net have there, whichever they are."""
    if settings is not None:
        return [of[property] for of in settings.values() if property in of]
    default = _value(property, name, None)
    return [] if default is None else [default]


def _sentence(paths: Sequence[str], property: str, a: Value, b: Value, source: str, target: str, live: bool) -> str:
    settings = _ROWS[property].settings
    more = f" (and {len(paths) - 3} more)" if len(paths) > 3 else ""
    has = "the source has" if live else f"the default of {framework(source).title} is"
    wanted = settings[source].said(a) if source in settings else shown(a)
    actual, remedy = (settings[target].said(b), settings[target].assigned(a)) if target in settings else (shown(b), "")
    return (
        f"{', '.join(map(repr, paths[:3]))}{more}: {property} is {actual} in the clone, and {has} {wanted}; "
        f"weights do not carry it{f' (in the clone: {remedy})' if remedy else ''}"
    )


def _equal(a: Value, b: Value) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6)  # some frameworks keep it as float32
    return a == b
