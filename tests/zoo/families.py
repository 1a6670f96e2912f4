"""All families of the zoo."""

from __future__ import annotations

from tests.zoo import convolutional, measured, text, vision

FAMILIES = (*text.FAMILIES, *vision.FAMILIES, *measured.FAMILIES, *convolutional.FAMILIES)
