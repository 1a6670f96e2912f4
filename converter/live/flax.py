"""What nets of Flax have in common, be they of linen or nnx."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from converter.core.tensors import Array
from converter.live.base import BATCH_NORM, EPSILON, Hyperparameters, LiveNet, gates, is_dense, named


class FlaxNet(LiveNet):
    framework_name = "flax"
    hyperparameters: ClassVar[Hyperparameters] = {
        "BatchNorm": BATCH_NORM,
        **{name: {EPSILON: lambda layer: layer.epsilon} for name in ("LayerNorm", "InstanceNorm")},
        "GroupNorm": {EPSILON: lambda layer: layer.epsilon, "GroupNorm groups": lambda layer: layer.num_groups},
        "RMSNorm": {"RMSNorm epsilon": lambda layer: layer.epsilon},
        "SimpleCell": {"RNN activation": lambda layer: named(layer.activation_fn)},
        **dict.fromkeys(("LSTMCell", "OptimizedLSTMCell"), gates("LSTM", "activation_fn", "gate_fn")),
        "GRUCell": gates("GRU", "activation_fn", "gate_fn"),
    }

    def class_of(self, module: Any) -> str:
        name = super().class_of(module)
        if name == "ConvTranspose":
            return "ConvTransposeOfTransposedKernel" if module.transpose_kernel else "ConvTransposeOfUsualKernel"
        if name == "Einsum":
            return name if module.einsum_str and is_dense(module.einsum_str) else "EinsumOfOtherAxes"
        return name

    def to_numpy(self, value: Any) -> Array | None:
        import jax

        if isinstance(value, jax.core.Tracer) or not isinstance(value, jax.Array | np.ndarray):
            return None  # a tracer: within a scan
        return np.array(value)
