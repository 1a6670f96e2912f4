"""Walk a plan into a file: in this process, or as tasks of one shard each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from converter._version import __version__
from converter.core.arithmetic import Lost
from converter.execution.jobs import Pace, fill
from converter.formats import Format, Reader, open_writer
from converter.formats.base import Opening
from converter.formats.locations import is_url
from converter.planning.plan import TensorPlan

if TYPE_CHECKING:
    from concurrent.futures import Executor


def execute(
    plan: TensorPlan,
    reader: Reader,
    form: Format,
    path: Path,
    max_shard_bytes: int | None = None,
    pace: Pace = Pace(),
    resume: bool = False,
    executor: Executor | None = None,
    own: Reader | None = None,
) -> Lost:
    """Write the planned file; on any error, or when the user interrupts, nothing appears under its name.

    The bytes depend on the plan and the source alone, not on the pace. resume: keep complete shards when it is
    stopped, and go on from there the next time. executor: who writes the shards, each as a task of its own: see
    `shards`. own: reads the clone, whose own values some steps keep.
    Returns how many values of which target were lost in the casts that the user asked for. Raises ConversionError.
    """
    work = _work_id(plan, reader.opening, form, max_shard_bytes) if resume else None
    if executor is not None or (is_url(path) and form.name.endswith("-sharded")):
        from converter.execution.shards import execute_tasks  # only this needs executors

        return execute_tasks(plan, reader.opening, form, path, max_shard_bytes, pace, work, executor, own)
    with open_writer(form, path, plan.contents, max_shard_bytes, work) as writer:
        steps = [step for step in plan.steps if step.target.name not in writer.done]
        return fill(writer, reader, steps, pace, own)


def _work_id(plan: TensorPlan, source: Opening, form: Format, max_shard_bytes: int | None) -> str:
    """What tells one conversion from another, so that only the same one goes on where it was stopped.

    A digest of the plan, of the form of the output, and of the state of the source.
    """
    import xxhash

    from converter.execution.shards import state_of_opening

    digest = xxhash.xxh3_128(f"{__version__} {form.name} {max_shard_bytes} {plan.contents}".encode())
    for step in plan.steps:
        digest.update(f"{step.sources} {step.own} {step.ops} {step.target}".encode())
    digest.update(state_of_opening(source).encode())
    return digest.hexdigest()
