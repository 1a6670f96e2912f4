"""Names of layers that hold several: what is in them, and in which runs that lies along their outputs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from converter.core.axes import groups
from converter.core.layers import Layer, Stored, split_path
from converter.core.parts import Runs

#: Head by head, or, where several heads of queries share one of keys, group by group.
BY_HEAD = 0


class Held(msgspec.Struct, frozen=True):
    """What a layer holds. words: its parts, as they are counted here. order: the places at which these lie. runs: how
    many there are, or `BY_HEAD`.
    """

    words: tuple[str, ...]
    order: tuple[int, ...]
    runs: int = 1


_QKV, _KV, _GATED = ("query", "key", "value"), ("key", "value"), ("gate", "up")
#: The ends of paths. By group are Falcon (`_split_heads` of transformers/models/falcon/modeling_falcon.py), Megatron,
#: InternLM2 and old files of LitGPT; by head, which is a group of one, GPT-NeoX and BLOOM. CodeGen has four runs, and
#: the values before the keys (modeling_codegen.py), whatever the number of heads; ChatGLM calls the gate and what it
#: gates ``dense_h_to_4h``, Megatron ``linear_fc1``, Granite ``input_linear``, DINOv2 ``w12`` or ``weights_in``.
_HELD: Sequence[tuple[str, Held]] = (
    (r"h\.\d+\.attn\.qkv_proj", Held(_QKV, (0, 2, 1), 4)),
    (r"query_key_value|linear_qkv|wqkv|attn\.attn|_?qkv_dense", Held(_QKV, (0, 1, 2), BY_HEAD)),
    (r"(?i:w?_?qkv(_proj)?|c_attn|in_proj)", Held(_QKV, (0, 1, 2))),
    (r"(?i:w?_?kv(_proj)?)", Held(_KV, (0, 1))),
    (r"(?i:gate_up(_proj)?|dense_h_to_4h|linear_fc1|input_linear|w12|weights_in)", Held(_GATED, (0, 1))),
)
_ENDS = tuple((re.compile(rf"(?:.*\.)?(?:{pattern})", re.DOTALL), held) for pattern, held in _HELD)


@lru_cache(maxsize=1 << 16)
def held_by(path: str) -> Held | None:
    """What a layer of this name holds, if it holds several."""
    path = ".".join(split_path(path)[-4:])
    return next((held for pattern, held in _ENDS if pattern.fullmatch(path)), None)


def held_in(path: str) -> tuple[str, ...]:
    """The words for what it holds."""
    held = held_by(path)
    return held.words if held else ()


def is_by_head(path: str) -> bool:
    """Whether its parts lie head by head, or group by group."""
    held = held_by(path)
    return held is not None and held.runs == BY_HEAD


def heads_of(layer: Layer) -> int | None:
    """The number of heads, where it is said."""
    return next((dict(reading.sizes)["heads"] for reading in layer.readings if "heads" in dict(reading.sizes)), None)


def axis_of_parts(stored: Stored) -> int | None:
    """The axis along which parts lie: that of the outputs, or of one head, where heads have an axis of their own; None
    for a tensor that has neither.
    """
    axes = groups(stored.leaf.axes, len(stored.spec.shape)) or ()
    return next((axes.index(axis) for axis in (("out",), ("head_dim",)) if axis in axes), None)


def has_heads_apart(layer: Layer) -> bool:
    """Whether the heads have an axis of their own in its kernel."""
    stored = (item for reading in layer.readings for item in reading.stored if reading.kind == "linear")
    return any(("heads",) in (groups(item.leaf.axes, len(item.spec.shape)) or ()) for item in stored)


def outputs_of(layer: Layer) -> int:
    """How many outputs a linear layer has along the axis of its parts; 0 where that is not known."""
    linear = (item for reading in layer.readings if reading.kind == "linear" for item in reading.stored)
    sizes = (item.spec.shape[axis] for item in linear if (axis := axis_of_parts(item)) is not None)
    return max(next(sizes, 0), 0)


def runs_of(outputs: int, shares: Sequence[int], count: int) -> Runs | None:
    """Runs of parts that have these shares of the outputs; None where these are no such runs."""
    least = [share // math.gcd(*shares) for share in shares]
    unit, rest = divmod(outputs, count * sum(least))
    return Runs(tuple(unit * share for share in least), count) if unit and not rest else None
