"""Builders: a net of random weights out of each code base, by its name there. Frameworks are imported when asked for."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from tests.zoo.net import CLASSES, Net
from tests.zoo.sides import linen


def _imported(module: str) -> Any:
    return importlib.import_module(module)


@functools.cache
def _operators() -> Any:
    """The wheel of torchvision is built for CUDA: beside a PyTorch for CPUs two of its operators are missing."""
    library = _imported("torch").library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def torch_module(module: str) -> Any:
    """A module of PyTorch code, which may import torchvision."""
    _operators()
    return _imported(module)


def torchvision(name: str, **keywords: Any) -> Net:
    def build() -> Any:
        return getattr(torch_module("torchvision.models"), name)(num_classes=CLASSES, **keywords)

    return Net("torchvision", "torch", build)


def timm(name: str, **keywords: Any) -> Net:
    return Net(
        "timm", "torch", lambda: torch_module("timm").create_model(name, **{"num_classes": CLASSES, **keywords})
    )


def pytorchcv(name: str, **keywords: Any) -> Net:
    def build() -> Any:
        return torch_module("pytorchcv.model_provider").get_model(name, num_classes=CLASSES, **keywords)

    return Net("pytorchcv", "torch", build)


def keras_applications(name: str, size: int, **keywords: Any) -> Net:
    def build() -> Any:
        return getattr(_imported("keras.applications"), name)(
            weights=None, input_shape=(size, size, 3), classes=CLASSES, classifier_activation=None, **keywords
        )

    return Net("keras.applications", "keras", build)


def kimm(name: str, size: int, **keywords: Any) -> Net:
    def build() -> Any:
        return getattr(_imported("kimm.models"), name)(
            weights=None,
            input_shape=(size, size, 3),
            classes=CLASSES,
            classifier_activation="linear",
            include_preprocessing=False,
            **keywords,
        )

    return Net("kimm", "keras", build)


def gluon(name: str, size: int, change: Callable[[Any], None] = lambda net: None, **keywords: Any) -> Net:
    """Of the model zoo of MXNet, run once, which gives its arrays their shapes."""

    def build() -> Any:
        net = _imported("mxnet.gluon.model_zoo.vision").get_model(name, classes=CLASSES, **keywords)
        change(net)
        return allocated(net, size)

    return Net("gluon", "gluon", build)


def gluoncv2(name: str, size: int, **keywords: Any) -> Net:
    def build() -> Any:
        provider = _imported("gluoncv2.model_provider")
        return allocated(provider.get_model(name, classes=CLASSES, **keywords), size)

    return Net("gluoncv2", "gluon", build)


def allocated(net: Any, size: int) -> Any:
    mxnet = _imported("mxnet")
    net.initialize()
    net(mxnet.nd.zeros((1, 3, size, size)))
    return net


def jax_resnet(name: str, size: int, **keywords: Any) -> Net:
    def build() -> Any:
        module = getattr(_imported("jax_resnet"), name)(n_classes=CLASSES, **keywords)
        return linen(module, _imported("jax.numpy").zeros((1, size, size, 3)))

    return Net("jax-resnet", "linen", build)


def flaxmodels(name: str, size: int, **keywords: Any) -> Net:
    def build() -> Any:
        module = getattr(_imported("flaxmodels"), name)(
            output="logits", pretrained=None, normalize=False, num_classes=CLASSES, **keywords
        )
        return linen(module, _imported("jax.numpy").zeros((1, size, size, 3)), train=False)

    return Net("flaxmodels", "linen", build)
