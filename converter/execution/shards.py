"""A sharded checkpoint as independent tasks, one a shard, for any executor: threads, processes, machines.

Who plans hands each task all that it takes, as plain data. Who gets it opens the source itself, reads of it no more
than these steps need, and writes the shard into a folder that all share; there it gets its name when it is whole.
When the last one is there, the index is written and everything gets its place. So the result is that of one machine.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from pathlib import Path

import msgspec

from converter._version import __version__
from converter.core.arithmetic import Lost
from converter.errors import ConversionError, FormatError, OutputError, Remedy
from converter.execution.jobs import Pace, fill
from converter.formats import Format, Reader, by_name, open_reader
from converter.formats.atomic import discard, disk
from converter.formats.base import Opening
from converter.formats.io.shards import Shard, ShardWriter, Staging, index_of
from converter.formats.io.upload import writer_to
from converter.formats.locations import exists, inner_path, is_url, location, store
from converter.planning.plan import TensorPlan
from converter.planning.steps import Step

#: Seconds between two looks at whether the result is still wanted.
LOOK_EVERY = 1.0
#: Seconds for tasks to stop after an error, before what they wrote is removed.
STOP_WITHIN = 60.0
#: Seconds until a file that another machine wrote is seen here: a network file system keeps its listings so long.
SEEN_WITHIN = 60.0


class LosableExecutor(Executor):
    """Workers that may all be lost without any of their tasks ending."""

    def why_lost(self) -> str:
        """Why no task will be done any more, in a sentence; empty as long as workers are there or may come back."""
        raise NotImplementedError


class ShardTask(msgspec.Struct, frozen=True):
    """One shard: from where, by which steps, into which file.

    state: of the source when the plan was made (see `state_of`). form: the row of `FORMATS` that writes the
    shards and their index. folder: where the shard goes. running: a file that is there as long as it is wanted.
    memory, workers: as in `Pace`. own: the clone, whose own values some steps keep. version: of this package where the
    plan was made.
    """

    opening: Opening
    state: str
    steps: tuple[Step, ...]
    form: str
    shard: Shard
    folder: Path
    running: Path
    memory: int | None
    workers: int | None
    own: Opening | None = None
    version: str = __version__

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.shard.contents.specs)


class Done(msgspec.Struct, frozen=True):
    """What came of a task. size: bytes of the file. failure: why there is none, in a sentence.

    An error is returned and not raised, for not every exception can be pickled.
    """

    host: str
    size: int = 0
    lost: Lost = msgspec.field(default_factory=Lost)
    failure: str = ""


# -- on the machine that does it -------------------------------------------------------------------------------------


def write_shard(task: ShardTask) -> Done:
    """Do the task."""
    host = socket.gethostname()
    try:
        _refuse_other_machine(task, host)
        lost = _written(task)
        return Done(host, (task.folder / task.shard.name).stat().st_size, lost)
    except (ConversionError, OSError) as error:
        return Done(host, failure=str(error))


def _refuse_other_machine(task: ShardTask, host: str) -> None:
    if task.version != __version__:
        raise ConversionError(
            f"{host} has version {__version__} of weights-converter, and the plan was made by {task.version}. "
            "Install the same version on all machines."
        )
    if not exists(task.running):
        raise OutputError(
            f"the folder '{task.folder.parent}' of {host} is not that of the machine which planned. "
            "Choose an -o in a folder that all machines share, or a URL."
        )


def _written(task: ShardTask) -> Lost:
    path = task.folder / task.shard.name
    writer: type[ShardWriter] = by_name(task.form).load().FileWriter
    pace = Pace(task.memory, task.workers, _Wanted(task.running))
    with task.opening() as reader, task.own() if task.own else nullcontext() as own:
        _refuse_changed(task)
        wanted = {spec.name: spec for step in task.steps for spec in step.sources}
        if reader.prepare(wanted) != wanted:
            raise FormatError(task.opening.path, "holds other tensors than where the plan was made")
        with disk(path), writer_to(writer.shard_writer, path, task.shard.contents) as shard:
            lost = fill(shard, reader, task.steps, pace, own)
    _refuse_changed(task)
    return lost


def _refuse_changed(task: ShardTask) -> None:
    if _state(task.opening, task.own) != task.state:
        raise FormatError(
            task.opening.path,
            "was changed since the plan was made, or is another file on this machine (names, sizes and times are "
            "compared: copy with 'cp -p' or 'rsync -t')",
        )


def _state(opening: Opening, own: Opening | None) -> str:
    return " ".join(state_of_opening(one) for one in (opening, own) if one is not None)


def state_of_opening(opening: Opening) -> str:
    """A digest of the names, sizes and times of all files that it reads."""
    adapter = opening.options.merge_adapter
    return " ".join(state_of(path) for path in (opening.path, *([location(adapter)] if adapter else [])))


def state_of(source: Path) -> str:
    """A digest of names, sizes and times of the source's files."""
    import xxhash

    digest = xxhash.xxh3_128()
    for file in sorted(_files(source), key=str):
        if is_url(file):
            digest.update(f"{file} {store(file).ukey(inner_path(file))}".encode())
            continue
        about = file.stat()
        digest.update(f"{file} {about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()


def _files(source: Path) -> Iterable[Path]:
    """Those that the source may consist of: itself, what is below it, and what stands beside it under its name."""
    if source.is_dir():
        return (file for file in source.rglob("*") if file.is_file())
    stem = source.name.partition(".")[0]
    beside = source.parent.iterdir()
    return (file for file in beside if file.name.startswith((f"{stem}.", f"{stem}-")) and file.is_file())


class _Wanted:
    """Called with the progress of a task; raises when nobody waits for it any more."""

    def __init__(self, running: Path) -> None:
        self._running = running
        self._looked = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._looked > LOOK_EVERY:
            self._looked = time.monotonic()
            if not exists(self._running):
                raise ConversionError("it is no longer wanted")


# -- where the plan is -----------------------------------------------------------------------------------------------


def execute_tasks(
    plan: TensorPlan,
    opening: Opening,
    form: Format,
    path: Path,
    max_shard_bytes: int | None,
    pace: Pace,
    work: str | None,
    executor: Executor | None = None,
    own: Reader | None = None,
) -> Lost:
    """Have the shards written, and put them in their places with the index; see `execute`.

    work: what tells this work from any other, to keep complete shards; see `Staging`. executor: None for one shard
    after the other in this process. A task is tried once: whether another worker takes the place of one that died is
    the executor's business. Raises ConversionError.
    """
    writer = form.load().FileWriter
    if max_shard_bytes is None or not issubclass(writer, ShardWriter):
        raise ConversionError(
            f"Only shards can be written by many machines: choose a format that has them, safetensors or PyTorch "
            f"({form.title} has none or is written whole).",
            Remedy("max_shard_size", "5GB"),
        )
    shards = writer.shards(path, plan.contents, max_shard_bytes)
    steps = {step.target.name: step for step in plan.steps}
    clone = own.opening if own else None
    with disk(path):
        staging = Staging(path.absolute(), work)
        try:
            state = _state(opening, clone)
            tasks = []
            for shard in shards:
                if not staging.has(shard.name):
                    needed = tuple(steps[spec.name] for spec in shard.contents.specs)
                    where = form.name, shard, staging.folder, staging.running
                    tasks.append(ShardTask(opening, state, needed, *where, pace.memory, pace.workers, clone))
            with ThreadPoolExecutor(1) if executor is None else nullcontext(executor) as workers:
                lost = _run(tasks, staging, pace, workers)
            staging.publish([shard.name for shard in shards], index_of(shards))
        except BaseException:
            staging.leave()
            raise
    return lost


def _run(tasks: Sequence[ShardTask], staging: Staging, pace: Pace, executor: Executor) -> Lost:
    """Hand out the tasks and wait for all; after an error, until those that are under way have stopped."""
    lost = Lost()
    written, total = 0, sum(task.nbytes for task in tasks)
    waiting = {executor.submit(write_shard, task): task for task in tasks}
    try:
        for future in _completed(waiting, executor):
            task = waiting[future]
            lost.add(_outcome(task, future).lost)
            written += task.nbytes
            if pace.progress is not None:
                pace.progress(written, total)
    except BaseException:
        discard(staging.running)  # those that see it gone stop, and those that come later do not start
        deadline = time.monotonic() + STOP_WITHIN
        while time.monotonic() < deadline and not _why_lost(executor) and wait(waiting, timeout=LOOK_EVERY).not_done:
            pass
        raise
    return lost


def _completed(futures: Iterable[Future[Done]], executor: Executor) -> Iterator[Future[Done]]:
    """Each future when it is done. Raises ConversionError when the workers are lost."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=LOOK_EVERY, return_when=FIRST_COMPLETED)
        yield from done
        if not done and (reason := _why_lost(executor)):
            raise ConversionError(f"{reason}: {len(pending)} shards were not written")


def _why_lost(executor: Executor) -> str:
    return executor.why_lost() if isinstance(executor, LosableExecutor) else ""


def _outcome(task: ShardTask, future: Future[Done]) -> Done:
    """Raises ConversionError when there is no shard, naming it and the reason."""
    name = task.shard.name
    try:
        done = future.result()
    except Exception as error:
        reason = str(error) or "its task was given up"
        raise ConversionError(f"the shard '{name}' was not written: {type(error).__name__}: {reason}") from error
    if not _is_answer(done):
        raise ConversionError(f"the shard '{name}' was not written: what came from its worker is no answer to the task")
    if done.failure:
        raise ConversionError(f"the shard '{name}' was not written by {done.host}: {done.failure}")
    if not _seen(task.folder / name, done.size):
        raise OutputError(
            f"the shard '{name}' was written by {done.host}, but it is not in '{task.folder}' here. "
            "Choose an -o in a folder that all machines share, or a URL."
        )
    _refuse_other_shard(task, done)
    return done


def _refuse_other_shard(task: ShardTask, done: Done) -> None:
    """Raises ConversionError for a file that has not the tensors that it should: a worker may write anything."""
    file = task.folder / task.shard.name
    reason = "it has other tensors than were asked for"
    if not is_url(file) and file.is_symlink():
        reason, found = "it is a link", None
    else:
        try:
            with open_reader(file)[1] as reader:
                found = dict(reader.contents.by_name)
        except ConversionError as error:
            reason, found = str(error), None
    if found != {spec.name: spec for spec in task.shard.contents.specs}:
        raise ConversionError(f"the shard '{task.shard.name}' of {done.host} is not as it should be: {reason}")


def _is_answer(done: object) -> bool:
    """It comes from another machine, where anything may run."""
    if not isinstance(done, Done):
        return False
    kinds = {"host": str, "failure": str, "size": int, "lost": Lost}
    if not all(isinstance(getattr(done, name), kind) for name, kind in kinds.items()):
        return False
    counters = (done.lost.infinite, done.lost.zero)
    counts = (item for counter in counters if isinstance(counter, Counter) for item in counter.items())
    return all(isinstance(counter, Counter) for counter in counters) and all(
        isinstance(name, str) and isinstance(number, int) for name, number in counts
    )


def _seen(file: Path, size: int) -> bool:
    deadline = time.monotonic() + SEEN_WITHIN
    while not (exists(file) and file.stat().st_size == size):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
