"""What the names of layers tell: plain names, words that mean the same, numbers, and the end that two names share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cache

from converter.core.kinds import KINDS
from converter.core.layers import Layer, Net, join_path, split_path
from converter.matching.order import counted

#: The wrapper of torch.compile.
COMPILED = "_orig_mod"

#: What people write for the same word in names.
_WORDS: Mapping[str, str] = {
    other: word
    for word, others in {
        **{name: kind.words for name, kind in KINDS.items()},
        "query": "q",
        "key": "k",
        "value": "v",
        "output": "o out",
        "attention": "attn att",
        "batchnorm": "bn",
        "encoder": "enc",
        "decoder": "dec",
        "position": "pos positional",
    }.items()
    for other in others.split()
}
#: Words without a meaning beside others: ``q_proj``, ``W_q``, ``layer_norm``.
_FILLERS = frozenset({"proj", "projection", "layer", "w"})


def bare_word(name: str) -> str:
    """Without case and separators."""
    return re.sub(r"[^\w#]|_", "", name).casefold()


def meaning(name: str) -> str:
    """What the words of the name mean: ``q_proj``, ``W_q`` and ``query`` -> the same text."""
    words = [word.casefold() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|#", name)]
    telling = [word for word in words if word not in _FILLERS] or words
    return ".".join(_WORDS.get(word, word) for word in telling)


#: How a path is compared with those of another net: without case, wrappers …
Naming = Callable[[str], str]


def plain_names(net: Net) -> Naming:
    """Names without case, separators, and the leading modules that all layers of the net share."""
    paths = [without_compiled(layer.path) for layer in net.layers]
    shared = 0
    while paths and all(len(path) > shared + 1 for path in paths) and len({path[: shared + 1] for path in paths}) == 1:
        shared += 1
    return lambda path: _plain(join_path(without_compiled(path)[shared:]))


def _plain(name: str) -> str:
    """Without case and separators, but for those between two numbers."""
    return re.sub(r"(?<!\d)[\W_]+|[\W_]+(?!\d)", "", re.sub(r"[\W_]+", ".", name)).casefold()


def without_compiled(path: str) -> tuple[str, ...]:
    """The parts of a path without the wrappers of torch.compile."""
    return tuple(part for part in split_path(path) if part != COMPILED)


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


#: Beyond so many free layers it takes too long to see whether any of them is called alike.
_MOST_RIVALS = 2_000


def same_tails(source: Net, target: Net, free: Iterable[str], wanted: Iterable[str]) -> list[tuple[Layer, Layer]]:
    """Free layers whose names end alike, as no others in the nets do: ``model.encoder.fc`` and ``encoder/fc``.

    The longest tails first. A number or an automatic name says nothing; nor do words, where another free layer
    shares one with either that these two do not share.
    """
    left = {path: _words(path) for path in free}
    open_ = {path: _words(path) for path in wanted}
    if len(left) + len(open_) > _MOST_RIVALS:
        return []
    depth = max((len(split_path(path)) for path in (*left, *open_)), default=0)
    pairs = []
    for length in range(depth, 0, -1):
        ours, theirs = _by_tail(source.layers, length), _by_tail(target.layers, length)
        for tail in sorted(ours.keys() & theirs.keys()):
            if len(ours[tail]) == len(theirs[tail]) == 1:
                one, other = ours[tail][0], theirs[tail][0]
                if one.path in left and other.path in open_ and not _has_rival(one.path, other.path, left, open_):
                    pairs.append((one, other))
        for one, other in pairs:
            left.pop(one.path, None)
            open_.pop(other.path, None)
    return pairs


def _has_rival(one: str, other: str, ours: Mapping[str, Set[str]], theirs: Mapping[str, Set[str]]) -> bool:
    """Whether some third layer is called like one of the two, by a word that the other does not have."""

    def like(word: str, other: str) -> bool:
        return word in other or other in word

    return any(
        any(like(word, rival) for rival in words for word in mine if not any(like(word, w) for w in its))
        for mine, its, rivals, own in ((ours[one], theirs[other], theirs, other), (theirs[other], ours[one], ours, one))
        for path, words in rivals.items()
        if path != own
    )


def _words(path: str) -> Set[str]:
    """The user's own words in a path."""
    return {_joined_words([part]) for part in split_path(path) if counted(part) is None}


def _by_tail(layers: Iterable[Layer], length: int) -> Mapping[str, list[Layer]]:
    result: dict[str, list[Layer]] = {}
    for layer in layers:
        parts = split_path(layer.path)
        if len(parts) >= length and counted(parts[-1]) is None:
            result.setdefault(_joined_words(parts[-length:]), []).append(layer)
    return result


def _joined_words(parts: Sequence[str]) -> str:
    return ".".join(re.sub(r"[\W_]", "", part).casefold() for part in parts)
