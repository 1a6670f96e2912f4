"""Files that hold no weights and come from strangers as well: schemas and certificates, read as the commands do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import converter
from converter.commands.verify_certificate import check_certificate
from converter.errors import ConversionError, FormatError
from converter.schema.loader import load_schema, schema_folder

__all__ = ["DOCUMENTS", "documents", "read_document"]

#: The smallest of those that are shipped.
MOST_SCHEMAS = 10


def read_document(row: str, path: Path) -> None:
    """Raises FormatError for what is refused with the name of the file."""
    try:
        DOCUMENTS[row](path)
    except ConversionError as error:
        assert path.name in str(error), f"names no file: {error}"
        raise FormatError(path, "refused") from error


def _certificate(path: Path) -> None:
    check_certificate(path.name)  # the folder of the case is where this process is


def _schema(path: Path) -> None:
    load_schema(str(path))


DOCUMENTS: dict[str, Callable[[Path], None]] = {"schema": _schema, "certificate": _certificate}


@cache
def documents(row: str) -> Mapping[str, tuple[str, Mapping[str, bytes]]]:
    """By name: which file is read, and all files beside it."""
    if row == "certificate":
        return {"written": ("cert.json", _certified())}
    files = sorted(schema_folder().glob("*.yaml"), key=lambda file: file.stat().st_size)[:MOST_SCHEMAS]
    return {file.stem: (file.name, {file.name: file.read_bytes()}) for file in files}


def _certified() -> dict[str, bytes]:
    """A certificate of a small conversion and its files."""
    rng, here = np.random.default_rng(0), os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            save_file({"hidden.weight": rng.normal(size=(5, 4)), "hidden.bias": rng.normal(size=5)}, "a.safetensors")
            options = {"kind": {"hidden": "linear"}, "certificate": "cert.json"}
            converter.convert("torch->flax", "a.safetensors", "b.msgpack", **options)
            return {file.name: file.read_bytes() for file in Path().iterdir()}
        finally:
            os.chdir(here)
