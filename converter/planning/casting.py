"""The option ``dtype``: every float of a plan in the dtype that it says, or that its patterns say of this tensor."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from converter.core.arithmetic import Cast
from converter.core.rows import KeepRows
from converter.core.tensors import DTYPES, DType, is_float
from converter.errors import MatchError, Problem, Remedy, unknown_name
from converter.matching.covering import check_comparisons, covers, longest_pattern
from converter.option_values import OTHERS
from converter.planning.plan import TensorPlan
from converter.planning.steps import Step


def cast(plan: TensorPlan, dtypes: str | Mapping[str, str]) -> TensorPlan:
    """The plan with its floats of these dtypes, to the nearest value, ties to even (what is too large becomes inf);
    integers and booleans stay what they are, as do floats that no pattern covers.

    dtypes: one for all, or pattern -> dtype; the longest that covers the layer's path (in the source or the clone) or
    the tensor's name decides. Raises MatchError for a pattern that covers no float.
    """
    of_step = {step.target.name: dtypes for step in plan.steps} if isinstance(dtypes, str) else _chosen(plan, dtypes)
    chosen = {name: DTYPES[dtype] for name, dtype in of_step.items()}
    steps = tuple(_cast(step, chosen[step.target.name]) if step.target.name in chosen else step for step in plan.steps)
    made = {step.target.name: step.target for step in steps}
    specs = tuple(made.get(spec.name, spec) for spec in plan.contents.specs)
    return replace(plan, steps=steps, contents=replace(plan.contents, specs=specs))


def _chosen(plan: TensorPlan, dtypes: Mapping[str, str]) -> Mapping[str, str]:
    """Target tensor -> dtype, of those that a pattern covers."""
    check_comparisons(dtypes, 3 * len(plan.steps), "tensors")
    there = {pair.source.path: pair.target.path for pair in plan.pairs}
    names = {step.target.name: _names(step, there) for step in plan.steps if is_float(step.target.dtype)}
    problems = [
        _meets_nothing(plan, pattern, dtype, names)
        for pattern, dtype in dtypes.items()
        if pattern != OTHERS and not any(covers(pattern, name) for known in names.values() for name in known)
    ]
    if problems:
        raise MatchError(problems)
    chosen = {}
    for target, known in names.items():
        met = filter(None, (longest_pattern(dtypes, name) for name in known))
        pattern = max(met, key=len, default=None)
        if pattern is not None:
            chosen[target] = dtypes[pattern]
    return chosen


def _names(step: Step, there: Mapping[str, str]) -> tuple[str, ...]:
    """What a pattern may call the tensor: its layer here or there, or its own name, with dots between its parts."""
    return tuple(dict.fromkeys((step.layer, there.get(step.layer, step.layer), step.target.name.replace("/", "."))))


def _meets_nothing(plan: TensorPlan, pattern: str, dtype: str, floats: Mapping[str, tuple[str, ...]]) -> Problem:
    about = Remedy("dtype", (pattern, dtype))
    others = [step.target for step in plan.steps if step.target.name not in floats]
    met = next((spec for spec in others if covers(pattern, spec.name.replace("/", "."))), None)
    if met is not None:
        text = f"'{met.name}' is {met.dtype.name}, and floats alone are cast."
        return Problem(text, "option", pattern, about=about)
    known = dict.fromkeys(name for names in floats.values() for name in names)
    return unknown_name(about, pattern, "no float of the result is called", known)


def _cast(step: Step, dtype: DType) -> Step:
    """From what the source's ops give, not by way of the dtype that a clone would have had."""
    if not is_float(step.target.dtype):
        return step
    casts = [op for op in step.ops if isinstance(op, Cast)]
    before = casts[0].source if casts else step.target.dtype
    ops = tuple(op for op in step.ops if op not in casts)
    if before != dtype:
        cast = Cast(dtype, before, to_inf=True)
        behind = ops[-1:] if step.sources and step.own and isinstance(ops[-1], KeepRows) else ()  # both are cast
        ops = (*ops[: len(ops) - len(behind)], cast, *behind)
    return replace(step, ops=ops, target=replace(step.target, dtype=dtype))
