"""The sequence and attention nets of the book in Keras 3: its structure, its names, its layers that are models.

Some names are not those of the attributes: lists are stored under the classes of what is in them, and a dict of
hyper-parameters that holds a layer comes before the attribute of that layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf
from keras import layers

from tests.book.sequence_nets import between
from tests.book.sequence_nets.between import EPS, Ops, Sizes

OPS = Ops(
    reshape=tf.reshape,
    transpose=tf.transpose,
    matmul=tf.matmul,
    softmax=tf.nn.softmax,
    tanh=tf.tanh,
    concat=tf.concat,
    repeat=lambda x, number: tf.repeat(x, number, 0),
    seen=lambda lengths, keys: tf.sequence_mask(lengths, keys, tf.float32),
    constant=tf.constant,
    one_hot=tf.one_hot,
)


class Layer(layers.Layer):
    """Of layers, which the first call builds; Keras would trace it beforehand, for seconds."""

    def build(self) -> None:
        pass


class Model(keras.Model):
    def build(self) -> None:
        pass


# --- recurrent nets


class RNN(Model):
    """A model around the layer, in time-major order."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.rnn = layers.SimpleRNN(s.hiddens, return_sequences=True, return_state=True)

    def call(self, x: Any, states: Any = None) -> Any:
        y, *states = self.rnn(tf.transpose(x, (1, 0, 2)), initial_state=states)
        return tf.transpose(y, (1, 0, 2)), states


class LSTM(RNN):
    def __init__(self, s: Sizes) -> None:
        Model.__init__(self)
        self.rnn = layers.LSTM(s.hiddens, return_sequences=True, return_state=True)


class GRU(RNN):
    """deep: of one layer around several cells."""

    def __init__(self, s: Sizes, deep: bool = False) -> None:
        Model.__init__(self)
        if deep:
            cells = [layers.GRUCell(s.hiddens) for _ in range(s.blocks)]
            self.rnn = layers.RNN(cells, return_sequences=True, return_state=True)
        else:
            self.rnn = layers.GRU(s.hiddens, return_sequences=True, return_state=True)


class RNNLM(Model):
    def __init__(self, rnn: keras.Model, s: Sizes) -> None:
        super().__init__()
        self.vocab_size = s.words[0]
        self.hparams = {"rnn": rnn, "vocab_size": self.vocab_size}  # as the book's save_hyperparameters keeps them
        self.rnn = rnn
        self.linear = layers.Dense(self.vocab_size)

    def call(self, x: Any) -> Any:
        return between.language_model(OPS, self, x)


class Seq2SeqEncoder(Layer):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embedding = layers.Embedding(s.words[0], s.width)
        self.rnn = GRU(s, deep=True)

    def call(self, x: Any, lengths: Any) -> Any:
        return between.seq2seq_encoder(OPS, self, x)


class Seq2SeqDecoder(Layer):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embedding = layers.Embedding(s.words[1], s.width)
        self.rnn = GRU(s, deep=True)
        self.dense = layers.Dense(s.words[1])

    def call(self, x: Any, encoded: Any, lengths: Any) -> Any:
        return between.seq2seq_decoder(OPS, self, x, *encoded)


class AdditiveAttention(Layer):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.W_k = layers.Dense(s.hiddens, use_bias=False)
        self.W_q = layers.Dense(s.hiddens, use_bias=False)
        self.w_v = layers.Dense(1, use_bias=False)

    def call(self, queries: Any, keys: Any, values: Any, lengths: Any) -> Any:
        return between.additive(OPS, self, queries, keys, values, lengths)


class Seq2SeqAttentionDecoder(Layer):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.attention = AdditiveAttention(s)
        self.embedding = layers.Embedding(s.words[1], s.width)
        cells = layers.StackedRNNCells([layers.GRUCell(s.hiddens) for _ in range(s.blocks)])
        self.rnn = layers.RNN(cells, return_sequences=True, return_state=True)
        self.dense = layers.Dense(s.words[1])

    def call(self, x: Any, encoded: Any, lengths: Any) -> Any:
        return between.attention_decoder(OPS, self, x, *encoded, lengths)

    def step(self, x: Any, states: Any) -> Any:
        y, *states = self.rnn(tf.transpose(x, (1, 0, 2)), initial_state=list(states))
        return tf.transpose(y, (1, 0, 2)), states


class EncoderDecoder(Model):
    def __init__(self, encoder: layers.Layer, decoder: layers.Layer) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.hparams = {"encoder": encoder, "decoder": decoder}

    def call(self, source: Any, target: Any, lengths: Any) -> Any:
        return self.decoder(target, self.encoder(source, lengths), lengths)


# --- transformers


class MultiHeadAttention(Model):
    def __init__(self, s: Sizes, bias: bool = False) -> None:
        super().__init__()
        self.num_heads = s.heads
        self.W_q = layers.Dense(s.hiddens, use_bias=bias)
        self.W_k = layers.Dense(s.hiddens, use_bias=bias)
        self.W_v = layers.Dense(s.hiddens, use_bias=bias)
        self.W_o = layers.Dense(s.hiddens, use_bias=bias)

    def call(self, queries: Any, keys: Any, values: Any, lengths: Any) -> Any:
        return between.multi_head(OPS, self, queries, keys, values, lengths)


class PositionWiseFFN(Layer):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.dense1 = layers.Dense(s.ffn_hiddens)
        self.relu = layers.ReLU()
        self.dense2 = layers.Dense(s.hiddens)

    def call(self, x: Any) -> Any:
        return self.dense2(self.relu(self.dense1(x)))


