"""Parts of a file as arrays of bytes: small ones are read, large ones mapped, so that their pages go with the array."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

import numpy as np

from converter.errors import FormatError
from converter.formats.regular_file import open_regular
from converter.tensors import Array

__all__ = ["MAP_FROM", "pread", "read_regular", "uint8_part"]

#: A part of this many bytes or more is mapped, not copied.
MAP_FROM = 1 << 20


def pread(file: IO[bytes], path: Path, begin: int, length: int) -> bytes:
    """That part of the file. Raises FormatError when it is not there."""
    data = b""
    try:
        while len(data) < length:  # one call reads at most 2 GiB
            more = os.pread(file.fileno(), length - len(data), begin + len(data))
            if not more:
                raise FormatError(path, f"the file ends at byte {begin + len(data)}, not at {begin + length}")
            data = data + more if data else more
    except (OSError, ValueError, OverflowError) as error:
        raise FormatError(path, f"cannot be read: {error}") from None
    return data


def uint8_part(file: IO[bytes], path: Path, begin: int, length: int) -> Array:
    """The same as a flat read-only array of uint8."""
    if length < MAP_FROM:
        return np.frombuffer(pread(file, path, begin, length), np.uint8)
    try:
        return np.asarray(np.memmap(file, np.uint8, "r", begin, (length,)))
    except (OSError, ValueError) as error:
        raise FormatError(path, f"cannot be read: {error}") from None


def read_regular(path: Path, limit: int) -> bytes:
    """A whole small file. Raises FormatError when it is larger than ``limit`` bytes."""
    file, size = open_regular(path)
    with file:
        if size > limit:
            raise FormatError(path, f"it has {size} bytes, more than such a file can have")
        return pread(file, path, 0, size)
