"""Files and folders that appear under their final name only when they are whole."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from converter.errors import OutputError


def partial_path(final: Path) -> Path:
    """A hidden sibling of ``final`` that nobody else uses, for what is being written.

    Raises OutputError when the folder does not exist or cannot be written to.
    """
    folder = final.parent
    if not folder.is_dir():
        raise OutputError(f"{final}: the folder '{folder}' does not exist. Create it, or choose another -o.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{final}: the folder '{folder}' cannot be written to. Choose another -o.")
    return folder / f".{final.name}.{secrets.token_hex(4)}.partial"


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Whatever the disk refuses while ``path`` is written is an OutputError that names it."""
    try:
        yield
    except OSError as error:
        # not error.strerror: that of HDF5 is a paragraph
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OutputError(f"{path}: cannot be written: {reason}") from error


def publish(moves: Sequence[tuple[Path, Path]]) -> None:
    """Flush each partial file or folder to the disk, then rename them to their final names in order.

    The last move is the one that makes the result visible (an index, or the single file).
    """
    for partial, _ in moves:
        _sync(partial)
    for partial, final in moves:
        _replace(partial, final)
    for folder in {final.parent for _, final in moves}:
        _sync_file(folder)


def discard(partial: Path) -> None:
    """Remove a partial file or folder, if it is there."""
    if partial.is_dir() and not partial.is_symlink():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)


def _replace(partial: Path, final: Path) -> None:
    if not (partial.is_dir() and final.is_dir()):
        os.replace(partial, final)
        return
    # A folder cannot replace a filled folder in one step: the old one steps aside until the new is there.
    former = partial_path(final)
    os.rename(final, former)
    try:
        os.rename(partial, final)
    except BaseException:
        os.rename(former, final)
        raise
    shutil.rmtree(former)


def _sync(path: Path) -> None:
    if not path.is_dir():
        _sync_file(path)
        return
    for folder, _, names in os.walk(path):
        for name in names:
            _sync_file(Path(folder, name))
        _sync_file(Path(folder))


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
