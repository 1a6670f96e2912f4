"""Families of convolutional nets."""

from __future__ import annotations

from tests.zoo.codebases import (
    flaxmodels,
    gluon,
    jax_resnet,
    keras_applications,
    kimm,
    pytorchcv,
    timm,
    torchvision,
)
from tests.zoo.net import MEASURED, TUNED, Family, image

FAMILIES = (
    Family(
        "resnet18",
        TUNED,
        image(64),
        (
            torchvision("resnet18"),
            gluon("resnet18_v1", 64),
            kimm("ResNet18", 64),
            jax_resnet("ResNet18", 64),
            flaxmodels("ResNet18", 64),
        ),
        1e-5,
    ),
    Family("vgg11", TUNED, image(224), (torchvision("vgg11"), gluon("vgg11", 224))),
    Family("squeezenet1_1", MEASURED, image(97), (torchvision("squeezenet1_1"), gluon("squeezenet1.1", 97), pytorchcv("squeezenet_v1_1"))),
    Family("mobilenet_v2", TUNED, image(65), (torchvision("mobilenet_v2"), timm("mobilenetv2_100"), keras_applications("MobileNetV2", 65), kimm("MobileNetV2W100", 65)), 1e-5),
)
