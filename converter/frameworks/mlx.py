"""MLX: PyTorch's names, channels last in activations and kernels (mlx/python/mlx/nn/layers). Only read."""

from __future__ import annotations

from collections.abc import Iterable

from converter.core.contents import Contents
from converter.core.layers import batch_norm, form, stacked
from converter.frameworks.base import Framework, Part
from converter.frameworks.cells import stacked_cell
from converter.frameworks.torch import dotted


class Mlx(Framework):
    name = "mlx"
    title = "MLX"
    channels_last = True
    forms = (
        form("linear", ("weight", "weight", "out in"), ("bias", "bias", "out")),
        form("embedding", ("weight", "weight", "num dim")),
        form("conv", ("weight", "weight", "out + in"), ("bias", "bias", "out")),
        form("conv_transpose", ("weight", "weight", "out + in"), ("bias", "bias", "out")),
        batch_norm("weight", "bias", "running_mean", "running_var"),
        form("norm", ("weight", "scale", "c"), ("bias", "offset", "c")),
        form("prelu", ("weight", "slope", "c")),
        *(
            stacked_cell(
                kind,
                gates,
                (input, "input", "(g h) in"),
                (state, "recurrent", "(g h) r"),
                ("bias", "input_bias+recurrent_bias", "(g h)"),
            )
            for kind, gates, input, state in (("rnn", "h", "Wxh", "Whh"), ("lstm", "ifgo", "Wx", "Wh"))
        ),
        form(
            "gru",
            ("Wx", stacked("input", "rzn"), "(g h) in"),
            ("Wh", stacked("recurrent", "rzn"), "(g h) r"),
            ("b", f"{stacked('input_bias+recurrent_bias', 'rz')} input_bias_n", "(g h)"),
            ("bhn", "recurrent_bias_n", "h"),
        ),
        form("parameter", ("", "value", "*")),
    )
    default_format = "safetensors"
    data_format = "safetensors"

    def split(self, contents: Contents) -> Iterable[Part]:
        return [dotted(spec.name, spec) for spec in contents.specs]

    def spell(self, prefix: str, leaf: str, dialect: str, is_data: bool) -> str:
        return ".".join(filter(None, (prefix, leaf)))

    def is_ordered(self, contents: Contents) -> bool:
        """Its files come from a hash map."""
        return contents.container != "dict"
