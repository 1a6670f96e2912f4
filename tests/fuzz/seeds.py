"""Real small files for every reader: the samples of old releases, and what our writers make where they write."""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from converter.errors import ConversionError
from converter.formats import FORMATS, Contents, Format, detect, open_reader, open_writer
from tests.formats.contract import random_array, specs_of
from tests.formats.every import FILES, names

SAMPLES = Path(__file__).parents[1] / "samples"
MOST_BYTES = 80_000
MOST_SEEDS = 12


@dataclass(frozen=True)
class Seed:
    """entry: what is opened, relative to the folder that the files are written into ("" is the folder itself)."""

    entry: str
    files: dict[str, bytes]

    @property
    def size(self) -> int:
        return sum(map(len, self.files.values()))


def seeds_of(row: Format) -> list[Seed]:
    """The smallest that are read without an error, and what our writer makes."""
    samples = sorted(_samples()[row.name], key=lambda seed: seed.size)
    found = [seed for seed in samples if seed.size < MOST_BYTES and _is_read(seed, row)][:MOST_SEEDS]
    return found + ([_written(row)] if row.name in FILES else [])


def write_files(folder: Path, seed_files: dict[str, bytes]) -> None:
    for name, data in seed_files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


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
    """A folder with all in it; a file with those that stand beside it and belong to it."""
    if path.is_dir():
        return Seed("", {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()})
    several = "sharded" in row.name or row.name == "keras-sharded"
    family = path.parent.iterdir() if several else path.parent.glob(path.name + "*")
    one = row.name not in ("tf-checkpoint",) and not several
    files = [path] if one else [file for file in family if file.is_file() and ".expected." not in file.name]
    return Seed(path.name, {file.name: file.read_bytes() for file in files})


def _written(row: Format) -> Seed:
    tensors = {name: random_array((2, 3), "float32", i) for i, name in enumerate(names(row.name, 3))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILES[row.name]
        with open_writer(row, path, Contents(specs_of(tensors))) as writer:
            for name, array in tensors.items():
                writer.write(name, array)
        files = [file for file in Path(folder).rglob("*") if file.is_file()]
        return Seed(FILES[row.name], {os.path.relpath(file, folder): file.read_bytes() for file in files})


def _is_read(seed: Seed, row: Format) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), seed.files)
        try:
            found, reader = open_reader(Path(folder, seed.entry))
            with reader:
                return found.name == row.name and bool(reader.contents.specs)
        except ConversionError:
            return False


EVERY_ROW = [row.name for row in FORMATS]
