"""What the names of layers say, word by word: synonyms, numbers, and the stage of a block that a word stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

import msgspec

from converter.core.layers import Net, split_path
from converter.frameworks import framework
from converter.matching.held import held_in
from converter.matching.names import WRAPPERS, without
from converter.matching.order import counted

#: The word that counts -> what people write for it.
_SYNONYMS: Mapping[str, str] = {
    "norm": "bn ln gn batchnorm layernorm groupnorm rmsnorm normalization batchnormalization",
    "conv": "convolution convolutional kernel",
    "dw": "depthwise dwconv dconv",
    "pw": "pointwise pwconv",
    "dense": "fc linear lin",
    "head": "reverse classifier logits prediction predictions score",
    "query": "q",
    "key": "k",
    "value": "v",
    "output": "o out",
    "attention": "attn att mha multihead selfattention sa",
    "cross": "crossattention encdec",
    "mlp": "ffn ff feedforward",
    "up": "intermediate inner expand expansion wi",
    "down": "project wo pwl",
    "shortcut": "downsample skip residual identity sc",
    "embedding": "emb embed embeddings tok token tokens word words wte",
    "position": "pos positional positions wpe",
    "type": "segment segments",
    "encoder": "enc",
    "decoder": "dec",
    "reduce": "squeeze",
    "scale": "gamma",
    "vision": "visual image img",
    "text": "txt language",
}
_WORD = {other: word for word, others in _SYNONYMS.items() for other in (word, *others.split())}
#: Words that tell nothing of one layer among others.
_FILLERS = frozenset(
    "proj projection layer layers block blocks blk blks module modules model net backbone features w h self list "
    "wrapped wrapper sequential functional vars params cell unit units group groups branch op main body convs".split()
)
#: Words for what a layer is, which its shape tells already.
_KINDS = frozenset({"dense", "conv", "norm", "embedding"})
#: What tables of vectors are called.
TABLES = frozenset({"embedding", "position", "type", "table", "codebook", "lookup"})
#: Names of several words, as people write them together.
_COMPOUNDS = re.compile(r"(?i)feed_?forward|batch_?norm(?:alization)?|layer_?norm(?:alization)?|group_?norm|rms_?norm")
_TOKEN = re.compile(r"\d{1,9}x\d{1,9}|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d{1,18}")
#: A longer name is taken as if its end were one word: every beginning of it may be a module.
_MOST_TOKENS = 40


class Spelling(msgspec.Struct, frozen=True, gc=False):
    """A path, taken apart into words and numbers, in lower case. counted: the positions of numbers that a container or
    a framework gave. heads: those at which a part of the path begins.
    """

    tokens: tuple[str, ...]
    counted: frozenset[int] = frozenset()
    heads: frozenset[int] = frozenset()

    def numbers(self, start: int = 0) -> tuple[int, ...]:
        return tuple(int(token) for token in self.tokens[start:] if token.isdecimal())

    def pattern(self, start: int = 0) -> tuple[str, ...]:
        """With every number aside."""
        return tuple("#" if token.isdecimal() else token for token in self.tokens[start:])

    def meaning(self, start: int = 0) -> frozenset[str]:
        """What the words mean, without those that tell nothing."""
        named = [_WORD.get(token, token) for token in self.tokens[start:] if not token.isdecimal()]
        return _meant(tuple(named)) - _FILLERS

    def words(self, start: int = 0) -> frozenset[str]:
        """The meaning, without what all layers are that look alike."""
        return self.meaning(start) - _KINDS


#: Two words in turn, and what they mean together: what follows an attention stands before the next.
_TOGETHER: Mapping[tuple[str, str], frozenset[str]] = {
    ("post", "attention"): frozenset({"post_attention", "mlp"}),
    ("post", "mlp"): frozenset({"post_mlp"}),
    ("input", "norm"): frozenset({"input", "attention", "norm"}),
    ("encoder", "attention"): frozenset({"cross", "attention"}),
    ("encoder", "decoder"): frozenset({"cross"}),
    ("input", "projector"): frozenset({"up"}),
    ("output", "projector"): frozenset({"down"}),
}


@lru_cache(maxsize=65536)
def _meant(words: tuple[str, ...]) -> frozenset[str]:
    meant: list[frozenset[str]] = []
    left = list(words)
    while left:
        together = _TOGETHER.get(tuple(left[:2]))  # type: ignore[arg-type]
        meant.append(together or frozenset(left[:1]))
        del left[: 2 if together else 1]
    return frozenset[str]().union(*meant)


def spellings(net: Net) -> Mapping[str, Spelling]:
    """Of each path. Keras gives the first of a class no number: ``dense`` is ``dense_0`` beside ``dense_1``."""
    paths = {path: without(WRAPPERS, path) for path in net.by_path}
    names = {parts[:depth] for parts in paths.values() for depth in range(1, len(parts) + 1)}
    first = framework(net.framework).counts_classes
    return {
        path: _spelling(
            [
                f"{part}_0" if first and (*parts[:depth], f"{part}_1") in names else part
                for depth, part in enumerate(parts)
            ]
        )
        for path, parts in paths.items()
    }


def _spelling(parts: Iterable[str]) -> Spelling:
    tokens: list[str] = []
    numbered, heads = set[int](), set[int]()
    before: list[str] = []
    for part in parts:
        own, is_counted = _of_part(".".join((*before[-2:], part))) if part.endswith("]") else _spelled(part)
        before.append(part)
        heads.add(len(tokens))
        tokens += own
        if is_counted:
            numbered.add(len(tokens) - 1)
    if len(tokens) > _MOST_TOKENS:
        tokens[_MOST_TOKENS:] = ["".join(tokens[_MOST_TOKENS:])]
    return Spelling(tuple(tokens), frozenset(numbered), frozenset(heads))


@lru_cache(maxsize=65536)
def _spelled(part: str) -> tuple[tuple[str, ...], bool]:
    """The tokens, and whether a container or a framework gave the last, a number."""
    return tokens_of(part), counted(part) is not None


@lru_cache(maxsize=65536)
def _of_part(path: str) -> tuple[tuple[str, ...], bool]:
    """A part of a layer that holds several, spelled as the layer of its own that it is elsewhere. path: with what it is
    in.
    """
    inner = re.fullmatch(r"(.+)\[(\d{1,9})/\d+\]", path)
    name = path.rpartition(".")[2]
    if inner is None:
        return _spelled(name)
    held, place = held_in(inner[1]), int(inner[2])
    return ((held[place],) if place < len(held) else (*tokens_of(name.rpartition("[")[0]), str(place))), False


@lru_cache(maxsize=65536)
def tokens_of(part: str) -> tuple[str, ...]:
    """``conv2_block1a_Conv2d`` -> conv 2 block 1 0 conv: a letter may count, and the axes of a class do not."""
    part = re.sub(r"(?<=[A-Za-z])[123][dD](?![a-z])", "", part)
    part = _COMPOUNDS.sub(lambda match: f"_{match[0].replace('_', '').lower()}_", part)
    part = re.sub(r"(?<=\d)([a-z])(?![a-z\d])", lambda match: f"_{ord(match[1]) - 97}", part)
    return tuple(token.lower() for token in _TOKEN.findall(part))


def tokens_in(path: str) -> Iterator[str]:
    """All of them, of each part of the path."""
    return (token for part in split_path(path) for token in tokens_of(part))


#: What all nets call in this order, by words that stand for it.
_STAGES = (
    ("stem", "embedding", "position", "patch"),
    ("attention", "input", "before"),
    ("query",),
    ("key",),
    ("value",),
    ("cross",),
    ("mlp", "after"),
    ("gate",),
    ("up",),
    ("down",),
    ("final", "pooler", "last"),
    ("head",),
)


def stage(words: frozenset[str]) -> int | None:
    """The place in a net that the words stand for, the last that they name; None where none does."""
    return max((place for place, named in enumerate(_STAGES) if words & set(named)), default=None)


#: The variables of one layer, in the order in which all frameworks define them.
_VARIABLES = ("scale", "weight"), ("bias", "offset", "beta")


def variable(words: frozenset[str]) -> int | None:
    """The place in a layer of a variable that is called so and nothing else."""
    return next((place for place, named in enumerate(_VARIABLES) if words and words <= set(named)), None)
