"""How a framework's file holds the state of an optimizer: the contract of the files of this room that write one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from converter.core.contents import Contents
from converter.formats.base import StateTensor
from converter.planning.steps import Step
from converter.training.state import HyperParameters, TrainingState
from converter.training.steps import Target


class Written(msgspec.Struct, frozen=True):
    """What is written beside the slots. steps: of counters and the like. tree: as in `Contents`.

    sources: what some steps read, of the clone. keys, labels, metadata: as in `Contents`.
    """

    steps: tuple[Step, ...]
    tree: Any = None
    sources: Mapping[str, StateTensor] = {}
    keys: Mapping[str, tuple[str, ...]] = {}
    labels: Mapping[str, str] = {}
    metadata: Mapping[str, str] = {}


class Layout(ABC):
    """The state of an optimizer in one file.

    order, likely: how it is known which number is which parameter (see `order.Order`). own_hyper: what the clone's
    optimizer is set to; clones: which one it is; "" where there is none. groups: the parameters of each group of the
    clone's optimizer, where it keeps groups. skips_fresh: whether a parameter without a state has no slots in the
    file.
    """

    framework: str
    order = ""
    likely = False
    own_hyper = HyperParameters()
    clones = ""
    groups: tuple[tuple[str, ...], ...] = ()
    skips_fresh = False
    apart = False
    weights: Sequence[Step] = ()

    def __init__(self, state: TrainingState) -> None:
        self.state = state

    @property
    def count(self) -> int:
        return self.state.step or 0

    def needs(self, hyper: HyperParameters) -> Sequence[str]:
        """Hyper-parameters without which the file cannot be written."""
        return ()

    @abstractmethod
    def targets(self, contents: Contents, hyper: HyperParameters) -> Sequence[Target]:
        """The slots to be written, in their order. contents: the weights as they are written."""

    @abstractmethod
    def written(self, contents: Contents, hyper: Sequence[HyperParameters], fresh: frozenset[str]) -> Written:
        """The rest. hyper: of each group, in the convention of this framework. fresh: parameters without a state."""
