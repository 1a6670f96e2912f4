"""What came from an old net stays as it is while the new one is trained."""

from __future__ import annotations

import warnings
from typing import Any

from converter.live import open_net
from converter.matching.hints import Hints
from converter.matching.matcher import match
from converter.matching.partial import SLICED
from converter.reports.reuse import ReuseReport


def freeze(net: Any, report: ReuseReport) -> Any:
    """Exempt from training every layer of a live net that `reuse` took as a whole.

    net: the net that was filled, or one that holds the merged file. Done to it, and returned:

    PyTorch: ``requires_grad = False``; statistics of BatchNorm stay, too. The net.
    Keras: ``layer.trainable = False`` for layers all of whose variables were taken. The net, to be compiled now.
    gluon: ``grad_req = "null"``; statistics of BatchNorm stay, too. The net.
    linen: nothing. A tree like the params, True for what is trained, for ``optax.multi_transform({True: optimizer,
    False: optax.set_to_zero()}, tree)``. (``optax.masked`` alone would add the bare gradient to the rest.)
    nnx: nothing. The filter of what is trained, for ``nnx.Optimizer(net, optimizer, wrt=found)`` and
    ``nnx.value_and_grad(loss, argnums=nnx.DiffState(0, found))``. Statistics of BatchNorm are the caller's to keep.

    Warns of layers that were taken in part, which stay trainable. Raises MatchError when the net is another one.
    """
    live = open_net(net)
    there = live.framework.net(live.described())
    wanted = [one.taking.target.path for one in report.reused if one.taking.how != SLICED]
    if not all(path in there.by_path for path in wanted):  # a file may spell paths otherwise than the live net
        paths = {pair.source.path: pair.target.path for pair in match(report.new, there, Hints()).pairs}
        wanted = [paths[path] for path in wanted]
    shared = {spec.name for layer in there.layers if layer.path not in wanted for spec in layer.tensors}
    names = {spec.name for path in wanted for spec in there.by_path[path].tensors} - shared
    for path in report.in_part:
        warnings.warn(f"'{path}' was taken in part, so it stays trainable", stacklevel=2)
    return live.freeze(frozenset(names))
