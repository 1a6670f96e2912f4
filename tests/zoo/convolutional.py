"""Families of convolutional nets that were looked at while the pairing was written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.zoo.codebases import (
    efficientnet_pytorch,
    flax_transformers,
    flaxmodels,
    gluon,
    jax_resnet,
    keras_applications,
    kimm,
    pytorchcv,
    timm,
    torch_class,
    torchvision,
    transformers,
)
from tests.zoo.net import CLASSES, TUNED, Family, Net, image
from tests.zoo.patches import narrow_gluon, narrow_torch, plain_mobilenet

PLAIN = "pads alike on both sides, and its ReLU has no bound"
NARROW = "its two hidden linear layers have 64 units"
DEPTHS, DIMS = (1, 1, 3, 1), (24, 48, 72, 96)


def torchvision_narrow(name: str) -> Net:
    net = torchvision(name)
    return replace(net, build=lambda: narrow_torch(net.build()), patched=NARROW)


def gluon_narrow(name: str) -> Net:
    return replace(gluon(name, 224, narrow_gluon), patched=NARROW)


def keras_mobilenet() -> Net:
    net = keras_applications("MobileNet", 65, alpha=0.25)
    return replace(net, build=lambda: plain_mobilenet(net.build()), patched=PLAIN)


def keras_efficientnet() -> Net:
    """Its first layer divides by 255."""

    def inputs(x: Any) -> Any:
        return x * 255

    return replace(
        keras_applications("EfficientNetB0", 65), inputs=inputs, patched="its input is 255 times the others'"
    )


def torchvision_convnext() -> Net:
    def build() -> Any:
        from tests.zoo.codebases import torch_module

        module = torch_module("torchvision.models.convnext")
        blocks = [
            module.CNBlockConfig(width, following, depth)
            for width, following, depth in zip(DIMS, (*DIMS[1:], None), DEPTHS, strict=True)
        ]
        return module.ConvNeXt(blocks, num_classes=CLASSES)

    return Net("torchvision", "torch", build)


def keras_convnext() -> Net:
    return keras_applications("convnext.ConvNeXt", 64, depths=DEPTHS, projection_dims=DIMS, include_preprocessing=False)


SMALL_RESNET = {"depths": [1, 1, 1, 1], "num_labels": CLASSES}
CONVNEXT = {"depths": DEPTHS, "hidden_sizes": DIMS, "num_labels": CLASSES}

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
    Family(
        "resnet14",
        TUNED,
        image(64),
        (
            torch_class("timm", "timm.models.resnet.ResNet", ":Bottleneck", (1, 1, 1, 1), num_classes=CLASSES),
            jax_resnet("ResNet50", 64, stage_sizes=(1, 1, 1, 1)),
            transformers("ResNetForImageClassification", **SMALL_RESNET),
            flax_transformers("FlaxResNetForImageClassification", image(64).transpose(0, 2, 3, 1), **SMALL_RESNET),
        ),
        1e-5,
    ),
    Family("alexnet", TUNED, image(224), (torchvision_narrow("alexnet"), gluon_narrow("alexnet"))),
    Family("vgg11", TUNED, image(224), (torchvision_narrow("vgg11"), gluon_narrow("vgg11"))),
    Family(
        "mobilenet_v1",
        TUNED,
        image(65),
        (keras_mobilenet(), gluon("mobilenet0.25", 65), pytorchcv("mobilenet_wd4")),
        1e-5,
    ),
    Family(
        "mobilenet_v2",
        TUNED,
        image(65),
        (
            torchvision("mobilenet_v2"),
            timm("mobilenetv2_100"),
            keras_applications("MobileNetV2", 65),
            kimm("MobileNetV2W100", 65),
        ),
        1e-5,
    ),
    Family(
        "efficientnet_b0",
        TUNED,
        image(65),
        (
            torchvision("efficientnet_b0"),
            timm("efficientnet_b0"),
            keras_efficientnet(),
            efficientnet_pytorch("efficientnet-b0", 65),
        ),
        1e-5,
    ),
    Family(
        "convnext",
        TUNED,
        image(64),
        (
            torchvision_convnext(),
            torch_class("timm", "timm.models.convnext.ConvNeXt", num_classes=CLASSES, depths=DEPTHS, dims=DIMS),
            transformers("ConvNextForImageClassification", **CONVNEXT),
            keras_convnext(),
            kimm("convnext.ConvNeXt", 64, depths=DEPTHS, hidden_channels=DIMS),
        ),
        1e-6,
    ),
    Family(
        "densenet121",
        TUNED,
        image(224),
        (
            torchvision("densenet121"),
            gluon("densenet121", 224),
            keras_applications("DenseNet121", 224),
            kimm("DenseNet121", 224),
        ),
        1e-5,
    ),
)
