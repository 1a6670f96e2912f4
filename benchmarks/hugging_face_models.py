"""Small models of Hugging Face's transformers, as they are in PyTorch, TensorFlow and Flax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import transformers as hf

BATCH, TOKENS, WORDS = 2, 9, 40
ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": WORDS,
    "max_position_embeddings": 24,
}
SEQ2SEQ = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "vocab_size": WORDS,
    "max_position_embeddings": 24,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
DECODER = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 24, "vocab_size": WORDS}
VISION = {**ENCODER, "image_size": 16, "patch_size": 8}
del VISION["vocab_size"], VISION["max_position_embeddings"]
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1]}

CONV1D = ("--kind", "*=linear_in_out")
CONV = ("--kind", "*=conv")
#: Positions that are a sine, which Flax computes and the others store.
WITHOUT_SINES = {"to flax": ("--ignore", "*embed_positions"), "from flax": ("--allow-missing", "*embed_positions")}


@dataclass(frozen=True)
class Model:
    """names: of its classes in PyTorch, behind the stem of the family. inputs: text, pairs, images or sound.

    options: what our errors ask for: for every pair of frameworks (""), or those from and to Flax.
    """

    stem: str
    config: Any
    names: tuple[str, ...]
    inputs: str = "text"
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


MODELS = (
    Model(
        "Bert",
        hf.BertConfig(**ENCODER),
        ("Model", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification", "ForTokenClassification"),
    ),
    Model("Albert", hf.AlbertConfig(**ENCODER, embedding_size=8), ("Model", "ForMaskedLM")),
    Model(
        "DistilBert",
        hf.DistilBertConfig(dim=16, n_layers=2, n_heads=4, hidden_dim=24, vocab_size=WORDS, max_position_embeddings=24),
        ("Model", "ForMaskedLM"),
    ),
    Model("Roberta", hf.RobertaConfig(**ENCODER), ("Model", "ForMaskedLM")),
    Model("Electra", hf.ElectraConfig(**ENCODER, embedding_size=8), ("Model", "ForMaskedLM")),
    Model("RoFormer", hf.RoFormerConfig(**ENCODER, embedding_size=16), ("Model", "ForMaskedLM")),
    Model("BigBird", hf.BigBirdConfig(**ENCODER, attention_type="original_full"), ("Model",)),
    Model("GPT2", hf.GPT2Config(**DECODER), ("Model", "LMHeadModel"), options={"": CONV1D}),
    Model("GPTJ", hf.GPTJConfig(**DECODER, rotary_dim=4), ("Model", "ForCausalLM")),
    Model(
        "OPT",
        hf.OPTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=24,
            vocab_size=WORDS,
            max_position_embeddings=24,
            word_embed_proj_dim=16,
        ),
        ("Model", "ForCausalLM"),
    ),
    Model("Mistral", hf.MistralConfig(**ENCODER, num_key_value_heads=2), ("Model", "ForCausalLM")),
    Model(
        "XGLM",
        hf.XGLMConfig(
            d_model=16, ffn_dim=24, num_layers=2, attention_heads=4, vocab_size=WORDS, max_position_embeddings=24
        ),
        ("Model", "ForCausalLM"),
    ),
    Model(
        "T5",
        hf.T5Config(d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, vocab_size=WORDS, decoder_start_token_id=0),
        ("Model", "ForConditionalGeneration"),
        "pairs",
    ),
    Model("Bart", hf.BartConfig(**SEQ2SEQ), ("Model", "ForConditionalGeneration"), "pairs"),
    Model("MBart", hf.MBartConfig(**SEQ2SEQ), ("Model", "ForConditionalGeneration"), "pairs"),
    Model("Blenderbot", hf.BlenderbotConfig(**SEQ2SEQ), ("ForConditionalGeneration",), "pairs"),
    Model("Marian", hf.MarianConfig(**{**SEQ2SEQ, "pad_token_id": 39}), ("Model",), "pairs", WITHOUT_SINES),
    Model("Pegasus", hf.PegasusConfig(**SEQ2SEQ), ("Model", "ForConditionalGeneration"), "pairs", WITHOUT_SINES),
    Model(
        "Whisper",
        hf.WhisperConfig(
            **SEQ2SEQ,
            max_target_positions=24,
            max_source_positions=10,
            num_mel_bins=8,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        ),
        ("Model", "ForConditionalGeneration"),
        "sound",
        {"": CONV},
    ),
    Model("ViT", hf.ViTConfig(**VISION), ("Model", "ForImageClassification"), "images"),
    Model(
        "ResNet",
        hf.ResNetConfig(**STAGES, layer_type="bottleneck"),
        ("Model", "ForImageClassification"),
        "images",
        {"": CONV},
    ),
    Model(
        "RegNet", hf.RegNetConfig(**STAGES, groups_width=4), ("Model", "ForImageClassification"), "images", {"": CONV}
    ),
)


def inputs(model: Model, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What all three frameworks take by these names."""
    words = rng.integers(3, 38, (BATCH, TOKENS))
    if model.inputs == "images":
        size = getattr(model.config, "image_size", 32)
        return {"pixel_values": rng.standard_normal((BATCH, 3, size, size)).astype("float32")}
    if model.inputs == "sound":
        frames = rng.standard_normal((BATCH, model.config.num_mel_bins, 20)).astype("float32")
        return {"input_features": frames, "decoder_input_ids": words}
    return {"input_ids": words} | ({"decoder_input_ids": words[:, :5]} if model.inputs == "pairs" else {})
