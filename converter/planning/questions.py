"""What a plan leaves open, as problems with the options that decide it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from converter.core.arithmetic import Cast
from converter.core.equivalence import effect
from converter.core.kinds import KINDS
from converter.core.layers import Layer
from converter.core.tensors import DType, is_float
from converter.errors import ConversionError, Placeholder, Problem, Remedy, either
from converter.frameworks.linear import HEADS
from converter.matching.compatibility import Agreement, Move, fewer, noted, shapes, unknown_kind, unplaced
from converter.matching.fused import lacks_heads, unknown_heads, whole_name
from converter.matching.pairs import Pair
from converter.matching.problems import as_parameters
from converter.matching.stacked import as_stack
from converter.planning.step_cache import layer_moves
from converter.planning.steps import Step, assemble

#: What tells of itself what a layer is; a clone only where there is none yet.
_TELLING = (Remedy("schema", Placeholder("NAMES.yaml"), "tells"), Remedy("like", Placeholder("CLONE"), "tells"))


def differ(pair: Pair, possible: Sequence[Agreement]) -> bool:
    """Whether the kinds that two layers have in common would be converted differently."""
    return len(possible) > 1 and len({_moves(pair, agreement) for agreement in possible}) > 1


def _moves(pair: Pair, agreement: Agreement) -> object:
    """What the agreement does, however its ops are written and whatever its kind."""
    try:
        steps = assemble(layer_moves(pair, agreement))
    except ConversionError:  # a stacked tensor, of which the pair has some roles only
        return tuple(map(_done, agreement.moves))
    effects = (effect(step.ops, step.sources[0].shape) if len(step.sources) == 1 else step.ops for step in steps)
    return tuple((step.sources, done, step.target) for step, done in zip(steps, effects, strict=True))


def _done(move: Move) -> object:
    """What a move does, whatever the roles and axes are called."""
    taken = [(one.stored.specs, one.stored.fold, one.stored.to_neutral(), one.position) for one in move.supplies]
    return move.target.specs, move.target.to_neutral(), move.position, tuple(taken), move.fill, move.checked


def lossy(step: Step) -> list[Problem]:
    """A cast is for floats, or from integers to integers; any other would change what the values mean."""
    problems = []
    for op in step.ops:
        if isinstance(op, Cast) and _sort(op.source) != _sort(op.dtype):
            name, met, wanted = step.sources[0].name, op.source.name, op.dtype.name
            text = f"'{name}' is {met} and the clone's '{step.target.name}' is {wanted}"
            rule = "only floats are cast to floats, and integers to integers."
            problems.append(Problem(f"{text}: {rule}", "dtype", name, expected=wanted, met=met))
    return problems


def _sort(dtype: DType) -> str:
    """Float or integer; of every other dtype its own."""
    return "float" if is_float(dtype) else "integer" if dtype.kind in "iu" else dtype.name


def unknown(layer: Layer) -> Problem:
    """A layer that no table describes, on its way to another framework."""
    summary = "{count} layers are of an unknown kind, so it is unknown how another framework stores them."
    ways, wide, met = (*as_stack(layer), *as_parameters(layer)), (Remedy("kind", ("*", "parameter")),), shapes(layer)
    return Problem(unknown_kind(layer), "unknown kind", layer.path, met=met, remedies=ways, summary=summary, wide=wide)


def homeless(layer: Layer, title: str) -> Problem:
    """A layer of a kind that the framework of this title does not have."""
    text = f"'{layer.path}' is {layer.kind}, which {title} cannot express{noted(layer)}."
    ways = (Remedy("ignore", layer.path, "leaves it out"),)
    return Problem(text, "no such kind", layer.path, met=layer.kind, remedies=ways)


def no_shape(pair: Pair) -> Problem:
    """A layer whose tensors cannot be laid out in the target's form."""
    layer = pair.source
    if lacks_heads(pair.target.path) and not pair.target.readings:
        return unknown_heads(whole_name(pair.target.path))
    if any(reading.form in HEADS for reading in layer.readings):
        return _no_heads(layer)
    why = f"{unplaced(layer, pair.target)}{fewer(layer)}"
    text = f"'{layer.path}' ({shapes(layer)}) cannot be laid out as {layer.kind}{why}."
    if any(reading.form == "depthwise" for reading in layer.readings):
        text = f"'{layer.path}' ({shapes(layer)}) is a depthwise convolution whose channel multiplier is unknown."
        return Problem(text, "multiplier", layer.path, remedies=_TELLING)
    return Problem(text, "layout", layer.path, met=shapes(layer))


def _no_heads(layer: Layer) -> Problem:
    heads = next((dict(reading.sizes)["heads"] for reading in layer.readings if "heads" in dict(reading.sizes)), None)
    text = f"'{layer.path}' ({shapes(layer)})"
    if heads is not None:
        text = f"{text} cannot be split into {heads} heads: its size is not a multiple of that."
        return Problem(text, "heads", layer.path, met=str(heads))
    module = layer.path.rpartition(".")[0] or layer.path
    text = f"{text} belongs to an attention, and the number of its heads is unknown."
    summary = "{count} layers belong to attentions whose number of heads is unknown."
    number, alike = Placeholder("N"), f"*{module.rpartition('.')[2]}"
    here, everywhere = (Remedy("heads", (module, number)),), (Remedy("heads", (alike, number)),)
    return Problem(text, "heads", layer.path, remedies=here, summary=summary, wide=everywhere)


def in_doubt(pair: Pair, possible: Iterable[Agreement]) -> Layer:
    """The side that may be more, as no more than both have in common."""
    kinds = {agreement.kind for agreement in possible}
    kinds |= {kind for kind, row in KINDS.items() if row.alike in kinds}
    layer = max(pair.source, pair.target, key=lambda layer: len(layer.readings))
    common = tuple(reading for reading in layer.readings if reading.kind in kinds)
    return replace(layer, readings=common or layer.readings)


def undecided(layer: Layer, has_clone: bool = False) -> Problem:
    """A layer that could be of several kinds, which are stored differently."""
    kinds = tuple(dict.fromkeys(reading.called for reading in layer.readings))
    doubt = f"could be {either(kinds)}, which are stored differently."
    text, kind = f"'{layer.path}' ({shapes(layer)}) {doubt}", f"kind {' '.join(kinds)}"
    one = [Remedy("kind", (layer.path, kind)) for kind in kinds]
    ways = (*one, Remedy("kind", ("*", kinds[0]), "settles all that can be"), *_TELLING[: 1 if has_clone else 2])
    wide = tuple(Remedy("kind", ("*", kind)) for kind in kinds)
    return Problem(
        text, kind, layer.path, candidates=kinds, remedies=ways, summary=f"{{count}} layers {doubt}", wide=wide
    )
