"""Families of text transformers, of three blocks each."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tests.zoo import codebases
from tests.zoo.codebases import keras_hub, keras_hub_lm, litgpt, transformers
from tests.zoo.net import MEASURED, TUNED, Family, tokens
from tests.zoo.sides import Array

VOCABULARY, POSITIONS, BLOCKS, HEADS, WIDTH, INNER = 99, 40, 3, 4, 64, 160
SAMPLE = tokens()
flax = functools.partial(codebases.flax_transformers, sample=SAMPLE)

# -- inputs, in the order in which the nets take them ------------------------------------------------------------------


def ones(x: Array) -> Array:
    return np.ones_like(x)


def order(x: Array) -> Array:
    return np.ascontiguousarray(np.broadcast_to(np.arange(x.shape[1], dtype=x.dtype), x.shape))


def hub(x: Array) -> Any:
    return {"token_ids": x, "padding_mask": ones(x)}


def hub_segments(x: Array) -> Any:
    return hub(x) | {"segment_ids": x % 2}


def hub_pair(x: Array) -> Any:
    return {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in hub(x).items()}


def masked(x: Array) -> Any:
    return x, ones(x)


def placed(x: Array) -> Any:
    return x, ones(x), order(x)


def segments(x: Array) -> Any:
    return x, ones(x), x % 2


def placed_segments(x: Array) -> Any:
    return *segments(x), order(x)


def pair(x: Array) -> Any:
    return x, ones(x), x


def masked_pair(x: Array) -> Any:
    return *pair(x), ones(x)


def placed_pair(x: Array) -> Any:
    return *masked_pair(x), order(x), order(x)


def sequence(y: Any) -> Any:
    return y["sequence_output"]


def decoded(y: Any) -> Any:
    return y["decoder_sequence_output"]


# -- sizes, as each code base calls them -------------------------------------------------------------------------------

HUB = {
    "vocabulary_size": VOCABULARY,
    "num_layers": BLOCKS,
    "num_heads": HEADS,
    "hidden_dim": WIDTH,
    "intermediate_dim": INNER,
}
HUB_PLACED = HUB | {"max_sequence_length": POSITIONS}
HUB_ROTARY = {name: size for name, size in HUB.items() if name != "num_heads"} | {
    "num_query_heads": HEADS,
    "num_key_value_heads": 2,
}
SIZES = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
}
BERT = SIZES | {"hidden_act": "gelu_pytorch_tanh"}
ROTARY = SIZES | {"num_key_value_heads": 2, "rms_norm_eps": 1e-6}
DISTILBERT = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
    "n_layers": BLOCKS,
    "n_heads": HEADS,
    "dim": WIDTH,
    "hidden_dim": INNER,
    "activation": "gelu",
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_positions": POSITIONS,
    "n_layer": BLOCKS,
    "n_head": HEADS,
    "n_embd": WIDTH,
    "n_inner": INNER,
}
LIT = {
    "padded_vocab_size": VOCABULARY,
    "vocab_size": VOCABULARY,
    "block_size": POSITIONS,
    "n_layer": BLOCKS,
    "n_head": HEADS,
    "n_embd": WIDTH,
    "intermediate_size": INNER,
}
LIT_ROTARY = LIT | {
    "n_query_groups": 2,
    "rotary_percentage": 1.0,
    "parallel_residual": False,
    "bias": False,
    "norm_class_name": "RMSNorm",
    "norm_eps": 1e-6,
    "mlp_class_name": "LLaMAMLP",
}
ALBERT = BERT | {"embedding_size": 24}
OPT = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "hidden_size": WIDTH,
    "ffn_dim": INNER,
    "word_embed_proj_dim": WIDTH,
}
SIDES = {
    f"{side}_{name}": size
    for side in ("encoder", "decoder")
    for name, size in (("layers", BLOCKS), ("attention_heads", HEADS), ("ffn_dim", INNER))
}
BART = SIDES | {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
    "d_model": WIDTH,
    "activation_function": "gelu",
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_ff": INNER,
    "d_kv": 16,
    "num_layers": BLOCKS,
    "num_heads": HEADS,
    "feed_forward_proj": "relu",
}
BLOOM = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "n_layer": BLOCKS, "n_head": HEADS}
HUB_BLOOM = HUB | {"intermediate_dim": 4 * WIDTH}

FAMILIES = (
    Family(
        "bert",
        TUNED,
        SAMPLE,
        (
            keras_hub("BertBackbone", hub_segments, sequence, **HUB_PLACED),
            transformers("BertModel", segments, **BERT),
            flax("FlaxBertModel", inputs=placed_segments, **BERT),
        ),
    ),
    Family(
        "distilbert",
        TUNED,
        SAMPLE,
        (
            keras_hub("DistilBertBackbone", hub, **HUB_PLACED),
            transformers("DistilBertModel", **DISTILBERT),
            flax("FlaxDistilBertModel", inputs=masked, **DISTILBERT),
        ),
    ),
    Family(
        "albert",
        TUNED,
        SAMPLE,
        (
            keras_hub("AlbertBackbone", hub_segments, sequence, embedding_dim=24, **HUB_PLACED),
            transformers("AlbertModel", segments, **ALBERT),
            flax("FlaxAlbertModel", inputs=placed_segments, **ALBERT),
        ),
    ),
    Family(
        "gpt2",
        TUNED,
        SAMPLE,
        (
            keras_hub("GPT2Backbone", hub, **HUB_PLACED),
            transformers("GPT2Model", **GPT2),
            flax("FlaxGPT2Model", inputs=placed, **GPT2),
        ),
    ),
    Family(
        "llama",
        TUNED,
        SAMPLE,
        (
            keras_hub("LlamaBackbone", hub, tie_word_embeddings=True, **HUB_ROTARY),
            transformers("LlamaModel", **ROTARY),
            flax("FlaxLlamaModel", inputs=placed, **ROTARY),
        ),
    ),
    Family(
        "llama_lm",
        MEASURED,
        SAMPLE,
        (
            litgpt(**LIT_ROTARY),
            transformers("LlamaForCausalLM", **ROTARY),
            flax("FlaxLlamaForCausalLM", inputs=placed, **ROTARY),
        ),
    ),
    Family(
        "qwen2",
        TUNED,
        SAMPLE,
        (keras_hub("QwenBackbone", hub, **HUB_ROTARY), transformers("Qwen2Model", **ROTARY)),
    ),
    Family(
        "gpt_neox",
        TUNED,
        SAMPLE,
        (
            keras_hub("GPTNeoXBackbone", hub, **HUB_PLACED),
            transformers("GPTNeoXModel", **BERT),
        ),
    ),
    Family(
        "t5",
        TUNED,
        SAMPLE,
        (
            keras_hub("T5Backbone", hub_pair, decoded, key_value_dim=16, use_gated_activation=False, **HUB),
            transformers("T5Model", pair, **T5),
        ),
    ),
    Family(
        "gemma",
        TUNED,
        SAMPLE,
        (
            keras_hub("GemmaBackbone", hub, head_dim=16, **HUB_ROTARY | {"intermediate_dim": 2 * INNER}),
            transformers("GemmaModel", head_dim=16, **ROTARY),
            flax("FlaxGemmaModel", inputs=placed, head_dim=16, **ROTARY),
        ),
    ),
    Family(
        "electra",
        MEASURED,
        SAMPLE,
        (
            keras_hub(
                "ElectraBackbone",
                hub_segments,
                sequence,
                vocab_size=VOCABULARY,
                embedding_dim=24,
                **{name: size for name, size in HUB_PLACED.items() if name != "vocabulary_size"},
            ),
            transformers("ElectraModel", segments, **ALBERT),
            flax("FlaxElectraModel", inputs=lambda x: (*placed_segments(x), None), **ALBERT),
        ),
    ),
    Family(
        "mistral_lm",
        MEASURED,
        SAMPLE,
        (
            keras_hub_lm("MistralBackbone", hub, **HUB_ROTARY),
            transformers("MistralForCausalLM", **ROTARY),
            flax("FlaxMistralForCausalLM", inputs=placed, **ROTARY),
        ),
    ),
    Family(
        "opt",
        MEASURED,
        SAMPLE,
        (
            keras_hub("OPTBackbone", hub, **HUB_PLACED),
            transformers("OPTModel", masked, **OPT),
            flax("FlaxOPTModel", inputs=placed, **OPT),
        ),
    ),
    Family(
        "bart",
        TUNED,
        SAMPLE,
        (
            keras_hub("BartBackbone", hub_pair, decoded, **HUB_PLACED),
            transformers("BartModel", pair, **BART),
            flax("FlaxBartModel", inputs=placed_pair, **BART),
        ),
    ),
    Family(
        "bloom",
        MEASURED,
        SAMPLE,
        (
            keras_hub("BloomBackbone", hub, **HUB_BLOOM),
            transformers("BloomModel", **BLOOM),
            flax("FlaxBloomModel", inputs=masked, **BLOOM),
        ),
    ),
)
