"""Tensors side by side before a layer: ``64x49+4`` is 64 channels at 49 spatial positions, flattened, and 4 features.

So it is where a net flattens two branches and joins them, or sets other inputs beside what it flattened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from converter.errors import ConversionError

#: Channels and spatial positions of each tensor, in order.
ChannelGroups = tuple[tuple[int, int], ...]


def parse_channels(text: str) -> int | ChannelGroups:
    """``64`` -> 64 channels; ``64x49+4`` -> ((64, 49), (4, 1)). Raises ConversionError for anything else."""
    if re.fullmatch(r"\d+", text):
        return int(text)
    terms = [re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", term) for term in text.split("+")]
    if not all(terms):
        raise ConversionError(f"'{text}' is neither a number of channels nor a sum such as 64x49+4")
    return tuple((int(term[1]), int(term[2] or 1)) for term in terms if term)


def parsed(flatten: Mapping[str, int | str] | None) -> dict[str, int | ChannelGroups]:
    """What a user says of layers. Raises ConversionError as `parse_channels` does."""
    return {pattern: parse_channels(str(channels)) for pattern, channels in (flatten or {}).items()}


def written(groups: ChannelGroups) -> str:
    """As `parse_channels` reads it."""
    return "+".join(f"{channels}x{positions}" if positions > 1 else str(channels) for channels, positions in groups)
