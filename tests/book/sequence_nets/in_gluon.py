"""The sequence and attention nets of the book in Gluon: its structure, its names.

ViT is not in the book's MXNet; it is written as its transformer is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mxnet import nd
from mxnet.gluon import nn, rnn

from tests.book.sequence_nets import between
from tests.book.sequence_nets.between import EPS, Ops, Sizes


def _seen(lengths: Any, keys: int) -> Any:
    places = nd.arange(keys).reshape((1, keys))
    return nd.broadcast_lesser(places, lengths.astype("float32").reshape((-1, 1)))


OPS = Ops(
    reshape=nd.reshape,
    transpose=nd.transpose,
    matmul=nd.batch_dot,
    softmax=lambda x: nd.softmax(x, axis=-1),
    tanh=nd.tanh,
    concat=lambda xs, axis: nd.concat(*xs, dim=axis),
    repeat=lambda x, number: nd.repeat(x, number, axis=0),
    seen=_seen,
    constant=nd.array,
    one_hot=nd.one_hot,
)


def dense(outputs: int, bias: bool = True, activation: str | None = None) -> nn.Dense:
    return nn.Dense(outputs, activation=activation, use_bias=bias, flatten=False)


# --- recurrent nets


class Recurrent(nn.Block):
    """RNN, LSTM and GRU of the book: a block around the layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.rnn = layer

    def forward(self, x: Any, states: Any = None) -> Any:
        y, states = self.rnn(x, self.rnn.begin_state(x.shape[1]) if states is None else states)
        return y, states[0] if len(states) == 1 else states


class RNNLM(nn.Block):
    def __init__(self, layer: Any, s: Sizes) -> None:
        super().__init__()
        self.vocab_size = s.words[0]
        self.rnn = Recurrent(layer)
        self.linear = dense(self.vocab_size)

    def forward(self, x: Any) -> Any:
        return between.language_model(OPS, self, x)


class Seq2SeqEncoder(nn.Block):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(s.words[0], s.width)
        self.rnn = Recurrent(rnn.GRU(s.hiddens, s.blocks))

    def forward(self, x: Any, lengths: Any) -> Any:
        return between.seq2seq_encoder(OPS, self, x)


class Seq2SeqDecoder(nn.Block):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(s.words[1], s.width)
        self.rnn = Recurrent(rnn.GRU(s.hiddens, s.blocks))
        self.dense = dense(s.words[1])

    def forward(self, x: Any, encoded: Any, lengths: Any) -> Any:
        return between.seq2seq_decoder(OPS, self, x, *encoded)


class AdditiveAttention(nn.Block):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.W_k = dense(s.hiddens, bias=False)
        self.W_q = dense(s.hiddens, bias=False)
        self.w_v = dense(1, bias=False)

    def forward(self, *x: Any) -> Any:
        return between.additive(OPS, self, *x)


class Seq2SeqAttentionDecoder(nn.Block):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.attention = AdditiveAttention(s)
        self.embedding = nn.Embedding(s.words[1], s.width)
        self.rnn = rnn.GRU(s.hiddens, s.blocks)
        self.dense = dense(s.words[1])

    def forward(self, x: Any, encoded: Any, lengths: Any) -> Any:
        return between.attention_decoder(OPS, self, x, *encoded, lengths)

    def step(self, x: Any, states: Any) -> Any:
        y, states = self.rnn(x, states)
        return y, states[0]


class EncoderDecoder(nn.Block):
    def __init__(self, encoder: nn.Block, decoder: nn.Block) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, source: Any, target: Any, lengths: Any) -> Any:
        return self.decoder(target, self.encoder(source, lengths), lengths)


# --- transformers


class MultiHeadAttention(nn.Block):
    def __init__(self, s: Sizes, bias: bool = False) -> None:
        super().__init__()
        self.num_heads = s.heads
        self.W_q = dense(s.hiddens, bias)
        self.W_k = dense(s.hiddens, bias)
        self.W_v = dense(s.hiddens, bias)
        self.W_o = dense(s.hiddens, bias)

    def forward(self, *x: Any) -> Any:
        return between.multi_head(OPS, self, *x)


class PositionWiseFFN(nn.Block):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.dense1 = dense(s.ffn_hiddens, activation="relu")
        self.dense2 = dense(s.hiddens)

    def forward(self, x: Any) -> Any:
        return self.dense2(self.dense1(x))


class AddNorm(nn.Block):
    def __init__(self) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(epsilon=EPS)

    def forward(self, x: Any, y: Any) -> Any:
        return self.ln(y + x)


class TransformerEncoderBlock(nn.Block):
    def __init__(self, s: Sizes, bias: bool = False) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(s, bias)
        self.addnorm1 = AddNorm()
        self.ffn = PositionWiseFFN(s)
        self.addnorm2 = AddNorm()

    def forward(self, x: Any, lengths: Any) -> Any:
        return between.encoder_block(self, x, lengths)


class TransformerEncoder(nn.Block):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(s.words[0], s.hiddens)
        self.blks = nn.Sequential()
        for _ in range(s.blocks):
            self.blks.add(TransformerEncoderBlock(s))

    def forward(self, x: Any, lengths: Any) -> Any:
        y = between.with_positions(OPS, self.embedding(x))
        for block in self.blks:
            y = block(y, lengths)
        return y


