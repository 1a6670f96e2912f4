"""The table of optimizers: what each is called in each framework, what it keeps, and in which convention.

Sources: the optimizers' own code, and measured steps (docs/training.md). A row that is missing is no oversight: then
the framework has no such optimizer, or computes another one under the name, and a state is refused (`WHY_NOT`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from converter.training.state import Decay, EpsilonPlace, Slot

#: How a momentum B is stored: as it is, or times the rate of the next step, with its sign.
Scale: TypeAlias = Literal["B", "-lr*B", "lr*B"]


class SlotRow(msgspec.Struct, frozen=True):
    """A slot, what a file calls it, and how it is stored. unless: it is there only with these hyper-parameters."""

    slot: Slot
    name: str
    scale: Scale = "B"
    only_with: str = ""


class Row(msgspec.Struct, frozen=True):
    """An optimizer in one framework.

    called: the function or class that makes it. hyper: neutral name -> what it calls it there. counts: whether it
    keeps the number of steps.
    """

    called: str
    slots: tuple[SlotRow, ...]
    hyper: Mapping[str, str]
    epsilon: EpsilonPlace | None = None
    decay: Decay | None = None
    counts: bool = True


def _slots(text: str) -> tuple[SlotRow, ...]:
    """``momentum=trace*-lr if centered`` as a row each; parted by commas."""
    rows = []
    for item in filter(None, text.split(", ")):
        said, _, condition = item.partition(" if ")
        slot, _, rest = said.partition("=")
        name, _, scale = rest.partition("*")
        scales: dict[str, Scale] = {"": "B", "-lr": "-lr*B", "lr": "lr*B"}
        rows.append(
            msgspec.convert({"slot": slot, "name": name, "scale": scales[scale], "only_with": condition}, SlotRow)
        )
    return tuple(rows)


def _hyper(text: str) -> dict[str, str]:
    """``learning_rate=lr momentum`` as neutral name -> name there."""
    pairs = (item.partition("=") for item in text.split())
    return {name: other or name for name, _, other in pairs}


_TORCH_ADAM = "learning_rate=lr beta1=betas beta2=betas epsilon=eps weight_decay"
_MOMENTS = "moment1=exp_avg, moment2=exp_avg_sq"
_TORCH: Mapping[str, Row] = {
    "sgd": Row(
        "torch.optim.SGD",
        _slots("momentum=momentum_buffer if momentum"),
        _hyper("learning_rate=lr momentum dampening nesterov weight_decay"),
        decay="coupled",
        counts=False,
    ),
    "adam": Row(
        "torch.optim.Adam",
        _slots(f"{_MOMENTS}, moment2_max=max_exp_avg_sq if amsgrad"),
        _hyper(f"{_TORCH_ADAM} amsgrad"),
        "after the correction",
        "coupled",
    ),
    "adamw": Row(
        "torch.optim.AdamW",
        _slots(f"{_MOMENTS}, moment2_max=max_exp_avg_sq if amsgrad"),
        _hyper(f"{_TORCH_ADAM} amsgrad"),
        "after the correction",
        "decoupled",
    ),
    "rmsprop": Row(
        "torch.optim.RMSprop",
        _slots(
            "average_square=square_avg, momentum=momentum_buffer if momentum, average_gradient=grad_avg if centered"
        ),
        _hyper("learning_rate=lr momentum rho=alpha epsilon=eps centered weight_decay"),
        "outside the root",
        "coupled",
    ),
    "adagrad": Row(
        "torch.optim.Adagrad",
        _slots("sum_of_squares=sum"),
        _hyper("learning_rate=lr lr_decay epsilon=eps weight_decay"),
        "outside the root",
        "coupled",
    ),
    "adadelta": Row(
        "torch.optim.Adadelta",
        _slots("average_square=square_avg, accumulated_update=acc_delta"),
        _hyper("learning_rate=lr rho epsilon=eps weight_decay"),
        "in the root",
        "coupled",
    ),
    "adamax": Row(
        "torch.optim.Adamax", _slots("moment1=exp_avg, infinity_norm=exp_inf"), _hyper(_TORCH_ADAM), decay="coupled"
    ),
    "radam": Row("torch.optim.RAdam", _slots(_MOMENTS), _hyper(_TORCH_ADAM), "before the correction", "coupled"),
}
_OPTAX_ADAM = "learning_rate beta1=b1 beta2=b2 epsilon=eps"
_OPTAX: Mapping[str, Row] = {
    "sgd": Row(
        "optax.sgd", _slots("momentum=trace if momentum"), _hyper("learning_rate momentum nesterov"), counts=False
    ),
    "adam": Row("optax.adam", _slots("moment1=mu, moment2=nu"), _hyper(_OPTAX_ADAM), "after the correction"),
    "adamw": Row(
        "optax.adamw",
        _slots("moment1=mu, moment2=nu"),
        _hyper(f"{_OPTAX_ADAM} weight_decay"),
        "after the correction",
        "decoupled",
    ),
    "rmsprop": Row(
        "optax.rmsprop",
        _slots("average_square=nu, average_gradient=mu if centered, momentum=trace*-lr if momentum"),
        _hyper("learning_rate rho=decay epsilon=eps centered momentum"),
        "in the root",
        counts=False,
    ),
    "adagrad": Row(
        "optax.adagrad",
        _slots("sum_of_squares=sum_of_squares"),
        _hyper("learning_rate epsilon=eps"),
        "in the root",
        counts=False,
    ),
    "adadelta": Row(
        "optax.adadelta",
        _slots("average_square=e_g, accumulated_update=e_x"),
        _hyper("learning_rate rho epsilon=eps"),
        "in the root",
        counts=False,
    ),
    "adamax": Row("optax.adamax", _slots("moment1=mu, infinity_norm=nu"), _hyper(_OPTAX_ADAM)),
    "radam": Row("optax.radam", _slots("moment1=mu, moment2=nu"), _hyper(_OPTAX_ADAM), "after the correction"),
    "lion": Row(
        "optax.lion", _slots("moment1=mu"), _hyper("learning_rate beta1=b1 beta2=b2 weight_decay"), decay="decoupled"
    ),
}
_KERAS_ADAM = "learning_rate beta1=beta_1 beta2=beta_2 epsilon weight_decay"
_KERAS: Mapping[str, Row] = {
    "sgd": Row(
        "keras.optimizers.SGD",
        _slots("momentum=momentum*-lr if momentum"),
        _hyper("learning_rate momentum nesterov weight_decay"),
        decay="decoupled",
    ),
    "adam": Row(
        "keras.optimizers.Adam",
        _slots("moment1=momentum, moment2=velocity, moment2_max=velocity_hat if amsgrad"),
        _hyper(f"{_KERAS_ADAM} amsgrad"),
        "before the correction",
        "decoupled",
    ),
    "adamw": Row(
        "keras.optimizers.AdamW",
        _slots("moment1=momentum, moment2=velocity, moment2_max=velocity_hat if amsgrad"),
        _hyper(f"{_KERAS_ADAM} amsgrad"),
        "before the correction",
        "decoupled",
    ),
    "rmsprop": Row(
        "keras.optimizers.RMSprop",
        _slots(
            "average_square=velocity, momentum=momentum*lr if momentum, average_gradient=average_gradient if centered"
        ),
        _hyper("learning_rate rho momentum epsilon centered weight_decay"),
        "in the root",
        "decoupled",
    ),
    "adagrad": Row(
        "keras.optimizers.Adagrad",
        _slots("sum_of_squares=accumulator"),
        _hyper("learning_rate epsilon weight_decay"),
        "in the root",
        "decoupled",
    ),
    "adadelta": Row(
        "keras.optimizers.Adadelta",
        _slots("average_square=accumulated_grad, accumulated_update=accumulated_delta_var"),
        _hyper("learning_rate rho epsilon weight_decay"),
        "in the root",
        "decoupled",
    ),
    "adamax": Row(
        "keras.optimizers.Adamax",
        _slots("moment1=momentum, infinity_norm=norm"),
        _hyper(_KERAS_ADAM),
        decay="decoupled",
    ),
    "lion": Row(
        "keras.optimizers.Lion",
        _slots("moment1=momentum"),
        _hyper("learning_rate beta1=beta_1 beta2=beta_2 weight_decay"),
        decay="decoupled",
    ),
}
_MXNET: Mapping[str, Row] = {
    "sgd": Row(
        "mxnet.optimizer.SGD",
        _slots("momentum=0*-lr if momentum"),
        _hyper("learning_rate=lr momentum weight_decay=wd"),
        decay="coupled",
    ),
    "adam": Row(
        "mxnet.optimizer.Adam",
        _slots("moment1=0, moment2=1"),
        _hyper("learning_rate=lr beta1 beta2 epsilon weight_decay=wd"),
        "before the correction",
        "coupled",
    ),
    "rmsprop": Row(
        "mxnet.optimizer.RMSProp",
        _slots("average_square=0, average_gradient=1 if centered, momentum=2*-lr if centered"),
        _hyper("learning_rate=lr rho=gamma1 momentum=gamma2 epsilon centered weight_decay=wd"),
        "in the root",
        "coupled",
    ),
    "adagrad": Row(
        "mxnet.optimizer.AdaGrad",
        _slots("sum_of_squares=0"),
        _hyper("learning_rate=lr epsilon=eps weight_decay=wd"),
        "in the root",
        "decoupled",
    ),
}


def _of_neutral(optimizer: str, *frameworks: Mapping[str, Row]) -> Row:
    """All that any framework keeps, under the neutral names and in the form of PyTorch."""
    rows = [rows[optimizer] for rows in frameworks if optimizer in rows]
    slots = dict.fromkeys((item.slot, item.only_with) for row in rows for item in row.slots)
    kept = {slot: SlotRow(slot, slot, only_with=condition) for slot, condition in slots}
    return Row("", tuple(kept.values()), {name: name for row in rows for name in row.hyper})


_EACH = (_TORCH, _OPTAX, _KERAS, _MXNET)
_NEUTRAL = {name: _of_neutral(name, *_EACH) for name in dict.fromkeys(name for rows in _EACH for name in rows)}
#: Framework, as a state has it -> optimizer -> row.
ROWS: Mapping[str, Mapping[str, Row]] = {
    "torch": _TORCH,
    "optax": _OPTAX,
    "keras": _KERAS,
    "mxnet": _MXNET,
    "neutral": _NEUTRAL,
}
OPTIMIZERS = tuple(_NEUTRAL)
#: What a user calls the optimizers of a framework.
TITLES: Mapping[str, str] = {
    "torch": "PyTorch",
    "optax": "optax",
    "keras": "Keras",
    "mxnet": "MXNet's Trainer",
    "neutral": "a neutral file",
}
#: Why no row can be made, said where one is asked for.
WHY_NOT: Mapping[str, str] = {
    "nadam": "PyTorch, Keras, optax and MXNet each compute another algorithm under this name: default against default "
    "the weights part by 1 percent and more within five steps",
    "adafactor": "its statistics are of rows and columns, which the ops of layers do not keep",
    "muon": "it works on whole matrices, which the ops of layers do not keep",
    "lamb": "it scales by the norm of each tensor, which the ops of layers do not keep",
}
#: optax divides by the largest of the corrected averages, the others by the root of the largest average.
AMSGRAD = (
    "amsgrad of optax keeps the largest of other values than the other frameworks do, and no transformation makes one "
    "of the other: the updates differ by 2 percent at the second step, and 30 at the fifth"
)


def slots_of(row: Row, hyper: Mapping[str, object]) -> tuple[SlotRow, ...]:
    """Those that it keeps with these hyper-parameters."""
    return tuple(item for item in row.slots if not item.only_with or hyper.get(item.only_with))
