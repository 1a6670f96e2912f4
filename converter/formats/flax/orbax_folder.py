"""What an Orbax checkpoint consists of, file by file: the one thing of which a whole folder is ever replaced.

Names: those of `orbax_tree` and `zarr_arrays`, and what Orbax itself keeps beside them (``_sharding``, OCDBT).
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["stranger_in"]

#: Below the folder, with ``/`` between the parts.
_OWN = re.compile(
    r"_METADATA|_CHECKPOINT_METADATA|_sharding|_strings\.json|checkpoint|commit_success\.txt"
    r"|(?:ocdbt\.process_\d+/)?(?:manifest\.ocdbt|d/[0-9a-f]{32})"
    r"|array_metadatas/process_\d+"
)
#: In the folder of an array: its metadata, and chunks as ``0.1``, ``0/1`` and ``c/0/1``.
_OF_ARRAY = re.compile(r"\.zarray|\.zattrs|zarr\.json|(?:c/)?\d+(?:[./]\d+)*|c")
_ARRAY = (".zarray", "zarr.json")


def stranger_in(folder: Path) -> Path | None:
    """The first file there that no Orbax checkpoint of one tree has; None where all belong to one.

    An empty folder has none. An item of a step, or a step of a training run, is not looked into: its folder is one.
    """
    return next(filter(None, (_stranger(folder, child) for child in _children(folder))), None)


def _stranger(root: Path, path: Path) -> Path | None:
    if path.is_symlink():  # what it leads to is elsewhere
        return path
    if not path.is_dir():
        return None if path.is_file() and _OWN.fullmatch(path.relative_to(root).as_posix()) else path
    if any((path / name).is_file() for name in _ARRAY):
        return _in_array(path, path)
    children = _children(path)
    if not children and path.name not in ("d", "array_metadatas"):
        return path
    return next(filter(None, (_stranger(root, child) for child in children)), None)


def _in_array(array: Path, folder: Path) -> Path | None:
    for child in _children(folder):
        if child.is_symlink() or not _OF_ARRAY.fullmatch(child.relative_to(array).as_posix()):
            return child
        inner = _in_array(array, child) if child.is_dir() else None
        if inner is not None:
            return inner
    return None


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda child: child.name)
