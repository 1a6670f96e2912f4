"""Real small files for every reader: the samples of old releases, and what our writers make where they write."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from converter.errors import ConversionError
from converter.formats import FORMATS, Contents, Format, by_name, detect, open_reader, open_writer
from tests.formats.contract import random_array, specs_of
from tests.formats.every import FILES, names
from tests.fuzz.documents import DOCUMENTS, documents
from tests.places import SAMPLES

MOST_BYTES = 80_000
MOST_SEEDS = 12
WRITTEN = "written"


@dataclass(frozen=True, eq=False)
class Seed:
    """name: the sample, or `WRITTEN`. entry: what is opened, relative to the folder of the files ("": the folder)."""

    name: str
    entry: str
    files: Mapping[str, bytes]

    @property
    def size(self) -> int:
        return sum(map(len, self.files.values()))

    @property
    def weight(self) -> int:
        """How often to take it: HDF5 of the new layout and OCDBT cost a process per input (see io/child.py)."""
        in_a_child = any(data.startswith(b"\x89HDF\r\n\x1a\n") and data[8] >= 2 for data in self.files.values())
        return 1 if in_a_child or "manifest.ocdbt" in self.files else 25


@cache
def seeds_of(row: str) -> dict[str, Seed]:
    """By name: the smallest samples that are read without an error, and what our writer makes."""
    if row in DOCUMENTS:
        return {name: Seed(name, entry, files) for name, (entry, files) in documents(row).items()}
    different = {tuple(sorted(seed.files.items())): seed for seed in _samples()[row] if seed.size < MOST_BYTES}
    found = [seed for seed in sorted(different.values(), key=lambda seed: seed.size) if _is_read(seed, row)]
    written = [_written(row)] if row in FILES else []
    made = [_plain_ocdbt()] if row == "orbax" else []
    return {seed.name: seed for seed in found[:MOST_SEEDS] + written + made}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@cache
def _samples() -> dict[str, list[Seed]]:
    found: dict[str, list[Seed]] = defaultdict(list)
    for path in sorted(SAMPLES.rglob("*")):
        if path.name.endswith((".expected.npz", ".md")):
            continue
        prefix = path.with_suffix("") if path.suffix == ".index" else path
        try:
            row = detect(prefix)
        except ConversionError:
            continue
        found[row.name].append(_seed(prefix, row))
    return found


def _seed(path: Path, row: Format) -> Seed:
    """A folder with all in it; a file or a prefix with its own files, or, where it needs more, all of its folder."""
    name = str(path.relative_to(SAMPLES))
    if path.is_dir():
        return Seed(name, "", _contents(path))
    beside = [file for file in path.parent.iterdir() if file.is_file() and ".expected." not in file.name]
    own = [path] if path.is_file() else [file for file in beside if file.name.startswith(path.name)]
    seed = Seed(name, path.name, {file.name: file.read_bytes() for file in own})
    if _is_read(seed, row.name):
        return seed
    return Seed(name, path.name, {file.name: file.read_bytes() for file in beside})


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def _written(row: str) -> Seed:
    tensors = {name: random_array((2, 3), "float32", i) for i, name in enumerate(names(row, 3))}
    with tempfile.TemporaryDirectory() as folder:
        with open_writer(
            by_name(row), Path(folder, FILES[row]), Contents(specs_of(tensors), metadata=by_name(row).metadata)
        ) as writer:
            for name, array in tensors.items():
                writer.write(name, array)
        return Seed(WRITTEN, FILES[row], _contents(Path(folder)))


def _plain_ocdbt() -> Seed:
    """A sample with its tables not packed, so that their structure can be changed."""
    import tensorstore

    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(SAMPLES / "jax/orbax-0.12.8/devices-ocdbt", folder, dirs_exist_ok=True)
        base = {"driver": "ocdbt", "base": f"file://{folder}/"}
        old = tensorstore.KvStore.open(base).result()
        values = {key: old.read(key).result().value for key in old.list().result()}
        for path in Path(folder).iterdir():
            if path.name in ("d", "manifest.ocdbt") or path.name.startswith("ocdbt.process"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        config = {"compression": None, "max_inline_value_bytes": 1024}
        new = tensorstore.KvStore.open({**base, "config": config}, context=tensorstore.Context()).result()
        with tensorstore.Transaction() as transaction:
            for key, value in values.items():
                new.with_transaction(transaction)[key] = value
        return Seed("ocdbt, not packed", "", _contents(Path(folder)))


def _is_read(seed: Seed, row: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), seed.files)
        try:
            found, reader = open_reader(Path(folder, seed.entry))
            with reader:
                return found.name == row and bool(reader.contents.specs)
        except ConversionError:
            return False


EVERY_ROW = [*(row.name for row in FORMATS), *DOCUMENTS]
