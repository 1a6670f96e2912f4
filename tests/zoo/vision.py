"""Families of vision transformers, of three blocks each, and of nets of images and text."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.zoo.codebases import (
    flax_transformers,
    kimm,
    openai_clip,
    openai_whisper,
    pretrained_vit,
    torch_class,
    transformers,
    vit_keras,
)
from tests.zoo.net import CLASSES, MEASURED, TUNED, Family, image, tokens
from tests.zoo.sides import Array

SIZE, PATCH, BLOCKS, HEADS, WIDTH, INNER = 32, 8, 3, 4, 48, 192
PIXELS = image(SIZE)
LAST = PIXELS.transpose(0, 2, 3, 1)
WORDS = tokens()

TIMM_VIT: dict[str, Any] = {
    "img_size": SIZE,
    "patch_size": PATCH,
    "embed_dim": WIDTH,
    "depth": BLOCKS,
    "num_heads": HEADS,
    "num_classes": CLASSES,
}
VIT: dict[str, Any] = {
    "image_size": SIZE,
    "patch_size": PATCH,
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "num_labels": CLASSES,
}
SWIN_DEPTHS, SWIN_HEADS = (1, 2, 1), (2, 4, 8)
TIMM_SWIN: dict[str, Any] = {
    "img_size": 64,
    "patch_size": 4,
    "window_size": 4,
    "embed_dim": 24,
    "depths": SWIN_DEPTHS,
    "num_heads": SWIN_HEADS,
    "num_classes": CLASSES,
}
SWIN: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 4,
    "window_size": 4,
    "embed_dim": 24,
    "depths": SWIN_DEPTHS,
    "num_heads": SWIN_HEADS,
    "num_labels": CLASSES,
}
BEIT: dict[str, Any] = VIT | {
    "use_absolute_position_embeddings": True,
    "use_mask_token": False,
    "layer_scale_init_value": 0.1,
    "use_mean_pooling": True,
}
TOWER = {
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "hidden_act": "gelu",
}
CLIP: dict[str, Any] = {
    "projection_dim": 32,
    "vision_config": TOWER | {"image_size": SIZE, "patch_size": PATCH},
    "text_config": TOWER | {"vocab_size": 99, "max_position_embeddings": 11, "eos_token_id": 2, "projection_dim": 32},
}
WHISPER: dict[str, Any] = {
    "vocab_size": 99,
    "num_mel_bins": 8,
    "max_source_positions": 20,
    "max_target_positions": 11,
    "d_model": WIDTH,
    "pad_token_id": 0,
    **{
        f"{side}_{name}": size
        for side in ("encoder", "decoder")
        for name, size in (("layers", BLOCKS), ("attention_heads", HEADS), ("ffn_dim", INNER))
    },
}
SOUND = np.random.default_rng(7).normal(0, 1, (2, 8, 40)).astype(np.float32)


def words_and_pixels(pixels: Array) -> Any:
    return WORDS, pixels


def pixels_and_words(pixels: Array) -> Any:
    return pixels, WORDS


def flax_words_and_pixels(pixels: Array) -> Any:
    ones = np.ones_like(WORDS)
    return WORDS, pixels, ones, np.cumsum(ones, 1, dtype=np.int32) - 1


def sound_and_words(sound: Array) -> Any:
    return sound, WORDS


def transformers_sound(sound: Array) -> Any:
    return sound, None, WORDS


def flax_sound(sound: Array) -> Any:
    ones = np.ones_like(WORDS)
    return sound, WORDS, ones, np.cumsum(ones, 1, dtype=np.int32) - 1


def embeddings(y: Any) -> Any:
    """Of the text and of the images: what a CLIP is for."""
    return np.concatenate([np.asarray(y.text_embeds), np.asarray(y.image_embeds)])


def both(y: Any) -> Any:
    return np.concatenate([np.asarray(y[1]), np.asarray(y[0])])


FAMILIES = (
    Family(
        "vit",
        TUNED,
        PIXELS,
        (
            torch_class("timm", "timm.models.vision_transformer.VisionTransformer", **TIMM_VIT),
            torch_class(
                "torchvision",
                "torchvision.models.vision_transformer.VisionTransformer",
                SIZE,
                PATCH,
                BLOCKS,
                HEADS,
                WIDTH,
                INNER,
                num_classes=CLASSES,
            ),
            transformers("ViTForImageClassification", **VIT),
            flax_transformers("FlaxViTForImageClassification", LAST, **VIT),
        ),
        1e-12,
    ),
    Family(
        "vit_of_others",
        TUNED,
        PIXELS,
        (
            pretrained_vit(SIZE, patches=(PATCH, PATCH), dim=WIDTH, ff_dim=INNER, num_heads=HEADS, num_layers=BLOCKS),
            vit_keras(SIZE, PATCH, BLOCKS, WIDTH, HEADS, "vit", INNER, CLASSES),
            kimm(
                "vision_transformer.VisionTransformer",
                SIZE,
                patch_size=PATCH,
                embed_dim=WIDTH,
                depth=BLOCKS,
                num_heads=HEADS,
            ),
        ),
        1e-6,
    ),
    Family(
        "swin",
        TUNED,
        image(64),
        (
            torch_class("timm", "timm.models.swin_transformer.SwinTransformer", **TIMM_SWIN),
            torch_class(
                "torchvision",
                "torchvision.models.swin_transformer.SwinTransformer",
                [4, 4],
                24,
                SWIN_DEPTHS,
                SWIN_HEADS,
                [4, 4],
                num_classes=CLASSES,
            ),
            transformers("SwinForImageClassification", **SWIN),
        ),
        1e-5,
    ),
    Family(
        "beit",
        TUNED,
        PIXELS,
        (
            torch_class("timm", "timm.models.beit.Beit", init_values=0.1, **TIMM_VIT),
            transformers("BeitForImageClassification", **BEIT),
            flax_transformers("FlaxBeitForImageClassification", LAST, **BEIT),
        ),
        1e-6,
    ),
    Family(
        "dinov2",
        MEASURED,
        PIXELS,
        (
            torch_class(
                "timm",
                "timm.models.vision_transformer.VisionTransformer",
                init_values=0.1,
                **TIMM_VIT | {"num_classes": 0, "global_pool": ""},
            ),
            transformers("Dinov2Model", mlp_ratio=4, **VIT),
            flax_transformers("FlaxDinov2Model", LAST, mlp_ratio=4, **VIT),
        ),
        1e-6,
    ),
    Family(
        "clip",
        TUNED,
        PIXELS,
        (
            openai_clip(
                32,
                {"layers": BLOCKS, "width": WIDTH, "head_width": 12, "patch_size": PATCH, "image_size": SIZE},
                {"layers": BLOCKS, "width": WIDTH, "heads": HEADS, "context_length": 11, "vocab_size": 99},
                inputs=pixels_and_words,
                output=both,
            ),
            transformers("CLIPModel", words_and_pixels, embeddings, **CLIP),
            flax_transformers("FlaxCLIPModel", LAST, flax_words_and_pixels, embeddings, **CLIP),
        ),
        1e-5,
    ),
    Family(
        "whisper",
        TUNED,
        SOUND,
        (
            openai_whisper(8, 20, WIDTH, HEADS, BLOCKS, 99, 11, WIDTH, HEADS, BLOCKS, inputs=sound_and_words),
            transformers("WhisperForConditionalGeneration", transformers_sound, **WHISPER),
            flax_transformers("FlaxWhisperForConditionalGeneration", SOUND, flax_sound, **WHISPER),
        ),
    ),
)
