"""The sequence and attention nets of the book in Flax linen: its structure, its names.

What the book makes in ``__call__`` names itself: ``ScanGRUCell_0``, ``LayerNorm_1``. Lists made in ``setup`` are
numbered: ``blks_0``. BERT is not in the book's JAX; it is written as its transformer is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tests.book.sequence_nets import between
from tests.book.sequence_nets.between import EPS, Ops, Sizes

OPS = Ops(
    reshape=jnp.reshape,
    transpose=jnp.transpose,
    matmul=jnp.matmul,
    softmax=jax.nn.softmax,
    tanh=jnp.tanh,
    concat=jnp.concatenate,
    repeat=lambda x, number: jnp.repeat(x, number, 0),
    seen=lambda lengths, keys: (jnp.arange(keys)[None] < lengths[:, None]).astype(jnp.float32),
    constant=jnp.asarray,
    one_hot=jax.nn.one_hot,
)


# --- recurrent nets


class Recurrent(nn.Module):
    """RNN, LSTM and GRU of the book: a module around one scan over time for each layer."""

    cell: type[nn.RNNCellBase]
    s: Sizes
    layers: int

    @nn.compact
    def __call__(self, x: Any, states: Any = None) -> Any:
        scan = nn.scan(self.cell, variable_broadcast="params", in_axes=0, out_axes=0, split_rngs={"params": False})
        if states is None:
            zeros = jnp.zeros((x.shape[1], self.s.hiddens))
            states = [(zeros, zeros) if self.cell is nn.OptimizedLSTMCell else zeros] * self.layers
        after = []
        for before in states:
            state, x = scan(self.s.hiddens)(before, x)
            after.append(state)
        return x, after


class RNNLM(nn.Module):
    rnn: nn.Module
    s: Sizes

    def setup(self) -> None:
        self.vocab_size = self.s.words[0]
        self.linear = nn.Dense(self.vocab_size)

    def __call__(self, x: Any) -> Any:
        return between.language_model(OPS, self, x)


class Seq2SeqEncoder(nn.Module):
    s: Sizes

    def setup(self) -> None:
        self.embedding = nn.Embed(self.s.words[0], self.s.width)
        self.rnn = Recurrent(nn.GRUCell, self.s, self.s.blocks)

    def __call__(self, x: Any, lengths: Any) -> Any:
        return between.seq2seq_encoder(OPS, self, x)


class Seq2SeqDecoder(nn.Module):
    s: Sizes

    def setup(self) -> None:
        self.embedding = nn.Embed(self.s.words[1], self.s.width)
        self.rnn = Recurrent(nn.GRUCell, self.s, self.s.blocks)
        self.dense = nn.Dense(self.s.words[1])

    def __call__(self, x: Any, encoded: Any, lengths: Any) -> Any:
        return between.seq2seq_decoder(OPS, self, x, *encoded)


class AdditiveAttention(nn.Module):
    s: Sizes

    def setup(self) -> None:
        self.W_k = nn.Dense(self.s.hiddens, use_bias=False)
        self.W_q = nn.Dense(self.s.hiddens, use_bias=False)
        self.w_v = nn.Dense(1, use_bias=False)

    def __call__(self, *x: Any) -> Any:
        return between.additive(OPS, self, *x)


class Seq2SeqAttentionDecoder(nn.Module):
    s: Sizes

    def setup(self) -> None:
        self.attention = AdditiveAttention(self.s)
        self.embedding = nn.Embed(self.s.words[1], self.s.width)
        self.dense = nn.Dense(self.s.words[1])
        self.rnn = Recurrent(nn.GRUCell, self.s, self.s.blocks)

    def __call__(self, x: Any, encoded: Any, lengths: Any) -> Any:
        return between.attention_decoder(OPS, self, x, *encoded, lengths)

    def step(self, x: Any, states: Any) -> Any:
        return self.rnn(x, states)


class EncoderDecoder(nn.Module):
    encoder: nn.Module
    decoder: nn.Module

    def __call__(self, source: Any, target: Any, lengths: Any) -> Any:
        return self.decoder(target, self.encoder(source, lengths), lengths)


# --- transformers


class MultiHeadAttention(nn.Module):
    s: Sizes
    bias: bool = False

    def setup(self) -> None:
        self.num_heads = self.s.heads
        self.W_q = nn.Dense(self.s.hiddens, use_bias=self.bias)
        self.W_k = nn.Dense(self.s.hiddens, use_bias=self.bias)
        self.W_v = nn.Dense(self.s.hiddens, use_bias=self.bias)
        self.W_o = nn.Dense(self.s.hiddens, use_bias=self.bias)

    def __call__(self, *x: Any) -> Any:
        return between.multi_head(OPS, self, *x)


class PositionWiseFFN(nn.Module):
    s: Sizes

    def setup(self) -> None:
        self.dense1 = nn.Dense(self.s.ffn_hiddens)
        self.dense2 = nn.Dense(self.s.hiddens)

    def __call__(self, x: Any) -> Any:
        return self.dense2(nn.relu(self.dense1(x)))


class AddNorm(nn.Module):
    @nn.compact
    def __call__(self, x: Any, y: Any) -> Any:
        return nn.LayerNorm(epsilon=EPS)(y + x)


class TransformerEncoderBlock(nn.Module):
    s: Sizes
    bias: bool = False

    def setup(self) -> None:
        self.attention = MultiHeadAttention(self.s, self.bias)
        self.addnorm1 = AddNorm()
        self.ffn = PositionWiseFFN(self.s)
        self.addnorm2 = AddNorm()

    def __call__(self, x: Any, lengths: Any) -> Any:
        return between.encoder_block(self, x, lengths)


class TransformerEncoder(nn.Module):
    s: Sizes

    def setup(self) -> None:
        self.embedding = nn.Embed(self.s.words[0], self.s.hiddens)
        self.blks = [TransformerEncoderBlock(self.s) for _ in range(self.s.blocks)]

    def __call__(self, x: Any, lengths: Any) -> Any:
        y = between.with_positions(OPS, self.embedding(x))
        for block in self.blks:
            y = block(y, lengths)
        return y


class TransformerDecoderBlock(nn.Module):
    s: Sizes

    def setup(self) -> None:
        self.attention1 = MultiHeadAttention(self.s)
        self.addnorm1 = AddNorm()
        self.attention2 = MultiHeadAttention(self.s)
        self.addnorm2 = AddNorm()
        self.ffn = PositionWiseFFN(self.s)
        self.addnorm3 = AddNorm()

    def __call__(self, x: Any, encoded: Any, lengths: Any) -> Any:
        return between.decoder_block(self, x, encoded, lengths)


class TransformerDecoder(nn.Module):
    s: Sizes

    def setup(self) -> None:
        self.embedding = nn.Embed(self.s.words[1], self.s.hiddens)
        self.blks = [TransformerDecoderBlock(self.s) for _ in range(self.s.blocks)]
        self.dense = nn.Dense(self.s.words[1])

    def __call__(self, x: Any, encoded: Any, lengths: Any) -> Any:
        y = between.with_positions(OPS, self.embedding(x))
        for block in self.blks:
            y = block(y, encoded, lengths)
        return self.dense(y)


class BERTEncoder(nn.Module):
    s: Sizes

    def setup(self) -> None:
        self.token_embedding = nn.Embed(self.s.words[0], self.s.hiddens)
        self.segment_embedding = nn.Embed(2, self.s.hiddens)
        self.blks = [TransformerEncoderBlock(self.s, True) for _ in range(self.s.blocks)]
        zeros = nn.initializers.zeros
        self.pos_embedding = self.param("pos_embedding", zeros, (1, self.s.length, self.s.hiddens))

    def __call__(self, tokens: Any, segments: Any, lengths: Any) -> Any:
        y = between.bert_embedding(self, self.pos_embedding, tokens, segments)
        for block in self.blks:
            y = block(y, lengths)
        return y


class MaskLM(nn.Module):
    s: Sizes

    def setup(self) -> None:
        self.mlp = nn.Sequential(
            [nn.Dense(self.s.hiddens), nn.relu, nn.LayerNorm(epsilon=EPS), nn.Dense(self.s.words[0])]
        )

    def __call__(self, x: Any) -> Any:
        return self.mlp(x)


class NextSentencePred(nn.Module):
    def setup(self) -> None:
        self.output = nn.Dense(2)

    def __call__(self, x: Any) -> Any:
        return self.output(x)


class BERTModel(nn.Module):
    s: Sizes

    def setup(self) -> None:
        self.encoder = BERTEncoder(self.s)
        self.hidden = nn.Sequential([nn.Dense(self.s.hiddens), nn.tanh])
        self.mlm = MaskLM(self.s)
        self.nsp = NextSentencePred()

    def __call__(self, tokens: Any, segments: Any, lengths: Any, predicted: Any) -> Any:
        return between.bert_heads(OPS, self, self.encoder(tokens, segments, lengths), predicted)


class PatchEmbedding(nn.Module):
    s: Sizes

    def setup(self) -> None:
        patch = (self.s.patch, self.s.patch)
        self.conv = nn.Conv(self.s.hiddens, patch, patch, padding="SAME")

    def __call__(self, x: Any) -> Any:
        y = self.conv(x)
        return y.reshape(y.shape[0], -1, y.shape[3])


class ViTMLP(nn.Module):
    s: Sizes

    @nn.compact
    def __call__(self, x: Any) -> Any:
        y = nn.gelu(nn.Dense(self.s.ffn_hiddens)(x), approximate=False)
        return nn.Dense(self.s.hiddens)(y)


class ViTBlock(nn.Module):
    s: Sizes

    def setup(self) -> None:
        self.attention = MultiHeadAttention(self.s)
        self.mlp = ViTMLP(self.s)

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return between.vit_block(self, x, (nn.LayerNorm(epsilon=EPS), nn.LayerNorm(epsilon=EPS)))


class ViT(nn.Module):
    s: Sizes

    def setup(self) -> None:
        zeros = nn.initializers.zeros
        self.patch_embedding = PatchEmbedding(self.s)
        self.cls_token = self.param("cls_token", zeros, (1, 1, self.s.hiddens))
        self.pos_embedding = self.param("pos_embed", zeros, (1, self.s.patches + 1, self.s.hiddens))
        self.blks = [ViTBlock(self.s) for _ in range(self.s.blocks)]
        self.head = nn.Sequential([nn.LayerNorm(epsilon=EPS), nn.Dense(self.s.classes)])

    def __call__(self, x: Any) -> Any:
        y = between.with_token(OPS, self.cls_token, self.patch_embedding(x)) + self.pos_embedding
        for block in self.blks:
            y = block(y)
        return self.head(y[:, 0])


#: Name of the schema -> the module.
NETS: Mapping[str, Callable[[Sizes], nn.Module]] = {
    "rnn": lambda s: RNNLM(Recurrent(nn.SimpleCell, s, 1), s),
    "lstm": lambda s: RNNLM(Recurrent(nn.OptimizedLSTMCell, s, 1), s),
    "gru": lambda s: RNNLM(Recurrent(nn.GRUCell, s, 1), s),
    "deep_gru": lambda s: RNNLM(Recurrent(nn.GRUCell, s, s.blocks), s),
    "seq2seq": lambda s: EncoderDecoder(Seq2SeqEncoder(s), Seq2SeqDecoder(s)),
    "seq2seq_attention": lambda s: EncoderDecoder(Seq2SeqEncoder(s), Seq2SeqAttentionDecoder(s)),
    "transformer": lambda s: EncoderDecoder(TransformerEncoder(s), TransformerDecoder(s)),
    "bert": BERTModel,
    "vit": ViT,
}
