"""Nets as two authors write them: the same layers under other names, numbers, modules and in another order.

`python -m tests.matching.random_nets 10000` prints how many were paired rightly, asked about, and paired wrongly.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from converter.core.contents import Contents
from converter.core.layers import Net
from converter.core.tensors import TensorSpec
from converter.errors import MatchError
from converter.frameworks import framework
from converter.matching.hints import Hints
from converter.matching.matcher import match

Shapes = dict[str, tuple[int, ...]]


class Node(msgspec.Struct, frozen=True):
    """A layer, or a module. word: what it is, which each author says in own words. items: of a container that counts.

    branch: whether authors list it before or after what stands beside it.
    """

    word: str
    shape: tuple[int, ...] = ()
    kind: str = ""
    inside: tuple[Node, ...] = ()
    items: bool = False
    branch: bool = False


#: What is what -> as authors say it.
WORDS = {
    "stem": ["stem", "conv1", "conv_stem"],
    "norm": ["bn", "norm", "batch_norm"],
    "body": ["layers", "blocks", "features", "encoder.layer", "body"],
    "stage": ["stage", "stages", "layer", "res"],
    "block": ["block", "blocks", "unit", "layer"],
    "conv": ["conv", "convolution"],
    "shortcut": ["downsample", "shortcut", "skip", "residual"],
    "head": ["fc", "head", "classifier", "output"],
    "embedding": ["embed", "word_embeddings", "token_embedding", "wte"],
    "attention": ["attn", "attention", "self_attn", "self_attention", "mha"],
    "query": ["q_proj", "query", "q", "query_dense"],
    "key": ["k_proj", "key", "k", "key_dense"],
    "value": ["v_proj", "value", "v", "value_dense"],
    "out": ["out_proj", "output", "o_proj", "output_dense"],
    "attention_norm": ["ln_1", "attention_norm", "self_attention_layer_norm", "input_layernorm"],
    "mlp": ["mlp", "ffn", "feed_forward"],
    "up": ["up_proj", "intermediate", "fc1", "up"],
    "down": ["down_proj", "output", "fc2", "down"],
    "gate": ["gate_proj", "gate"],
    "mlp_norm": ["ln_2", "ffn_norm", "feedforward_layer_norm", "post_attention_layernorm"],
    "final_norm": ["ln_f", "final_norm", "final_layer_norm"],
}


def conv(word: str, out: int, size: int, width: int = 3, **more: bool) -> Node:
    return Node(word, (out, size, width, width), "conv", **more)


def norm(word: str, size: int) -> Node:
    return Node(word, (size,), "norm")


def linear(word: str, out: int, size: int) -> Node:
    return Node(word, (out, size), "linear")


def convolutional(rng: random.Random) -> Node:
    """A residual net of some stages."""
    width = 8
    stages = []
    for number in range(rng.randint(1, 3)):
        before, width = width, width * (1 if number == 0 else 2)
        blocks = []
        for position in range(rng.randint(1, 3)):
            size = before if position == 0 else width
            layers = [conv("conv", width, size), norm("norm", width), conv("conv", width, width), norm("norm", width)]
            if size != width:
                pair = conv("conv", width, size, 1), norm("norm", width)
                layers.append(Node("shortcut", inside=pair, branch=True))
            blocks.append(Node("block", inside=tuple(layers)))
        stages.append(Node("block", inside=tuple(blocks), items=True))
    body = Node("stage", inside=tuple(stages), items=True)
    stem = conv("stem", 8, 3, 7), norm("norm", 8)
    return Node("", inside=(*stem, body, linear("head", 10, width)))


def transformer(rng: random.Random) -> Node:
    width, inner = 8, 16
    gated = rng.random() < 0.5
    block = Node(
        "block",
        inside=(
            norm("attention_norm", width),
            Node("attention", inside=tuple(linear(word, width, width) for word in ("query", "key", "value", "out"))),
            norm("mlp_norm", width),
            Node(
                "mlp",
                inside=(
                    *([linear("gate", inner, width)] if gated else []),
                    linear("up", inner, width),
                    linear("down", width, inner),
                ),
            ),
        ),
    )
    blocks = Node("body", inside=(block,) * rng.randint(1, 4), items=True)
    embedding = Node("embedding", (50, width), "embedding")
    return Node("", inside=(embedding, blocks, norm("final_norm", width), linear("head", 50, width)))


def branches(rng: random.Random) -> Node:
    """Equal layers side by side, of which nothing but the author's names tells which is which."""
    equal = tuple(linear(word, 8, 8) for word in rng.sample(["up", "down", "gate", "query", "key"], rng.randint(2, 4)))
    return Node("", inside=(linear("stem", 8, 4), Node("mlp", inside=equal), linear("head", 3, 8)))


