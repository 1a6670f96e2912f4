"""Writing a whole Keras 3 model: the config of the clone, and new weights (keras/src/saving/saving_lib.py)."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from converter.core.contents import Contents
from converter.core.tensors import Array
from converter.errors import OutputError
from converter.formats.base import Writer
from converter.formats.io.atomic import discard, partial_path, publish
from converter.formats.keras import h5 as keras_h5

WEIGHTS, CONFIG, METADATA = "model.weights.h5", "config.json", "metadata.json"
_DATE = (1980, 1, 1, 0, 0, 0)


class FileWriter(Writer):
    """Streams: the weights go to a hidden file, and from there into the zip when all are written.

    ``contents.metadata`` holds the texts of ``config.json`` and ``metadata.json``, as the reader of a
    ``.keras`` gives them. Raises OutputError without them: weights alone are no model.
    """

    def __init__(self, path: Path, contents: Contents) -> None:
        super().__init__(path, contents)
        if not {CONFIG, METADATA} <= contents.metadata.keys():
            raise OutputError(f"{path}: a .keras holds the model's config too. Give the clone with --like clone.keras.")
        self._weights = partial_path(path)
        self._zip = partial_path(path)
        self._inner = keras_h5.FileWriter(self._weights, contents)

    def write(self, name: str, array: Array) -> None:
        self._inner.write(name, array)

    def commit(self) -> None:
        self._inner.commit()
        with zipfile.ZipFile(self._zip, "x") as archive:
            for name in (METADATA, CONFIG):
                archive.writestr(zipfile.ZipInfo(name, _DATE), self.contents.metadata[name])
            with self._weights.open("rb") as source:
                with archive.open(zipfile.ZipInfo(WEIGHTS, _DATE), "w", force_zip64=True) as member:
                    shutil.copyfileobj(source, member, 1 << 20)
        publish([(self._zip, self.path)])
        discard(self._weights)

    def abort(self) -> None:
        self._inner.abort()
        discard(self._weights)
        discard(self._zip)
