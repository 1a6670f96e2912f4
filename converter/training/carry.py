"""The training beside the weights: found at the source, laid out for the target, as steps of the same plan."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec.structs import asdict, replace

from converter.core.contents import Contents, LeftOut
from converter.core.ops import Op
from converter.endpoints.endpoint import Endpoint
from converter.errors import ConversionError, Placeholder, Problem, Remedy, listed, printable
from converter.formats import Format, Reader
from converter.formats.base import StateTensor
from converter.formats.locations import location
from converter.frameworks import Framework
from converter.options import TrainingOptions
from converter.planning.plan import TensorPlan
from converter.planning.steps import Step
from converter.training import code
from converter.training.convention import Converted, converted, row_for
from converter.training.found import Place, refusal
from converter.training.layout import Layout
from converter.training.optimizers import TITLES
from converter.training.order import names_in
from converter.training.reader import StateReader
from converter.training.state import SWITCHES, HyperParameters, Slot, TrainingState
from converter.training.steps import Followed, Target, follow

#: Format -> how the state in it is laid out, and the modules of this room that read and write it.
_READ: Mapping[str, str] = {
    "torch": "torch",
    "torch-legacy": "torch",
    "flax-msgpack": "optax",
    "flax-checkpoint": "optax",
    "keras": "keras",
    "keras-h5": "keras",
    "safetensors": "neutral",
    "mxnet": "mxnet",
}
_WRITTEN: Mapping[tuple[str, str], str] = {
    ("torch", "torch"): "torch",
    ("flax", "flax-msgpack"): "optax_layout",
    ("tensorflow", "keras"): "keras_layout",
    ("tensorflow", "keras-h5"): "keras_layout",
    ("neutral", "safetensors"): "neutral",
    ("mxnet", "mxnet"): "mxnet",
}
#: Those that number the parameters, in an order that only a clone tells.
_NUMBERED = ("torch", "keras_layout", "mxnet")
#: What a file cannot tell and a user is told to see to.
ASIDE = "not carried: schedules, clipping, random numbers and the order of the data; they are code, or of one framework"


#: How the order of a live optimizer is known.
LIVE = "the live optimizer, which holds the parameters themselves"
#: What to do about an order that is not proved.
LIKELY = "what is likely is no proof: 'parameter_order' or 'clone_order' says otherwise, 'strict' refuses it"


class _Reads(Protocol):
    def read(self, place: Place) -> TrainingState | None: ...


class _Writes(Protocol):
    def layout(self, state: TrainingState, clone: tuple[Place, TrainingState] | None) -> Layout: ...


class Carried(msgspec.Struct, frozen=True):
    """What is done with the training, for the report; and the plan and the reader of the whole conversion.

    weights: how many of the plan's steps, its first, are of weights. apart: the steps of the slots, where they go to a
    file of their own, beside that of the weights.
    """

    state: TrainingState
    framework: str
    slots: tuple[Slot, ...]
    parameters: int
    orders: tuple[str, ...]
    likely: bool
    code: tuple[str, ...]
    notes: tuple[str, ...]
    fresh: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    done: tuple[str, ...]
    plan: TensorPlan
    sources: Mapping[str, StateTensor]
    weights: int = 0
    apart: TensorPlan | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that are read beside the weights, over which nothing may be written."""
        return (Path(self.state.place),) if self.state.framework == "mxnet" else ()

    def reader(self, reader: Reader) -> Reader:
        """Reads the weights and the slots."""
        return StateReader(reader, self.sources)

    def to_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.state.optimizer,
            "step": self.state.step,
            "slots": list(self.slots),
            "parameters": self.parameters,
            "order": list(self.orders),
            "likely": self.likely,
            "transformed": list(self.done),
            "code": list(self.code),
            "notes": list(self.notes),
            "fresh": list(self.fresh),
            "left_out": [asdict(item) for item in self.left_out],
        }

    def lines(self) -> list[str]:
        """For people."""
        at = "" if self.state.step is None else f" after {self.state.step} steps"
        kept = f"{', '.join(self.slots)} of {self.parameters} parameters carried" if self.slots else "it keeps no slots"
        lines = ["", f"training: {self.state.optimizer}{at}; {kept}"]
        lines += [f"which state is whose, {order}" for order in self.orders]
        lines += [LIKELY] if self.likely else []
        lines += [f"transformed: {item}" for item in self.done]
        lines += [f"starts anew: {listed(self.fresh)} (no state in the source)"] if self.fresh else []
        lines += [f"left out: {item.name} ({item.reason})" for item in self.left_out]
        lines += [f"note: {note}" for note in self.notes]
        lines.append(ASIDE)
        lines += [f"go on with: {line}" for line in self.code]
        return list(map(printable, lines))


