"""JSON in weight files: an object in which no name occurs twice, of a bounded size."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from converter.errors import FormatError
from converter.formats.io.files import open_source

__all__ = ["MAX_JSON", "parse_json", "read_json"]

#: That of the header of safetensors; real indices and configurations have some megabytes.
MAX_JSON = 100_000_000


def read_json(path: Path) -> dict[str, Any]:
    """The object that a whole file holds. Raises FormatError."""
    with closing(open_source(path)) as source:
        if source.size > MAX_JSON:
            raise FormatError(path, f"{source.size} bytes of JSON; at most {MAX_JSON} are allowed")
        return parse_json(path, source.take(0, source.size, "it"), "it")


def parse_json(path: Path, text: bytes, what: str) -> dict[str, Any]:
    """``what``, a part of the file or "it", says errors apart. Raises FormatError for anything but an object."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        parsed = dict(pairs)
        if len(parsed) != len(pairs):
            raise FormatError(path, f"a name occurs twice in {what}, among {[name for name, _ in pairs][:5]}")
        return parsed

    if len(text) > MAX_JSON:
        raise FormatError(path, f"{what} has {len(text)} bytes of JSON; at most {MAX_JSON} are allowed")
    try:
        parsed = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise FormatError(path, f"{what} is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise FormatError(path, f"{what} is not a JSON object")
    return parsed
