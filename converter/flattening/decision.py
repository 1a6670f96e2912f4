"""What was decided for features that may be flattened channels."""

from __future__ import annotations

import msgspec

from converter.options import ChannelGroups, channels_text

INPUTS, OUTPUTS = "inputs", "outputs"


class Flattened(msgspec.Struct, frozen=True):
    """What was decided for the ``features`` of one side of a layer: they are so many flattened channels (0: they
    stay in their order), and why. ``problem``: why it cannot be decided. ``parts``: where they are several tensors side
    by side, what each of them is.
    """

    path: str
    side: str
    features: int
    channels: int
    reason: str
    problem: str = ""
    parts: ChannelGroups = ()

    def __str__(self) -> str:
        if self.parts:
            return (
                f"flatten: the {self.features} {self.side} of {self.path} are {channels_text(self.parts)}, tensors "
                f"side by side ({self.reason}); each takes the order of the other framework"
            )
        if self.channels:
            return (
                f"flatten: the {self.features} {self.side} of {self.path} are {self.channels} flattened channels "
                f"({self.reason}); they take the order of the other framework"
            )
        return f"flatten: the {self.features} {self.side} of {self.path} keep their order ({self.reason})"
