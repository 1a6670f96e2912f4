"""`--dtype`: every float of a plan becomes one dtype; integers and booleans stay what they are."""

from __future__ import annotations

from msgspec.structs import replace

from converter.core.arithmetic import Cast
from converter.core.tensors import DTYPES, DType, is_float
from converter.errors import ConversionError
from converter.planning.plan import Plan, Step

#: What `--dtype` understands.
FLOATS = ("float16", "bfloat16", "float32", "float64")


def parse_dtype(name: str) -> DType:
    """One of `FLOATS`. Raises ConversionError."""
    if name not in FLOATS:
        raise ConversionError(f"unknown dtype '{name}'. There are {', '.join(FLOATS)}.")
    return DTYPES[name]


def cast(plan: Plan, dtype: DType) -> Plan:
    """The plan with every float of that dtype: to the nearest value, ties to even; what is too large becomes inf."""
    steps = tuple(_cast(step, dtype) for step in plan.steps)
    dtypes = {step.target.name: step.target for step in steps}
    specs = tuple(dtypes.get(spec.name, spec) for spec in plan.contents.specs)
    return replace(plan, steps=steps, contents=replace(plan.contents, specs=specs))


def _cast(step: Step, dtype: DType) -> Step:
    """From what the source's ops give, not by way of the dtype that a clone would have had."""
    if not is_float(step.target.dtype):
        return step
    casts = [op for op in step.ops if isinstance(op, Cast)]
    given = casts[0].source if casts else step.target.dtype
    ops = tuple(op for op in step.ops if op not in casts)
    if given != dtype:
        ops = (*ops, Cast(dtype, given, to_inf=True))
    return replace(step, ops=ops, target=replace(step.target, dtype=dtype))