class AddNorm(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.ln = layers.LayerNormalization(epsilon=EPS)

    def call(self, x: Any, y: Any) -> Any:
        return self.ln(y + x)


class TransformerEncoderBlock(Layer):
    def __init__(self, s: Sizes, bias: bool = False) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(s, bias)
        self.addnorm1 = AddNorm()
        self.ffn = PositionWiseFFN(s)
        self.addnorm2 = AddNorm()

    def call(self, x: Any, lengths: Any) -> Any:
        return between.encoder_block(self, x, lengths)


class TransformerEncoder(Layer):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embedding = layers.Embedding(s.words[0], s.hiddens)
        self.blks = [TransformerEncoderBlock(s) for _ in range(s.blocks)]

    def call(self, x: Any, lengths: Any) -> Any:
        y = between.with_positions(OPS, self.embedding(x))
        for block in self.blks:
            y = block(y, lengths)
        return y


class TransformerDecoderBlock(Layer):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.attention1 = MultiHeadAttention(s)
        self.addnorm1 = AddNorm()
        self.attention2 = MultiHeadAttention(s)
        self.addnorm2 = AddNorm()
        self.ffn = PositionWiseFFN(s)
        self.addnorm3 = AddNorm()

    def call(self, x: Any, encoded: Any, lengths: Any) -> Any:
        return between.decoder_block(self, x, encoded, lengths)


class TransformerDecoder(Layer):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embedding = layers.Embedding(s.words[1], s.hiddens)
        self.blks = [TransformerDecoderBlock(s) for _ in range(s.blocks)]
        self.dense = layers.Dense(s.words[1])

    def call(self, x: Any, encoded: Any, lengths: Any) -> Any:
        y = between.with_positions(OPS, self.embedding(x))
        for block in self.blks:
            y = block(y, encoded, lengths)
        return self.dense(y)


class BERTEncoder(Layer):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.token_embedding = layers.Embedding(s.words[0], s.hiddens)
        self.segment_embedding = layers.Embedding(2, s.hiddens)
        self.blks = [TransformerEncoderBlock(s, True) for _ in range(s.blocks)]
        self.pos_embedding = self.add_weight(shape=(1, s.length, s.hiddens), name="pos_embedding")

    def call(self, tokens: Any, segments: Any, lengths: Any) -> Any:
        y = between.bert_embedding(self, self.pos_embedding, tokens, segments)
        for block in self.blks:
            y = block(y, lengths)
        return y


class MaskLM(Layer):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.mlp = keras.Sequential()
        self.mlp.add(layers.Dense(s.hiddens, activation="relu"))
        self.mlp.add(layers.LayerNormalization(epsilon=EPS))
        self.mlp.add(layers.Dense(s.words[0]))

    def call(self, x: Any) -> Any:
        return self.mlp(x)


class NextSentencePred(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.out = layers.Dense(2)  # Keras keeps "output" for itself

    def call(self, x: Any) -> Any:
        return self.out(x)


class BERTModel(Model):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.encoder = BERTEncoder(s)
        self.hidden = layers.Dense(s.hiddens, activation="tanh")
        self.mlm = MaskLM(s)
        self.nsp = NextSentencePred()

    def call(self, tokens: Any, segments: Any, lengths: Any, predicted: Any) -> Any:
        return between.bert_heads(OPS, self, self.encoder(tokens, segments, lengths), predicted)


class PatchEmbedding(Layer):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.conv = layers.Conv2D(s.hiddens, s.patch, s.patch)

    def call(self, x: Any) -> Any:
        y = self.conv(x)
        return tf.reshape(y, (y.shape[0], -1, y.shape[3]))


class ViTMLP(Layer):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.dense1 = layers.Dense(s.ffn_hiddens, activation="gelu")
        self.dense2 = layers.Dense(s.hiddens)

    def call(self, x: Any) -> Any:
        return self.dense2(self.dense1(x))


class ViTBlock(Layer):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.ln1 = layers.LayerNormalization(epsilon=EPS)
        self.attention = MultiHeadAttention(s)
        self.ln2 = layers.LayerNormalization(epsilon=EPS)
        self.mlp = ViTMLP(s)

    def call(self, x: Any) -> Any:
        return between.vit_block(self, x, (self.ln1, self.ln2))


class ViT(Model):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.patch_embedding = PatchEmbedding(s)
        self.cls_token = self.add_weight(shape=(1, 1, s.hiddens), name="cls_token")
        self.pos_embedding = self.add_weight(shape=(1, s.patches + 1, s.hiddens), name="pos_embedding")
        self.blks = [ViTBlock(s) for _ in range(s.blocks)]
        self.head = keras.Sequential()
        self.head.add(layers.LayerNormalization(epsilon=EPS))
        self.head.add(layers.Dense(s.classes))

    def call(self, x: Any) -> Any:
        y = between.with_token(OPS, self.cls_token, self.patch_embedding(x)) + self.pos_embedding
        for block in self.blks:
            y = block(y)
        return self.head(y[:, 0])


#: Name of the schema -> a fresh net, whose weights come with the first call.
NETS: Mapping[str, Callable[[Sizes], keras.Model]] = {
    "rnn": lambda s: RNNLM(RNN(s), s),
    "lstm": lambda s: RNNLM(LSTM(s), s),
    "gru": lambda s: RNNLM(GRU(s), s),
    "deep_gru": lambda s: RNNLM(GRU(s, deep=True), s),
    "seq2seq": lambda s: EncoderDecoder(Seq2SeqEncoder(s), Seq2SeqDecoder(s)),
    "seq2seq_attention": lambda s: EncoderDecoder(Seq2SeqEncoder(s), Seq2SeqAttentionDecoder(s)),
    "transformer": lambda s: EncoderDecoder(TransformerEncoder(s), TransformerDecoder(s)),
    "bert": BERTModel,
    "vit": ViT,
}
