"""Walk a plan: read, transform, write, free. One tensor is in memory at a time."""

from __future__ import annotations

from pathlib import Path

from converter.errors import ConversionError
from converter.formats import Format, Reader, open_writer
from converter.plan import Plan, Step
from converter.tensors import Array


def execute(plan: Plan, reader: Reader, form: Format, path: Path, max_shard_bytes: int | None = None) -> None:
    """Write the planned file; on any error nothing appears under its name."""
    with open_writer(form, path, plan.contents, max_shard_bytes) as writer:
        for step in plan.steps:
            writer.write(step.target.name, compute(step, reader))


def compute(step: Step, reader: Reader) -> Array:
    """The target tensor of one step. Raises ConversionError naming the source tensor."""
    arrays = tuple(reader.read(spec.name) for spec in step.sources)
    try:
        for op in step.ops:
            arrays = op.apply(arrays)
    except ConversionError as error:
        raise ConversionError(f"'{step.sources[0].name}': {error}") from None
    return arrays[0]
