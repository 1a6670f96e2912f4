"""Walk a plan: read, transform, write, free; a few threads at a time, within a budget of memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING

import msgspec

from converter.core.arithmetic import Cast
from converter.core.ops import Flip, Split, Transpose
from converter.core.tensors import Array, TensorSpec
from converter.errors import ConversionError
from converter.execution.resume import work_id
from converter.formats import Format, Reader, Writer, open_writer
from converter.formats.io.locations import is_url
from converter.planning.plan import Plan, Step

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

__all__ = ["Pace", "compute", "execute", "fill"]

#: Small tensors are handed to a thread together, up to so many bytes or tensors.
BATCH_BYTES, BATCH_TENSORS = 4 << 20, 1_000
#: Tensors of fewer bytes keep the interpreter busy rather than memory, and that runs one thread at a time.
SMALL_BYTES = 64 << 10
#: What the default budget has beside the tensors: the blocks in which strided views are written.
SPARE_BYTES = 40 << 20
#: Operations that move no data.
_VIEWS = (Transpose, Flip, Split)
#: Beyond these many threads memory and disk are the limit.
MOST_WORKERS = 4


class Pace(msgspec.Struct, frozen=True):
    """How fast to go, and who wants to know. None of it changes a byte of the result.

    memory: bytes of all tensors that are on their way at a time; one that needs more goes alone. By default
        twice the largest tensor, and some for the blocks in which it is written.
    workers: threads; by default one for each processor, up to four, and one more, as one of them mostly writes.
    progress: called now and then, by one thread at a time, with the bytes written so far and all that there are.
    """

    memory: int | None = None
    workers: int | None = None
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConversionError(f"{self.workers} workers cannot do it; it takes 1 at least")

    def budget(self, steps: Sequence[Step]) -> int:
        if self.memory is not None:
            return self.memory
        return (
            2 * max((spec.nbytes for step in steps for spec in (*step.sources, step.target)), default=0) + SPARE_BYTES
        )

    def threads(self) -> int:
        return self.workers or min(MOST_WORKERS, _processors()) + 1


def execute(
    plan: Plan,
    reader: Reader,
    form: Format,
    path: Path,
    max_shard_bytes: int | None = None,
    pace: Pace = Pace(),
    resume: bool = False,
    executor: Executor | None = None,
) -> Mapping[str, int]:
    """Write the planned file; on any error, or when the user interrupts, nothing appears under its name.

    The bytes depend on the plan and the source alone, not on the pace. resume: keep complete shards when it is
    stopped, and go on from there the next time. executor: who writes the shards, each as a task of its own: see
    `shard_tasks`. Returns how many values of which target became infinite, because the dtype that the user asked for
    does not reach so far. Raises ConversionError.
    """
    work = work_id(plan, reader.opening.path, form, max_shard_bytes) if resume else None
    if executor is not None or (is_url(path) and form.name.endswith("-sharded")):
        from converter.execution.shards import execute_tasks

        overflowed = execute_tasks(plan, reader.opening, form, path, max_shard_bytes, pace, work, executor)
    else:
        with open_writer(form, path, plan.contents, max_shard_bytes, work) as writer:
            overflowed = fill(
                writer, reader, [step for step in plan.steps if step.target.name not in writer.done], pace
            )
    return {spec.name: overflowed[spec.name] for spec in plan.contents.specs if overflowed[spec.name]}


def fill(writer: Writer, reader: Reader, steps: Sequence[Step], pace: Pace) -> Counter[str]:
    """Write the target tensors of these steps. Returns how many values of which became infinite."""
    doing = _Work(reader, writer, steps, pace)
    _run(list(_jobs(steps)), doing, pace.threads(), pace.budget(steps))
    return doing.overflowed


def compute(step: Step, read: Callable[[str], Array]) -> Array:
    """The target tensor of one step. Raises ConversionError naming the source tensor."""
    return _transformed(step, {spec.name: read(spec.name) for spec in step.sources}, Counter())


def _transformed(step: Step, sources: Mapping[str, Array], overflowed: Counter[str]) -> Array:
    arrays = tuple([sources[spec.name] for spec in step.sources])
    try:
        for op in step.ops:
            given, arrays = arrays if isinstance(op, Cast) and op.to_inf else (), op.apply(arrays)
            if given:
                overflowed[step.target.name] = Cast.overflowed(given[0], arrays[0])
    except ConversionError as error:
        raise ConversionError(f"'{(*step.sources, step.target)[0].name}': {error}") from None
    return arrays[0]


# -- jobs -----------------------------------------------------------------------------------------------------------


class _Job(msgspec.Struct, frozen=True, gc=False):
    """Steps that one thread does, one after the other. cost: bytes that they may hold in memory at a time."""

    steps: tuple[Step, ...]
    cost: int

    @property
    def is_small(self) -> bool:
        return self.cost < SMALL_BYTES * len(self.steps)


def _jobs(steps: Iterable[Step]) -> Iterator[_Job]:
    """Steps that share a source are one job, which reads it once; small ones are put together."""
    batch: list[Step] = []
    cost = 0
    for group in _groups(steps):
        job = _Job(group, _cost(group))
        if job.cost > BATCH_BYTES:
            yield job
            continue
        if batch and (cost + job.cost > BATCH_BYTES or len(batch) >= BATCH_TENSORS):
            yield _Job(tuple(batch), cost)
            batch, cost = [], 0
        batch += group
        cost += job.cost
    if batch:
        yield _Job(tuple(batch), cost)


def _groups(steps: Iterable[Step]) -> Iterator[tuple[Step, ...]]:
    """The steps by shared sources, directly or through others, in the order of their first steps."""
    groups: dict[int, list[Step]] = {}
    of_source: dict[str, int] = {}
    for number, step in enumerate(steps):
        joined = sorted({of_source[spec.name] for spec in step.sources if spec.name in of_source})
        home = joined[0] if joined else number
        for other in joined[1:]:
            moved = groups.pop(other)
            groups[home] += moved
            of_source |= {spec.name: home for mover in moved for spec in mover.sources}
        groups.setdefault(home, []).append(step)
        of_source |= {spec.name: home for spec in step.sources}
    return map(tuple, groups.values())


def _cost(steps: Sequence[Step]) -> int:
    """All different sources, and the largest target with as much again for what the operations need."""
    sources: dict[str, TensorSpec] = {spec.name: spec for step in steps for spec in step.sources}
    results = max(0 if _is_view(step) else 2 * step.target.nbytes for step in steps)
    return sum(spec.nbytes for spec in sources.values()) + results


def _is_view(step: Step) -> bool:
    return all(isinstance(op, _VIEWS) for op in step.ops)


# -- running --------------------------------------------------------------------------------------------------------


class _Work:
    """What the threads share. Calling it does a job."""

    def __init__(self, reader: Reader, writer: Writer, steps: Sequence[Step], pace: Pace) -> None:
        self.stopped = Event()
        self.overflowed: Counter[str] = Counter()
        turn = None if reader.parallel else Lock()
        self._read, self._raw = _in_turn(reader.read, turn), _in_turn(reader.raw, turn)
        self._writer = writer
        self._progress = pace.progress
        self._counting = Lock()
        self._done, self._total = 0, sum(step.target.nbytes for step in steps)

    def __call__(self, job: _Job) -> None:
        last = {spec.name: step for step in job.steps for spec in step.sources}
        held: dict[str, Array] = {}
        read = self._raw if all(map(_is_view, job.steps)) else self._read
        for step in job.steps:
            if self.stopped.is_set():
                return
            for spec in step.sources:
                if spec.name not in held:
                    held[spec.name] = read(spec.name)
            self._writer.write(step.target.name, _transformed(step, held, self.overflowed))
            for spec in step.sources:
                if last[spec.name] is step:
                    held.pop(spec.name, None)
            self._count(step.target)

    def _count(self, written: TensorSpec) -> None:
        if self._progress is not None:
            with self._counting:
                self._done += written.nbytes
                self._progress(self._done, self._total)


def _in_turn(read: Callable[[str], Array], turn: Lock | None) -> Callable[[str], Array]:
    """For readers that several threads may not use at a time."""
    if turn is None:
        return read

    def reading(name: str) -> Array:
        with turn:
            return read(name)

    return reading


def _run(jobs: Sequence[_Job], work: _Work, threads: int, budget: int) -> None:
    """Do the jobs in order, so many at a time as there are threads and as the budget has room for.

    Threads would only wait for each other with small tensors: those are done here.
    """
    if threads == 1 or len(jobs) < 2 or all(job.is_small for job in jobs):
        for job in jobs:
            work(job)
        return
    from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait  # not needed for a small file

    running: dict[Future[None], int] = {}

    def finish_some() -> None:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            del running[future]
            future.result()

    with ThreadPoolExecutor(threads, thread_name_prefix="convert") as pool:
        try:
            for job in jobs:
                if job.is_small:
                    work(job)
                    continue
                while running and (len(running) == threads or sum(running.values()) + job.cost > budget):
                    finish_some()
                running[pool.submit(work, job)] = job.cost
            while running:
                finish_some()
        except BaseException:
            work.stopped.set()
            raise


def _processors() -> int:
    """Those that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
