"""Small models of Hugging Face's transformers that are in more than one of PyTorch, TensorFlow and Flax."""

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
TWO_STAGES = {"hidden_sizes": [8, 16], "depths": [2, 1], "num_stages": 2, "image_size": 32}
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
XLM = {"emb_dim": 16, "n_layers": 2, "n_heads": 4, "vocab_size": WORDS, "max_position_embeddings": 24}
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
    Model("RobertaPreLayerNorm", hf.RobertaPreLayerNormConfig(**ENCODER), ("Model", "ForMaskedLM")),
    Model("LayoutLM", hf.LayoutLMConfig(**ENCODER), ("Model",)),
    Model("MPNet", hf.MPNetConfig(**ENCODER), ("Model", "ForMaskedLM")),
    Model("RemBert", hf.RemBertConfig(**ENCODER, input_embedding_size=8), ("Model", "ForMaskedLM")),
    Model("ConvBert", hf.ConvBertConfig(**ENCODER, embedding_size=16, head_ratio=2), ("Model",), options={"": CONV}),
    Model("MobileBert", hf.MobileBertConfig(**ENCODER, embedding_size=16, intra_bottleneck_size=16), ("Model",)),
    Model("Deberta", hf.DebertaConfig(**ENCODER, **RELATIVE), ("Model",)),
    Model("DebertaV2", hf.DebertaV2Config(**ENCODER, **RELATIVE, conv_kernel_size=3), ("Model",), options={"": CONV}),
    Model("Esm", hf.EsmConfig(**ENCODER, pad_token_id=1, mask_token_id=2), ("Model", "ForMaskedLM")),
    Model("Longformer", hf.LongformerConfig(**ENCODER, attention_window=4), ("Model", "ForMaskedLM")),
    Model(
        "Funnel",
        hf.FunnelConfig(
            block_sizes=[1, 1], d_model=16, n_head=4, d_head=4, d_inner=24, vocab_size=WORDS, num_decoder_layers=1
        ),
        ("Model", "BaseModel"),
    ),
    Model("XLM", hf.XLMConfig(**XLM), ("Model", "WithLMHeadModel")),
    Model("Flaubert", hf.FlaubertConfig(**XLM), ("Model",)),
    Model(
        "XLNet",
        hf.XLNetConfig(d_model=16, n_layer=2, n_head=4, d_inner=24, vocab_size=WORDS),
        ("Model", "LMHeadModel"),
    ),
    Model("CTRL", hf.CTRLConfig(**DECODER, dff=24), ("Model", "LMHeadModel")),
    Model("OpenAIGPT", hf.OpenAIGPTConfig(**DECODER), ("Model", "LMHeadModel"), options={"": CONV1D}),
    Model(
        "GPTNeo",
        hf.GPTNeoConfig(
            hidden_size=16,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            vocab_size=WORDS,
            max_position_embeddings=24,
        ),
        ("Model", "ForCausalLM"),
    ),
    Model("Bloom", hf.BloomConfig(hidden_size=16, n_layer=2, n_head=4, vocab_size=WORDS), ("Model", "ForCausalLM")),
    Model("Llama", hf.LlamaConfig(**ENCODER, num_key_value_heads=2), ("Model", "ForCausalLM")),
    Model("Gemma", hf.GemmaConfig(**ENCODER, num_key_value_heads=2, head_dim=4), ("Model", "ForCausalLM")),
    Model(
        "LED",
        hf.LEDConfig(**SEQ2SEQ, attention_window=4, max_encoder_position_embeddings=24),
        ("Model",),
        "pairs",
    ),
    Model("DeiT", hf.DeiTConfig(**VISION), ("Model", "ForImageClassificationWithTeacher"), "images"),
    Model("Data2VecVision", hf.Data2VecVisionConfig(**VISION), ("Model",), "images"),
    Model("Beit", hf.BeitConfig(**VISION), ("Model",), "images", {"": CONV}),
    Model("Dinov2", hf.Dinov2Config(**VISION), ("Model",), "images", {"": CONV}),
    Model("ConvNext", hf.ConvNextConfig(**TWO_STAGES), ("Model", "ForImageClassification"), "images", {"": CONV}),
    Model("ConvNextV2", hf.ConvNextV2Config(**TWO_STAGES), ("Model",), "images", {"": CONV}),
    Model(
        "Swin",
        hf.SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[2, 1], num_heads=[2, 4], window_size=4),
        ("Model", "ForImageClassification"),
        "images",
    ),
    Model(
        "Segformer",
        hf.SegformerConfig(
            num_encoder_blocks=2,
            depths=[2, 1],
            sr_ratios=[2, 1],
            hidden_sizes=[8, 16],
            patch_sizes=[7, 3],
            strides=[4, 2],
            num_attention_heads=[1, 2],
            mlp_ratios=[2, 2],
            decoder_hidden_size=12,
        ),
        ("Model", "ForSemanticSegmentation", "ForImageClassification"),
        "images",
        {"": CONV},
    ),
    Model(
        "MobileViT",
        hf.MobileViTConfig(
            image_size=32, hidden_sizes=[8, 12, 16], neck_hidden_sizes=[4, 6, 8, 10, 12, 14, 20], num_attention_heads=2
        ),
        ("Model", "ForImageClassification", "ForSemanticSegmentation"),
        "images",
        {"": CONV},
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
