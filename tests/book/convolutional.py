"""The feed-forward and convolutional nets of the book, by the name of their schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.book import blocks, densenet, googlenet, plain, residual
from tests.parity.sides import Case

CASES: Mapping[str, Case] = {
    case.name: case for module in (plain, blocks, googlenet, residual, densenet) for case in module.CASES
}
#: Nets of other numbers of stages and blocks; each is named by the schema that it has with those above.
OTHER_SIZES: Sequence[Case] = tuple(case for module in (blocks, residual, densenet) for case in module.OTHER_SIZES)
