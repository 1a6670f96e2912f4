"""What a schema file may ask for. A few lines of YAML can stand for more than any memory holds: an alias repeats a node
that repeats others, a block uses blocks, and the names of a block are multiplied by those of its use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from converter.errors import ConversionError, FormatError
from converter.formats.io.files import read_whole

#: The largest of those that come with the program has 6,000; one of a net of a thousand layers has 100,000.
MOST_BYTES = 1_000_000
#: Signs that part its values. PyYAML takes 0.1 ms for each.
MOST_SIGNS = 120_000
#: Values, each as often as aliases repeat it.
MOST_NODES = 200_000
#: Characters of a number or a date. PyYAML takes time that grows with their square.
MOST_DIGITS = 60
#: Blocks in blocks; layers, and uses of blocks, when all are expanded; names of one layer in one framework.
DEEPEST, MOST_LAYERS, MOST_NAMES = 20, 20_000, 64
#: Entries that stand for many layers, each of which is compared with every layer of a net.
MOST_PATTERNS = 1_000

_NUMBERS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp"))


def read_text(path: Path) -> str:
    """The text of a schema file. Raises ConversionError."""
    try:
        return read_whole(path, MOST_BYTES).decode()
    except FormatError as error:
        raise ConversionError(error.reason) from None
    except UnicodeDecodeError as error:
        raise ConversionError(f"not a schema: {error}") from None


def read_yaml(text: str) -> Any:
    """The value of a YAML text. Raises yaml.YAMLError, ValueError and RecursionError for what is none, and
    ConversionError for one that is too large.
    """
    import yaml  # here, because most conversions need no schema

    if signs(text) > MOST_SIGNS:
        raise ConversionError(f"not a schema: it has more than {MOST_SIGNS} values and names")
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        count = _expanded(node, {})
        if count > MOST_NODES:
            raise ConversionError(f"not a schema: {_many(count)} values, at most {MOST_NODES} are allowed")
        return loader.construct_document(node)
    except OverflowError as error:
        raise ValueError(str(error)) from None
    finally:
        loader.dispose()


def signs(text: str) -> int:
    """How many signs part its values."""
    return sum(map(text.count, "[{,:\n"))


def _expanded(node: Any, known: dict[int, int]) -> int:
    """How many values the node stands for, each node looked at once. Raises ConversionError."""
    if id(node) in known:
        if not known[id(node)]:
            raise ConversionError("not a schema: a value that contains itself")
        return known[id(node)]
    known[id(node)] = 0
    if isinstance(node.value, str):
        if node.tag in _NUMBERS and len(node.value) > MOST_DIGITS:
            raise ConversionError(f"not a schema: a number of {len(node.value)} characters")
        inside = []
    else:
        inside = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
    known[id(node)] = 1 + sum(_expanded(part, known) for part in inside)
    return known[id(node)]


def _many(count: int) -> str:
    return str(count) if count < 10**9 else "more than 1000000000"


class Expansion:
    """Counts what the blocks of a schema become."""

    def __init__(self) -> None:
        self._count = 0

    def entry(self, depth: int) -> None:
        """For each entry, as often as it is used. Raises ConversionError for too many, or too deep ones."""
        self._count += 1
        if self._count > MOST_LAYERS:
            raise ConversionError(f"its blocks become more than {MOST_LAYERS} layers")
        if depth > DEEPEST:
            raise ConversionError(f"its blocks are nested more than {DEEPEST} deep")


def check_names(path: str, count: int) -> None:
    """Raises ConversionError for a layer with too many names in one framework."""
    if count > MOST_NAMES:
        raise ConversionError(f"layer '{path[:100]}' would have {count} names; at most {MOST_NAMES} are allowed")
