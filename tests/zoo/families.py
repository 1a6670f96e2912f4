"""All families of the zoo."""

from __future__ import annotations

from tests.zoo import convolutional

FAMILIES = (*convolutional.FAMILIES,)
