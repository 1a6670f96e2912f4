"""The hidden folder beside an index where complete shards wait for the rest."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from converter.formats.io.atomic import discard, partial_path, publish
from converter.formats.io.locations import exists

__all__ = ["Staging"]


class Staging:
    """Shards get their names in `folder` when they are whole; `publish` gives all of them their places at once.

    work: what tells this work from any other; then shards of an earlier attempt at it are there already, also after
    an error or a kill, and `leave` keeps them in ``.INDEX.resume``. None: the folder is new, and `leave` removes it.
    running: a file that is there as long as somebody waits for the shards.
    Raises OutputError when the folder of the index is not there or cannot be written to.
    """

    def __init__(self, path: Path, work: str | None = None) -> None:
        self.path = path
        self.folder = partial_path(path) if work is None else path.with_name(f".{path.name}.resume")
        self._work = self.folder / "work"
        if work is None or not exists(self._work) or self._work.read_text(encoding="utf-8") != work:
            partial_path(path)  # raises for a folder that is not there
            discard(self.folder)
            self.folder.mkdir()
            if work is not None:
                self._work.write_text(work, encoding="utf-8")
        for left in (*self.folder.glob(".*.partial"), *self.folder.glob("running.*")):  # by a killed process
            discard(left)
        self.running = self.folder / f"running.{os.urandom(4).hex()}"
        self.running.touch()

    def has(self, shard: str) -> bool:
        """Whether it is there: it got its name when it was whole and on the disk."""
        return exists(self.folder / shard)

    def publish(self, shards: Iterable[str], index: str) -> None:
        """Write the index, give everything its place, and remove the folder."""
        written = self.folder / self.path.name
        written.write_text(index, encoding="utf-8")
        publish([*((self.folder / shard, self.path.parent / shard) for shard in shards), (written, self.path)])
        discard(self.folder)

    def leave(self) -> None:
        """Keep what is worth it."""
        discard(self.running)
        if not exists(self._work) or list(self.folder.glob("*")) == [self._work]:
            discard(self.folder)