def state_of(end: Endpoint, options: TrainingOptions, strict: bool, is_source: bool = True) -> tuple[Place, Any]:
    """What a file holds of a training, and the state in it (None for a clone without one). Raises ConversionError."""
    name = end.weights.format.name if end.weights is not None else ""
    name = end.optimizer.form if end.optimizer is not None else name
    if name not in _READ or (_READ[name] == "neutral" and end.framework.name != "neutral"):
        what = f"the training in {end.format_title} is not read yet" if end.weights else "a live net has no optimizer"
        raise refusal(f"{end.title}: {what}. Read are {listed(_READ)}.")
    values = _values(end, name, options, is_source)
    if options.optimizer_file is not None and is_source and name != "mxnet":
        about = Remedy("optimizer_file", options.optimizer_file)
        raise ConversionError(Problem("the state of this source is in the file itself.", "option", about=about))
    stated = _stated_order(end, options, is_source)
    place = Place(end.title, end.net, end.contents, values, end.reader.read, options, strict, stated, is_source)
    module: _Reads = importlib.import_module(f"converter.training.{_READ[name]}")
    state = module.read(place)
    if state is not None and end.optimizer is not None and stated:
        state = replace(state, order=LIVE)
    if state is None and is_source:
        raise refusal(f"{end.title}: it holds weights alone, and no state of an optimizer. Leave --training out.")
    if state is not None and is_source:
        state = replace(state, groups=tuple(replace(g, hyper=_stated(g.hyper, options)) for g in state.groups))
    return place, state


def _stated_order(end: Endpoint, options: TrainingOptions, is_source: bool) -> Sequence[str]:
    """The names of the parameters as the optimizer numbers them, where it is live or the user has said it."""
    name = "parameter_order" if is_source else "clone_order"
    file: str | None = getattr(options, name)
    if end.optimizer is None:
        return names_in(file) if file is not None else ()
    if file is not None:
        raise ConversionError(Problem("a live optimizer says its order itself.", "option", about=Remedy(name, file)))
    return end.optimizer.order()


def _values(end: Endpoint, name: str, options: TrainingOptions, is_source: bool) -> Mapping[str, Any]:
    if end.optimizer is not None:
        return end.optimizer.values()
    return _beside(end, options, is_source) if name == "mxnet" else end.reader.training()


def _beside(end: Endpoint, options: TrainingOptions, is_source: bool) -> Mapping[str, Any]:
    """The file that a Trainer writes beside the parameters: the one that is named, or the one of the same name."""
    from converter.formats.pickled.trainer import read_states, states_beside
    from converter.training.mxnet import STATES

    named = options.optimizer_file if is_source else None
    path = location(named) if named is not None else states_beside(end.reader.path)
    if named is None and not path.is_file():
        if not is_source:
            return {}
        remedy = Remedy("optimizer_file", Placeholder("FILE"))
        text = f"{end.title}: the state of a Trainer is in a file of its own, and there is no {path.name} beside it."
        raise ConversionError(Problem(text, "training state", remedies=(remedy,)))
    return {STATES: read_states(path)}


def _stated(hyper: HyperParameters, options: TrainingOptions) -> HyperParameters:
    """With what the user says. Raises ConversionError for a name that is none."""
    said: dict[str, Any] = dict(options.hyper)
    if (inside := said.pop("epsilon_in_root", None)) is not None:
        said["epsilon_place"] = "in the root" if inside else "outside the root"
    known = HyperParameters.__struct_fields__
    for name, value in said.items():
        if name not in known or name == "decay":
            about = Remedy("hyper", (name, value))
            text = f"no hyper-parameter is called '{name}'. There are {listed(known)} and 'epsilon_in_root'."
            raise ConversionError(Problem(text, "option", name, about=about))
        if name in SWITCHES:
            said[name] = bool(value)
    return replace(hyper, **said)


