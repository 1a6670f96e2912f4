"""What the values of options are: a number, a size, a sum of channels; each checked, and read from a text."""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

import msgspec

#: Channels and spatial positions of tensors that stand side by side before a layer: ``64x49+4`` is 64 channels at 49
#: positions, flattened, and 4 features.
ChannelGroups: TypeAlias = tuple[tuple[int, int], ...]
#: How many channels were flattened; or the groups, where a net joins several tensors.
Channels: TypeAlias = int | ChannelGroups
#: Runs of parts along the outputs of a layer, and what each part has of a run: ``8x4:1:1`` is (8, (4, 1, 1)).
Shares: TypeAlias = tuple[int, tuple[int, ...]]
#: What ``dtype`` understands.
FLOATS = ("float16", "bfloat16", "float32", "float64")
#: The pattern of ``dtype`` that covers whatever no longer one does.
OTHERS = "*"


class Values(msgspec.Struct, frozen=True):
    """What an option takes. ``check`` makes the value of the record of what a caller says, or raises ValueError.

    shape: how the command line collects it: a flag, one value, several, or several KEY=VALUE. from_text: what the
    command line hands on of one value.
    """

    check: Callable[[Any], Any]
    shape: Literal["flag", "one", "many", "pairs"] = "one"
    from_text: Callable[[str], Any] = str


def _expected(kind: Any, what: str, also: Callable[[Any], bool] = lambda value: True) -> Callable[[Any], Any]:
    """Takes values of this type for which ``also`` is true."""

    def check(value: Any) -> Any:
        if not isinstance(value, kind) or not also(value):
            raise ValueError(f"expected {what}")
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    return check


_name = _expected(str, "a text")  # of a layer; that of the only layer of some nets is empty
_path = _expected(str | os.PathLike, "a path", os.fspath)


def _integer(value: Any, least: int = 0) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise ValueError(f"expected an integer of at least {least}")
    if number >= 1 << 63:
        raise ValueError("expected a smaller integer: no file is that large")
    return number


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("expected a number")
    return float(value)


def _real_of(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"'{text}' is not a number") from None


def _patterns(value: Any) -> tuple[str, ...]:
    """One text is one pattern, and not its letters."""
    items = [value] if isinstance(value, str) else value
    if isinstance(items, Mapping) or not isinstance(items, Iterable):
        raise ValueError("expected a pattern, or a list of patterns")
    return tuple(_name(item) for item in items)


def _pairs(of: Callable[[Any], Any]) -> Callable[[Any], Mapping[str, Any]]:
    def check(value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise ValueError("expected a mapping, such as {'layer': …}")
        return {_name(key): of(item) for key, item in value.items()}

    return check


def _channels(value: Any) -> Channels:
    """``64`` is 64 channels; ``64x49+4`` is ((64, 49), (4, 1))."""
    if isinstance(value, tuple | list):
        if not all(isinstance(term, tuple | list) and len(term) == 2 for term in value):
            raise ValueError("expected a number of channels, or a sum such as '64x49+4'")
        return tuple((_integer(count, 1), _integer(positions, 1)) for count, positions in value)
    if not isinstance(value, str):
        return _integer(value)
    if value.isascii() and value.isdecimal() and len(value) < 19:
        return int(value)
    terms = [re.fullmatch(r"([1-9]\d{0,8})(?:x([1-9]\d{0,8}))?", term, re.ASCII) for term in value.split("+")]
    if not all(terms):
        raise ValueError(f"'{value}' is neither a number of channels nor a sum such as 64x49+4")
    return tuple((int(term[1]), int(term[2] or 1)) for term in terms if term)


def _shares(value: Any) -> Shares:
    """``4:1:1`` is (1, (4, 1, 1)), ``8x4:1:1`` is (8, (4, 1, 1))."""
    if isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[1], tuple | list) and len(value[1]) > 1:
        return _integer(value[0], 1), tuple(_integer(share, 1) for share in value[1])
    match = re.fullmatch(r"(?:([1-9]\d{0,8})x)?([1-9]\d{0,8}(?::[1-9]\d{0,8})+)", str(value), re.ASCII)
    if match is None:
        raise ValueError(f"{value!r} is no list of shares such as 4:1:1, nor 8x4:1:1 for eight such lists in turn")
    return int(match[1] or 1), tuple(map(int, match[2].split(":")))


def shares_text(shares: Shares) -> str:
    """As the option takes it."""
    runs, each = shares
    return f"{runs}x{':'.join(map(str, each))}" if runs > 1 else ":".join(map(str, each))


def channels_text(channels: Channels) -> str:
    """As the option takes it."""
    groups = ((channels, 1),) if isinstance(channels, int) else channels
    return "+".join(f"{count}x{positions}" if positions > 1 else str(count) for count, positions in groups)


def parse_size(value: Any) -> int:
    """Bytes: ``5GB``, ``500 MB``, ``2GiB`` or a plain number."""
    if not isinstance(value, str):
        return _integer(value, 1)
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?)(I?)B?\s*", value.upper(), re.ASCII)
    size = int(float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2] or " ")) if match else 0
    if size < 1:
        raise ValueError(f"'{value}' is an invalid size. Say it like 5GB, 500MB or 2GiB")
    return size


def _float(value: Any) -> str:
    if value not in FLOATS:
        raise ValueError(f"unknown dtype {value!r}. There are {', '.join(FLOATS)}")
    return str(value)


def _dtypes(value: Any) -> str | Mapping[str, str]:
    """One dtype, or pattern -> dtype with `OTHERS` for what no other pattern covers: ``bfloat16, *norm*=float32``."""
    if isinstance(value, Mapping):
        entries = [(_name(pattern), dtype) for pattern, dtype in value.items()]
    elif isinstance(value, str):
        pairs = [entry.rpartition("=") for entry in value.split(",")]
        entries = [(pattern.strip(), dtype.strip()) for pattern, _, dtype in pairs]
    else:
        return _float(value)
    dtypes: dict[str, str] = {}
    for pattern, dtype in entries:
        if dtypes.setdefault(pattern or OTHERS, _float(dtype)) != dtype:
            raise ValueError(f"'{pattern or OTHERS}' has two dtypes, {dtypes[pattern or OTHERS]} and {dtype}")
    if not dtypes:
        raise ValueError("expected a dtype, or a pattern with one, such as '*norm*=float32'")
    return dtypes[OTHERS] if list(dtypes) == [OTHERS] else dtypes


def _schema(value: Any) -> Any:
    if isinstance(value, str | os.PathLike):
        return _path(value)
    if not hasattr(value, "layers"):
        raise ValueError("expected the name of a schema, or the path of a YAML file")
    return value


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise ValueError(f"'{text}' is not a number")
    return int(text)


_at_least_one = partial(_integer, least=1)
FLAG, TEXT = Values(_expected(bool, "True or False"), "flag"), Values(_expected(str, "a text", bool))
PATH, SIZE, DTYPE, SCHEMA = Values(_path), Values(parse_size), Values(_dtypes), Values(_schema)
INTEGER, COUNT = Values(_integer, from_text=_number), Values(_at_least_one, from_text=_number)
PATTERNS = Values(_patterns, "many")
TEXTS, COUNTS = Values(_pairs(_name), "pairs"), Values(_pairs(_at_least_one), "pairs", _number)
REALS = Values(_pairs(_real), "pairs", _real_of)
CHANNELS = AXES = Values(_pairs(_integer), "pairs", _number)
SUMS, SHARES = Values(_pairs(_channels), "pairs"), Values(_pairs(_shares), "pairs")
