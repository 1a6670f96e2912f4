"""An end from outside: SIGTERM and SIGHUP stop the program as Ctrl-C does, and nothing unfinished is left behind."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import current_thread, main_thread
from types import FrameType
from typing import NoReturn, TextIO

_NAMES = ("SIGTERM", "SIGHUP", "SIGXCPU")


class Stopped(BaseException):
    """The program was told to end. Passes through whatever catches an Exception, as KeyboardInterrupt does."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, these signals raise `Stopped`, the first of them alone; one that is ignored (nohup) stays so."""
    if current_thread() is not main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    try:
        for number in numbers:
            signal.signal(number, stop)
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def discard_unfinished() -> None:
    """Remove what is half written, if anything was begun."""
    atomic = sys.modules.get("converter.formats.atomic")
    if atomic is not None:
        with suppress(Exception):
            atomic.discard_unfinished()


def drop_stream(stream: TextIO) -> None:
    """Nobody reads it any more: what is still to be written there would change the exit code."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def open_standard_streams() -> None:
    """A closed stream must not lend its number to the next file that is opened, which would get what is meant for it;
    nor end the run because there is nobody to tell."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - lives as long as the process
