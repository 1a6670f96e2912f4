"""Natural order of names: ``dense_2`` before ``dense_10``, ``vars/9`` before ``vars/10``."""

from __future__ import annotations

import re

_DIGITS = re.compile(r"(\d{1,18})", re.ASCII)


def natural_key(name: str) -> tuple[tuple[str | int, ...], ...]:
    """A key for `sorted`: part by part of the path, numbers by value."""
    return tuple(_part(part) for part in name.split("/"))


def _part(part: str) -> tuple[str | int, ...]:
    # re.split puts the digits at the odd places, so text meets text and number meets number.
    return tuple(int(piece) if place % 2 else piece for place, piece in enumerate(_DIGITS.split(part)))