def carry(
    source: TrainingState, tensors: TensorPlan, target: Framework, form: Format, clone: tuple[Place, Any] | None
) -> Carried:
    """The plan with the training in it. Raises ConversionError with the reason where it cannot be carried."""
    place = _WRITTEN.get((target.name, form.name))
    if place is None:
        formats = listed(name for framework, name in _WRITTEN if framework == target.name)
        raise refusal(f"a training of {target.title} is not written in the format '{form.name}', only in {formats}.")
    module: _Writes = importlib.import_module(f"converter.training.{place}")
    known = (clone[0], clone[1]) if clone is not None and clone[1] is not None else None
    if clone is not None and known is None and place in _NUMBERED:
        raise refusal(
            f"{clone[0].title}: the clone holds no optimizer, whose order of parameters the state would take."
        )
    layout = module.layout(source, known)
    layout.weights = tensors.steps
    row_for(source.optimizer, layout.framework)
    if layout.clones and layout.clones != source.optimizer:
        raise refusal(
            f"the source was trained with {source.optimizer}, and the optimizer of the clone is {layout.clones}: "
            "make the clone with the same."
        )
    groups = [_filled(source, converted(source, group.hyper, layout.framework), layout) for group in source.groups]
    targets = layout.targets(tensors.contents, groups[0].hyper)
    followed = _followed(source, tensors, targets, groups)
    hyper = _by_target_group(source, tensors, layout, groups)
    written = layout.written(tensors.contents, hyper, frozenset(followed.fresh))
    steps = [step for step in (*followed.steps, *written.steps) if _is_kept(step, targets, followed, layout)]
    if layout.apart:
        beside = TensorPlan(tuple(steps), Contents(tuple(step.target for step in steps), tree=written.tree))
        carried = _told(source, layout, groups, followed, tensors, written.sources)
        return replace(carried, weights=len(tensors.steps), apart=beside)
    whole = replace(
        tensors.contents,
        specs=(*tensors.contents.specs, *(step.target for step in steps)),
        tree=written.tree,
        labels={**tensors.contents.labels, **written.labels},
        metadata={**tensors.contents.metadata, **written.metadata},
        keys={**tensors.contents.keys, **_with_slash(targets, written.keys)},
    )
    plan = replace(tensors, steps=(*tensors.steps, *steps), contents=whole)
    plan = replace(plan, left_out=_without(plan, source))
    carried = _told(source, layout, groups, followed, plan, written.sources)
    return replace(carried, weights=len(tensors.steps))


def _is_kept(step: Step, targets: Sequence[Target], followed: Followed, layout: Layout) -> bool:
    """A file of PyTorch holds no slots of what was never trained; a tree has them all."""
    if not layout.skips_fresh or not followed.fresh:
        return True
    parameter = {target.spec.name: target.parameter for target in targets}.get(step.target.name)
    return parameter not in followed.fresh


