"""Do two live nets compute the same? Both are run on one input, and compared layer by layer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec.structs import asdict, replace

from converter.core.differences import Difference, any_order, compared, compared_outputs
from converter.core.inputs import Inputs
from converter.core.kinds import RECURRENT
from converter.core.layers import Layer
from converter.core.tensors import Array
from converter.errors import ConversionError, MatchError, text_of
from converter.matching.hints import Hints
from converter.matching.matcher import match
from converter.matching.pairs import Pair
from converter.planning.prepare import with_hints
from converter.reports.checklist import differences
from converter.reports.tables import table

if TYPE_CHECKING:
    from converter.live import LiveNet
    from converter.live.run import Call, Run


class ForwardComparison(msgspec.Struct, frozen=True):
    """Two nets that ran on the same input.

    frameworks: of a and b. rtol: what ``relative`` may be; None: 1e-5 for float32, see `TOLERANCES`.
    outputs: of the nets. layers: those that both nets have, in the order in which a calls them.
    unseen: the layers that could not be compared. unpaired: why no layers were paired, "" when they were.
    settings: what b sets otherwise than a, though the weights be equal (the epsilon of a BatchNorm).
    """

    frameworks: tuple[str, str]
    rtol: float | None
    outputs: tuple[Difference, ...]
    layers: tuple[Difference, ...]
    unseen: tuple[str, ...] = ()
    unpaired: str = ""
    settings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all outputs agree within the tolerance."""
        return all(output.ok for output in self.outputs)

    @property
    def first(self) -> Difference | None:
        """The first layer in the order of the forward where the nets part; None when no layer that was seen does."""
        return next((layer for layer in self.layers if not layer.ok), None)

    def to_dict(self) -> dict[str, Any]:
        return {
            "compared": "outputs",
            "ok": self.ok,
            "first": asdict(self.first) if self.first else None,
            **asdict(self),
            "outputs": [asdict(output) for output in self.outputs],
            "layers": [asdict(layer) for layer in self.layers],
        }

    def __str__(self) -> str:
        rows = [["", "a", "b", "shape", "max abs", "max rel", ""]]
        rows += [_row("layer", layer) for layer in self.layers] + [_row("output", output) for output in self.outputs]
        lines = [*table(rows), "", self.verdict(), *self.settings]
        if self.unpaired:
            lines.append(f"layers were not compared: {self.unpaired}")
        elif self.unseen:
            lines.append(f"not compared, for they are not called as one layer in both nets: {', '.join(self.unseen)}")
        return text_of(lines)

    def verdict(self) -> str:
        """In a sentence."""
        a, b = self.frameworks
        within = "1e-05 for float32" if self.rtol is None else f"{self.rtol:g}"
        first = self.first
        place = f"'{first.a}'" + (f" ('{first.b}' of b)" if first.b != first.a else "") if first else ""
        if self.ok:
            though = f", though {place} differs" if first else ""
            return f"the outputs of a ({a}) and b ({b}) agree within the relative tolerance ({within}){though}"
        where = f"; they part first at {place}" if first else ""
        return f"the outputs of a ({a}) and b ({b}) differ beyond the relative tolerance ({within}){where}"


class Tolerance(msgspec.Struct, frozen=True):
    """rtol: what max |a - b| / max |a| may be; None: see `TOLERANCES`. x_b, move_channels: see `converter.verify`."""

    rtol: float | None = None
    x_b: Any = None
    move_channels: bool | None = None


