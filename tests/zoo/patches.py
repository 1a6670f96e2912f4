"""Changes of nets that make them smaller, or equal to what another code base computes."""

from __future__ import annotations

from typing import Any

#: Units of the hidden linear layers of AlexNet and VGG, which have 4096: 500 MB a file.
UNITS = 64


def narrow_torch(net: Any) -> Any:
    from torch import nn

    linear = [place for place, layer in enumerate(net.classifier) if isinstance(layer, nn.Linear)]
    sizes = [net.classifier[linear[0]].in_features, UNITS, UNITS, net.classifier[linear[-1]].out_features]
    for place, inputs, outputs in zip(linear, sizes[:-1], sizes[1:], strict=True):
        net.classifier[place] = nn.Linear(inputs, outputs)
    return net


def narrow_gluon(net: Any) -> None:
    """Before its arrays are made."""
    for layer in net.features:
        if type(layer).__name__ == "Dense":
            layer._units = UNITS
            layer.weight._shape, layer.bias._shape = (UNITS, 0), (UNITS,)


def plain_mobilenet(net: Any) -> Any:
    """Of Keras: (0, 1), as TensorFlow pads for a stride of two, becomes (1, 1); its activation loses the bound of 6."""
    for layer in net._flatten_layers():
        if type(layer).__name__ == "ZeroPadding2D":
            layer.padding = ((1, 1), (1, 1))
        if type(layer).__name__ == "ReLU":
            layer.max_value = None
    return net


def any_size(net: Any) -> Any:
    """The last pooling of pytorchcv's and gluoncv2's nets is of seven pixels."""
    children = net.features._children if hasattr(net.features, "_children") else net.features._modules
    name, last = list(children.items())[-1]
    if type(last).__name__ in ANY_POOLING:
        children[name] = ANY_POOLING[type(last).__name__]()
    return net


def _torch_pooling() -> Any:
    from torch import nn

    return nn.AdaptiveAvgPool2d(1)


def _gluon_pooling() -> Any:
    from mxnet.gluon import nn

    return nn.GlobalAvgPool2D()


ANY_POOLING = {"AvgPool2d": _torch_pooling, "AvgPool2D": _gluon_pooling}
