"""All families of the zoo."""

from __future__ import annotations

from tests.zoo import convolutional, joined, measured, other_sizes, text, vision

FAMILIES = (
    *text.FAMILIES,
    *joined.FAMILIES,
    *vision.FAMILIES,
    *measured.FAMILIES,
    *convolutional.FAMILIES,
    *other_sizes.FAMILIES,
)
