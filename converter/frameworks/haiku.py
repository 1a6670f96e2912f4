"""Haiku: ``mlp/~/linear_0`` with ``w`` and ``b``. Its kernels lie as those of Flax do; what it alone has is named here.

Sources: dm-haiku, haiku/_src/basic.py, conv.py, layer_norm.py, batch_norm.py, moving_averages.py, recurrent.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from converter.core.arithmetic import JoinedGates
from converter.core.layers import join_path, split_path
from converter.core.ops import Reshape
from converter.frameworks.base import Part

#: What its methods are parted by in names.
_METHOD = "~"
#: The names that its modules give themselves.
_MODULES = re.compile(
    r"(linear|conv[123]_d(_transpose)?|depthwise_conv2_d|embed|(layer|batch|group|instance|rms)_norm|lstm|gru)(_\d+)?"
)
#: The names of tensors -> those of Flax, for layers that have no others.
_LEAVES: tuple[Mapping[str, str], ...] = (
    {"w": "kernel", "b": "bias"},
    {"scale": "scale", "offset": "bias"},
    {"embeddings": "embedding"},
)
#: What a BatchNorm keeps in modules of its own (`ExponentialMovingAverage`); the layer uses the average alone.
_AVERAGES = {"mean_ema": "mean", "var_ema": "var"}
_IN_AVERAGES = ("average", "hidden", "counter")
IGNORED = dict.fromkeys(
    ("hidden of an average", "counter of an average"), "training uses it alone, to go on with an average"
)
#: The gates of its LSTM, ``i g f o``, in the order of all others, to whose forget gate it adds 1 when it runs.
_GATES, _FORGET_BIAS = (0, 2, 1, 3), ((1, 1.0),)


def as_flax(parts: Sequence[Part]) -> list[Part]:
    """The parts of a file of Haiku under Flax's names; of any other file as they are."""
    if not any(_is_haikus(part) for part in parts):
        return list(parts)
    parts = [_in_place(part) for part in parts]
    leaves: dict[str, set[str]] = {}
    for part in parts:
        leaves.setdefault(part.path, set()).add(part.leaf)
    return [new for part in parts for new in _renamed(part, leaves[part.path])]


def _is_haikus(part: Part) -> bool:
    *_, name = "", *split_path(part.path)
    own = any(part.leaf in names.keys() - names.values() for names in _LEAVES)
    return own and (_METHOD in split_path(part.path) or _MODULES.fullmatch(name) is not None)


def _in_place(part: Part) -> Part:
    """``mlp.~.linear_0`` -> ``mlp.linear_0``; what a BatchNorm keeps of an average, at the BatchNorm."""
    path = [name for name in split_path(part.path) if name != _METHOD]
    if path and path[-1] in _AVERAGES and part.leaf in _IN_AVERAGES:
        average = part.leaf == "average"
        leaf = _AVERAGES[path.pop()] if average else f"{part.leaf} of an average"
        return replace(part, path=join_path(path), leaf=leaf)
    return replace(part, path=join_path(path))


def _renamed(part: Part, leaves: set[str]) -> list[Part]:
    *_, name = "", *split_path(part.path)
    if re.search(r"(^|/)lstm(_\d+)?/linear/[wb]$", part.spec.name):  # no method between, for its own makes it
        return _of_lstm(part)
    if "transpose" in name:  # whose kernel runs as that of Flax, with the channels as in PyTorch
        return [part]
    names = next((row for row in _LEAVES if leaves & row.keys() and leaves <= {*row, "mean", "var", *IGNORED}), {})
    return [_flat(replace(part, leaf=names.get(part.leaf, part.leaf)))]


def _flat(part: Part) -> Part:
    """A vector of channels without the axes of one that a BatchNorm keeps for all others."""
    shape = part.spec.shape
    if len(shape) < 2 or part.leaf not in ("scale", "bias", "mean", "var") or set(shape[:-1]) != {1}:
        return part
    flat = replace(part.spec, shape=shape[-1:])
    return replace(part, spec=flat, sources=(part.spec,), fold=Reshape(flat.shape, shape))


def _of_lstm(part: Part) -> list[Part]:
    """The joined kernel, or the bias, of an LSTM as those of an `OptimizedLSTMCell` of nnx."""
    path = join_path(split_path(part.path)[:-1])
    rows, hidden = part.spec.shape[0], part.spec.shape[-1] // 4
    if part.spec.shape[-1] % 4 or (part.leaf == "w" and hidden >= rows):
        return [part]
    folds = {
        "w": {
            "dense_i.kernel": JoinedGates(_GATES, (0, rows - hidden)),
            "dense_h.kernel": JoinedGates(_GATES, (rows - hidden, rows)),
        },
        "b": {"dense_h.bias": JoinedGates(_GATES, None, _FORGET_BIAS)},
    }
    return [
        Part(replace(made, name=f"{path}.{leaf}"), path, leaf, "", (part.spec,), fold)
        for leaf, fold in folds[part.leaf].items()
        for made in fold.infer((part.spec,))
    ]
