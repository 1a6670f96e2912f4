"""Names with an index: ``encoder.{i}.conv`` stands for every ``encoder.0.conv``, ``encoder.1.conv`` …

``{i}``     a number; the same letter stands for the same number in one name
``{2*i+1}`` a number that counts differently here: 1, 3, 5 … where i is 0, 1, 2 …
``{_i}``    the suffix that Keras gives to the second and later of its kind: "", "_1", "_2" …
``{I+1}``   one more than how many numbers ``{i}`` stands for in this net: the place of what comes behind them
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise

from converter.errors import ConversionError

_PLACE = re.compile(
    r"\{(?P<suffix>_)?(?:(?P<times>[1-9][0-9]{0,3})\*)?(?P<letter>[a-zA-Z])(?:\+(?P<plus>[0-9]{1,4}))?\}"
)

#: Which number each letter stands for.
Indices = Mapping[str, int]


def check_pattern(pattern: str) -> None:
    """Raises ConversionError for a brace that is no index."""
    if "{" in _PLACE.sub("", pattern) or "}" in _PLACE.sub("", pattern):
        raise ConversionError(
            f"'{pattern}' has a brace that is no index such as {{i}}, {{2*i+1}} or {{_i}}, nor a count such as {{I}}"
        )
    places = list(_PLACE.finditer(pattern))
    for place, following in pairwise(places):
        between = pattern[place.end() : following.start()]
        if not (re.sub("[0-9_]" if place["suffix"] else "[0-9]", "", between) or _parts(place, following)):
            raise ConversionError(f"'{pattern}' has two indices with nothing between them that tells where one ends")


def _parts(place: re.Match[str], following: re.Match[str]) -> bool:
    """``{i}{_j}``: the suffix begins with what is no digit."""
    return not place["suffix"] and bool(following["suffix"])


def letters(pattern: str) -> frozenset[str]:
    """The letters that stand for numbers in it."""
    return frozenset(place["letter"] for place in _PLACE.finditer(pattern) if place["letter"].islower())


@lru_cache(maxsize=4096)
def counts(pattern: str) -> frozenset[str]:
    """The letters, small, whose numbers are counted in it."""
    return frozenset(place["letter"].lower() for place in _PLACE.finditer(pattern) if place["letter"].isupper())


def counted(pattern: str, numbers: Indices) -> str:
    """The pattern with these counts (by the small letter) in their places."""
    known = {letter.upper(): number for letter, number in numbers.items()}
    return _PLACE.sub(lambda place: _filled(place, known) if place["letter"] in known else place[0], pattern)


def indices_of(pattern: str, name: str) -> Indices | None:
    """The numbers with which the pattern becomes this very name, or None when there are none.

    One with a count becomes nothing before that is known (see `counted`).
    """
    if counts(pattern):
        return None
    regex, places = _compiled(pattern)
    match = regex.fullmatch(name)
    if match is None:
        return None
    indices: dict[str, int] = {}
    for (letter, times, plus), text in zip(places, match.groups(), strict=True):
        number, rest = divmod(int(text or 0) - plus, times)
        if rest or number < 0 or indices.setdefault(letter, number) != number:
            return None
    return indices if fill(pattern, indices) == name else None


def fill(pattern: str, indices: Indices) -> str:
    """The name with these numbers."""
    return _PLACE.sub(lambda place: _filled(place, indices), pattern)


def _filled(place: re.Match[str], indices: Indices) -> str:
    number = indices[place["letter"]] * int(place["times"] or 1) + int(place["plus"] or 0)
    return str(number) if not place["suffix"] else f"_{number}" if number else ""


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> tuple[re.Pattern[str], tuple[tuple[str, int, int], ...]]:
    text, places, end = "", [], 0
    for place in _PLACE.finditer(pattern):
        text += re.escape(pattern[end : place.start()]) + (r"(?:_([0-9]{1,9}))?" if place["suffix"] else "([0-9]{1,9})")
        places.append((place["letter"], int(place["times"] or 1), int(place["plus"] or 0)))
        end = place.end()
    return re.compile(text + re.escape(pattern[end:])), tuple(places)
