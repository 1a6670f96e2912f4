"""Small nets that mix layer kinds, in all flavours."""

from __future__ import annotations

from typing import Any

from tests.parity.chains import normal
from tests.parity.conv_cases import conv, depthwise, transposed
from tests.parity.flatten_cases import IMAGE, in_a_row, row
from tests.parity.graphs import graph, linear, norm
from tests.parity.sides import Case


def lenet() -> Case:
    return row(
        "LeNet",
        normal(2, 1, 8, 7),
        conv("conv1", 1, 6),
        "!relu",
        conv("conv2", 6, 16),
        "!relu",
        "!flatten",
        linear("fc1", 320, 12, flatten=16),
        "!relu",
        linear("fc2", 12, 9),
        "!relu",
        linear("fc3", 9, 10),
        # one channel in: it could as well be a transposed or a depthwise one, and not every file says which
        options={"": ("--kind", "conv1=conv")},
    )


def residual() -> Case:
    """Two blocks (a convolution and a transposed one, which keep the size), the first with layers in its way past."""

    def wiring(w: Any, call: Any, x: Any) -> Any:
        y = in_a_row(w, call, x, "stem", "norm0", "!relu")
        deep = in_a_row(w, call, y, "conv1", "norm1", "!relu", "conv2", "norm2")
        y = w.relu(w.add(deep, in_a_row(w, call, y, "past1", "past2")))
        deep = in_a_row(w, call, y, "conv3", "norm3", "!relu", "conv4", "norm4")
        return in_a_row(w, call, w.add(deep, y), "!relu", "!pool", "fc")

    links = (
        conv("stem", 3, 6),
        norm("norm0", 6),
        conv("conv1", 6, 8, bias=False),
        norm("norm1", 8),
        transposed("conv2", 8, 10),
        norm("norm2", 10),
        conv("past1", 6, 7),
        transposed("past2", 7, 10, bias=False),
        conv("conv3", 10, 9, bias=False),
        norm("norm3", 9),
        transposed("conv4", 9, 10),
        norm("norm4", 10),
        linear("fc", 10, 5),
    )
    return graph("residual", IMAGE, links, wiring)


def depthwise_net() -> Case:
    return row(
        "depthwise",
        IMAGE,
        depthwise("deep", 3, 2),
        norm("norm1", 6),
        "!relu",
        conv("wide", 6, 8, bias=False),
        norm("norm2", 8),
        "!relu",
        "!flatten",
        linear("fc", 96, 5, flatten=8),
    )


def unet() -> Case:
    """Down, further down, up beside what came down, and back to the size of the image."""

    def wiring(w: Any, call: Any, x: Any) -> Any:
        high = in_a_row(w, call, x, "down1", "norm1", "!relu")
        low = in_a_row(w, call, high, "down2", "norm2", "!relu")
        up = in_a_row(w, call, low, "up1", "norm3", "!relu")
        return call("up2", w.concat(high, up))

    links = (
        conv("down1", 3, 4),
        norm("norm1", 4),
        conv("down2", 4, 7),
        norm("norm2", 7),
        transposed("up1", 7, 5),
        norm("norm3", 5),
        transposed("up2", 9, 2),
    )
    return graph("U-Net", IMAGE, links, wiring)


CASES = (lenet(), residual(), depthwise_net(), unet())
