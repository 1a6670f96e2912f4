"""The sequence and attention nets of the book in PyTorch: its structure, its names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from tests.book.sequence_nets import between
from tests.book.sequence_nets.between import EPS, Ops, Sizes

OPS = Ops(
    reshape=torch.reshape,
    transpose=torch.permute,
    matmul=torch.matmul,
    softmax=lambda x: torch.softmax(x, -1),
    tanh=torch.tanh,
    concat=lambda xs, axis: torch.cat(list(xs), axis),
    repeat=lambda x, number: x.repeat_interleave(number, 0),
    seen=lambda lengths, keys: (torch.arange(keys)[None] < lengths[:, None]).float(),
    constant=torch.tensor,
    one_hot=lambda x, number: torch.nn.functional.one_hot(x.long(), number).float(),
)


# --- recurrent nets


class Recurrent(nn.Module):
    """RNN, LSTM and GRU of the book: a module around the layer."""

    def __init__(self, layer: type[nn.RNNBase], inputs: int, s: Sizes, layers: int) -> None:
        super().__init__()
        self.rnn = layer(inputs, s.hiddens, layers)

    def forward(self, x: torch.Tensor, states: Any = None) -> Any:
        return self.rnn(x, states)


class RNNLM(nn.Module):
    def __init__(self, layer: type[nn.RNNBase], s: Sizes, layers: int = 1) -> None:
        super().__init__()
        self.vocab_size = s.words[0]
        self.rnn = Recurrent(layer, self.vocab_size, s, layers)
        self.linear = nn.Linear(s.hiddens, self.vocab_size)

    def forward(self, x: torch.Tensor) -> Any:
        return between.language_model(OPS, self, x)


class Seq2SeqEncoder(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(s.words[0], s.width)
        self.rnn = Recurrent(nn.GRU, s.width, s, s.blocks)

    def forward(self, x: torch.Tensor, lengths: Any) -> Any:
        return between.seq2seq_encoder(OPS, self, x)


class Seq2SeqDecoder(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(s.words[1], s.width)
        self.rnn = Recurrent(nn.GRU, s.width + s.hiddens, s, s.blocks)
        self.dense = nn.Linear(s.hiddens, s.words[1])

    def forward(self, x: torch.Tensor, encoded: Any, lengths: Any) -> Any:
        return between.seq2seq_decoder(OPS, self, x, *encoded)


class AdditiveAttention(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.W_k = nn.Linear(s.hiddens, s.hiddens, bias=False)
        self.W_q = nn.Linear(s.hiddens, s.hiddens, bias=False)
        self.w_v = nn.Linear(s.hiddens, 1, bias=False)

    def forward(self, *x: Any) -> Any:
        return between.additive(OPS, self, *x)


class Seq2SeqAttentionDecoder(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.attention = AdditiveAttention(s)
        self.embedding = nn.Embedding(s.words[1], s.width)
        self.rnn = nn.GRU(s.width + s.hiddens, s.hiddens, s.blocks)
        self.dense = nn.Linear(s.hiddens, s.words[1])

    def forward(self, x: torch.Tensor, encoded: Any, lengths: Any) -> Any:
        return between.attention_decoder(OPS, self, x, *encoded, lengths)

    def step(self, x: torch.Tensor, states: Any) -> Any:
        return self.rnn(x, states)


class EncoderDecoder(nn.Module):
    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, source: torch.Tensor, target: torch.Tensor, lengths: torch.Tensor) -> Any:
        return self.decoder(target, self.encoder(source, lengths), lengths)


# --- transformers


class MultiHeadAttention(nn.Module):
    def __init__(self, s: Sizes, bias: bool = False) -> None:
        super().__init__()
        self.num_heads = s.heads
        self.W_q = nn.Linear(s.hiddens, s.hiddens, bias=bias)
        self.W_k = nn.Linear(s.hiddens, s.hiddens, bias=bias)
        self.W_v = nn.Linear(s.hiddens, s.hiddens, bias=bias)
        self.W_o = nn.Linear(s.hiddens, s.hiddens, bias=bias)

    def forward(self, *x: Any) -> Any:
        return between.multi_head(OPS, self, *x)


class PositionWiseFFN(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.dense1 = nn.Linear(s.hiddens, s.ffn_hiddens)
        self.relu = nn.ReLU()
        self.dense2 = nn.Linear(s.ffn_hiddens, s.hiddens)

    def forward(self, x: torch.Tensor) -> Any:
        return self.dense2(self.relu(self.dense1(x)))


class AddNorm(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(s.hiddens, EPS)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return self.ln(y + x)


class TransformerEncoderBlock(nn.Module):
    def __init__(self, s: Sizes, bias: bool = False) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(s, bias)
        self.addnorm1 = AddNorm(s)
        self.ffn = PositionWiseFFN(s)
        self.addnorm2 = AddNorm(s)

    def forward(self, x: torch.Tensor, lengths: Any) -> Any:
        return between.encoder_block(self, x, lengths)


class TransformerEncoder(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(s.words[0], s.hiddens)
        self.blks = nn.Sequential()
        for i in range(s.blocks):
            self.blks.add_module(f"block{i}", TransformerEncoderBlock(s))

    def forward(self, x: torch.Tensor, lengths: Any) -> Any:
        y = between.with_positions(OPS, self.embedding(x))
        for block in self.blks:
            y = block(y, lengths)
        return y


class TransformerDecoderBlock(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.attention1 = MultiHeadAttention(s)
        self.addnorm1 = AddNorm(s)
        self.attention2 = MultiHeadAttention(s)
        self.addnorm2 = AddNorm(s)
        self.ffn = PositionWiseFFN(s)
        self.addnorm3 = AddNorm(s)

    def forward(self, x: torch.Tensor, encoded: Any, lengths: Any) -> Any:
        return between.decoder_block(self, x, encoded, lengths)


class TransformerDecoder(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embedding = nn.Embedding(s.words[1], s.hiddens)
        self.blks = nn.Sequential()
        for i in range(s.blocks):
            self.blks.add_module(f"block{i}", TransformerDecoderBlock(s))
        self.dense = nn.Linear(s.hiddens, s.words[1])

    def forward(self, x: torch.Tensor, encoded: Any, lengths: Any) -> Any:
        y = between.with_positions(OPS, self.embedding(x))
        for block in self.blks:
            y = block(y, encoded, lengths)
        return self.dense(y)


class BERTEncoder(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(s.words[0], s.hiddens)
        self.segment_embedding = nn.Embedding(2, s.hiddens)
        self.blks = nn.Sequential()
        for i in range(s.blocks):
            self.blks.add_module(f"{i}", TransformerEncoderBlock(s, True))
        self.pos_embedding = nn.Parameter(torch.empty(1, s.length, s.hiddens))

    def forward(self, tokens: torch.Tensor, segments: torch.Tensor, lengths: torch.Tensor) -> Any:
        y = between.bert_embedding(self, self.pos_embedding, tokens, segments)
        for block in self.blks:
            y = block(y, lengths)
        return y


class MaskLM(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(s.hiddens, s.hiddens), nn.ReLU(), nn.LayerNorm(s.hiddens, EPS), nn.Linear(s.hiddens, s.words[0])
        )

    def forward(self, x: torch.Tensor) -> Any:
        return self.mlp(x)


class NextSentencePred(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.output = nn.Linear(s.hiddens, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.output(x)


class BERTModel(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.encoder = BERTEncoder(s)
        self.hidden = nn.Sequential(nn.Linear(s.hiddens, s.hiddens), nn.Tanh())
        self.mlm = MaskLM(s)
        self.nsp = NextSentencePred(s)

    def forward(self, tokens: Any, segments: Any, lengths: Any, predicted: Any) -> Any:
        return between.bert_heads(OPS, self, self.encoder(tokens, segments, lengths), predicted)


class PatchEmbedding(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.conv = nn.Conv2d(s.channels, s.hiddens, s.patch, s.patch)

    def forward(self, x: torch.Tensor) -> Any:
        return self.conv(x).flatten(2).transpose(1, 2)


class ViTMLP(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.dense1 = nn.Linear(s.hiddens, s.ffn_hiddens)
        self.gelu = nn.GELU()
        self.dense2 = nn.Linear(s.ffn_hiddens, s.hiddens)

    def forward(self, x: torch.Tensor) -> Any:
        return self.dense2(self.gelu(self.dense1(x)))


class ViTBlock(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(s.hiddens, EPS)
        self.attention = MultiHeadAttention(s)
        self.ln2 = nn.LayerNorm(s.hiddens, EPS)
        self.mlp = ViTMLP(s)

    def forward(self, x: torch.Tensor) -> Any:
        return between.vit_block(self, x, (self.ln1, self.ln2))


class ViT(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.patch_embedding = PatchEmbedding(s)
        self.cls_token = nn.Parameter(torch.empty(1, 1, s.hiddens))
        self.pos_embedding = nn.Parameter(torch.empty(1, s.patches + 1, s.hiddens))
        self.blks = nn.Sequential()
        for i in range(s.blocks):
            self.blks.add_module(f"{i}", ViTBlock(s))
        self.head = nn.Sequential(nn.LayerNorm(s.hiddens, EPS), nn.Linear(s.hiddens, s.classes))

    def forward(self, x: torch.Tensor) -> Any:
        y = between.with_token(OPS, self.cls_token, self.patch_embedding(x)) + self.pos_embedding
        for block in self.blks:
            y = block(y)
        return self.head(y[:, 0])


#: Name of the schema -> a fresh net.
NETS: Mapping[str, Callable[[Sizes], nn.Module]] = {
    "rnn": lambda s: RNNLM(nn.RNN, s),
    "lstm": lambda s: RNNLM(nn.LSTM, s),
    "gru": lambda s: RNNLM(nn.GRU, s),
    "deep_gru": lambda s: RNNLM(nn.GRU, s, s.blocks),
    "seq2seq": lambda s: EncoderDecoder(Seq2SeqEncoder(s), Seq2SeqDecoder(s)),
    "seq2seq_attention": lambda s: EncoderDecoder(Seq2SeqEncoder(s), Seq2SeqAttentionDecoder(s)),
    "transformer": lambda s: EncoderDecoder(TransformerEncoder(s), TransformerDecoder(s)),
    "bert": BERTModel,
    "vit": ViT,
}
