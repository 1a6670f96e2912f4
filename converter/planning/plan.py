"""From pairs of layers to a plan: for each target tensor its sources, the ops, and why. No data is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec
from msgspec.structs import replace

from converter.core.arithmetic import Computed
from converter.core.contents import Contents, LeftOut
from converter.core.kinds import KINDS
from converter.core.layers import Net, words_in
from converter.core.tensors import TensorSpec
from converter.errors import ConversionError, MatchError, Problem
from converter.flattening.apply import flattened
from converter.flattening.walk import Flattened
from converter.matching.compatibility import agreements, lookalikes
from converter.matching.forms import in_pieces, not_whole, pieces_of
from converter.matching.hints import Hints
from converter.matching.matcher import match
from converter.matching.pairs import Matched, Pair
from converter.matching.taking_apart import taken_apart
from converter.matching.tied import loosened, tied_to
from converter.matching.untrained import Kept
from converter.matching.usual import usual
from converter.planning.families import followed, oriented, with_bare
from converter.planning.joining import with_wholes
from converter.planning.llama_cpp import rotated
from converter.planning.positions import with_offset_told, without_offset
from converter.planning.questions import differ, in_doubt, lossy, undecided
from converter.planning.step_cache import StepCache
from converter.planning.steps import Step
from converter.planning.unknown_layers import unknown_layers

#: The reason of a step that hands on what the clone has.
KEPT = "kept from the clone"


class TensorPlan(msgspec.Struct, frozen=True):
    """All steps in the order of the target file, the file's contents, and what of the source is not used.

    flattened: what was decided for layers that may follow a flatten, and why. pairs: the layers that the steps rest on,
    with the flattened features of either taken apart (none for a copy within one dialect).
    """

    steps: tuple[Step, ...]
    contents: Contents
    left_out: tuple[LeftOut, ...] = ()
    flattened: tuple[Flattened, ...] = ()
    pairs: tuple[Pair, ...] = ()

    @property
    def needs_clone(self) -> bool:
        """Whether values of the clone are kept."""
        return any(step.own for step in self.steps)


def plan_into(source: Net, target: Net, template: Contents, hints: Hints) -> TensorPlan:
    """Fill a clone: names, shapes, dtypes and order are the template's. Raises MatchError with all problems."""
    (source, repeated), (target, repeating) = comparable(source, target, hints)
    return plan_matched(source, target, template, hints, match(source, target, hints), {**repeated}, {**repeating})


def comparable(
    source: Net, target: Net, hints: Hints
) -> tuple[tuple[Net, Mapping[str, str]], tuple[Net, Mapping[str, str]]]:
    """Both nets in the same pieces, each with its tied tensors (see `loosened`)."""
    source = without_idle(source, target.framework)
    joined = hints.options.joined
    source, target = taken_apart(source, target, joined), taken_apart(target, source, joined)
    if not hints.options.strict:
        source, target = without_offset(source, target), without_offset(target, source)
    return loosened(source, target), loosened(target, source)


def plan_matched(
    source: Net,
    target: Net,
    template: Contents,
    hints: Hints,
    matched: Matched,
    repeated: Mapping[str, str] = MappingProxyType({}),
    repeating: Mapping[str, str] = MappingProxyType({}),
) -> TensorPlan:
    """The steps for layers that are paired already. repeated, repeating: tensors of the source and of the target that
    are tied to others (see `tied.loosened`). Raises MatchError with all problems.
    """
    same_framework = source.framework == target.framework
    formed: Sequence[Pair] = [_in_form(pair, same_framework) for pair in matched.pairs]
    if same_framework:
        formed, doubts = followed(formed, hints.options.strict)
    else:
        formed = formed if hints.options.strict else oriented(_as_usual(formed, source))
        doubts = unknown_layers(source, hints)
    formed, unsure = with_bare(with_offset_told(formed), hints.options.strict)
    fixed, pairs, problems = flattened(source, target, formed, hints)
    problems += [*doubts, *unsure]
    broken = [pair.target for pair in pairs if pieces_of(pair.target)]
    problems += [Problem(not_whole(layer), "in pieces", layer.path) for layer in broken]
    cache = StepCache()
    for pair in pairs:
        if cache.repeats(pair):
            continue
        possible = agreements(pair.source, pair.target, same_framework)
        if differ(pair, possible) or lookalikes(pair.source, pair.target):
            problems.append(undecided(in_doubt(pair, possible), has_clone=True))
        else:
            cache.add(pair, possible[0])
    steps = {step.target.name: step for step in assembled(cache, problems, pairs)}
    for name, twin in {**matched.ties.copies, **repeating}.items():
        steps[name] = replace(steps[twin], target=replace(steps[twin].target, name=name), reason=tied_to(twin))
    for kept in matched.kept:
        for spec in kept.layer.tensors:
            steps[spec.name] = _kept(kept, spec)
    ordered = tuple(steps[spec.name] for spec in template.specs if spec.name in steps)
    specs = tuple(step.target for step in ordered)
    again = (LeftOut(name, tied_to(twin)) for name, twin in repeated.items())
    left_out = (*left_out_of(source, ordered), *again, *matched.ties.left_out)
    return TensorPlan(ordered, replace(template, specs=specs, left_out=()), left_out, fixed, pairs)


