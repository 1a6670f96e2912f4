"""``torch->flax``, ``torch-to-flax``, ``torch:flax``: from which framework to which."""

from __future__ import annotations

import re

import msgspec

from converter.errors import ConversionError
from converter.frameworks import Framework, framework


class Direction(msgspec.Struct, frozen=True):
    source: Framework
    target: Framework


def parse_direction(text: str) -> Direction:
    """Raises ConversionError for a text that is no direction, or names an unknown framework."""
    found = re.fullmatch(r"\s*(\w+)\s*(?:->|→|-to-|:)\s*(\w+)\s*", text)
    if not found:
        raise ConversionError(
            f"'{text}' is no direction. Say it like 'torch->flax' (with the quotes) or torch-to-flax."
        )
    return Direction(framework(found[1]), framework(found[2]))
