"""A live net that was filled from another one, with an example input: both give the same, or the net is as it was.

A forward shows much of how a net lays out its features, but not what happens between two layers; so what was loaded is
tried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converter.commands.verify_nets import ForwardComparison, Tolerance, compared_nets
from converter.endpoints.endpoint import Inputs, turned
from converter.errors import ConversionError

if TYPE_CHECKING:
    from converter.commands.plan import Plan


def fill_checked(plan: Plan, net: Any, inputs: Inputs, stacklevel: int) -> Any:
    """As `Plan.fill`, of two live nets. inputs: as the filled one takes them. Raises ConversionError."""
    assert plan.clone is not None and plan.clone.live is not None and plan.source.live is not None
    live, source = plan.clone.live, plan.source.live
    if any("(for training)" not in warning.property for warning in plan.set_otherwise()):
        return plan.fill(net, stacklevel + 1)  # they give something else, and the user is warned of it
    former = [(spec.name, live.read(spec.name)) for spec in live.contents().specs]
    filled = plan.fill(net, stacklevel + 1)
    try:
        from converter.live import open_net

        own = turned(inputs, live.framework, source.framework)
        _refuse_another(compared_nets(source, open_net(filled), plan.pairs, (own, inputs), Tolerance()))
    except BaseException:
        live.fill(former)  # of linen that is a tree nobody has
        raise
    return filled


def _refuse_another(found: ForwardComparison) -> None:
    """What differs behind layers that all agree (a softmax) is not of the weights."""
    first = found.first
    if found.ok or not (first or found.unseen):
        return
    where = (
        f"they part first at '{first.a}'" if first else f"of these layers it is unknown why: {', '.join(found.unseen)}"
    )
    worst = max(output.relative for output in found.outputs)
    raise ConversionError(
        f"the net does not give what the source gives for this input (max rel {worst:.2g}); {where}. Something between"
        " the layers orders their features otherwise, or the nets compute something else. The net has its former values"
        " again; without an example input they are loaded unchecked."
    )
