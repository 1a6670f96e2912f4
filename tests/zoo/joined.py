"""Families of language models whose projections are joined in one code base and apart in another, or in experts."""

from __future__ import annotations

from dataclasses import replace

from tests.zoo.codebases import keras_hub, keras_hub_lm, litgpt, transformers
from tests.zoo.net import MEASURED, TUNED, Family
from tests.zoo.text import (
    BLOCKS,
    HEADS,
    HUB_ROTARY,
    INNER,
    LIT,
    LIT_ROTARY,
    ROTARY,
    SAMPLE,
    SIZES,
    VOCABULARY,
    WIDTH,
    hub,
)

EXPERTS = {"num_experts_per_tok": 2, "pad_token_id": 0}
MIXTRAL = ROTARY | EXPERTS | {"num_local_experts": 4, "sliding_window": None, "rope_theta": 10_000.0}
#: Qwen-MoE has one size of experts and another of the one that all share.
QWEN_MOE = ROTARY | EXPERTS | {"num_experts": 4, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 80}
HUB_QWEN_MOE = HUB_ROTARY | {
    "num_experts": 4,
    "top_k": 2,
    "moe_intermediate_dim": 48,
    "shared_expert_intermediate_dim": 80,
}
LIT_EXPERTS = {"mlp_class_name": "LLaMAMoE", "n_expert": 4, "n_expert_per_token": 2}
FALCON = {
    name: size for name, size in SIZES.items() if name not in ("intermediate_size", "max_position_embeddings")
} | {
    "ffn_hidden_size": INNER,
    "num_kv_heads": 2,
    "new_decoder_architecture": True,
    "bias": False,
}
LIT_FALCON = LIT | {"n_query_groups": 2, "rotary_percentage": 1.0, "parallel_residual": True, "bias": False}
#: CodeGen is GPT-J with its projections joined in four runs (Nijkamp et al., 2022).
GPTJ = {
    "vocab_size": VOCABULARY,
    "n_positions": 40,
    "n_embd": WIDTH,
    "n_layer": BLOCKS,
    "n_head": HEADS,
    "n_inner": INNER,
    "rotary_dim": 8,
    "tie_word_embeddings": False,
}

FAMILIES = (
    Family(
        "phi3_lm",
        TUNED,
        SAMPLE,
        (
            keras_hub_lm("Phi3Backbone", hub, **HUB_ROTARY),
            transformers("Phi3ForCausalLM", pad_token_id=0, **ROTARY),
            litgpt(**LIT_ROTARY),
        ),
    ),
    Family(
        "falcon_lm",
        MEASURED,
        SAMPLE,
        (transformers("FalconForCausalLM", tie_word_embeddings=False, **FALCON), litgpt(**LIT_FALCON)),
    ),
    Family(
        "codegen_lm",
        TUNED,
        SAMPLE,
        (
            transformers("CodeGenForCausalLM", **GPTJ),
            replace(transformers("GPTJForCausalLM", **GPTJ), code="transformers GPT-J"),
        ),
    ),
    Family(
        "mixtral_lm",
        TUNED,
        SAMPLE,
        (
            keras_hub_lm("MixtralBackbone", hub, num_experts=4, sliding_window=None, **HUB_ROTARY),
            transformers("MixtralForCausalLM", **MIXTRAL),
            litgpt(**LIT_ROTARY | LIT_EXPERTS),
        ),
    ),
    Family(
        "qwen2_moe",
        MEASURED,
        SAMPLE,
        (keras_hub("QwenMoeBackbone", hub, **HUB_QWEN_MOE), transformers("Qwen2MoeModel", **QWEN_MOE)),
    ),
)
