"""The line of code that makes the optimizer on the other side, with the hyper-parameters that its state is for."""

from __future__ import annotations

from typing import Any

from converter.training.optimizers import ROWS
from converter.training.state import HyperParameters

#: A value for what nobody knows, as it stands in the code.
UNKNOWN = "..."
#: Where the parameters of the net stand, before the others.
_FIRST = {"torch": "net.parameters()"}


def line(framework: str, optimizer: str, hyper: HyperParameters) -> str:
    """``optax.adamw(learning_rate=0.001, b1=0.9, b2=0.999, eps=1e-08, weight_decay=0.01)``."""
    row = ROWS[framework][optimizer]
    arguments: dict[str, str] = {}
    for name, key in row.hyper.items():
        if key == "betas":
            arguments[key] = f"({_text(hyper.beta1)}, {_text(hyper.beta2)})"
        elif name == "weight_decay" and row.decay is None:
            continue
        else:
            value = getattr(hyper, name)
            if value is None and name not in _ALWAYS:
                continue
            arguments[key] = _text(value)
    if framework == "optax" and optimizer == "rmsprop" and hyper.epsilon_place == "outside the root":
        arguments["eps_in_sqrt"] = "False"
    if framework == "mxnet" and optimizer == "sgd" and hyper.nesterov:
        return _call("mxnet.optimizer.NAG", arguments)
    first = _FIRST.get(framework)
    call = _call(row.called, ({"": first} if first else {}) | arguments)
    if framework == "optax" and hyper.decay == "coupled" and hyper.weight_decay:
        return f"optax.chain(optax.add_decayed_weights({_text(hyper.weight_decay)}), {call})"
    return call


#: Written even where they are unknown.
_ALWAYS = ("learning_rate",)


def _call(called: str, arguments: dict[str, str]) -> str:
    return f"{called}({', '.join(f'{key}={value}' if key else value for key, value in arguments.items())})"


def _text(value: Any) -> str:
    """A number as short as it is exact; those that were rounded to float32 as what was typed."""
    if value is None:
        return UNKNOWN
    return repr(value)


def tidy(value: float) -> float:
    """A number that went through float32 as the decimal number that it was: 0.0010000000474974513 is 0.001."""
    short = float(f"{value:.7g}")
    import numpy as np

    return short if np.float32(short) == np.float32(value) and np.float32(value) == value else value
