"""Which leaves of a JAX tree are weights: the state of an optimizer and of random number generators is not.

Names are keys joined with ``/``. The trees that training programs save: flax ``TrainState`` (``step``,
``params``, ``opt_state``), the older ``flax.optim.Optimizer`` (``target``, ``state``), and ``flax.nnx``
states, where a stream of random numbers is a pair ``key``, ``count`` (flax/nnx/rnglib.py).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from converter.core.contents import LeftOut
from converter.errors import FormatError

__all__ = ["Chosen", "Groups", "choose"]

T = TypeVar("T")

_OPTIMIZER = re.compile(
    r"(?:^|.*?/)(?:opt_state|opt_states|optimizer_state|optimizer_states|optimizer(?!/target/))(?=/|$)"
)
_FLAX_OPTIM = re.compile(r"(?P<parent>|.*/)state/(?:param_states/.*|step)")
_RANDOM = re.compile(r"(?:^|.*?/)rngs(?=/|$)")
_STREAM = re.compile(r"(?P<parent>.*)/(?:key|count)(?:/value)?")
_PARAMS = re.compile(r"(?P<parent>|.*?/)params/")
_SECOND = re.compile(r"(?P<parent>|.*/)(?P<name>ema_params|params_ema|ema|target_params)/.*")


class Chosen(msgspec.Struct, Generic[T], frozen=True):
    """kept: name -> leaf. left_out: the others, one line for each group. is_tensor: the key names one leaf, now "0"."""

    kept: Mapping[str, T]
    left_out: tuple[LeftOut, ...]
    is_tensor: bool = False


class Groups:
    """Subtrees by their names. To ask whether one of them holds a name takes the same time however many there are."""

    def __init__(self, names: Iterable[str]) -> None:
        self._tops: list[str] = []  # sorted, and none inside of another
        for top in sorted(f"{name}/" for name in names):
            if not self._tops or not top.startswith(self._tops[-1]):
                self._tops.append(top)

    def hold(self, name: str) -> bool:
        at = bisect_right(self._tops, name)
        return at > 0 and name.startswith(self._tops[at - 1])


def choose(path: Path, leaves: Mapping[str, T], key: str | None = None) -> Chosen[T]:
    """The weights among the leaves.

    key: the path of the weights, whose names then start after it. Raises FormatError if there is nothing.
    """
    beside: dict[str, str] = {}
    if key is not None:
        everything = leaves
        if key in everything:
            return Chosen({"0": everything[key]}, (LeftOut("*", f"only '{key}' was asked for"),), is_tensor=True)
        start = key.rstrip("/") + "/"
        leaves = {name[len(start) :]: leaf for name, leaf in everything.items() if name.startswith(start)}
        tops = dict.fromkeys(name.split("/")[0] for name in everything)
        if not leaves:
            raise FormatError(path, f"holds nothing under '{key}'; at its top are {', '.join(list(tops)[:20])}")
        beside = {top: f"outside of '{key}'" for top in tops if top != key.split("/")[0]}
        if second := _SECOND.fullmatch(start):  # of the parameters alone: the statistics are those beside them
            statistics = f"{second['parent']}batch_stats/"
            shared = {name: leaf for name, leaf in everything.items() if name.startswith(statistics)}
            leaves |= {name[len(second["parent"]) :]: leaf for name, leaf in shared.items()}
            beside = {top: why for top, why in beside.items() if not shared or f"{top}/" != statistics}
    parents = _params_parents(leaves)
    reasons = {name: reason for name in leaves if (reason := _aside(name, leaves, parents)) is not None}
    groups = dict(reasons.values())
    if any(why == "the state of an optimizer" for why in groups.values()):
        steps = [name for name in leaves if name not in reasons and name.split("/")[-1] == "step"]
        reasons |= {name: (name, "the training step") for name in steps}
        groups |= dict.fromkeys(steps, "the training step")
    kept = {name: leaf for name, leaf in leaves.items() if name not in reasons}
    return Chosen(kept, tuple(LeftOut(name, why) for name, why in (groups | beside).items()))


def _aside(name: str, leaves: Mapping[str, T], parents: frozenset[str]) -> tuple[str, str] | None:
    """The group that the leaf belongs to and why it is not a weight; None for a weight."""
    for pattern, why in ((_OPTIMIZER, "the state of an optimizer"), (_RANDOM, "the state of random numbers")):
        if match := pattern.match(name):
            return match.group(), why
    if match := _FLAX_OPTIM.fullmatch(name):
        return f"{match['parent']}state", "the state of an optimizer"
    if (match := _STREAM.fullmatch(name)) and _is_stream(match["parent"], leaves):
        return match["parent"], "the state of random numbers"
    if (match := _SECOND.fullmatch(name)) and match["parent"] in parents:
        group = match["parent"] + match["name"]
        return group, f"a second set of weights beside 'params'; --key {group} takes it"
    return None


def _is_stream(parent: str, leaves: Mapping[str, T]) -> bool:
    return any(f"{parent}/key{end}" in leaves and f"{parent}/count{end}" in leaves for end in ("", "/value"))


def _params_parents(leaves: Mapping[str, T]) -> frozenset[str]:
    """What stands before the first ``params/`` in the names: "" or "model/", say."""
    return frozenset(match["parent"] for name in leaves if (match := _PARAMS.match(name)))
