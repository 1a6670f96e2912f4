"""Other sizes of families: but for two, their tables of known names were written from other nets alone."""

from __future__ import annotations

from tests.zoo.codebases import (
    efficientnet_pytorch,
    flaxmodels,
    gluon,
    jax_resnet,
    keras_applications,
    kimm,
    timm,
    torchvision,
    transformers,
)
from tests.zoo.net import CLASSES, OTHER_SIZE, TUNED, Family, image

FAMILIES = (
    Family(
        "resnet34",
        OTHER_SIZE,
        image(64),
        (
            torchvision("resnet34"),
            gluon("resnet34_v1", 64),
            kimm("ResNet34", 64),
            jax_resnet("ResNet34", 64),
            flaxmodels("ResNet34", 64),
        ),
        1e-5,
    ),
    Family(
        "resnet50",
        TUNED,
        image(64),
        (
            torchvision("resnet50"),
            timm("resnet50"),
            kimm("ResNet50", 64),
            jax_resnet("ResNet50", 64),
            flaxmodels("ResNet50", 64),
            transformers("ResNetForImageClassification", depths=[3, 4, 6, 3], num_labels=CLASSES),
        ),
        1e-5,
    ),
    Family("vgg13_bn", TUNED, image(224), (torchvision("vgg13_bn"), gluon("vgg13_bn", 224)), 1e-5),
    Family(
        "densenet169",
        OTHER_SIZE,
        image(224),
        (
            torchvision("densenet169"),
            gluon("densenet169", 224),
            keras_applications("DenseNet169", 224),
            kimm("DenseNet169", 224),
        ),
        1e-5,
    ),
    Family(
        "efficientnet_b1",
        OTHER_SIZE,
        image(65),
        (torchvision("efficientnet_b1"), timm("efficientnet_b1"), efficientnet_pytorch("efficientnet-b1", 65)),
        1e-5,
    ),
    Family(
        "mobilenet_v3_large",
        OTHER_SIZE,
        image(65),
        (
            torchvision("mobilenet_v3_large"),
            timm("mobilenetv3_large_100"),
            keras_applications("MobileNetV3Large", 65, include_preprocessing=False),
        ),
        1e-3,
    ),
    Family(
        "convnext_small",
        OTHER_SIZE,
        image(64),
        (
            torchvision("convnext_small"),
            timm("convnext_small"),
            keras_applications("ConvNeXtSmall", 64, include_preprocessing=False),
        ),
        1e-6,
    ),
    Family(
        "regnetx_008",
        OTHER_SIZE,
        image(64),
        (timm("regnetx_008"), kimm("RegNetX008", 64)),
        1e-5,
    ),
    Family("squeezenet1_0", OTHER_SIZE, image(224), (torchvision("squeezenet1_0"), gluon("squeezenet1.0", 224))),
)
