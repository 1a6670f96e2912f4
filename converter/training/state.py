"""The state of an optimizer as no framework has it: slots by the names of the parameters, in the form of PyTorch.

One convention for all: gradients' averages as they are, momentum in units of the gradient (``B = mu*B + g``), a step
that counts what is finished, hyper-parameters that say where epsilon stands and how weight decay is coupled. What a
file does not say is None. No index of a file gets here: `converter.training.order` has proved it, or has asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from converter.core.contents import LeftOut
from converter.formats.base import StateTensor

#: What an optimizer keeps of each parameter, all of the parameter's own shape.
Slot: TypeAlias = Literal[
    "momentum",  # the buffer B, in units of the gradient
    "moment1",  # the average of the gradients, not corrected for its start at zero
    "moment2",  # the average of their squares, not corrected either
    "moment2_max",  # the largest moment2 so far (amsgrad)
    "infinity_norm",  # the decayed maximum of their absolute values (Adamax)
    "average_square",  # the average of their squares (RMSprop, Adadelta)
    "average_gradient",  # their average (centered RMSprop)
    "sum_of_squares",  # the sum of their squares (Adagrad)
    "accumulated_update",  # the average of the squared updates (Adadelta)
]
#: Where epsilon is added: to the root that is divided by (``sqrt(v) + eps``), in it (``sqrt(v + eps)``); with Adam
#: to the root after the correction of the start, or before it.
EpsilonPlace: TypeAlias = Literal["outside the root", "in the root", "after the correction", "before the correction"]
#: Whether weight decay is a part of the gradient, or is subtracted beside it, times the rate.
Decay: TypeAlias = Literal["coupled", "decoupled"]


#: The hyper-parameters that are on or off.
SWITCHES = frozenset({"nesterov", "centered", "amsgrad"})


class HyperParameters(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of the parameters of one group; None: the file does not say. learning_rate: the one of the next step.

    rho: the decay of an average of squares. momentum_decay: that of NAdam. lr_decay: that of Adagrad.
    """

    learning_rate: float | None = None
    momentum: float | None = None
    dampening: float | None = None
    nesterov: bool | None = None
    beta1: float | None = None
    beta2: float | None = None
    rho: float | None = None
    centered: bool | None = None
    amsgrad: bool | None = None
    lr_decay: float | None = None
    momentum_decay: float | None = None
    epsilon: float | None = None
    epsilon_place: EpsilonPlace | None = None
    weight_decay: float | None = None
    decay: Decay | None = None

    def known(self) -> dict[str, Any]:
        """Those that are known, by name."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}


class Group(msgspec.Struct, frozen=True):
    """Parameters, by the names of their tensors, that have the same hyper-parameters."""

    hyper: HyperParameters
    parameters: tuple[str, ...]


class TrainingState(msgspec.Struct, frozen=True):
    """What one optimizer of a file has done so far.

    optimizer: its name in `optimizers.OPTIMIZERS`. slots: slot -> name of a parameter's tensor -> the tensor; the
    scale of its values is that of the framework (see `optimizers.Row`). step: how many are finished. groups: all
    parameters that it trains. tied: further name of a parameter -> the one that has the slots.
    order: how it is known which tensor of the state is of which parameter; likely: whether that is no proof.
    place: where in the file it is. left_out: what else there is of the training, and why it is not carried.
    """

    framework: str
    optimizer: str
    slots: Mapping[Slot, Mapping[str, StateTensor]]
    step: int | None
    groups: tuple[Group, ...]
    order: str
    likely: bool = False
    tied: Mapping[str, str] = {}
    place: str = ""
    left_out: tuple[LeftOut, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(name for group in self.groups for name in group.parameters)

    @property
    def hyper(self) -> HyperParameters:
        """Of the first group."""
        return self.groups[0].hyper if self.groups else HyperParameters()

    def slot(self, slot: Slot, parameter: str) -> StateTensor | None:
        return self.slots.get(slot, {}).get(self.tied.get(parameter, parameter))
