"""Writing to a URL: a writer of files works on the disk of this machine, and what it made is put in its place whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from converter.core.contents import Contents
from converter.core.tensors import Array
from converter.formats.atomic import discard, publish
from converter.formats.base import Writer
from converter.formats.locations import inner_path, is_url, store

__all__ = ["writer_to"]

#: A path of this machine, and what the file there is to hold -> what writes it.
Make: TypeAlias = Callable[[Path, Contents], Writer]
#: Object stores, where a file appears when all of it is there: an upload needs no other name first.
WHOLE_OR_NOT = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2", "tos"})


def writer_to(make: Make, path: Path, contents: Contents) -> Writer:
    """``make(path, contents)``, or the same for a URL."""
    return Upload(make, path, contents) if is_url(path) else make(path, contents)


class Upload(Writer):
    """Needs room for the result in the folder of temporary files (``TMPDIR``)."""

    def __init__(self, make: Make, path: Path, contents: Contents) -> None:
        super().__init__(path, contents)
        self._folder = Path(tempfile.mkdtemp(prefix="converter-"))
        self._partial: list[Path] = []
        try:
            self._inner = make(self._folder / path.name, contents)
        except BaseException:
            shutil.rmtree(self._folder)
            raise

    def write(self, name: str, array: Array) -> None:
        self._inner.write(name, array)

    def commit(self) -> None:
        self._inner.commit()
        made = sorted(self._folder.iterdir(), key=lambda item: (item.name.endswith(".index"), item.name))
        if [item.is_file() for item in made] == [True] and self._protocol in WHOLE_OR_NOT:
            self._put(made[0], self.path)
        else:
            self._put_several(made)
        shutil.rmtree(self._folder)

    def abort(self) -> None:
        self._inner.abort()
        shutil.rmtree(self._folder, ignore_errors=True)
        for partial in self._partial:
            discard(partial)

    @property
    def _protocol(self) -> str:
        return str(self.path.protocol)  # type: ignore[attr-defined]

    def _put_several(self, made: list[Path]) -> None:
        """Under hidden names first; the index, where there is one, becomes visible last."""
        token = os.urandom(4).hex()
        moves = []
        for item in made:
            self._partial.append(self.path.with_name(f".{item.name}.{token}.partial"))
            self._put(item, self._partial[-1])
            moves.append((self._partial[-1], self.path.with_name(item.name)))
        publish(moves)

    def _put(self, item: Path, to: Path) -> None:
        store(to).put(str(item), inner_path(to), recursive=item.is_dir())
