"""How many channels or features come into a layer and go out of it."""

from __future__ import annotations

import msgspec

from converter.core.layers import Layer, Reading

_NORMS = frozenset({"batch_norm", "norm"})
#: One of the gates of each recurrent kind.
_GATES = {"rnn": "input_h", "lstm": "input_i", "gru": "input_r", "gru_reset_before": "input_r"}


class Sizes(msgspec.Struct, frozen=True):
    """What comes into a layer and goes out; 0 where it is not known.

    role: channels, features, recurrent, norm or other. transposed: of a transposed convolution.
    """

    inputs: int
    outputs: int
    role: str
    transposed: bool = False


def sizes_of(layer: Layer) -> Sizes:
    """The sizes of a layer; of a convolution the channels, in groups only those of one group come in."""
    reading = layer.readings[0]
    shape = _shape(reading, "weight")
    if reading.kind == "conv" and len(shape) > 1:
        multiplier = dict(reading.sizes).get("multiplier")  # of a depthwise one
        return Sizes(shape[0] // multiplier if multiplier else shape[1], shape[0], "channels")
    if reading.kind == "conv_transpose" and len(shape) > 1:
        return Sizes(shape[0], _one(reading, "bias") or shape[1], "channels", transposed=True)
    if reading.kind == "linear" and len(shape) == 2:
        return Sizes(shape[1], shape[0], "features")
    if reading.kind in _NORMS:
        size = next((s for role in ("scale", "offset", "mean", "variance") if (s := _one(reading, role))), 0)
        return Sizes(size, size, "norm")
    if reading.kind == "embedding" and len(shape) == 2:
        return Sizes(0, shape[1], "other")
    gate = _shape(reading, _GATES.get(reading.kind, ""))
    if len(gate) == 2:
        return Sizes(gate[1], (_shape(reading, "projection") or gate)[0], "recurrent")
    return Sizes(0, 0, "other")


def _shape(reading: Reading, role: str) -> tuple[int, ...]:
    """The neutral shape of a role; empty when the layer has none."""
    found = next((place for roles, place in reading.roles.items() if role in roles), None)
    return (found[0].neutral_shape() or ()) if found else ()


def _one(reading: Reading, role: str) -> int:
    shape = _shape(reading, role)
    return shape[0] if len(shape) == 1 else 0
