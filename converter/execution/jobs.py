"""The steps of a plan as jobs: read, transform, write, free; a few threads at a time, within a budget of memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

import msgspec

from converter.core.arithmetic import Cast, Lost
from converter.core.ops import Flip, Split, Transpose
from converter.core.tensors import Array, TensorSpec
from converter.core.transposing import Joined
from converter.errors import ConversionError
from converter.execution.stacking import joined
from converter.formats import Reader, Writer
from converter.formats.io.files import unmapped
from converter.planning.steps import Step

if TYPE_CHECKING:
    from concurrent.futures import Future

Read = Callable[[str], Array]

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

    def budget(self, steps: Sequence[Step]) -> int:
        if self.memory is not None:
            return self.memory
        sizes = (spec.nbytes for step in steps for spec in (*step.sources, *step.own, step.target))
        return 2 * max(sizes, default=0) + SPARE_BYTES

    def threads(self) -> int:
        affinity = getattr(os, "sched_getaffinity", None)  # the processors that this process may use
        processors = len(affinity(0)) if affinity else os.cpu_count() or 1
        return self.workers or min(MOST_WORKERS, processors) + 1


def fill(writer: Writer, reader: Reader, steps: Sequence[Step], pace: Pace, own: Reader | None = None) -> Lost:
    """Write the target tensors of these steps. own: reads the clone's own values, where steps keep any.

    Returns how many values of which tensor were lost in a cast.
    """
    work = _Work(reader, writer, steps, pace, own)
    with unmapped():
        _run(list(_jobs(steps)), work, pace.threads(), pace.budget(steps))
    return work.lost


def compute(step: Step, read: Read, own: Read | None = None, lost: Lost | None = None) -> Array:
    """The target tensor of one step. lost: counts what casts lose. Raises ConversionError naming the source tensor."""
    arrays = [read(spec.name) for spec in step.sources]
    arrays += [own(spec.name) for spec in step.own] if own is not None else []
    return _transformed(step, tuple(arrays), Lost() if lost is None else lost)


def _transformed(step: Step, arrays: tuple[Array, ...], lost: Lost) -> Array:
    try:
        for op in step.ops:
            if isinstance(op, Cast) and op.to_inf:
                arrays = tuple(_cast(op, array, step.target.name, lost) for array in arrays)
            else:
                arrays = op.apply(arrays)
    except ConversionError as error:
        raise ConversionError(f"'{(*step.sources, step.target)[0].name}': {error}") from None
    return arrays[0]


def _cast(op: Cast, array: Array, name: str, lost: Lost) -> Array:
    result, infinite, zero = op.counted(array)
    for counts, number in ((lost.infinite, infinite), (lost.zero, zero)):
        if number:
            counts[name] += number
    return result


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
    """All different inputs, and the largest target with as much again for what the operations need."""
    inputs: dict[tuple[str, bool], TensorSpec] = {(spec.name, False): spec for step in steps for spec in step.sources}
    inputs |= {(spec.name, True): spec for step in steps for spec in step.own}
    results = max(0 if _is_view(step) else 2 * step.target.nbytes for step in steps)
    return sum(spec.nbytes for spec in inputs.values()) + results


def _is_view(step: Step) -> bool:
    return all(isinstance(op, _VIEWS) for op in step.ops)


# -- running --------------------------------------------------------------------------------------------------------


class _Work:
    """What the threads share. Calling it does a job."""

    def __init__(self, reader: Reader, writer: Writer, steps: Sequence[Step], pace: Pace, own: Reader | None) -> None:
        self.stopped = Event()
        self.lost = Lost()
        turn = None if reader.parallel else Lock()
        self._read, self._raw = _in_turn(reader.read, turn), _in_turn(reader.raw, turn)
        self._own = _in_turn(own.read, Lock()) if own is not None else self._read
        self._writer = writer
        self._write: Callable[[str, Any], None] = writer.write
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
            whole = self._in_parts(step) if len(job.steps) == 1 else None
            if whole is not None:
                self._write(step.target.name, whole)
                self._count(step)
                return
            for spec in step.sources:
                if spec.name not in held:
                    held[spec.name] = read(spec.name)
            arrays = [held[spec.name] for spec in step.sources]
            arrays += [self._own(spec.name) for spec in step.own]
            self._write(step.target.name, _transformed(step, tuple(arrays), self.lost))
            del arrays
            for spec in step.sources:
                if last[spec.name] is step:
                    held.pop(spec.name, None)
            self._count(step)

    def _in_parts(self, step: Step) -> Joined | None:
        """A large stack of layers, where the writer takes it one by one."""
        if step.target.nbytes <= BATCH_BYTES or not self._writer.takes_joined(step.target.name):
            return None
        return joined(step, partial(compute, read=self._read, lost=self.lost))

    def _count(self, step: Step) -> None:
        if self._progress is not None:
            with self._counting:
                self._done += step.target.nbytes
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
