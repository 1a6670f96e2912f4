"""Builders: a net out of each code base, by its name there. Frameworks are imported when they are asked for."""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.zoo.net import CLASSES, Net
from tests.zoo.patches import any_size
from tests.zoo.sides import linen

ANY_SIZE = "its last pooling takes images of any size"


def _imported(module: str) -> Any:
    return importlib.import_module(module)


def _of(public: str, private: str, name: str) -> Any:
    """A class by its public name, or as ``module.Class`` where only nets of fixed sizes are public."""
    module, _, found = name.rpartition(".")
    return getattr(_imported(f"{private}.{module}" if module else public), found)


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
    return Net("timm", "torch", lambda: torch_module("timm").create_model(name, num_classes=CLASSES, **keywords))


def torch_class(code: str, path: str, *arguments: Any, **keywords: Any) -> Net:
    """A class of PyTorch code by its path, for nets smaller than those that have a name. A text that begins with
    ``:`` stands for something of the same module."""
    module, name = path.rsplit(".", 1)

    def build() -> Any:
        found = torch_module(module)
        given = [getattr(found, item[1:]) if isinstance(item, str) and item[0] == ":" else item for item in arguments]
        return getattr(found, name)(*given, **keywords)

    return Net(code, "torch", build)


def pytorchcv(name: str, **keywords: Any) -> Net:
    def build() -> Any:
        return any_size(torch_module("pytorchcv.model_provider").get_model(name, num_classes=CLASSES, **keywords))

    return Net("pytorchcv", "torch", build, patched=ANY_SIZE)


def keras_applications(name: str, size: int, **keywords: Any) -> Net:
    def build() -> Any:
        return _of("keras.applications", "keras.src.applications", name)(
            weights=None, input_shape=(size, size, 3), classes=CLASSES, classifier_activation=None, **keywords
        )

    return Net("keras.applications", "keras", build)


def kimm(name: str, size: int, **keywords: Any) -> Net:
    def build() -> Any:
        return _of("kimm.models", "kimm._src.models", name)(
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
        return allocated(any_size(provider.get_model(name, classes=CLASSES, **keywords)), size)

    return Net("gluoncv2", "gluon", build, patched=ANY_SIZE)


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


def keras_hub(
    name: str, inputs: Callable[[Any], Any], output: Callable[[Any], Any] = lambda y: y, **config: Any
) -> Net:
    return Net("KerasHub", "keras", lambda: getattr(_imported("keras_hub.models"), name)(**config), inputs, output)


def keras_hub_lm(name: str, inputs: Callable[[Any], Any], **config: Any) -> Net:
    """With its output layer, which a backbone holds and does not use."""
    backbone = keras_hub(name, inputs, **config)

    def build() -> Any:
        net = backbone.build()
        return _imported("keras").Model(net.input, net.token_embedding(net.output, reverse=True))

    return replace(backbone, build=build)


def _configured(model: Any, config: Any) -> Any:
    made = model.config_class(**config)
    made._attn_implementation = "eager"
    return made


def hidden(y: Any) -> Any:
    """Of what transformers returns."""
    return y.logits if "logits" in y else y.last_hidden_state


def transformers(name: str, inputs: Callable[[Any], Any] = lambda x: x, output: Any = hidden, **config: Any) -> Net:
    def build() -> Any:
        model = getattr(torch_module("transformers"), name)
        return model(_configured(model, config))

    return Net("transformers", "torch", build, inputs, output)


def flax_transformers(
    name: str, sample: Any, inputs: Callable[[Any], Any] = lambda x: x, output: Any = hidden, **config: Any
) -> Net:
    """sample: what the module is built with, before ``inputs``."""

    def build() -> Any:
        model = getattr(_imported("transformers"), name)
        xs = inputs(sample)
        return linen(model.module_class(_configured(model, config)), *(xs if isinstance(xs, tuple) else (xs,)))

    return Net("transformers-flax", "linen", build, inputs, output)


def litgpt(**config: Any) -> Net:
    def build() -> Any:
        config_class = torch_module("litgpt.config").Config
        return torch_module("litgpt.model").GPT(config_class(**config))

    return Net("LitGPT", "torch", build)


def efficientnet_pytorch(name: str, size: int) -> Net:
    def build() -> Any:
        found = torch_module("efficientnet_pytorch").EfficientNet
        return found.from_name(name, image_size=size, num_classes=CLASSES)

    return Net("efficientnet-pytorch", "torch", build)


def vit_keras(*arguments: Any) -> Net:
    def build() -> Any:
        _stand_in("cv2", "validators")  # for the pages and pictures of its examples
        return _imported("vit_keras.vit").build_model(*arguments)

    return Net("vit-keras", "keras", build)


def _stand_in(*modules: str, **members: Any) -> None:
    """For what a package imports and a net does not need."""
    for name in modules:
        sys.modules.setdefault(name, types.SimpleNamespace(**members))  # type: ignore[arg-type]


def openai_clip(dim: int, vision: dict[str, Any], text: dict[str, Any], **how: Any) -> Net:
    def build() -> Any:
        return torch_module("open_clip").CLIP(dim, vision, text)

    return Net("OpenCLIP", "torch", build, **how)


def openai_whisper(*dimensions: int, **how: Any) -> Net:
    def build() -> Any:
        _stand_in("numba", "triton", jit=lambda *_, **__: lambda function: function)  # for the times of words
        module = torch_module("whisper.model")
        return module.Whisper(module.ModelDimensions(*dimensions))

    return Net("openai-whisper", "torch", build, **how)


def pretrained_vit(size: int, **config: Any) -> Net:
    """Its class makes only nets that have a name."""

    def build() -> Any:
        module = torch_module("pytorch_pretrained_vit.model")
        rest = {"attention_dropout_rate": 0.0, "dropout_rate": 0.0, "representation_size": None, "classifier": "token"}
        module.PRETRAINED_MODELS["small"] = {
            "config": {**config, **rest},
            "image_size": (size, size),
            "num_classes": CLASSES,
        }
        return module.ViT("small", pretrained=False)

    return Net("pytorch-pretrained-vit", "torch", build)
