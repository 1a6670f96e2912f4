"""The transformers of Dive into Deep Learning, by the names of their schemas."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tests.book.sequence_nets.case import BookCase, book_case
from tests.book.sequences import TARGET, S
from tests.parity.chains import normal

#: All words stand where they are seen: before the end of the sentences.
TOKENS = np.array([[1, 5, 0, 8, 3], [7, 2, 4, 6, 6]], np.int32)
TWO_LENGTHS = np.array([5, 4], np.int32)
SEGMENTS = np.array([[0, 0, 1, 1, 1], [0, 0, 0, 1, 1]], np.int32)
PREDICTED = np.array([[1, 4, 2], [3, 0, 2]], np.int32)
IMAGES = normal(2, S.channels, 2 * S.patch, S.patches * S.patch // 2)
assert {*TOKENS[:, :4].flat} | {*TOKENS[0]} == {*range(S.words[0])}

#: The bias of keys is the same for all of them, and softmax takes it away.
KEY_BIASES = {
    "torch": lambda net: [block.attention.W_k.bias.detach() for block in net.encoder.blks],
    "keras": lambda net: [block.attention.W_k.bias for block in net.encoder.blks],
    "linen": lambda net: [
        net.variables["params"]["encoder"][f"blks_{i}"]["attention"]["W_k"]["bias"] for i in range(S.blocks)
    ],
    "gluon": lambda net: [block.attention.W_k.bias.data() for block in net.encoder.blks],
}

CASES: Mapping[str, BookCase] = {
    "transformer": book_case("transformer", TOKENS, TARGET, TWO_LENGTHS),
    "bert": book_case("bert", TOKENS, SEGMENTS, TWO_LENGTHS, PREDICTED, unseen=KEY_BIASES),
    "vit": book_case("vit", IMAGES),
}