NETS: list[Callable[[random.Random], Node]] = [convolutional, transformer, branches]


class Author(msgspec.Struct):
    """How somebody writes a net. first: the number of the first item. early: branches are listed first."""

    rng: random.Random
    words: dict[str, str]
    joint: str
    first: int
    early: bool
    wrapper: str

    @classmethod
    def at_random(cls, rng: random.Random) -> Author:
        words = {word: rng.choice(names) for word, names in WORDS.items()}
        return cls(
            rng, words, rng.choice([".", ".", "_"]), rng.choice([0, 1]), rng.random() < 0.5, rng.choice(["", "net."])
        )

    def spelled(self, node: Node, place: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], str, Node]]:
        """Each layer: its place in the net, which is the same for all authors; its path; and itself."""
        if not node.inside:
            yield place, "", node
            return
        named = list(enumerate(zip(self._names(node), node.inside, strict=True)))
        if self.early:
            named.sort(key=lambda item: not item[1][1].branch)
        for position, (name, child) in named:
            for where, path, layer in self.spelled(child, (*place, position)):
                yield where, f"{name}{self._joint(node)}{path}" if path else name, layer

    def _joint(self, node: Node) -> str:
        return self.joint if node.items else "."

    def _names(self, node: Node) -> Iterator[str]:
        counts = Counter(child.word for child in node.inside)
        met: Counter[str] = Counter()
        for position, child in enumerate(node.inside):
            word = self.words[child.word]
            if node.items:
                yield str(position + self.first)
            elif counts[child.word] > 1:
                yield f"{word}{met[child.word] + self.first}"
            else:
                yield word
            met[child.word] += 1


def tensors(path: str, node: Node) -> Shapes:
    if node.kind == "conv":
        return {f"{path}.weight": node.shape}
    if node.kind == "norm":
        names = ("weight", "bias", "running_mean", "running_var")
        return dict.fromkeys((f"{path}.{name}" for name in names), node.shape)
    bias = {} if node.kind == "embedding" else {f"{path}.bias": node.shape[:1]}
    return {f"{path}.weight": node.shape} | bias


def written(node: Node, author: Author, is_sorted: bool) -> tuple[Net, dict[tuple[int, ...], str]]:
    """The net in a file, and the path of the layer at each place."""
    found = list(author.spelled(node))
    paths = {place: author.wrapper + path for place, path, _ in found}
    shapes: Shapes = {}
    for place, _, layer in found:
        shapes |= tensors(paths[place], layer)
    names = sorted(shapes) if is_sorted else list(shapes)
    specs = tuple(TensorSpec(name, shapes[name], np.dtype("float32")) for name in names)
    return framework("torch").net(Contents(specs)), paths


def outcome(seed: int) -> str:
    """One net by two authors: "right", "asked" or "wrong"."""
    rng = random.Random(seed)
    node = rng.choice(NETS)(rng)
    (source, ours), (target, theirs) = (
        written(node, Author.at_random(rng), is_sorted=rng.random() < 0.3) for _ in range(2)
    )
    if len(set(ours.values())) < len(ours) or len(set(theirs.values())) < len(theirs):
        return "same name twice"
    try:
        found = {pair.source.path: pair.target.path for pair in match(source, target, Hints()).pairs}
    except MatchError:
        return "asked"
    return "right" if found == {ours[place]: theirs[place] for place in ours} else "wrong"


def main() -> int:
    count = Counter(outcome(seed) for seed in range(int(sys.argv[1])))
    print(dict(count))
    return 1 if count["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
