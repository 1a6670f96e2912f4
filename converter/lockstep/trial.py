"""The clone with the weights that the source would have in it, run on the example: what a pairing leads to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from converter.core.inputs import Inputs
from converter.core.layers import Layer, Net
from converter.endpoints.endpoint import Endpoint
from converter.execution.jobs import compute
from converter.live import LiveNet, open_net
from converter.live.run import Run, run
from converter.lockstep.calls import Calls
from converter.matching.hints import Found, Hints
from converter.planning.plan import TensorPlan, plan_into
from converter.planning.steps import Step


class Trial:
    """The clone has other values afterwards.

    nets: of the source and the clone, with all hints applied. layers: of the clone, those to be looked at. inputs: as
    it takes them.
    """

    def __init__(
        self,
        nets: tuple[Net, Net],
        ends: tuple[Endpoint, Endpoint],
        hints: Hints,
        layers: Sequence[Layer],
        inputs: Inputs,
    ) -> None:
        source, clone = ends
        assert clone.live is not None
        self._read, self._own = source.reader.read, clone.reader.read
        self._live, self._template = clone.live, clone.contents
        self._nets, self._hints, self._layers, self._inputs = nets, hints, layers, inputs
        self._modules = {name for name, _ in clone.live.modules()}
        self._filled: dict[str, Step] = {}
        self._chosen: frozenset[Found] | None = None
        #: what was seen last; at first, of the clone as it was
        self.last = self._run()
        self.runs = 0

    def calls(self, found: Iterable[Found]) -> Calls:
        """What the layers take and give when the clone is filled so. Raises MatchError where there is no such plan."""
        chosen = frozenset(found)
        if chosen != self._chosen:
            self._fill(self._plan(chosen))
            self._chosen, self.last = chosen, self._run()
            self.runs += 1
        return self.last

    def _run(self) -> Calls:
        return Calls(self._live, self._layers, observed(self._live, self._modules, self._inputs), every=False)

    def _plan(self, found: Iterable[Found]) -> TensorPlan:
        hints = replace(self._hints, found={item.source: item for item in found})
        return plan_into(*self._nets, self._template, hints)

    def _fill(self, plan: TensorPlan) -> None:
        """Set what is not as planned already."""
        steps = [step for step in plan.steps if not step.is_kept and self._filled.get(step.target.name) != step]
        net = self._live.fill([(step.target.name, compute(step, self._read, self._own)) for step in steps])
        self._filled |= {step.target.name: step for step in steps}
        self._live = self._live if net is self._live.net else open_net(net)


def observed(live: LiveNet, modules: set[str], inputs: Inputs) -> Run:
    """What all modules take, and give before an activation of their own."""
    return run(live, inputs, modules, before_activation=True, with_inputs=True)
