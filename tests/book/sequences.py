"""The recurrent nets of Dive into Deep Learning, by the names of their schemas."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tests.book.sequence_nets.between import Sizes
from tests.book.sequence_nets.case import BookCase, book_case

S = Sizes()
#: Every word of the first language stands in them, and every one of the second.
TOKENS = np.array([[1, 5, 0, 8, 3], [7, 2, 2, 4, 6]], np.int32)
TARGET = np.array([[2, 6, 0, 1], [3, 5, 4, 0]], np.int32)
#: What the decoder attends to: the whole first sentence, and three words of the second.
LENGTHS = np.array([5, 3], np.int32)
assert {*TOKENS.flat} == {*range(S.words[0])} and {*TARGET.flat} == {*range(S.words[1])}

INPUTS = {
    **dict.fromkeys(("rnn", "lstm", "gru", "deep_gru"), (TOKENS,)),
    **dict.fromkeys(("seq2seq", "seq2seq_attention"), (TOKENS, TARGET, LENGTHS)),
}
CASES: Mapping[str, BookCase] = {name: book_case(name, *inputs) for name, inputs in INPUTS.items()}
