"""Families of convolutional nets that are only counted."""

from __future__ import annotations

from tests.zoo.codebases import (
    gluon,
    gluoncv2,
    keras_applications,
    kimm,
    pytorchcv,
    timm,
    torchvision,
    transformers,
)
from tests.zoo.net import CLASSES, MEASURED, TUNED, Family, image

REGNET = {
    "depths": [1, 2, 7, 12],
    "hidden_sizes": [32, 64, 160, 384],
    "groups_width": 16,
    "layer_type": "x",
    "num_labels": CLASSES,
}

FAMILIES = (
    Family(
        "squeezenet1_1",
        MEASURED,
        image(224),
        (torchvision("squeezenet1_1"), gluon("squeezenet1.1", 224), pytorchcv("squeezenet_v1_1")),
    ),
    Family(
        "mobilenet_v3_small",
        MEASURED,
        image(65),
        (
            torchvision("mobilenet_v3_small"),
            timm("mobilenetv3_small_100"),
            keras_applications("MobileNetV3Small", 65, include_preprocessing=False),
            kimm("MobileNetV3W100Small", 65),
        ),
        1e-3,
    ),
    Family(
        "efficientnet_v2_b0",
        MEASURED,
        image(65),
        (
            timm("tf_efficientnetv2_b0"),
            keras_applications("EfficientNetV2B0", 65, include_preprocessing=False),
            kimm("EfficientNetV2B0", 65),
        ),
        1e-3,
    ),
    Family(
        "regnetx_004",
        MEASURED,
        image(64),
        (
            timm("regnetx_004"),
            kimm("RegNetX004", 64),
            transformers("RegNetForImageClassification", **REGNET),
        ),
        1e-5,
    ),
    Family(
        "regnetx_400mf",
        MEASURED,
        image(64),
        (
            torchvision("regnet_x_400mf"),
            transformers("RegNetForImageClassification", **REGNET | {"hidden_sizes": [32, 64, 160, 400]}),
        ),
        1e-5,
    ),
    Family(
        "shufflenet_v2",
        TUNED,
        image(65),
        (
            torchvision("shufflenet_v2_x0_5"),
            pytorchcv("shufflenetv2b_wd2"),
            gluoncv2("shufflenetv2b_wd2", 65),
        ),
        1e-5,
    ),
    Family(
        "mnasnet",
        MEASURED,
        image(65),
        (torchvision("mnasnet1_0"), timm("mnasnet_100"), pytorchcv("mnasnet_b1")),
        1e-5,
    ),
    Family(
        "inception_v3",
        TUNED,
        image(107),
        (
            torchvision("inception_v3", aux_logits=False, init_weights=False),
            kimm("InceptionV3", 107),
            pytorchcv("inceptionv3"),
        ),
        1e-3,
    ),
    Family(
        "xception",
        MEASURED,
        image(135),
        (timm("legacy_xception"), keras_applications("Xception", 135), kimm("Xception", 135)),
        1e-3,
    ),
    Family("ghostnet", MEASURED, image(65), (timm("ghostnet_050"), kimm("GhostNetW050", 65)), 1e-5),
    Family("lcnet", MEASURED, image(65), (timm("lcnet_050"), kimm("LCNet050", 65)), 1e-5),
    Family("repvgg_a0", MEASURED, image(64), (timm("repvgg_a0"), kimm("RepVGGA0", 64)), 1e-5),
    Family("hgnetv2_b0", TUNED, image(64), (timm("hgnetv2_b0"), kimm("HGNetV2B0", 64)), 1e-5),
    Family("mobilevit_xxs", TUNED, image(64), (timm("mobilevit_xxs"), kimm("MobileViTXXS", 64)), 1e-5),
)
