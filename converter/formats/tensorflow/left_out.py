"""Which variables of a TensorFlow checkpoint are no weights, and why, by their names.

Optimizers that the object graph knows are found there (`tf_object_graph`); this is for what has no
graph, and for what the graph has no word for.
"""

from __future__ import annotations

import re
from collections.abc import Container

from converter.formats.tensorflow.object_graph import GRAPH_KEY, SUFFIX

OPTIMIZER = "state of the optimizer"
_RANDOM = "state of a random generator"
_METRIC = "state of a metric"
_STEP = "the number of training steps"

_EXACT = {
    GRAPH_KEY: "the object graph of the checkpoint",
    "save_counter" + SUFFIX: "counts how often the checkpoint was saved",
    "global_step": _STEP,
    "beta1_power": OPTIMIZER,
    "beta2_power": OPTIMIZER,
}
_PATTERNS = (
    (re.compile(r"/\.OPTIMIZER_SLOT/|(^|/)_?optimizer/"), OPTIMIZER),
    (re.compile(r"(^|/)(keras_api/metrics|_?compile_metrics|_loss_tracker)/"), _METRIC),
    (re.compile(r"(^|/)_?(seed_generator|random_generator)s?/"), _RANDOM),
    (re.compile(r"(^|/)(global_step|beta[12]_power(_\d+)?)$"), OPTIMIZER),
)
#: ``dense/kernel/Adam``: a slot of the variable ``dense/kernel`` in a checkpoint by names.
_SLOT = re.compile(
    r"(.+)/(Adam|Adamax|Nadam|Momentum|RMSProp|Adagrad|AdagradDA|Adadelta|Ftrl|ProximalAdagrad|"
    r"adam_[mv]|lamb_[mv]|v[rc]?|m)(_\d+)?"
)


def reason(name: str, names: Container[str]) -> str | None:
    """Why the variable of that name is left out; None for a weight. ``names``: all of the checkpoint."""
    if name in _EXACT:
        return _EXACT[name]
    for pattern, why in _PATTERNS:
        if pattern.search(name):
            return why
    slot = _SLOT.fullmatch(name)
    return OPTIMIZER if slot and slot[1] in names else None