class TransformerDecoderBlock(nn.Block):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.attention1 = MultiHeadAttention(s)
        self.addnorm1 = AddNorm()
        self.attention2 = MultiHeadAttention(s)
        self.addnorm2 = AddNorm()
        self.ffn = PositionWiseFFN(s)
        self.addnorm3 = AddNorm()

    def forward(self, x: Any, encoded: Any, lengths: Any) -> Any:
        return between.decoder_block(self, x, encoded, lengths)


class TransformerDecoder(nn.Block):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(s.words[1], s.hiddens)
        self.blks = nn.Sequential()
        for _ in range(s.blocks):
            self.blks.add(TransformerDecoderBlock(s))
        self.dense = dense(s.words[1])

    def forward(self, x: Any, encoded: Any, lengths: Any) -> Any:
        y = between.with_positions(OPS, self.embedding(x))
        for block in self.blks:
            y = block(y, encoded, lengths)
        return self.dense(y)


class BERTEncoder(nn.Block):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(s.words[0], s.hiddens)
        self.segment_embedding = nn.Embedding(2, s.hiddens)
        self.blks = nn.Sequential()
        for _ in range(s.blocks):
            self.blks.add(TransformerEncoderBlock(s, True))
        self.pos_embedding = self.params.get("pos_embedding", shape=(1, s.length, s.hiddens))

    def forward(self, tokens: Any, segments: Any, lengths: Any) -> Any:
        y = between.bert_embedding(self, self.pos_embedding.data(), tokens, segments)
        for block in self.blks:
            y = block(y, lengths)
        return y


class MaskLM(nn.Block):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.mlp = nn.Sequential()
        self.mlp.add(dense(s.hiddens, activation="relu"))
        self.mlp.add(nn.LayerNorm(epsilon=EPS))
        self.mlp.add(dense(s.words[0]))

    def forward(self, x: Any) -> Any:
        return self.mlp(x)


class NextSentencePred(nn.Block):
    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Dense(2)

    def forward(self, x: Any) -> Any:
        return self.output(x)


class BERTModel(nn.Block):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.encoder = BERTEncoder(s)
        self.hidden = nn.Dense(s.hiddens, activation="tanh")
        self.mlm = MaskLM(s)
        self.nsp = NextSentencePred()

    def forward(self, tokens: Any, segments: Any, lengths: Any, predicted: Any) -> Any:
        return between.bert_heads(OPS, self, self.encoder(tokens, segments, lengths), predicted)


class PatchEmbedding(nn.Block):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.conv = nn.Conv2D(s.hiddens, s.patch, s.patch)

    def forward(self, x: Any) -> Any:
        return self.conv(x).reshape((0, 0, -1)).transpose((0, 2, 1))


class ViTMLP(nn.Block):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.dense1 = dense(s.ffn_hiddens)
        self.gelu = nn.GELU()
        self.dense2 = dense(s.hiddens)

    def forward(self, x: Any) -> Any:
        return self.dense2(self.gelu(self.dense1(x)))


class ViTBlock(nn.Block):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(epsilon=EPS)
        self.attention = MultiHeadAttention(s)
        self.ln2 = nn.LayerNorm(epsilon=EPS)
        self.mlp = ViTMLP(s)

    def forward(self, x: Any) -> Any:
        return between.vit_block(self, x, (self.ln1, self.ln2))


class ViT(nn.Block):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.patch_embedding = PatchEmbedding(s)
        self.cls_token = self.params.get("cls_token", shape=(1, 1, s.hiddens))
        self.pos_embedding = self.params.get("pos_embedding", shape=(1, s.patches + 1, s.hiddens))
        self.blks = nn.Sequential()
        for _ in range(s.blocks):
            self.blks.add(ViTBlock(s))
        self.head = nn.Sequential()
        self.head.add(nn.LayerNorm(epsilon=EPS), nn.Dense(s.classes))

    def forward(self, x: Any) -> Any:
        y = between.with_token(OPS, self.cls_token.data(), self.patch_embedding(x))
        y = nd.broadcast_add(y, self.pos_embedding.data())
        for block in self.blks:
            y = block(y)
        return self.head(y[:, 0])


#: Name of the schema -> a fresh net, whose sizes come with the first call.
NETS: Mapping[str, Callable[[Sizes], nn.Block]] = {
    "rnn": lambda s: RNNLM(rnn.RNN(s.hiddens, activation="tanh"), s),
    "lstm": lambda s: RNNLM(rnn.LSTM(s.hiddens), s),
    "gru": lambda s: RNNLM(rnn.GRU(s.hiddens), s),
    "deep_gru": lambda s: RNNLM(rnn.GRU(s.hiddens, s.blocks), s),
    "seq2seq": lambda s: EncoderDecoder(Seq2SeqEncoder(s), Seq2SeqDecoder(s)),
    "seq2seq_attention": lambda s: EncoderDecoder(Seq2SeqEncoder(s), Seq2SeqAttentionDecoder(s)),
    "transformer": lambda s: EncoderDecoder(TransformerEncoder(s), TransformerDecoder(s)),
    "bert": BERTModel,
    "vit": ViT,
}
