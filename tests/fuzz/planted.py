"""Readers with a bug, which the fuzzer must find: each fails on an npy file whose header has no ``{`` any more."""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path

from converter.errors import FormatError
from tests.fuzz.child import LIMIT_BYTES, PEAK_MB, Read, Request


def _damaged(request: Request) -> bool:
    return b"{" not in (request.folder / request.entry).read_bytes()


def wrong_exception(request: Request) -> None:
    if _damaged(request):
        raise KeyError("shape")


def names_no_file(request: Request) -> None:
    if _damaged(request):
        raise FormatError("another.npy", "it has no header")


def hangs(request: Request) -> None:
    while _damaged(request):
        time.sleep(0.01)


def crashes(request: Request) -> None:
    if _damaged(request):
        ctypes.string_at(0)


def leaves(request: Request) -> None:
    if _damaged(request):
        sys.exit(3)


def takes_memory(request: Request) -> None:
    if _damaged(request):
        assert len(b"\1" * (PEAK_MB << 20))


def asks_for_all_memory(request: Request) -> None:
    if _damaged(request):
        bytearray(2 * LIMIT_BYTES)


def writes_outside(request: Request) -> None:
    if _damaged(request):
        Path(request.folder, "..", "..", "escaped").write_bytes(b"")


def writes_here(request: Request) -> None:
    if _damaged(request):
        Path("left").write_bytes(b"")


#: The bug, and what the fuzzer says of it.
BUGS: list[tuple[Read, str]] = [
    (wrong_exception, "KeyError: 'shape'"),
    (names_no_file, "names no file: another.npy: it has no header"),
    (hangs, "still reading after 0.3 s"),
    (crashes, "the process died with -11"),
    (leaves, "the process died with 3"),
    (takes_memory, "took "),
    (asks_for_all_memory, "MemoryError"),
    (writes_outside, "wrote ['../../escaped']"),
    (writes_here, "wrote ['left']"),
]
