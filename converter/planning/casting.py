"""The option ``dtype``: every float of a plan becomes one dtype; integers and booleans stay what they are."""

from __future__ import annotations

from msgspec.structs import replace

from converter.core.arithmetic import Cast
from converter.core.tensors import DTYPES, DType, is_float
from converter.planning.plan import TensorPlan
from converter.planning.steps import Step


def cast(plan: TensorPlan, name: str) -> TensorPlan:
    """The plan with every float of that dtype: to the nearest value, ties to even; what is too large becomes inf."""
    dtype = DTYPES[name]
    steps = tuple(_cast(step, dtype) for step in plan.steps)
    dtypes = {step.target.name: step.target for step in steps}
    specs = tuple(dtypes.get(spec.name, spec) for spec in plan.contents.specs)
    return replace(plan, steps=steps, contents=replace(plan.contents, specs=specs))


def _cast(step: Step, dtype: DType) -> Step:
    """From what the source's ops give, not by way of the dtype that a clone would have had."""
    if not is_float(step.target.dtype):
        return step
    casts = [op for op in step.ops if isinstance(op, Cast)]
    before = casts[0].source if casts else step.target.dtype
    ops = tuple(op for op in step.ops if op not in casts)
    if before != dtype:
        ops = (*ops, Cast(dtype, before, to_inf=True))
    return replace(step, ops=ops, target=replace(step.target, dtype=dtype))
