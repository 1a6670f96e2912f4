"""A bar with bytes, rate and time left, for people who look at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["shown"]

#: Less is done before a bar could be read.
WORTH_BYTES = 256 << 20


@contextmanager
def shown(wanted: bool = True) -> Iterator[Callable[[int, int], None] | None]:
    """What takes (bytes done, all bytes) and shows them on stderr, while the block lasts.

    None where nobody would see it: when stderr is no terminal, or the output is for a program.
    """
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    bar = _Bar()
    try:
        yield bar
    finally:
        bar.close()


class _Bar:
    """Appears with the first call, and only when there is much to do: rich takes a tenth of a second to import."""

    def __init__(self) -> None:
        self._update: Callable[[int], None] | None = None
        self._stop: Callable[[], None] = lambda: None

    def __call__(self, done: int, total: int) -> None:
        if total < WORTH_BYTES:
            return
        if self._update is None:
            self._start(total)
        if self._update is not None:
            self._update(done)

    def close(self) -> None:
        self._stop()

    def _start(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        progress = Progress(*columns, console=Console(stderr=True), transient=True)
        task = progress.add_task("", total=total)
        progress.start()
        self._update = lambda done: progress.update(task, completed=done)
        self._stop = progress.stop
