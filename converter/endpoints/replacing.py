"""What an output would replace: never what is read, nor anything but a former result, and that only when asked to.

Files are the same when their device and inode are, whatever links lead to them; at a URL, when their paths are.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Hashable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from converter.endpoints.destination import Destination, stem
from converter.errors import OutputError, Remedy
from converter.formats import Format
from converter.formats.atomic import disk
from converter.formats.locations import exists, is_url, with_suffix
from converter.formats.parts import is_shard_name


def refuse_existing(end: Destination, read: Sequence[Path], force: bool) -> None:
    """Raises OutputError when the result would change one of the files that are ``read`` (a folder stands for all that
    is below it), or replace something that is no former result; or, without ``force``, anything."""
    with disk(end.path):
        existing = _existing(end.path, end.form)
        for file in existing or [end.path]:
            refuse_read(file, read)
        for file in existing:
            if stranger := end.form.load().FileWriter.stranger(file):
                raise OutputError(f"{file}: {_said(file, stranger, end.form)}; choose another path.")
    if is_shard_name(end.path.name):
        raise OutputError(f"{end.path}: this is the name of one of several shards, and the result is a whole net.")
    if existing and not force:
        raise OutputError(f"{existing[0]}: exists already; choose another path.", Remedy("force", effect="replaces it"))


def refuse_read(output: Path, read: Sequence[Path], called: str = "the source") -> None:
    """Raises OutputError when writing the output, a file or folder, would change one of the files that are read.

    called: what these are for the user; the first of them by itself.
    """
    for file in read:
        overlap = _overlap(output, file)
        if overlap:
            itself = f"this is {called} itself" if file == read[0] else f"this is a part of {called}"
            inside = f"this is inside of {called}, '{file}'"
            around = f"{called}, '{file}', is inside of this"
            what = {"same": itself, "inside": inside, "around": around}[overlap]
            raise OutputError(f"{output}: {what}; choose another path.")


def refuse_part(file: Path, end: Destination) -> None:
    """Raises OutputError when a file that is written beside the result would be a part of it, or is a folder."""
    if file.is_dir():
        raise OutputError(f"{file}: this is a folder; choose another path.")
    writer = end.form.load().FileWriter
    place, output = _place(file), _place(end.path)
    own = {with_suffix(output, suffix) for suffix in writer.suffixes}
    shard = f"{glob.escape(stem(output.name))}-?????-of-?????*"
    is_shard = end.form.name.endswith("-sharded") and place.parent == output.parent and fnmatch(place.name, shard)
    if is_shard or not own.isdisjoint((place, *place.parents)):
        raise OutputError(f"{file}: this is the output itself, or a part of it; choose another path.")


def _place(file: Path) -> Path:
    """Where a file of that name is, or would be."""
    return Path(os.path.realpath(file.parent), file.name)


def _existing(path: Path, form: Format) -> list[Path]:
    """What is there that the output would replace, shards of an older output among them."""
    writer = form.load().FileWriter
    files = [file for suffix in writer.suffixes if _is_there(file := with_suffix(path, suffix))]
    if form.name.endswith("-sharded") and path.parent.is_dir():
        files += sorted(path.parent.glob(f"{glob.escape(stem(path.name))}-?????-of-?????{glob.escape(writer.suffix)}"))
    return files


def _is_there(file: Path) -> bool:
    """Also a link that leads nowhere."""
    return exists(file) if is_url(file) else os.path.lexists(file)


def _said(file: Path, stranger: Path, form: Format) -> str:
    if stranger != file:
        inner = stranger.relative_to(file).as_posix()
        return f"'{inner}' in it belongs to no {form.title} and would be lost; move it away"
    what = "a folder" if file.is_dir() else "a file" if file.is_file() else "neither a file nor a folder"
    return f"this is {what}, which the result ({form.title}) cannot replace"


# -- the same file -----------------------------------------------------------------------------------------------------

Overlap = Literal["", "same", "inside", "around"]


def _overlap(output: Path, source: Path) -> Overlap:
    """How writing the output would change the source."""
    written, read = _mark(output), _mark(source)
    if written is not None and written == read:
        return "same"
    if read is not None and read in _marks_above(output) and source.is_dir():
        return "inside"
    if written is not None and written in _marks_above(source):
        return "around"
    return "same" if written is not None and written in _linked_below(source, output) else ""


def _mark(path: Path) -> Hashable:
    """What tells files apart; None for one that is not there."""
    if is_url(path):
        return str(path).rstrip("/")
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _marks_above(path: Path) -> set[Hashable]:
    """Of the folders that it is in, by its name and by what that leads to."""
    if is_url(path):
        return {_mark(folder) for folder in path.parents}
    ways = {Path(os.path.realpath(path)), Path(os.path.realpath(path.parent), path.name)}
    return {_mark(folder) for way in ways for folder in way.parents} - {None}


def _linked_below(folder: Path, output: Path) -> Iterator[Hashable]:
    """Of the files in the folder, where the output is a file of several names, any of which could be there."""
    if is_url(folder) or is_url(output) or not folder.is_dir():
        return
    status = os.stat(output)
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        yield from (_mark(Path(where, name)) for where, _, names in os.walk(folder) for name in names)
