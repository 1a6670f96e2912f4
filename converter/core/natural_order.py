"""Natural order of names: ``dense_2`` before ``dense_10``, ``vars/9`` before ``vars/10``."""

from __future__ import annotations

import re

# Digits of other scripts, and superscripts, are text; eighteen digits are always cheap to convert.
_DIGITS = re.compile(r"([0-9]{1,18})")


def natural_key(name: str) -> tuple[tuple[str | int, ...], ...]:
    """A key for `sorted`: compares paths part by part, and the numbers in them by value."""
    return tuple(_key(part) for part in name.split("/"))


def _key(part: str) -> tuple[str | int, ...]:
    # re.split puts the numbers at odd positions, so text is compared with text and numbers with numbers
    return tuple(int(piece) if index % 2 else piece for index, piece in enumerate(_DIGITS.split(part)))
