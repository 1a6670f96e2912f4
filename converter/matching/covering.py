"""Patterns of options: which layers they cover, and how many of them are too many to compare with a net."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TypeVar

from converter.core.layers import Net
from converter.core.patterns import letters
from converter.errors import ConversionError
from converter.options import MatchOptions
from converter.schema.loader import Schema

_Value = TypeVar("_Value")

#: The options whose patterns are compared with each layer; those of ``map`` are looked up.
_PATTERNS = ("kind", "heads", "rotary", "joined", "flatten", "unflatten", "ignore", "allow_missing", "strip")
#: About 20 seconds. A pattern that stands for many names takes so many times as much as a name.
MOST_COMPARISONS, _WILD = 100_000_000, 10


def check_count(net: Net, options: MatchOptions, schema: Schema | None) -> None:
    """Raises ConversionError where to compare each pattern with each layer would take minutes."""
    patterns = [pattern for option in _PATTERNS for pattern in getattr(options, option)]
    rows = schema.layers if schema else ()
    wild = sum(not _is_literal(pattern) for pattern in patterns) + sum(bool(letters(row.path)) for row in rows)
    _check(len(patterns) + len(rows), wild, len(net.layers), "layers")


def check_comparisons(patterns: Collection[str], names: int, what: str) -> None:
    """Raises ConversionError where to compare each pattern with so many names takes minutes. what: of what they are."""
    _check(len(patterns), sum(not _is_literal(pattern) for pattern in patterns), names, what)


def _check(count: int, wild: int, names: int, what: str) -> None:
    """wild: how many of the patterns stand for many names."""
    comparisons = (count - wild + _WILD * wild) * names
    if comparisons > MOST_COMPARISONS:
        raise ConversionError(
            f"{count} patterns ({wild} of them stand for many names) are too many for a net of {names} {what}: "
            f"to compare them costs {comparisons}, at most {MOST_COMPARISONS} is allowed. "
            "Say fewer that cover more, such as '*.norm'."
        )


def longest(values: Mapping[str, _Value], path: str) -> _Value | None:
    """The value of the longest pattern that covers the path."""
    pattern = longest_pattern(values, path)
    return None if pattern is None else values[pattern]


def longest_pattern(patterns: Iterable[str], path: str) -> str | None:
    """The longest pattern that covers the path."""
    return max((pattern for pattern in patterns if covers(pattern, path)), key=len, default=None)


def covers(pattern: str, path: str) -> bool:
    """Whether the pattern matches the path or a module above it: ``*.attention`` matches both."""
    if path == pattern or path.startswith(f"{pattern}."):
        return True
    return not _is_literal(pattern) and (fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}.*"))


@lru_cache(maxsize=1 << 15)
def _is_literal(pattern: str) -> bool:
    return not any(sign in pattern for sign in "*?[")
