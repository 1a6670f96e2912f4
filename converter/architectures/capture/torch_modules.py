"""The modules of PyTorch that are steps of the vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from converter.architectures import vocabulary as v
from converter.architectures.capture.settings import RefusedError, only, sizes


def _conv(module: Any, path: str) -> v.Conv:
    only(module, padding_mode="zeros")
    padding: Any = module.padding
    if padding == "valid":
        padding = 0
    elif padding == "same":
        reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        if any(size % 2 for size in reach):
            raise RefusedError("which pads 'same' for an even kernel")
        padding = [size // 2 for size in reach]
    options = {"stride": sizes(module.stride), "padding": sizes(padding), "dilation": sizes(module.dilation)}
    return v.Conv(path=path, groups=module.groups, **options)


def _conv_transpose(module: Any, path: str) -> v.ConvTranspose:
    only(module, padding_mode="zeros", groups=1)
    if sizes(module.dilation) != 1:
        raise RefusedError(f"which has dilation={module.dilation}")
    names = ("stride", "padding", "output_padding")
    return v.ConvTranspose(path=path, **{name: sizes(getattr(module, name)) for name in names})


def _batch_norm(module: Any, path: str) -> v.BatchNorm:
    only(module, track_running_stats=True)
    if module.momentum is None:
        raise RefusedError("which has momentum=None, a cumulative average")
    return v.BatchNorm(path=path, epsilon=module.eps, momentum=round(1 - module.momentum, 12))


def _layer_norm(module: Any, path: str) -> v.LayerNorm:
    only(module, elementwise_affine=True)
    if len(module.normalized_shape) != 1:
        raise RefusedError(f"which is over {len(module.normalized_shape)} axes")
    return v.LayerNorm(path=path, epsilon=module.eps)


def _rms_norm(module: Any, path: str) -> v.RmsNorm:
    only(module, elementwise_affine=True)
    if len(module.normalized_shape) != 1:
        raise RefusedError(f"which is over {len(module.normalized_shape)} axes")
    return v.RmsNorm(path=path, epsilon=2.0**-23 if module.eps is None else module.eps)


def _group_norm(module: Any, path: str) -> v.GroupNorm:
    only(module, affine=True)
    return v.GroupNorm(path=path, groups=module.num_groups, epsilon=module.eps)


def _instance_norm(module: Any, path: str) -> v.InstanceNorm:
    only(module, affine=True, track_running_stats=False)
    return v.InstanceNorm(path=path, epsilon=module.eps)


def _embedding(module: Any, path: str) -> v.Embedding:
    only(module, max_norm=None)
    return v.Embedding(path=path)


def _recurrent(make: Callable[..., v.NetStep]) -> Callable[[Any, str], v.NetStep]:
    def step(module: Any, path: str) -> v.NetStep:
        only(module, num_layers=1, bidirectional=False, batch_first=True, proj_size=0)
        return make(path=path, **({"activation": module.nonlinearity} if make is v.Rnn else {}))

    return step


def _attention(module: Any, path: str) -> v.Attention:
    only(module, batch_first=True, bias_k=None, add_zero_attn=False, _qkv_same_embed_dim=True, dropout=0.0)
    return v.Attention(path=path, heads=module.num_heads)


def _max_pool(module: Any) -> v.MaxPool:
    only(module, ceil_mode=False, return_indices=False)
    if sizes(module.dilation) != 1:
        raise RefusedError(f"which has dilation={module.dilation}")
    return v.MaxPool(size=sizes(module.kernel_size), stride=sizes(module.stride), padding=sizes(module.padding))


def _average_pool(module: Any) -> v.AveragePool:
    only(module, ceil_mode=False)
    if getattr(module, "divisor_override", None) is not None:
        raise RefusedError(f"which has divisor_override={module.divisor_override}")
    options = {"size": module.kernel_size, "stride": module.stride, "padding": module.padding}
    sized = {name: sizes(value) for name, value in options.items()}
    return v.AveragePool(**sized, count_padding=bool(module.count_include_pad))


def _global(make: Callable[[], v.NetStep]) -> Callable[[Any], v.NetStep]:
    def step(module: Any) -> v.NetStep:
        if sizes(module.output_size) != 1:
            raise RefusedError(f"which has output_size={module.output_size}")
        return make()

    return step


def _flatten(module: Any) -> v.Flatten:
    only(module, start_dim=1, end_dim=-1)
    return v.Flatten()


def _gelu(module: Any) -> v.Gelu:
    return v.Gelu(approximate=module.approximate == "tanh")


def _softplus(module: Any) -> v.Softplus:
    only(module, beta=1.0, threshold=20.0)
    return v.Softplus()


def _pad(module: Any) -> v.ZeroPad:
    if getattr(module, "value", 0) != 0:
        raise RefusedError(f"which pads with {module.value}")
    sides = module.padding
    return v.ZeroPad(padding=tuple(reversed([*zip(sides[::2], sides[1::2], strict=True)])))


#: Class of torch.nn -> its step with weights.
LAYERS: Mapping[str, Callable[[Any, str], v.NetStep]] = {
    "Linear": lambda module, path: v.Linear(path=path),
    "Embedding": _embedding,
    **{f"Conv{n}d": _conv for n in (1, 2, 3)},
    **{f"ConvTranspose{n}d": _conv_transpose for n in (1, 2, 3)},
    **{f"BatchNorm{n}d": _batch_norm for n in (1, 2, 3)},
    **{f"InstanceNorm{n}d": _instance_norm for n in (1, 2, 3)},
    "LayerNorm": _layer_norm,
    "GroupNorm": _group_norm,
    "RMSNorm": _rms_norm,
    "PReLU": lambda module, path: v.Prelu(path=path),
    "RNN": _recurrent(v.Rnn),
    "LSTM": _recurrent(v.Lstm),
    "GRU": _recurrent(v.Gru),
    "MultiheadAttention": _attention,
}
#: Class of torch.nn -> its step without weights; None for the identity.
STEPS: Mapping[str, Callable[[Any], v.NetStep | None]] = {
    "Identity": lambda module: None,
    "ReLU": lambda module: v.Relu(),
    "Sigmoid": lambda module: v.Sigmoid(),
    "Tanh": lambda module: v.Tanh(),
    "GELU": _gelu,
    "LeakyReLU": lambda module: v.LeakyRelu(slope=module.negative_slope),
    "ELU": lambda module: v.Elu(alpha=module.alpha),
    "SiLU": lambda module: v.Silu(),
    "Softplus": _softplus,
    "Softmax": lambda module: v.Softmax(),
    **{f"MaxPool{n}d": _max_pool for n in (1, 2, 3)},
    **{f"AvgPool{n}d": _average_pool for n in (1, 2, 3)},
    **{f"AdaptiveMaxPool{n}d": _global(v.GlobalMaxPool) for n in (1, 2, 3)},
    **{f"AdaptiveAvgPool{n}d": _global(v.GlobalAveragePool) for n in (1, 2, 3)},
    "Flatten": _flatten,
    "Dropout": lambda module: v.Dropout(rate=module.p),
    **{f"ZeroPad{n}d": _pad for n in (1, 2, 3)},
    **{f"ConstantPad{n}d": _pad for n in (1, 2, 3)},
}