def _kept(kept: Kept, spec: TensorSpec) -> Step:
    reason = f"{KEPT}: {kept.why}" if kept.why else KEPT
    return Step(kept.layer.path, kept.layer.kind, (), (), spec, reason, (spec,), likely=bool(kept.why))


def _as_usual(pairs: Iterable[Pair], source: Net) -> list[Pair]:
    """The pairs, with what could be either convolution as what it is likely to be, where the clone leaves that open."""
    likely = usual(source)
    result: list[Pair] = []
    for pair in pairs:
        told, path = likely.of(pair.source), pair.source.path
        if told is not pair.source and differ(pair, agreements(pair.source, pair.target, same_framework=False)):
            reason = likely.reason(path, pair.reason)
            result.append(replace(pair, source=told, reason=reason, likely=pair.likely or path in likely.taken))
        else:
            result.append(pair)
    return result


def without_idle(source: Net, framework_name: str) -> Net:
    """The net without what no output depends on, which only its own framework keeps."""
    idle = [layer for layer in source.layers if layer.kind in KINDS and KINDS[layer.kind].idle]
    if source.framework == framework_name or not idle:
        return source
    left_out = (LeftOut(spec.name, KINDS[layer.kind].note) for layer in idle for spec in layer.tensors)
    kept = tuple(layer for layer in source.layers if layer not in idle)
    return replace(source, layers=kept, left_out=(*source.left_out, *left_out))


def _in_form(pair: Pair, same_framework: bool) -> Pair:
    """A tensor that is made of pieces stays in these where the clone has the same."""
    ours, theirs = pieces_of(pair.source), pieces_of(pair.target)
    if not ours or ours != theirs or not same_framework:
        return pair
    return replace(pair, source=in_pieces(pair.source), target=in_pieces(pair.target))


def left_out_of(source: Net, steps: Iterable[Step]) -> tuple[LeftOut, ...]:
    """What the source itself leaves out, and the tensors that are stored there though nothing uses them."""
    used = {spec.name for step in steps for spec in step.sources}
    unused = [
        LeftOut(stored.spec.name, "its layer does not use it: with fix_gamma the scale is one")
        for layer in source.layers
        for stored in layer.readings[0].stored
        if layer.kind in KINDS
        and words_in(stored.leaf.roles) & KINDS[layer.kind].unused
        and stored.spec.name not in used
    ]
    return (*source.left_out, *unused)


def assembled(cache: StepCache, problems: list[Problem], pairs: Sequence[Pair]) -> tuple[Step, ...]:
    """The steps of these pairs. Raises MatchError with the problems so far and those that occur here."""
    steps: tuple[Step, ...] = ()
    try:
        steps = with_wholes(cache.steps(), pairs)
    except ConversionError as error:
        problems += error.problems
    problems += [problem for step in steps for problem in lossy(step)]
    if problems:
        raise MatchError(problems, paired=(pair.told for pair in pairs))
    return steps


def as_stored(steps: Iterable[Step], source: Contents) -> tuple[Step, ...]:
    """The steps, each with what reading its sources computes, and what undoes how llama.cpp stores them.

    Raises MatchError where that is not known.
    """
    turned = rotated(tuple(steps), source)
    return tuple(_as_read(step, source) for step in turned) if source.quantized or source.adapted else turned


def _as_read(step: Step, source: Contents) -> Step:
    names = [spec.name for spec in step.sources]
    packings = dict.fromkeys(source.quantized[name] for name in names if name in source.quantized)
    adapters = dict.fromkeys(source.adapted[name] for name in names if name in source.adapted)
    how = [*(f"dequantized ({packing})" for packing in packings), *(f"adapter merged ({what})" for what in adapters)]
    done = tuple(map(Computed, how))
    return replace(step, ops=(*done, *step.ops)) if done else step
