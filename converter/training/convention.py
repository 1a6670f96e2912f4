"""From one framework's convention to another's: what happens to slots and hyper-parameters, or why nothing can.

The formulas and their errors are measured: docs/training.md has the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from converter.core.arithmetic import Added, Scaled
from converter.core.ops import Op
from converter.errors import ConversionError, Placeholder, Problem, Remedy
from converter.training.found import refusal
from converter.training.optimizers import AMSGRAD, ROWS, TITLES, WHY_NOT, Row
from converter.training.state import HyperParameters, Slot, TrainingState

DECAY = (
    "weight decay {} is a part of the gradient in {} and is subtracted beside it in {}, which is another training: the "
    "weights part by 2 percent (Adam) to 40 (SGD) within five steps. Give the layers an L2 regularizer of {:g} there "
    "and say --hyper weight_decay=0"
)


class Converted(msgspec.Struct, frozen=True):
    """hyper: in the convention of the target. ops: of the slots whose values change. notes: for how long it holds."""

    hyper: HyperParameters
    ops: Mapping[Slot, tuple[Op, ...]]
    notes: tuple[str, ...]


def row_for(optimizer: str, framework: str) -> Row:
    """Raises ConversionError for an optimizer that the framework does not have."""
    row = ROWS[framework].get(optimizer)
    if row is None:
        why = WHY_NOT.get(optimizer, f"it has {', '.join(ROWS[framework])}")
        raise refusal(f"{TITLES[framework]} has no counterpart of the optimizer {optimizer}: {why}.")
    return row


def converted(state: TrainingState, hyper: HyperParameters, framework: str) -> Converted:
    """A group of the state as the framework has it. Raises ConversionError with what cannot be made equal."""
    if state.framework == framework:
        return Converted(hyper, {}, ())
    source, target = row_for(state.optimizer, state.framework), row_for(state.optimizer, framework)
    _refuse(state, hyper, target, framework)
    scaled, hyper, notes = _momentum(state, hyper, source, target, framework)
    hyper, more, added = _epsilon(state, hyper, target, framework)
    ops = {slot: (*scaled.get(slot, ()), *added.get(slot, ())) for slot in {*scaled, *added}}
    return Converted(replace(hyper, decay=target.decay or hyper.decay), ops, (*notes, *more))


def _refuse(state: TrainingState, hyper: HyperParameters, target: Row, framework: str) -> None:
    if (hyper.amsgrad or "moment2_max" in state.slots) and "optax" in (framework, state.framework):
        raise refusal(f"{AMSGRAD}.")
    kept = {item.slot for item in target.slots}
    lost = [slot for slot in state.slots if slot not in kept]
    if lost:
        raise refusal(f"{TITLES[framework]} keeps no {lost[0]} with {state.optimizer}, which the source does.")
    if hyper.momentum and not hyper.centered and state.optimizer == "rmsprop" and framework == "mxnet":
        raise refusal("RMSProp of MXNet has momentum only where it is centered, and the source has it without.")
    if hyper.lr_decay and framework != "torch":
        raise refusal(
            f"the rate of Adagrad falls with the steps (lr_decay={hyper.lr_decay:g}), which only PyTorch does."
        )
    other = target.decay is not None and hyper.decay is not None and target.decay != hyper.decay
    if hyper.weight_decay and other:
        titles = TITLES[state.framework], TITLES[framework]
        if hyper.decay == "coupled":
            about = DECAY.format(hyper.weight_decay, *titles, hyper.weight_decay)
        else:
            about = DECAY.partition(". Give")[0].format(hyper.weight_decay, *reversed(titles))
        raise refusal(f"{about}.")
    if hyper.weight_decay and framework == "optax" and hyper.decay == "decoupled" and state.optimizer not in _DECOUPLED:
        raise refusal(f"optax.{state.optimizer} subtracts no weight decay beside the gradient, as the source does.")


#: Of optax, with the decay beside the gradient.
_DECOUPLED = ("adamw", "lion")


# -- momentum ---------------------------------------------------------------------------------------------------------

_SIGN = {"B": 1.0, "-lr*B": -1.0, "lr*B": 1.0}
UNTIL = (
    "equal until the rate changes: {} has the rate inside the momentum and {} outside, so that a new rate acts on the "
    "old steps of one and not of the other"
)


def _momentum(
    state: TrainingState, hyper: HyperParameters, source: Row, target: Row, framework: str
) -> tuple[dict[Slot, tuple[Op, ...]], HyperParameters, tuple[str, ...]]:
    ours, theirs = (next((item for item in row.slots if item.slot == "momentum"), None) for row in (source, target))
    damped = hyper.dampening or 0.0
    if damped and framework != "torch":
        rate = hyper.learning_rate
        hyper = replace(hyper, dampening=0.0, learning_rate=None if rate is None else rate * (1 - damped))
    if ours is None or theirs is None or "momentum" not in state.slots:
        return {}, hyper, ()
    factor, why = 1.0, []
    if damped and framework != "torch":
        factor, why = factor / (1 - damped), ["1/(1-dampening)"]
    if ours.scale == theirs.scale:
        return ({"momentum": (Scaled(factor, why[0]),)} if why else {}), hyper, ()
    sign = _SIGN[ours.scale] * _SIGN[theirs.scale]
    if "B" in (ours.scale, theirs.scale):
        rate = hyper.learning_rate
        if not rate:
            raise _no_rate(state)
        factor *= sign * (rate if ours.scale == "B" else 1 / rate)
        why.insert(0, f"{'-' if sign < 0 else ''}{'rate' if ours.scale == 'B' else '1/rate'}")
        inside, outside = (framework, state.framework) if ours.scale == "B" else (state.framework, framework)
        notes: tuple[str, ...] = (UNTIL.format(TITLES[inside], TITLES[outside]),)
    else:
        factor, notes = factor * sign, ()
        why.insert(0, "the sign")
    return {"momentum": (Scaled(factor, " * ".join(why)),)}, hyper, notes


def _no_rate(state: TrainingState) -> ConversionError:
    text = "momentum is stored times the rate on one side, and nothing says the rate of the next step."
    remedy = Remedy("hyper", ("learning_rate", Placeholder("RATE")))
    return ConversionError(Problem(text, "hyper-parameter", "learning_rate", remedies=(remedy,)))


# -- epsilon ----------------------------------------------------------------------------------------------------------

INSIDE = (
    "epsilon={:g} stands in the root (sqrt(v + eps)) in {} and outside (sqrt(v) + eps) in {}: no epsilon makes them "
    "equal, and where v is as small as epsilon the update differs by a factor. Train the source with epsilon outside "
    "(eps_in_sqrt=False of optax.rmsprop, and say --hyper epsilon_in_root=0)"
)
DRIFT = "epsilon={:g} makes the next step equal; a difference of the size of epsilon over the root of v grows then"


def _epsilon(
    state: TrainingState, hyper: HyperParameters, target: Row, framework: str
) -> tuple[HyperParameters, tuple[str, ...], dict[Slot, tuple[Op, ...]]]:
    epsilon, here, there = hyper.epsilon, hyper.epsilon_place, target.epsilon
    if epsilon is None or here == there or here is None or there is None:
        return hyper, (), {}
    if framework == "optax" and state.optimizer == "rmsprop":
        return hyper, (), {}  # eps_in_sqrt says it
    moved = replace(hyper, epsilon_place=there)
    if "correction" in here:
        if hyper.beta2 is None or state.step is None:
            return moved, ("epsilon is left as it is: it stands elsewhere, and beta2 is unknown",), {}
        root = math.sqrt(1 - hyper.beta2 ** (state.step + 1))
        value = epsilon * root if there == "before the correction" else epsilon / root
        return replace(moved, epsilon=value), (DRIFT.format(value),), {}
    if there == "in the root":
        return replace(moved, epsilon=epsilon**2), (DRIFT.format(epsilon**2),), {}
    if state.optimizer == "adagrad":
        return replace(moved, epsilon=0.0), (), {"sum_of_squares": (Added(epsilon),)}
    raise refusal(f"{INSIDE.format(epsilon, TITLES[state.framework], TITLES[framework])}.")
