"""Nets that were built, or written down, as the tests of the other nets have theirs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tests.book.runs import FLAVOURS
from tests.parity.sides import SIDES, Array, Case, Linen, channels_first, channels_last, to_numpy

#: Nets of Flax are those of linen: a pair (module, variables).
FRAMEWORKS = [(flavour, SIDES[flavour].framework) for flavour in FLAVOURS]


def taken(case: Case, flavour: str) -> Array:
    """The input as a net of this flavour takes it."""
    (x,) = case.inputs
    return channels_last(x) if SIDES[flavour].last and case.spatial else x


def output(case: Case, flavour: str, net: Any) -> Array:
    """Of the input of the case, channels first."""
    turned = SIDES[flavour].last and case.spatial
    found = to_numpy(SIDES[flavour].run(Linen(*net) if isinstance(net, tuple) else net, taken(case, flavour)))
    return channels_first(found) if turned and found.ndim > 2 else found


def written(case: Case, flavour: str, code: str, folder: Path) -> Any:
    """The net that the code makes, with weights of its own, as `Side.load` wants it."""
    assert not re.search("import.*converter", code)
    (folder / "clone.py").write_text(code)
    net = runpy.run_path(str(folder / "clone.py"), run_name="clone")["make_net"]()
    if flavour != "linen":
        return net.eval() if flavour == "torch" else net
    shapes = jax.eval_shape(net.init, jax.random.PRNGKey(0), taken(case, flavour))
    return Linen(net, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))
