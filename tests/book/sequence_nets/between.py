"""What happens between the layers of these nets, written once: the nets of all frameworks compute the same.

A net is anything with the attributes that the book gives it; `Ops` holds the few functions that each framework
calls otherwise. Lengths are those of `valid_lens` in the book: keys behind them are not attended to; None: all are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.parity.sides import Array

#: Of a LayerNorm; the frameworks have other ones each.
EPS = 1e-5


@dataclass(frozen=True)
class Ops:
    """softmax: over the last axis. concat: along an axis. repeat: each entry of the first axis so often, in its place.
    seen: lengths (batch,) -> (batch, keys) floats, 1 where a key counts and 0 behind. constant: an array as a tensor.
    one_hot: of that many words, as floats.
    """

    reshape: Callable[[Any, tuple[int, ...]], Any]
    transpose: Callable[[Any, tuple[int, ...]], Any]
    matmul: Callable[[Any, Any], Any]
    softmax: Callable[[Any], Any]
    tanh: Callable[[Any], Any]
    concat: Callable[[Sequence[Any], int], Any]
    repeat: Callable[[Any, int], Any]
    seen: Callable[[Any, int], Any]
    constant: Callable[[Array], Any]
    one_hot: Callable[[Any, int], Any]


@dataclass(frozen=True)
class Sizes:
    """Of all nets; as in the book, what could be of one size is. words: of the source's and the target's language."""

    words: tuple[int, int] = (9, 7)
    width: int = 6
    hiddens: int = 6
    ffn_hiddens: int = 10
    heads: int = 2
    #: Blocks, or layers of a recurrent net.
    blocks: int = 2
    length: int = 5
    channels: int = 3
    patch: int = 2
    patches: int = 6
    classes: int = 4


# --- attention


def masked_softmax(ops: Ops, scores: Any, lengths: Any) -> Any:
    """(batch, queries, keys), with nothing for the keys behind the lengths."""
    if lengths is None:
        return ops.softmax(scores)
    seen = ops.reshape(ops.seen(lengths, scores.shape[-1]), (scores.shape[0], 1, scores.shape[-1]))
    return ops.softmax(scores + (seen - 1) * 1e6)


def multi_head(ops: Ops, net: Any, queries: Any, keys: Any, values: Any, lengths: Any) -> Any:
    """Of the layers W_q, W_k, W_v and W_o, with ``net.num_heads`` heads side by side in the batch."""
    batch, heads = queries.shape[0], net.num_heads

    def split(x: Any) -> Any:
        apart = ops.transpose(ops.reshape(x, (batch, x.shape[1], heads, x.shape[2] // heads)), (0, 2, 1, 3))
        return ops.reshape(apart, (batch * heads, x.shape[1], x.shape[2] // heads))

    q, k, v = split(net.W_q(queries)), split(net.W_k(keys)), split(net.W_v(values))
    scores = ops.matmul(q, ops.transpose(k, (0, 2, 1))) / q.shape[-1] ** 0.5
    mixed = ops.matmul(masked_softmax(ops, scores, None if lengths is None else ops.repeat(lengths, heads)), v)
    together = ops.transpose(ops.reshape(mixed, (batch, heads, q.shape[1], q.shape[2])), (0, 2, 1, 3))
    return net.W_o(ops.reshape(together, (batch, q.shape[1], heads * q.shape[2])))


def additive(ops: Ops, net: Any, queries: Any, keys: Any, values: Any, lengths: Any) -> Any:
    """Of the layers W_q, W_k and w_v."""
    q, k = net.W_q(queries), net.W_k(keys)
    batch, number, length, width = q.shape[0], q.shape[1], k.shape[1], q.shape[2]
    features = ops.tanh(ops.reshape(q, (batch, number, 1, width)) + ops.reshape(k, (batch, 1, length, width)))
    scores = ops.reshape(net.w_v(features), (batch, number, length))
    return ops.matmul(masked_softmax(ops, scores, lengths), values)


# --- transformers


def encoder_block(net: Any, x: Any, lengths: Any) -> Any:
    y = net.addnorm1(x, net.attention(x, x, x, lengths))
    return net.addnorm2(y, net.ffn(y))


def decoder_block(net: Any, x: Any, encoded: Any, lengths: Any) -> Any:
    y = net.addnorm1(x, net.attention1(x, x, x, None))
    z = net.addnorm2(y, net.attention2(y, encoded, encoded, lengths))
    return net.addnorm3(z, net.ffn(z))


def vit_block(net: Any, x: Any, norms: Sequence[Callable[[Any], Any]]) -> Any:
    y = norms[0](x)
    x = x + net.attention(y, y, y, None)
    return x + net.mlp(norms[1](x))


def with_positions(ops: Ops, embedded: Any) -> Any:
    """Scaled, with a sine or cosine for each place added (batch, length, width)."""
    _, length, width = embedded.shape
    angles = np.arange(length)[:, None] / np.power(10000, np.arange(0, width, 2) / width)
    waves = np.stack([np.sin(angles), np.cos(angles)], 2).reshape(1, length, width)
    return embedded * width**0.5 + ops.constant(waves.astype(np.float32))


def bert_embedding(net: Any, positions: Any, tokens: Any, segments: Any) -> Any:
    return net.token_embedding(tokens) + net.segment_embedding(segments) + positions


def bert_heads(ops: Ops, net: Any, encoded: Any, predicted: Any) -> list[Any]:
    """The encoded tokens, the words predicted at some places (batch, number), and the relation of the two sentences,
    which the first token tells.
    """
    found = ops.matmul(ops.one_hot(predicted, encoded.shape[1]), encoded)
    return [encoded, net.mlm(found), net.nsp(net.hidden(encoded[:, 0]))]


def with_token(ops: Ops, token: Any, patches: Any) -> Any:
    """A token before the patches (batch, patches, width)."""
    return ops.concat([ops.repeat(token, patches.shape[0]), patches], 1)


# --- recurrent nets; time comes first


def language_model(ops: Ops, net: Any, tokens: Any) -> Any:
    """(batch, steps) -> (batch, steps, words)."""
    hidden = net.rnn(ops.one_hot(ops.transpose(tokens, (1, 0)), net.vocab_size))[0]
    return ops.transpose(net.linear(hidden), (1, 0, 2))


def seq2seq_encoder(ops: Ops, net: Any, tokens: Any) -> Any:
    """The outputs (steps, batch, hidden) and the last states of the layers."""
    return net.rnn(net.embedding(ops.transpose(tokens, (1, 0))))


def seq2seq_decoder(ops: Ops, net: Any, tokens: Any, outputs: Any, states: Any) -> Any:
    """The last output of the encoder goes into every step."""
    embedded = net.embedding(ops.transpose(tokens, (1, 0)))
    steps, batch, width = embedded.shape[0], *outputs.shape[1:]
    context = ops.repeat(ops.reshape(outputs[-1], (1, batch, width)), steps)
    decoded = net.rnn(ops.concat([embedded, context], 2), states)[0]
    return ops.transpose(net.dense(decoded), (1, 0, 2))


def attention_decoder(ops: Ops, net: Any, tokens: Any, outputs: Any, states: Any, lengths: Any) -> Any:
    """Every step attends to the outputs of the encoder, with the state of the last layer as query."""
    embedded = net.embedding(ops.transpose(tokens, (1, 0)))
    values = ops.transpose(outputs, (1, 0, 2))
    batch, width = values.shape[0], values.shape[2]
    decoded = []
    for step in range(embedded.shape[0]):
        query = ops.reshape(states[-1], (batch, 1, width))
        context = net.attention(query, values, values, lengths)
        x = ops.concat([context, ops.reshape(embedded[step], (batch, 1, embedded.shape[2]))], 2)
        output, states = net.step(ops.transpose(x, (1, 0, 2)), states)
        decoded.append(output)
    return ops.transpose(net.dense(ops.concat(decoded, 0)), (1, 0, 2))
