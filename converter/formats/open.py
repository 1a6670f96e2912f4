"""Opening files of any format: to read by their content, to write by the name of a format."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from converter.core.contents import Contents
from converter.errors import FormatError
from converter.formats.atomic import disk, former_paths
from converter.formats.base import Probe, Reader, ReadOptions, Writer
from converter.formats.locations import is_url, reading
from converter.formats.table import Format, recognised

__all__ = ["detect", "open_reader", "open_writer"]


def detect(path: Path) -> Format:
    """The format of a file, folder or checkpoint prefix, by its content. Raises FormatError."""
    probe = Probe(path)
    try:
        row = recognised(probe)
        if row is None:
            raise FormatError(path, _reason(probe))
        return row
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}") from None


def _reason(probe: Probe) -> str:
    """Why no format accepts the file."""
    if not probe.path.exists():
        if is_url(probe.path):
            return "it does not exist, or these credentials have no access to it"
        return f"no such file or folder{_interrupted_write(probe.path)}"
    if probe.is_file and not probe.head:
        return "the file is empty"
    from converter.formats.unknown import described  # loaded only for this error

    return described(probe)


def _interrupted_write(path: Path) -> str:
    """What a kill during the replacement of the file left of the former one; see `publish`."""
    left = [former.name for name in (path.name, path.name + ".index") for former in former_paths(path.with_name(name))]
    if not left:
        return ""
    token = left[0].split(".")[-2]
    return f". A write that was cut off left the former one as '{left[0]}'; rename all files of '{token}' back"


def open_reader(path: Path, options: ReadOptions = ReadOptions()) -> tuple[Format, Reader]:
    """Open a file by its content. Raises FormatError for a damaged file or an unknown format."""
    with reading(path):
        row = detect(path)
        reader: Reader = row.load().FileReader(path, options)
    return row, reader


def open_writer(
    row: Format, path: Path, contents: Contents, max_shard_bytes: int | None = None, resume: str | None = None
) -> Writer:
    """Start a file of that format; see `Writer`. ``max_shard_bytes`` and ``resume`` need a row that writes shards:
    see `ShardWriter`."""
    options = {"max_shard_bytes": max_shard_bytes, "resume": resume}
    make = partial(row.load().FileWriter, **{name: value for name, value in options.items() if value is not None})
    with disk(path):
        if is_url(path):
            from converter.formats.io.upload import Upload

            return Upload(make, path, contents)
        writer: Writer = make(path, contents)
        return writer