def _with_slash(targets: Sequence[Target], others: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Names with a slash inside of a key, which the names alone would not tell."""
    named = {target.spec.name: target.keys for target in targets if target.keys} | dict(others)
    return {name: keys for name, keys in named.items() if any("/" in key for key in keys)}


def _without(plan: TensorPlan, source: TrainingState) -> tuple[LeftOut, ...]:
    """What is left out but for the state that is carried now."""
    top = source.place.partition("/")[0]
    return tuple(item for item in plan.left_out if item.name.partition("/")[0] not in (top, "step"))


def _filled(source: TrainingState, group: Converted, layout: Layout) -> Converted:
    """What the source does not store, as the clone has it. Raises ConversionError where the file needs what none
    has.
    """
    own = asdict(layout.own_hyper)
    lacking = {
        name: own[name] for name, value in asdict(group.hyper).items() if value is None and own[name] is not None
    }
    taken = {
        name: value for name, value in lacking.items() if name in row_for(source.optimizer, layout.framework).hyper
    }
    hyper = replace(group.hyper, **taken)
    missing = [name for name in layout.needs(hyper) if getattr(hyper, name) is None]
    if missing:
        remedies = tuple(Remedy("hyper", (name, Placeholder("VALUE"))) for name in missing)
        text = f"the source does not say its {', '.join(missing)}, and the file of {TITLES[layout.framework]} has to."
        raise ConversionError(Problem(text, "hyper-parameter", missing[0], remedies=remedies[:1]))
    told = ", ".join(f"{name}={value:g}" for name, value in taken.items() if value)
    note = (
        (f"{told} from the clone, for the source does not store it: it has to be that of the training",) if told else ()
    )
    return replace(group, hyper=hyper, notes=(*group.notes, *note))


def _followed(
    source: TrainingState, tensors: TensorPlan, targets: Sequence[Target], groups: Sequence[Converted]
) -> Followed:
    """The slots, each with the ops of the group that its parameter is in at the source."""
    group_of = {name: number for number, group in enumerate(source.groups) for name in group.parameters}
    by_target = {step.target.name: step for step in tensors.steps}

    def ops(target: Target) -> tuple[Op, ...]:
        names = [source.tied.get(spec.name, spec.name) for spec in by_target[target.parameter].sources]
        numbers = {group_of[name] for name in names if name in group_of}
        each = {groups[number].ops.get(target.slot, ()) for number in numbers}
        if len(each) > 1:
            raise refusal(f"'{target.parameter}' is made of parameters of several groups, with different rates.")
        return next(iter(each), ())

    return follow(source, tensors.steps, targets, ops)


def _by_target_group(
    source: TrainingState, tensors: TensorPlan, layout: Layout, groups: Sequence[Converted]
) -> list[HyperParameters]:
    """Of each group of the target the hyper-parameters. Raises ConversionError for one that mixes those of the
    source.
    """
    if not layout.groups:
        return [group.hyper for group in groups]
    group_of = {name: number for number, group in enumerate(source.groups) for name in group.parameters}
    by_target = {step.target.name: step for step in tensors.steps}
    chosen = []
    for members in layout.groups:
        steps = [by_target[name] for name in members if name in by_target]
        names = {source.tied.get(spec.name, spec.name) for step in steps for spec in step.sources}
        numbers = sorted({group_of[name] for name in names if name in group_of}) or [0]
        if len({groups[number].hyper for number in numbers}) > 1:
            text = (
                "a group of the clone's optimizer holds parameters of several groups of the source, with other settings"
            )
            raise refusal(f"{text}: make the clone's optimizer with the same groups.")
        chosen.append(groups[numbers[0]].hyper)
    return chosen


def _told(
    source: TrainingState,
    layout: Layout,
    groups: Sequence[Converted],
    followed: Followed,
    plan: TensorPlan,
    sources: Mapping[str, StateTensor],
) -> Carried:
    slots = tuple(slot for slot in source.slots)
    dropped = tuple(LeftOut(name, "its state; the parameter has no place in the target") for name in followed.dropped)
    done = {
        f"{slot} {op}": True
        for group in groups
        for slot, ops in group.ops.items()
        if slot in source.slots
        for op in ops
    }
    lines = dict.fromkeys(code.line(layout.framework, source.optimizer, group.hyper) for group in groups)
    if layout.framework == "neutral":
        lines = {}
    if len(lines) > 1:
        each = zip(source.groups, groups, strict=True)
        lines = dict.fromkeys(
            f"{code.line(layout.framework, source.optimizer, group.hyper)}   # {listed(own.parameters)}"
            for own, group in each
        )
    known = (("source", source.order, source.likely), ("target", layout.order, layout.likely))
    orders = [f"{'likely' if likely else 'known'} at the {end}: {order}" for end, order, likely in known if order]
    trained = {name for named in source.slots.values() for name in named}
    return Carried(
        source,
        layout.framework,
        slots,
        len(trained),
        tuple(orders),
        source.likely or layout.likely,
        tuple(lines),
        tuple(dict.fromkeys(note for group in groups for note in group.notes)),
        () if layout.framework == "neutral" else followed.fresh,
        (*source.left_out, *dropped),
        tuple(done),
        plan,
        {**followed.sources, **sources},
    )
