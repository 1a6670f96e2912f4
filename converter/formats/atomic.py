"""Files and folders that appear under their final name only when they are whole.

At a URL a rename is what its file system does to move a file: where that is a copy (in object stores), a copy.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from converter.errors import ConversionError, OutputError
from converter.formats.locations import exists, inner_path, is_url, store

#: At a URL.
MOVES_AT_ONCE = 32
#: Under which hidden names something is, or is about to be, written now.
_unfinished: set[Path] = set()


def partial_path(final: Path) -> Path:
    """A hidden sibling of ``final`` that nobody else uses, for what is being written.

    Raises OutputError when the folder does not exist or cannot be written to; for a URL, writing tells.
    """
    check_folder(final)
    partial = final.parent / f".{final.name}.{os.urandom(4).hex()}.partial"
    _unfinished.add(partial)
    return partial


def check_folder(final: Path) -> None:
    """Raises OutputError where ``final`` has no folder, or one that cannot be written to; for a URL, writing tells."""
    folder = final.parent
    if is_url(final):
        return
    if not folder.is_dir():
        raise OutputError(f"{final}: the folder '{folder}' does not exist. Create it, or choose another -o.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{final}: the folder '{folder}' cannot be written to. Choose another -o.")


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Whatever the disk refuses while ``path`` is written is an OutputError that names it."""
    try:
        yield
    except OSError as error:
        # not error.strerror: that of HDF5 is a paragraph
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OutputError(f"{path}: cannot be written: {reason}") from error
    except Exception as error:
        if not is_url(path) or isinstance(error, ConversionError):
            raise
        raise OutputError(f"{path}: cannot be written: {str(error) or type(error).__name__}") from error


def publish(moves: Sequence[tuple[Path, Path]]) -> None:
    """Flush each partial file or folder to the disk, then rename them to their final names in order.

    The last move is the one that makes the result visible (an index, or the single file or folder). One rename
    replaces a single file at once. No file system replaces several files, or a filled folder, in one step: there
    the former ones step aside first, the index before all others, and are removed when the new ones stand. So a
    kill leaves the former result, or the new one, or, between the first and the last of these renames, none
    under the final name (never parts of both), with the former files as ``.NAME.TOKEN.former`` beside it. After
    an exception the former ones are back.
    """
    for partial, _ in moves:
        _sync(partial)
    aside = _aside(moves)
    try:
        for final, former in aside:
            _rename(final, former, metadata_last=False)
        _replace_all(moves)
    except BaseException:
        if moves[-1][0].exists():
            _undo(moves, aside)
        raise
    finally:
        if not moves[-1][0].exists():
            for _, former in aside:
                discard(former)
    _unfinished.difference_update(partial for partial, _ in moves)
    for folder in {final.parent for _, final in moves if not is_url(final)}:
        _sync_file(folder)


def write_text(final: Path, text: str) -> None:
    """A small file, which is there as a whole or not at all. Raises OutputError."""
    partial = partial_path(final)
    try:
        with disk(final):
            partial.write_text(text, encoding="utf-8")
            publish([(partial, final)])
    finally:
        discard(partial)


def former_paths(final: Path) -> list[Path]:
    """What a kill during `publish` left of the former result; usually nothing."""
    return sorted(final.parent.glob(f".{escape(final.name)}.????????.former"))


def discard_unfinished() -> None:
    """Remove whatever is half written, where the process ends before its writers do."""
    for partial in list(_unfinished):
        discard(partial)


def discard(partial: Path) -> None:
    """Remove a partial file or folder, if it is there."""
    _unfinished.discard(partial)
    if is_url(partial):
        if exists(partial):
            store(partial).rm(inner_path(partial), recursive=True)
    elif partial.is_dir() and not partial.is_symlink():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        partial.unlink(missing_ok=True)


def _aside(moves: Sequence[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    """Former file -> its name until the new one stands; nothing where the last rename is enough.

    All have one token, so that they are found together.
    """
    *parts, (partial, final) = moves
    if not is_url(final) and not any(part.exists() for _, part in parts) and not (partial.is_dir() and final.is_dir()):
        return []
    token = os.urandom(4).hex()
    finals = [final for _, final in reversed(moves) if exists(final)]
    return [(final, final.with_name(f".{final.name}.{token}.former")) for final in finals]


def _undo(moves: Sequence[tuple[Path, Path]], aside: Sequence[tuple[Path, Path]]) -> None:
    waiting = dict(aside)
    for partial, final in moves:
        # at a URL a move may have stopped when both were there; what did not step aside yet is the former one
        stopped = is_url(final) and (final not in waiting or exists(waiting[final]))
        if stopped or not partial.exists():
            discard(final)
    for final, former in reversed(aside):
        if exists(former):
            _rename(former, final)


def _replace_all(moves: Sequence[tuple[Path, Path]]) -> None:
    """The last one after all others."""
    *parts, last = moves
    if is_url(last[1]) and len(parts) > 1:
        from concurrent.futures import ThreadPoolExecutor  # not needed for files of this machine

        with ThreadPoolExecutor(MOVES_AT_ONCE) as pool:
            list(pool.map(lambda move: _rename(*move), parts))
    else:
        for partial, final in parts:
            _rename(partial, final)
    _rename(*last)


def _rename(former: Path, final: Path, metadata_last: bool = True) -> None:
    """metadata_last: in which order the files of a folder move, where they do so one by one."""
    if not is_url(final):
        os.replace(former, final)
    elif former.is_dir():
        files = sorted(former.rglob("*"), key=lambda file: (file.name.startswith("_") == metadata_last, str(file)))
        for file in files:
            if file.is_file():
                target = final / file.relative_to(former)
                store(final).makedirs(inner_path(target.parent), exist_ok=True)
                store(final).mv(inner_path(file), inner_path(target))
        discard(former)
    else:
        store(final).mv(inner_path(former), inner_path(final))


def _sync(path: Path) -> None:
    if is_url(path):
        return
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