def verify_nets(a: object, b: object, x: Any, hints: Hints, how: Tolerance) -> ForwardComparison:
    """Run two live nets of any frameworks on the same input; see `converter.verify`."""
    from converter.live import open_net
    from converter.live.run import as_inputs

    live_a, live_b = open_net(a), open_net(b)
    pairs, unpaired = _pairs(live_a, live_b, hints)
    inputs = as_inputs(x)
    other_axes = _have_other_axes(live_a, live_b) and how.move_channels is not False
    turned = inputs.map(lambda array: _for_b(array, live_a, other_axes, how.move_channels))
    inputs_b = as_inputs(how.x_b) if how.x_b is not None else turned
    compared = compared_nets(live_a, live_b, pairs, (inputs, inputs_b), how)
    return replace(compared, unpaired=unpaired, settings=() if unpaired else compared.settings)


def compared_nets(
    a: LiveNet, b: LiveNet, pairs: Sequence[Pair], inputs: tuple[Inputs, Inputs], how: Tolerance
) -> ForwardComparison:
    """The same of layers that are paired already. inputs: of a and of b."""
    from converter.live.run import run

    couples = _couples(pairs, a, b)
    run_a = run(a, inputs[0], {couple[0] for around in couples for couple in around}, before_activation=True)
    run_b = run(b, inputs[1], {couple[1] for around in couples for couple in around}, before_activation=True)
    layers, unseen = _layers(pairs, couples, run_a, run_b, how.rtol)
    other_axes = _have_other_axes(a, b) and how.move_channels is not False
    outputs = compared_outputs(run_a.outputs, run_b.outputs, other_axes, how.rtol)
    frameworks = (a.framework.title, b.framework.title)
    return ForwardComparison(frameworks, how.rtol, outputs, layers, unseen, settings=_settings(pairs, a, b))


def _have_other_axes(a: LiveNet, b: LiveNet) -> bool:
    return a.channels_last != b.channels_last


# -- which layers ---------------------------------------------------------------------------------------------------


def _pairs(a: LiveNet, b: LiveNet, hints: Hints) -> tuple[tuple[Pair, ...], str]:
    """The layers of both nets as the converter pairs them; none, and why, when it cannot."""
    both = [live.contents() for live in (a, b)]
    for live, contents in zip((a, b), both, strict=True):
        if not contents.specs:
            raise ConversionError(f"the {live.framework.title} net has no weights; there is nothing to verify")
    net_a, net_b = (live.framework.net(contents) for live, contents in zip((a, b), both, strict=True))
    try:
        return match(*with_hints(net_a, net_b, hints)).pairs, ""
    except MatchError as error:
        if hints != Hints():  # what the caller says of the layers has to hold
            raise
        return (), str(error.problems[0])


#: Modules that hold the same layers in both nets, as (in a, in b).
_Couple = tuple[str, str]


def _couples(pairs: Sequence[Pair], a: LiveNet, b: LiveNet) -> list[list[_Couple]]:
    """For each pair of layers the modules that hold just the same pairs in both nets, the innermost first.

    That is the layer itself; where one net has it in a module with others (the projections of an attention in
    PyTorch), the smallest module that both nets have.
    """
    modules_a = _holding([pair.source for pair in pairs], a)
    modules_b = _holding([pair.target for pair in pairs], b)
    by_content: dict[frozenset[int], list[str]] = {}
    for module, content in modules_b.items():
        by_content.setdefault(content, []).append(module)
    innermost: list[list[_Couple]] = []
    for index in range(len(pairs)):
        around = [
            (len(content), module, module_b)
            for module, content in modules_a.items()
            if index in content
            for module_b in by_content.get(content, ())
            if (module and module_b) or len(pairs) == 1  # else it is the whole net
        ]
        around.sort(key=lambda item: (item[0], -len(item[1]), -len(item[2])))
        innermost.append(list(dict.fromkeys((module, module_b) for _, module, module_b in around)))
    return innermost


def _holding(layers: Sequence[Layer], live: LiveNet) -> dict[str, frozenset[int]]:
    """Module -> the indices of the layers that are wholly in it."""
    from converter.live.watching import upwards

    holding: dict[str, set[int]] = {}
    for index, layer in enumerate(layers):
        modules = [upwards(live.module(spec.name)) for spec in layer.tensors]
        for module in set.intersection(*map(set, modules)):
            holding.setdefault(module, set()).add(index)
    return {module: frozenset(indices) for module, indices in holding.items()}


