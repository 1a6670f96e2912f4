"""Files that an index names: only those beside it, never a path that leads elsewhere."""

from __future__ import annotations

from pathlib import Path

from converter.errors import FormatError, UnsafeFileError
from converter.formats.io.locations import is_url

__all__ = ["shard_path"]


def shard_path(index: Path, folder: Path, name: str) -> Path:
    """The file ``name`` in ``folder``, as the ``index`` says. Raises UnsafeFileError or FormatError.

    A symbolic link may lead to another file of the folder, or, as in the cache of the Hugging Face hub
    (``snapshots/REVISION/NAME`` -> ``blobs/HASH``), to the folder ``blobs`` two levels up.
    """
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise UnsafeFileError(index, f"it names the file '{name[:80]}', which is not beside it")
    path = folder / name
    if is_url(path):  # where there are no links
        if not path.is_file():
            raise FormatError(index, f"it names the file '{name[:80]}', which is missing")
        return path
    try:
        target = path.resolve(strict=True)
        home = folder.resolve()
    except (OSError, RuntimeError):
        raise FormatError(index, f"it names the file '{name[:80]}', which is missing") from None
    if target.parent not in (home, home.parent.parent / "blobs"):
        raise UnsafeFileError(index, f"it names the file '{name[:80]}', which is a link that leads elsewhere")
    if not target.is_file():
        raise FormatError(index, f"it names '{name[:80]}', which is not a file")
    return path
