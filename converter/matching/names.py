"""What the names of layers tell as a whole: plain names, and numbers that mean the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Set
from functools import cache

from converter.core.layers import Layer, Net, join_path, split_path
from converter.matching.order import counted

#: What wraps a module anywhere in a net of PyTorch, and has no meaning: torch.compile, FSDP, activation checkpointing.
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
#: With that of data-parallel training, which may be anybody's name, too.
_LIKELY_WRAPPERS = WRAPPERS | {"module"}

#: How a path is compared with those of another net: without case, wrappers …
Naming = Callable[[str], str]


def plain_names(net: Net) -> Naming:
    """Names without case, separators, and the leading modules that all layers of the net share."""
    paths = [without(_LIKELY_WRAPPERS, layer.path) for layer in net.layers]
    shared = 0
    while paths and all(len(path) > shared + 1 for path in paths) and len({path[: shared + 1] for path in paths}) == 1:
        shared += 1

    @cache
    def plain(path: str) -> str:
        return _plain(join_path(without(_LIKELY_WRAPPERS, path)[shared:]))

    return plain


def _plain(name: str) -> str:
    """Without case and separators, but for those between two numbers."""
    return re.sub(r"(?<!\d)[\W_]+|[\W_]+(?!\d)", "", re.sub(r"[\W_]+", ".", name)).casefold()


def without(names: Set[str], path: str) -> tuple[str, ...]:
    """The parts of a path without those of these names."""
    parts = split_path(path)
    return parts if names.isdisjoint(parts) else tuple(part for part in parts if part not in names)


def numbered_alike(
    source: Net, ours: Naming, target: Net, theirs: Naming, in_part: bool = False
) -> Callable[[Layer, Layer], bool]:
    """Whether two layers of one name are the same, as far as numbers in it go: both nets must have the same ones there.

    One Sequential counts activations and the other does not: ``2`` is then another layer in each. in_part: the nets
    have some layers in common only, so that the user's own numbers (``block3``) count as names.
    """
    telling = is_numbered if in_part else re.compile(r"\d").search

    @cache
    def numbers() -> tuple[Mapping[str, set[str]], Mapping[str, set[str]]]:
        return _numbers(source, ours), _numbers(target, theirs)

    def alike(one: Layer, other: Layer) -> bool:
        if not telling(one.path) and not telling(other.path):
            return True
        here, there = numbers()
        return all(here[stem] == there.get(stem) for stem, _ in _numbered_stems(one.path, ours))

    return alike


def _numbers(net: Net, naming: Naming) -> Mapping[str, set[str]]:
    """Every stem that a number follows, and the numbers that follow it in the net."""
    numbers: dict[str, set[str]] = {}
    for path in net.by_path:
        for stem, number in _numbered_stems(path, naming):
            numbers.setdefault(stem, set()).add(number)
    return numbers


def _numbered_stems(path: str, naming: Naming) -> Iterator[tuple[str, str]]:
    """``net.2.fc`` -> ("net#", "2"): what leads to each number, all numbers aside, and those up to there."""
    parts = split_path(path)
    for end, part in enumerate(parts, 1):
        if re.search(r"\d", part):
            name = naming(join_path(parts[:end]))
            yield re.sub(r"[\W_]*\d+[\W_]*", "#", name).casefold(), " ".join(re.findall(r"\d+", name))


def is_numbered(path: str) -> bool:
    """Whether some part of it is a number or an automatic name, and not the user's word."""
    return any(counted(part) is not None for part in split_path(path))