def _settings(pairs: Sequence[Pair], a: LiveNet, b: LiveNet) -> tuple[str, ...]:
    paths = [(pair.source.path, pair.target.path) for pair in pairs]
    settings = a.settings(), b.settings()
    if not all(settings):  # those of linen are in its code
        return ()
    warnings = differences(paths, a.framework_name, b.framework_name, *settings)
    return tuple(str(warning) for warning in warnings if "(for training)" not in warning.property)


# -- comparing ------------------------------------------------------------------------------------------------------


def _layers(
    pairs: Sequence[Pair], couples: Sequence[Sequence[_Couple]], a: Run, b: Run, rtol: float | None
) -> tuple[tuple[Difference, ...], tuple[str, ...]]:
    """Each layer, or the smallest thing around it that both nets call, in the order of a; and those not called."""
    order = {module: index for index, module in enumerate(a.calls)}
    rows: dict[_Couple, tuple[list[Pair], Difference]] = {}
    unseen = []
    for pair, around in zip(pairs, couples, strict=True):
        called = [c for c in around if len(a.calls.get(c[0], ())) == len(b.calls.get(c[1], ())) > 0]
        compared = [(couple, _calls(pair, a.calls[couple[0]], b.calls[couple[1]], rtol)) for couple in called]
        fitting = [item for item in compared if np.isfinite(item[1].absolute)]
        chosen = next(iter(fitting or (() if _is_recurrent(pair) else compared)), None)
        if chosen is None:
            unseen.append(pair.source.path)
        else:
            rows.setdefault(chosen[0], ([], chosen[1]))[0].append(pair)
    ordered = sorted(rows.items(), key=lambda item: order[item[0][0]])
    named = tuple(
        difference  # by the module, where it holds several
        if len(paired) == 1
        else replace(difference, a=couple[0].replace("/", "."), b=couple[1].replace("/", "."))
        for couple, (paired, difference) in ordered
    )
    return named, tuple(unseen)


def _calls(pair: Pair, a: Sequence[Call], b: Sequence[Call], rtol: float | None) -> Difference:
    """The worst of the calls (a layer may be used several times)."""
    names = (pair.source.path, pair.target.path)
    # what a recurrent layer gives first, the state or the output, differs between frameworks
    some = slice(None if _is_recurrent(pair) else 1)
    each = []
    for one, other in zip(a, b, strict=True):
        couples = itertools.product(one.outputs[some], other.outputs[some])
        closest = (compared(names, *couple, any_order, rtol) for couple in couples)
        each.append(min(closest, key=lambda difference: difference.relative))
    return max(each, key=lambda difference: (not difference.ok, difference.relative))


def _is_recurrent(pair: Pair) -> bool:
    """Whether it may hand on every step or the last alone, so that other shapes are no difference."""
    return any(reading.kind in RECURRENT for reading in pair.source.readings)


def _for_b(x: Array, a: LiveNet, other_axes: bool, move_channels: bool | None) -> Array:
    """The input in the order of b: (batch, channels, *space) or (batch, *space, channels)."""
    if not other_axes or x.ndim < (3 if move_channels else 4):
        return x
    return np.ascontiguousarray(np.moveaxis(x, -1, 1) if a.channels_last else np.moveaxis(x, 1, -1))


def _row(what: str, difference: Difference) -> list[str]:
    shapes = difference.shapes[:1] if np.isfinite(difference.absolute) else difference.shapes
    other_name = difference.b if difference.b != difference.a else ""
    measured = [f"{value:.2g}" for value in (difference.absolute, difference.relative)]
    verdict = "" if difference.ok else "differs"
    return [what, difference.a, other_name, " and ".join(map(str, shapes)), *measured, verdict]
