"""The layers and operations of Keras 3 that are steps of the vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from converter.architectures import vocabulary as v
from converter.architectures.capture.settings import LowestPad, RefusedError, as_steps_and_option, only, same, sizes

#: (layer, its neutral path, its call) -> its steps, followed by its activation.
LayerReader: TypeAlias = Callable[[Any, str, Any], "list[v.NetStep]"]

#: Function of keras.activations, called without options -> its step.
_ACTIVATIONS: Mapping[str, v.NetStep] = {
    "relu": v.Relu(),
    "leaky_relu": v.LeakyRelu(slope=0.2),
    "elu": v.Elu(),
    "gelu": v.Gelu(),
    "silu": v.Silu(),
    "sigmoid": v.Sigmoid(),
    "tanh": v.Tanh(),
    "softplus": v.Softplus(),
    "softmax": v.Softmax(),
}


def _activation(layer: Any) -> list[v.NetStep]:
    function = layer.activation
    name = getattr(function, "__name__", type(function).__name__)
    if name == "linear":
        return []
    if name not in _ACTIVATIONS or not getattr(function, "__module__", "").startswith("keras."):
        raise RefusedError(f"which has activation={name}")
    return [_ACTIVATIONS[name]]


def _shape(node: Any) -> tuple[int | None, ...]:
    """The shape of the input of the layer, with the batch."""
    return tuple(node.input_tensors[0].shape)


def _last_axis(layer: Any, node: Any) -> None:
    axes = list(layer.axis) if isinstance(layer.axis, list | tuple) else [layer.axis]
    if axes not in ([-1], [len(_shape(node)) - 1]):
        raise RefusedError(f"which is over axis {layer.axis}, and not over the channels or features")


def _channels_last(layer: Any) -> None:
    only(layer, data_format="channels_last")


def _dense(layer: Any, path: str, node: Any) -> list[v.NetStep]:
    return [v.Linear(path=path), *_activation(layer)]


def _embedding(layer: Any, path: str, node: Any) -> list[v.NetStep]:
    only(layer, mask_zero=False)
    return [v.Embedding(path=path)]


def _conv(layer: Any, path: str, node: Any) -> list[v.NetStep]:
    _channels_last(layer)
    reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation_rate, layer.kernel_size, strict=True)]
    before, padding = _padding(layer, reach, layer.strides, node)
    depthwise = type(layer).__name__.startswith("Depthwise")
    options = {"stride": sizes(layer.strides), "padding": padding, "dilation": sizes(layer.dilation_rate)}
    groups = _shape(node)[-1] if depthwise else layer.groups
    return [*before, v.Conv(path=path, groups=groups, **options), *_activation(layer)]


def _padding(layer: Any, window: Sequence[int], stride: Sequence[int], node: Any) -> tuple[list[v.NetStep], Any]:
    """As in `as_steps_and_option`."""
    if layer.padding == "valid":
        return [], 0
    only(layer, padding="same")
    return as_steps_and_option(same(_shape(node)[1:-1], window, stride))


def _conv_transpose(layer: Any, path: str, node: Any) -> list[v.NetStep]:
    _channels_last(layer)
    only(layer, output_padding=None)
    if set(layer.dilation_rate) != {1}:
        raise RefusedError(f"which has dilation_rate={layer.dilation_rate}")
    kernel, stride = layer.kernel_size, layer.strides
    surplus = [k - s for k, s in zip(kernel, stride, strict=True)]
    if layer.padding == "valid":
        padding, output_padding = 0, sizes([max(-each, 0) for each in surplus])
    elif any(each < 0 or each % 2 for each in surplus):
        raise RefusedError("which pads 'same', with different amounts on the two sides")
    else:
        padding, output_padding = sizes([each // 2 for each in surplus]), 0
    made = v.ConvTranspose(path=path, stride=sizes(stride), padding=padding, output_padding=output_padding)
    return [made, *_activation(layer)]


def _batch_norm(layer: Any, path: str, node: Any) -> list[v.NetStep]:
    _last_axis(layer, node)
    return [v.BatchNorm(path=path, epsilon=layer.epsilon, momentum=layer.momentum)]


def _layer_norm(layer: Any, path: str, node: Any) -> list[v.NetStep]:
    _last_axis(layer, node)
    only(layer, scale=True, center=True)
    return [v.LayerNorm(path=path, epsilon=layer.epsilon)]


def _rms_norm(layer: Any, path: str, node: Any) -> list[v.NetStep]:
    _last_axis(layer, node)
    return [v.RmsNorm(path=path, epsilon=layer.epsilon)]


def _group_norm(layer: Any, path: str, node: Any) -> list[v.NetStep]:
    _last_axis(layer, node)
    only(layer, scale=True, center=True)
    if layer.groups in (-1, _shape(node)[-1]):
        return [v.InstanceNorm(path=path, epsilon=layer.epsilon)]
    return [v.GroupNorm(path=path, groups=layer.groups, epsilon=layer.epsilon)]


def _prelu(layer: Any, path: str, node: Any) -> list[v.NetStep]:
    if any(size != 1 for size in layer.alpha.shape[:-1]):
        raise RefusedError("which has a slope for each position, and not for each channel")
    return [v.Prelu(path=path)]


def _recurrent(layer: Any, path: str, node: Any) -> list[v.NetStep]:
    only(layer, go_backwards=False, stateful=False, return_state=False, use_bias=True)
    kind = type(layer).__name__
    names = {
        key: getattr(getattr(layer, key), "__name__", "")
        for key in ("activation", "recurrent_activation")[: 1 + (kind != "SimpleRNN")]
    }
    if kind == "SimpleRNN":
        if names["activation"] not in ("tanh", "relu"):
            raise RefusedError(f"which has activation={names['activation']}")
        step: v.NetStep = v.Rnn(path=path, activation=names["activation"])  # type: ignore[arg-type]
    else:
        if names != {"activation": "tanh", "recurrent_activation": "sigmoid"}:
            raise RefusedError(f"which has the activations {' and '.join(names.values())}")
        if kind == "GRU":
            only(layer, reset_after=True)
        step = v.Lstm(path=path) if kind == "LSTM" else v.Gru(path=path)
    return [step] if layer.return_sequences else [step, v.Last()]


def _attention(layer: Any, path: str, node: Any) -> list[v.NetStep]:
    width = _shape(node)[-1]
    if layer._num_heads * layer._key_dim != width or layer._value_dim != layer._key_dim or layer._output_shape:
        raise RefusedError("whose keys, values or outputs differ in size from its input")
    return [v.Attention(path=path, heads=layer._num_heads)]


def _max_pool(layer: Any, path: str, node: Any) -> list[v.NetStep]:
    _channels_last(layer)
    before, padding = _padding(layer, layer.pool_size, layer.strides, node)
    if before:
        raise RefusedError("which pads 'same', with different amounts on the two sides")
    return [v.MaxPool(size=sizes(layer.pool_size), stride=sizes(layer.strides), padding=padding)]


def _average_pool(layer: Any, path: str, node: Any) -> list[v.NetStep]:
    _channels_last(layer)
    before, padding = _padding(layer, layer.pool_size, layer.strides, node)
    if before:
        raise RefusedError("which pads 'same', with different amounts on the two sides")
    made = {"size": sizes(layer.pool_size), "stride": sizes(layer.strides), "padding": padding}
    return [v.AveragePool(**made, count_padding=padding == 0)]


def _global(make: Callable[[], v.NetStep]) -> LayerReader:
    def read(layer: Any, path: str, node: Any) -> list[v.NetStep]:
        _channels_last(layer)
        return [make()] if layer.keepdims else [make(), v.Flatten()]

    return read


def _relu(layer: Any, path: str, node: Any) -> list[v.NetStep]:
    only(layer, max_value=None, threshold=0)
    slope = float(layer.negative_slope)
    return [v.LeakyRelu(slope=slope) if slope else v.Relu()]


def _softmax(layer: Any, path: str, node: Any) -> list[v.NetStep]:
    _last_axis(layer, node)
    return [v.Softmax()]


def _zero_padding(layer: Any, path: str, node: Any) -> list[v.NetStep]:
    if hasattr(layer, "data_format"):
        _channels_last(layer)
    pairs = layer.padding if isinstance(layer.padding[0], tuple | list) else (layer.padding,)
    return [v.ZeroPad(padding=tuple((int(a), int(b)) for a, b in pairs))]


def _reshape(layer: Any, path: str, node: Any) -> list[v.NetStep]:
    """To one axis after the batch."""
    shape = getattr(layer, "target_shape", None)
    if shape is None:
        _, *shape = layer.newshape
    if len(shape) != 1:
        raise RefusedError(f"which reshapes it to {tuple(shape)}")
    return [v.Flatten()]


def _mean(operation: Any, path: str, node: Any) -> list[v.NetStep]:
    rank = len(_shape(node))
    axes = range(rank) if operation.axis is None else operation.axis
    axes = [axes] if isinstance(axes, int) else axes
    if sorted(axis % rank for axis in axes) != list(range(1, rank - 1)):
        raise RefusedError(f"which is over the axes {operation.axis}, and not over all spatial axes")
    return [v.GlobalAveragePool(), *([] if operation.keepdims else [v.Flatten()])]


def _pad(operation: Any, path: str, node: Any) -> list[v.NetStep]:
    fill = [*node.arguments.args[1:], *node.arguments.kwargs.values()]
    first, *pairs, last = operation.pad_width
    if operation.mode != "constant" or (tuple(first), tuple(last)) != ((0, 0), (0, 0)):
        raise RefusedError("which pads other axes than the spatial ones, or not with a constant")
    padding = tuple((int(a), int(b)) for a, b in pairs)
    if all(not value for value in fill):
        return [v.ZeroPad(padding=padding)]
    if fill[-1] != -float("inf"):
        raise RefusedError(f"which pads with {fill[-1]}")
    return [LowestPad(padding=padding)]


def _item(operation: Any, path: str, node: Any) -> list[v.NetStep]:
    key = [*node.arguments.args[1:], *node.arguments.kwargs.values()][0]
    if key != (slice(None), -1) or len(_shape(node)) != 3:
        raise RefusedError(f"which takes the part [{key}]")
    return [v.Last()]


def _as(*steps: v.NetStep) -> LayerReader:
    return lambda layer, path, node: list(steps)


#: Class of keras.layers, or of an operation of keras.ops -> how it is read.
LAYERS: Mapping[str, LayerReader] = {
    "Dense": _dense,
    "Embedding": _embedding,
    **{f"Conv{n}D": _conv for n in (1, 2, 3)},
    **{f"DepthwiseConv{n}D": _conv for n in (1, 2)},
    **{f"Conv{n}DTranspose": _conv_transpose for n in (1, 2, 3)},
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "GroupNormalization": _group_norm,
    "PReLU": _prelu,
    **dict.fromkeys(("SimpleRNN", "LSTM", "GRU"), _recurrent),
    "MultiHeadAttention": _attention,
    "Activation": lambda layer, path, node: _activation(layer),
    "ReLU": _relu,
    "LeakyReLU": lambda layer, path, node: [v.LeakyRelu(slope=float(layer.negative_slope))],
    "ELU": lambda layer, path, node: [v.Elu(alpha=float(layer.alpha))],
    "Softmax": _softmax,
    **{f"MaxPooling{n}D": _max_pool for n in (1, 2, 3)},
    **{f"AveragePooling{n}D": _average_pool for n in (1, 2, 3)},
    **{f"GlobalMaxPooling{n}D": _global(v.GlobalMaxPool) for n in (1, 2, 3)},
    **{f"GlobalAveragePooling{n}D": _global(v.GlobalAveragePool) for n in (1, 2, 3)},
    "Flatten": _as(v.Flatten()),
    "Dropout": lambda layer, path, node: [v.Dropout(rate=layer.rate)],
    **{f"ZeroPadding{n}D": _zero_padding for n in (1, 2, 3)},
    **dict.fromkeys(("Identity", "InputLayer", "ConvertToTensor"), _as()),
    # of keras.ops
    "Relu": _as(v.Relu()),
    "LeakyRelu": lambda operation, path, node: [v.LeakyRelu(slope=float(operation.negative_slope))],
    "Elu": lambda operation, path, node: [v.Elu(alpha=float(operation.alpha))],
    "Gelu": lambda operation, path, node: [v.Gelu(approximate=bool(operation.approximate))],
    "Silu": _as(v.Silu()),
    "Sigmoid": _as(v.Sigmoid()),
    "Tanh": _as(v.Tanh()),
    "Softplus": _as(v.Softplus()),
    "Mean": _mean,
    "Reshape": _reshape,
    "Pad": _pad,
    "GetItem": _item,
}


def joins(operation: Any, node: Any) -> str:
    """``add``, ``concat``, or "" for other operations. Raises RefusedError for another axis than the last."""
    kind = type(operation).__name__
    if not type(operation).__module__.startswith("keras.") or kind not in ("Add", "Concatenate"):
        return ""
    if kind == "Concatenate":
        _last_axis(operation, node)
    return "add" if kind == "Add" else "concat"
