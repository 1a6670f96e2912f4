"""Tensors of the target that hold several layers: the steps of their parts become one step for the whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from converter.core.layers import Stored
from converter.core.parts import Branch, Join, Part, Runs, Severally
from converter.core.tensors import TensorSpec
from converter.errors import ConversionError
from converter.matching.pairs import Pair
from converter.planning.steps import Step


def with_wholes(steps: Sequence[Step], pairs: Iterable[Pair]) -> tuple[Step, ...]:
    """The steps, with one for each tensor that is written whole, in the place of the first of its parts.

    Raises ConversionError where a part has no source, or where the parts are no runs of equal heads.
    """
    parts = _parts(pairs)
    if not parts:
        return tuple(steps)
    wholes: dict[str, list[tuple[Step, Stored]]] = {}
    for step in steps:
        part = parts.get(step.target.name)
        if part is not None:
            wholes.setdefault(part.sources[0].name, []).append((step, part))
    done: dict[str, Step] = {}
    for step in steps:
        part = parts.get(step.target.name)
        name = step.target.name if part is None else part.sources[0].name
        if name not in done:
            done[name] = step if part is None else _whole(wholes[name])
        elif part is None:
            raise ConversionError(f"'{name}' is one tensor, and would be written twice")
    return tuple(done.values())


def _parts(pairs: Iterable[Pair]) -> Mapping[str, Stored]:
    """What the targets hold as parts, by the names that these have."""
    readings = (reading for pair in pairs for reading in pair.target.readings)
    return {item.spec.name: item for reading in readings for item in reading.stored if isinstance(item.fold, Part)}


def _whole(items: Sequence[tuple[Step, Stored]]) -> Step:
    """One step of those of the parts."""
    folds = {fold.place: step for step, item in items if isinstance(fold := item.fold, Part)}
    first, item = items[0]
    assert isinstance(item.fold, Part)
    (whole,), fold = item.sources, item.fold
    if sorted(folds) != list(range(len(fold.runs.sizes))) or len(items) != len(folds):
        raise ConversionError(
            f"'{whole.name}' holds {len(fold.runs.sizes)} layers in one, and only {len(folds)} of them have a source"
        )
    steps = [folds[place] for place in sorted(folds)]
    runs = _runs(fold, steps, whole)
    sources = tuple(dict.fromkeys(spec for step in steps for spec in step.sources))
    branches = tuple(Branch(tuple(map(sources.index, step.sources)), step.ops) for step in steps)
    join = Join(fold.axis, runs)
    (target,) = join.infer([step.target for step in steps])
    return replace(
        first,
        sources=sources,
        ops=(Severally(branches), join),
        target=replace(target, name=whole.name),
        likely=any(step.likely for step in steps),
    )


def _runs(fold: Part, steps: Sequence[Step], whole: TensorSpec) -> Runs:
    """Those of the clone; of a new file those that the parts have. There ``count`` tells into how many heads the first
    is cut, of which as many as share one of the smallest are in one run.
    """
    if all(fold.runs.sizes):
        return fold.runs
    sizes = [step.target.shape[fold.axis] for step in steps]
    heads = fold.runs.count
    count = max(heads * min(sizes) // sizes[0], 1) if sizes[0] else 1
    if any(size % count for size in sizes) or (heads > 1 and count * sizes[0] != heads * min(sizes)):
        raise ConversionError(f"'{whole.name}' has parts of {', '.join(map(str, sizes))}, which are no {heads} heads")
    return Runs(tuple(size // count for size in sizes), count)
