"""The files that a certificate speaks of: which belong to a weight file, what they are called, and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from converter.options import StrPath

__all__ = ["HashedFile", "files_of", "hashed", "relative"]

_CHUNK_BYTES = 4 << 20


class HashedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    bytes: int
    xxh3_128: str
    sha256: str


def files_of(path: Path) -> list[Path]:
    """All files of a weight file: a folder's, those that an index names, those that share a checkpoint's prefix."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    prefix = path.name.removesuffix(".index")
    beside = [file for file in path.parent.iterdir() if file.is_file()] if path.parent.is_dir() else []
    if not path.exists() or path.suffix == ".index":
        return sorted(file for file in beside if file.name.startswith((f"{prefix}.", f"{prefix}-")))
    named = set(_texts(json.loads(path.read_bytes()))) if path.suffix == ".json" else set()
    return [path, *sorted(file for file in beside if file.name in named and file != path)]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def relative(file: StrPath, base: Path) -> str:
    """As seen from the certificate; the bare name where that would tell the folders of the machine."""
    there, here = os.path.abspath(file), os.path.abspath(base)
    try:
        shared = os.path.commonpath([there, here])
    except ValueError:  # on another drive
        shared = os.path.dirname(os.path.abspath(os.sep))
    if os.path.dirname(shared) == shared:
        return os.path.basename(there)
    return Path(os.path.relpath(there, here)).as_posix()


def hashed(file: Path, base: Path) -> HashedFile:
    import xxhash

    fast, slow, size = xxhash.xxh3_128(), hashlib.sha256(), 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            fast.update(chunk)
            slow.update(chunk)
            size += len(chunk)
    return HashedFile(relative(file, base), size, fast.hexdigest(), slow.hexdigest())
