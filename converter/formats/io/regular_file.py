"""Opening only what is a regular file: a pipe would block, a device never ends."""

from __future__ import annotations

import os
import stat
from io import FileIO
from pathlib import Path

from converter.errors import FormatError
from converter.formats.io.locations import is_url, place, reading, store


def regular_size(path: Path) -> int:
    """The size of a regular file. Raises FormatError when there is none (or it is a pipe or a device)."""
    if is_url(path):
        with reading(path):
            return int(store(path).size(place(path)))
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise FormatError(path, f"the file cannot be opened: {_reason(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(path, "not a regular file")
    return status.st_size


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def open_regular(path: Path) -> tuple[FileIO, int]:
    """The file, unbuffered, and its size. Raises FormatError."""
    size = regular_size(path)
    try:
        return FileIO(path, "rb"), size
    except OSError as error:
        raise FormatError(path, f"the file cannot be opened: {_reason(error)}") from None
