"""Inputs are read in a process of its own, which may crash or hang of them: `Child` says what came of each."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from converter.errors import FormatError, MissingLibraryError
from converter.formats import FORMATS, Reader, ReadOptions, by_name, open_reader
from converter.formats.base import Probe
from tests.fuzz.documents import DOCUMENTS, read_document

LIMIT_BYTES = 2 << 30
#: Far above what any of the small seeds needs, the interpreter with it.
PEAK_MB = 500
#: A crashed process gives way to a new one in some milliseconds, which shrinking needs.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])
for _row in FORMATS:  # else the first input of each process pays for the imports
    _row.load()


@dataclass(frozen=True)
class Request:
    """``entry`` of ``folder`` ("": itself) is to be read."""

    row: str
    folder: Path
    entry: str
    verify: bool
    directly: bool


@dataclass(frozen=True)
class Verdict:
    """One of data, error, other. told: for an error the line that raised it, for other what happened."""

    kind: str
    told: str = ""
    seconds: float = 0.0
    peak_mb: int = 0


Read = Callable[[Request], None]


class Child:
    """A context manager. ``read`` raises FormatError or MissingLibraryError for an input that it refuses."""

    def __init__(self, read: Read, patience: float) -> None:
        self._read, self._patience = read, patience
        self._start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def judge(self, request: Request) -> Verdict:
        """After a failure the process is a new one."""
        verdict = self._ask(request)
        if verdict.kind == "other":
            self._stop()
            self._start()
        return verdict

    def _ask(self, request: Request) -> Verdict:
        self._connection.send(request)
        if not self._connection.poll(self._patience):
            return Verdict("other", f"still reading after {self._patience:g} s", self._patience)
        try:
            verdict: Verdict = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            return Verdict("other", f"the process died with {self._process.exitcode}")
        return verdict

    def _start(self) -> None:
        self._connection, other = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_serve, args=(other, self._read), daemon=True)
        self._process.start()
        other.close()
        self._connection.recv()  # it is there: from now on the time counts

    def _stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


def read_all(request: Request) -> None:
    """By content, or by the format's own reader whatever the content says."""
    if request.row in DOCUMENTS:
        read_document(request.row, request.folder / request.entry)
        return
    path, options = request.folder / request.entry, ReadOptions(checksums=request.verify)
    reader: Reader
    if request.directly:
        module = by_name(request.row).load()
        module.detect(Probe(path))
        reader = module.FileReader(path, options)
    else:
        _, reader = open_reader(path, options)
    with reader:
        for spec in reader.contents.specs:
            array = reader.read(spec.name)
            assert array.shape == spec.shape and array.dtype == spec.dtype and not array.flags.writeable, spec


def _serve(connection: Connection, read: Read) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
    warnings.simplefilter("ignore")
    with suppress(EOFError):
        connection.send("ready")
        while True:
            connection.send(_verdict(read, connection.recv()))


def _verdict(read: Read, request: Request) -> Verdict:
    os.chdir(request.folder)  # what is written to a relative path is seen there
    start = time.monotonic()
    kind, told = _outcome(read, request)
    seconds = time.monotonic() - start
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    if peak_mb > PEAK_MB and kind != "other":
        kind, told = "other", f"took {peak_mb} MB"
    return Verdict(kind, told, seconds, peak_mb)


def _outcome(read: Read, request: Request) -> tuple[str, str]:
    try:
        read(request)
    except (FormatError, MissingLibraryError) as error:
        if str(request.folder) not in str(error):
            return "other", f"names no file: {error}"
        return "error", _place(error)
    except Exception as error:
        return "other", f"{type(error).__name__}: {error} ({_place(error)})"
    return "data", ""


def _place(error: BaseException) -> str:
    """The last line of the converter that the cause of all came from."""
    while error.__context__:
        error = error.__context__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "converter" in Path(frame.filename).parts]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
