"""A library in a process of its own, with limits of memory and time: what strangers' bytes make it do is an error here.

The process is asked one thing at a time: a line of JSON goes in; frames of bytes come out, and at last one that says
that all is done, or why not. `Process` and `answer` are the two ends of that, for any library; `Child` and `serve` are
those of a library that may be asked about one checkpoint after the other.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from io import FileIO
from pathlib import Path

from converter.errors import FormatError, UnsafeFileError

__all__ = ["SLACK", "Answers", "Child", "Process", "addresses", "answer", "child_for", "limit_seconds", "serve"]

#: Beyond what the process has when it has started, and what a question allows it: threads, queues, buffers.
SLACK = 100_000_000
#: Of processor time, for whatever is asked and for each byte that it may take.
_SECONDS, _BYTES_PER_SECOND = 8, 20_000_000
_DATA, _DONE, _FAILED = 0, 1, 2
_FRAME = struct.Struct("<BQ")
_BLOCK, _MOST_TEXT = 1 << 20, 1 << 16
_ERRORS: Mapping[str, type[FormatError]] = {kind.__name__: kind for kind in (FormatError, UnsafeFileError)}
#: The process imports from where this one does, and not from the folder in which it was started.
_START = "import sys; sys.path[:] = {path}; from converter.formats.io.child import serve; serve({module!r})"

#: Question -> what gives the frames of its answer; `ANSWERS` of the module that a process serves.
Answers = Mapping[str, Callable[..., Iterator[bytes | memoryview]]]


class Process:
    """start: its Python, which calls `answer` for each line on stdin. files: open files that it gets, too."""

    #: What is said of a file with which it does not come to an end, or crashes.
    endless = "damaged: the library that reads it does not come to an end with it"
    crashed = "damaged, or larger than it says: the library that reads it takes too much memory, or crashes"

    def __init__(self, start: str, files: Sequence[int] = ()) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=files,
            start_new_session=True,  # Ctrl-C is for this process, which closes the other
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout

    def frames(self, path: Path, *question: object) -> Iterator[int]:
        """The size of each, whose bytes the caller receives. Raises FormatError for the path."""
        try:
            self._questions.write(json.dumps(question).encode() + b"\n")
            self._questions.flush()
        except BrokenPipeError:
            raise self._ended(path) from None
        while True:
            kind, size = _FRAME.unpack(self.received(path, _FRAME.size))
            if kind == _DONE:
                return
            if kind == _FAILED:
                name, reason = json.loads(self.received(path, min(size, _MOST_TEXT)))
                raise _ERRORS.get(name, FormatError)(path, reason)
            yield size

    def received(self, path: Path, nbytes: int) -> bytearray:
        data = bytearray(nbytes)
        self.receive(path, memoryview(data))
        return data

    def receive(self, path: Path, memory: memoryview) -> None:
        while memory:
            got = os.readv(self._answers.fileno(), [memory[:_BLOCK]])
            if not got:
                raise self._ended(path)
            memory = memory[got:]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._questions.close()
        self._answers.close()

    def _ended(self, path: Path) -> FormatError:
        code = self._process.wait()
        return FormatError(path, self.endless if code == -signal.SIGXCPU else f"{self.crashed} (exit code {code})")


class Child(Process):
    """module: has the `Answers`; only there it is imported."""

    def __init__(self, module: str) -> None:
        super().__init__(_START.format(path=sys.path, module=module))

    def ask(self, path: Path, memory: int, question: str, *words: object) -> list[bytes]:
        """The frames of the answer, in all no more than ``memory`` bytes, which is what the process may take, too.

        Raises FormatError for the path when there is no answer.
        """
        frames, size = [], 0
        for nbytes in self.frames(path, memory, question, *words):
            size += nbytes
            if size > memory:
                raise FormatError(path, f"to read it would take more than {memory} bytes")
            frames.append(bytes(self.received(path, nbytes)))
        return frames

    def fill(self, into: memoryview, path: Path, memory: int, question: str, *words: object) -> None:
        """As `ask`, for an answer of just so many bytes."""
        for nbytes in self.frames(path, memory, question, *words):
            if nbytes > len(into):
                raise FormatError(path, "has more elements than its shape")
            self.receive(path, into[:nbytes])
            into = into[nbytes:]
        if into:
            raise FormatError(path, "has fewer elements than its shape")


# -- those that wait for the next question ----------------------------------------------------------------------------

_idle: dict[str, list[Child]] = {}
_of_parent: list[object] = []


@contextmanager
def child_for(module: str) -> Iterator[Child]:
    """One that nobody else asks meanwhile; closed after an error."""
    waiting = _idle.setdefault(module, [])
    child = waiting.pop() if waiting else Child(module)
    try:
        yield child
    except BaseException:
        child.close()
        raise
    waiting.append(child)


@atexit.register
def _close_all() -> None:
    for child in (child for waiting in _idle.values() for child in waiting):
        child.close()
    _idle.clear()


def _leave_to_parent() -> None:
    """After a fork: two may not ask the same one."""
    _of_parent.append(dict(_idle))
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


# -- in the other process ---------------------------------------------------------------------------------------------


def serve(module: str) -> None:
    """Answer the questions on stdin until it ends."""
    import importlib

    answers: Answers = importlib.import_module(module).ANSWERS
    output = FileIO(os.dup(1), "w")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    start = addresses()
    for line in sys.stdin.buffer:
        memory, question, *words = json.loads(line)
        if start:
            _limit(resource.RLIMIT_AS, start + memory + SLACK)
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit_seconds(memory, after=int(used.ru_utime + used.ru_stime))
        answer(output, partial(answers[question], *words), _told)


def answer(
    output: FileIO, frames: Callable[[], Iterable[bytes | memoryview]], told: Callable[[Exception], FormatError | str]
) -> None:
    """Send the frames of an answer, or why there is none. told: what to say of an error."""
    try:
        for data in frames():
            _send(output, _DATA, data)
        _send(output, _DONE, b"")
    except Exception as error:
        said = told(error)
        pair = [type(said).__name__, said.reason] if isinstance(said, FormatError) else [FormatError.__name__, said]
        _send(output, _FAILED, json.dumps(pair).encode())


def _told(error: Exception) -> str:
    """The first line, without what a library adds for its developers."""
    return str(error).split(" [")[0].split("\n")[0][:300] or type(error).__name__


def addresses() -> int:
    """Bytes of address space that are in use; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def limit_seconds(nbytes: int, after: int = 0) -> None:
    """Of processor time, for so many bytes. after: seconds that do not count."""
    _limit(resource.RLIMIT_CPU, after + _SECONDS + nbytes // _BYTES_PER_SECOND)


def _limit(kind: int, most: int) -> None:
    """The hard limit is left as it is: the next question may need more."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if hard < 0 else min(most, hard), hard))


def _send(output: FileIO, kind: int, data: bytes | memoryview) -> None:
    view = memoryview(data).cast("B")
    output.write(_FRAME.pack(kind, len(view)))
    while view:
        view = view[output.write(view[:_BLOCK]) or 0 :]
