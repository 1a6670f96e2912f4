"""The two ends of a conversion made ready for the plan: hints applied, the clone as what is to be written."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import msgspec
from msgspec.structs import replace

from converter.core.contents import Contents
from converter.core.layers import Net
from converter.endpoints.endpoint import Endpoint
from converter.errors import MatchError, Problem, listed
from converter.formats import Format, by_name
from converter.frameworks import Framework
from converter.matching.experts import experts_apart
from converter.matching.hints import Hints
from converter.matching.schema_layers import for_net
from converter.matching.schema_ties import with_ties
from converter.matching.stacked import both_unstacked, unstacked
from converter.options import MatchOptions
from converter.planning.layout import respelled
from converter.planning.plan import KEPT, TensorPlan, plan_into
from converter.planning.steps import Step


def prepared(source: Net, hints: Hints, target: Framework) -> tuple[Net, Hints]:
    """The layers of the source, for a new file, with all hints applied, and the hints as they are for this net.

    Raises MatchError.
    """
    return _with_hints(unstacked(source, hints.options.stacked), hints, target.name)


def with_hints(source: Net, clone: Net, hints: Hints) -> tuple[Net, Net, Hints]:
    """The source and the clone with all hints applied, and the hints for these. Raises MatchError."""
    source, clone = experts_apart(source, clone), experts_apart(clone, source)
    source, clone = both_unstacked(source, clone, hints.options.stacked)
    net, hints = _with_hints(source, hints.told_apart(source, clone), clone.framework)
    target = hints.of_clone(clone)
    hints.check_used(net, target)
    return net, target, hints


def _with_hints(source: Net, hints: Hints, target: str) -> tuple[Net, Hints]:
    if hints.schema is not None:
        hints = for_net(hints, source)
    net = hints.of_source(source)
    if hints.schema is not None and target != net.framework:
        net = with_ties(net, hints.schema, target)
    return net, hints


def refuse_nothing(source: Net) -> None:
    """Raise MatchError for a net without weights: to convert nothing is no success."""
    if source.layers:
        return
    text = "there are no weights to convert"
    if source.left_out:
        text += f", only {listed(item.name for item in source.left_out)}; 'converter inspect' says what each is"
    raise MatchError([Problem(f"{text}.", "nothing to convert")])


class Goal(msgspec.Struct, frozen=True, dict=True):
    """What a conversion fills. contents: its tensors by the names of the net. written: what is written or set of them.

    clone: where its own values are. written_names: a name of the net -> the one in ``written``; clone_names: -> the one
    in the clone (either is empty where they are the same). respelled: whether the layout differs from the clone's.
    """

    net: Net
    contents: Contents
    written: Contents
    clone: Endpoint
    written_names: Mapping[str, str] = {}
    clone_names: Mapping[str, str] = {}
    respelled: bool = False

    @cached_property
    def own(self) -> Mapping[str, Step]:
        """How each tensor, by the names of the net, is made of the clone's own values. Raises MatchError."""
        if self.respelled:
            same = Hints(MatchOptions(), mapping={layer.path: layer.path for layer in self.clone.net.layers})
            steps = plan_into(self.clone.net, self.net, self.contents, same).steps
            return {step.target.name: replace(step, sources=(), own=step.sources, reason=KEPT) for step in steps}
        owner = {spec.name: (layer.path, layer.kind) for layer in self.net.layers for spec in layer.tensors}
        kept: dict[str, Step] = {}
        for spec in self.contents.specs:
            path, kind = owner.get(spec.name, ("", ""))
            own = replace(spec, name=self.clone_names.get(spec.name, spec.name))
            kept[spec.name] = Step(path, kind, (), (), spec, KEPT, (own,))
        return kept

    def _with_own(self, step: Step) -> Step:
        """A step that keeps what the clone has, in whole or in part, by the names of the clone."""
        own = self.own[step.target.name]
        if step.is_kept:
            return replace(own, reason=step.reason, likely=step.likely)
        assert not own.ops, "a table has the same axes in every file of a framework"
        return replace(step, own=own.own)

    def finished(self, plan: TensorPlan) -> TensorPlan:
        """The plan with the names, and in the order, of what is written."""
        steps = tuple(self._with_own(step) if step.own else step for step in plan.steps)
        if self.written is self.contents:
            return replace(plan, steps=steps) if plan.needs_clone else plan
        named = {
            name: replace(step, target=replace(step.target, name=name))
            for step in steps
            for name in [self.written_names[step.target.name]]
        }
        ordered = tuple(named[spec.name] for spec in self.written.specs if spec.name in named)
        contents = replace(self.written, specs=tuple(step.target for step in ordered), left_out=())
        return replace(plan, steps=ordered, contents=contents)


def _keeps_names(clone: Endpoint, form: Format) -> bool:
    """Whether the clone's own program takes its names in a file of that format: checkpoints of TensorFlow 1 have
    names of variables where those of today have paths of objects.
    """
    return clone.weights is not None and clone.weights.format.name in (form.name, f"{form.name}-v1")


def goal_of(clone: Endpoint, form: Format | None, by_schema: bool) -> Goal:
    """A clone as what is to be written in that format; None: to be set in it, for it is live.

    by_schema: layers are called as in files, for so a schema has them; else as in the live net, which knows more.
    """
    live = clone.live
    if live is None:
        assert form is not None
        same_dialect = clone.framework.dialect_for(form.name) == clone.framework.dialect_of(clone.contents)
        if same_dialect or _keeps_names(clone, form):
            return Goal(clone.net, clone.contents, clone.contents, clone)
        net, contents = respelled(clone.net, clone.framework, form.name)
        return Goal(net, contents, contents, clone, respelled=True)
    if form is None and not (by_schema and live.file_format):
        return Goal(clone.net, clone.contents, clone.contents, clone)
    template = live.template(form or by_name(live.file_format))
    if not by_schema:
        in_file = {name: file for file, name in template.names.items()}
        return Goal(clone.net, clone.contents, template.contents, clone, in_file)
    net = replace(clone.framework.net(template.contents), read=lambda name: clone.reader.read(template.names[name]))
    written, names = (clone.contents, template.names) if form is None else (template.contents, {})
    return Goal(net, template.contents, written, clone, names, template.names)


def plan_goal(source: Net, goal: Goal, hints: Hints) -> TensorPlan:
    """How the goal is filled from the source. Raises MatchError."""
    net, target, hints = with_hints(source, goal.net, hints)
    return goal.finished(plan_into(net, target, goal.contents, hints))
