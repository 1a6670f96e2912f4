"""Are two weight files, of any frameworks and formats, the same weights? Both are brought into neutral layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import asdict

from converter.core.arithmetic import Sum
from converter.core.contents import LeftOut
from converter.core.differences import errors
from converter.core.layers import Stored, shown
from converter.core.ops import Split
from converter.core.tensors import Array
from converter.core.transposing import digest
from converter.endpoints.endpoint import Endpoint
from converter.errors import MatchError, text_of
from converter.matching.compatibility import Agreement, Move, Supply, agreements
from converter.matching.hints import Hints
from converter.matching.pairs import Pair
from converter.planning.plan import plan_into
from converter.planning.prepare import with_hints
from converter.reports.tables import table


class TensorComparison(msgspec.Struct, frozen=True):
    """One role of a layer in the two files.

    layer: its path in the source. role: such as ``weight``, or ``input_bias_i + recurrent_bias_i`` where a file has
    only the sum. source, target: names of the tensors there. shape: in neutral axes. hashes: xxh3-128 of the bytes in
    neutral axes, the source's as the dtype that the target has. absolute: max |difference|; relative: that over
    max |source|. Both are 0 when the hashes are equal, and when nothing but the sign of a zero differs.
    """

    layer: str
    role: str
    source: tuple[str, ...]
    target: tuple[str, ...]
    shape: tuple[int, ...]
    hashes: tuple[str, str]
    absolute: float
    relative: float

    @property
    def same(self) -> bool:
        return self.hashes[0] == self.hashes[1]


class WeightComparison(msgspec.Struct, frozen=True):
    """Two files or nets, tensor by tensor. left_out: what is no tensor of a layer (in the source, in the target)."""

    source: str
    target: str
    tensors: tuple[TensorComparison, ...]
    left_out: tuple[tuple[LeftOut, ...], tuple[LeftOut, ...]] = ((), ())

    @property
    def ok(self) -> bool:
        """Whether all tensors are equal bit for bit."""
        return all(tensor.same for tensor in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        return {
            "compared": "weights",
            "ok": self.ok,
            "source": self.source,
            "target": self.target,
            "tensors": [{"same": tensor.same, **asdict(tensor)} for tensor in self.tensors],
            "left_out": {
                end: [asdict(item) for item in items]
                for end, items in zip(("source", "target"), self.left_out, strict=True)
            },
        }

    def __str__(self) -> str:
        different = [tensor for tensor in self.tensors if not tensor.same]
        count = len(self.tensors)
        if not different:
            verdict = f"{self.source} and {self.target} hold the same weights: {count} tensors are equal bit for bit"
            return text_of([verdict])
        rows = [["layer", "role", "source", "target", "shape", "max abs", "max rel"], *map(_row, different)]
        verdict = f"{self.source} and {self.target} are different: {len(different)} of {count} tensors differ"
        return text_of([*table(rows), "", verdict])


def _row(tensor: TensorComparison) -> list[str]:
    names = (" + ".join(tensor.source), " + ".join(tensor.target))
    return [tensor.layer, tensor.role, *names, str(tensor.shape), f"{tensor.absolute:.2g}", f"{tensor.relative:.2g}"]


def verify_weights(source: Endpoint, target: Endpoint, hints: Hints) -> WeightComparison:
    """Compare the weights of two files or live nets of any frameworks, tensor by tensor, in neutral axes.

    The layers are paired as `converter.convert` pairs source and clone. Where the dtypes differ the source counts as
    cast to the target's; where one has only the sum of two biases, the sums are compared. A layer is in memory at a
    time. Raises MatchError when the layers cannot be paired: then they are different nets.
    """
    try:
        net, clone, hints = with_hints(source.net, target.net, hints)
        plan = plan_into(net, clone, target.contents, hints)
    except MatchError as error:
        raise error.of(f"{source.title} against {target.title}") from None
    same_framework = net.framework == clone.framework
    compared: list[TensorComparison] = []
    for pair in plan.pairs:
        agreement = agreements(pair.source, pair.target, same_framework)[0]
        compared += _layer(pair, agreement, source, target)
    return WeightComparison(source.title, target.title, tuple(compared), (plan.left_out, target.net.left_out))


# -- layers ---------------------------------------------------------------------------------------------------------


class _Neutral:
    """The roles of a layer of one file or net as arrays in neutral axes, each read once."""

    def __init__(self, end: Endpoint) -> None:
        self._read: Callable[[str], Array] = end.reader.read
        self._held: dict[Stored, Array] = {}

    def role(self, stored: Stored, position: int) -> Array:
        if stored not in self._held:
            arrays = tuple(self._read(spec.name) for spec in stored.specs)
            for op in (*((stored.fold,) if stored.fold else ()), *(stored.to_neutral() or ())):
                arrays = op.apply(arrays)
            self._held[stored] = arrays[0]
        whole = self._held[stored]
        return Split((stored.parts,)).apply((whole,))[position] if stored.parts else whole


def _layer(pair: Pair, agreement: Agreement, source_end: Endpoint, target_end: Endpoint) -> Iterator[TensorComparison]:
    """Each role of a layer; sums, where the source has only the sum of what the target stores apart."""
    source, target = _Neutral(source_end), _Neutral(target_end)
    backwards = _has_sums(agreement)
    if backwards:
        same_framework = source_end.framework is target_end.framework
        back = [a for a in agreements(pair.target, pair.source, same_framework) if a.kind == agreement.kind]
        agreement, source, target = back[0], target, source
    for move in agreement.moves:
        for comparison in _move(pair.source.path, move, source, target):
            yield _swapped(comparison) if backwards else comparison


def _has_sums(agreement: Agreement) -> bool:
    """Whether a tensor of the source is a sum that would have to be shared out."""
    return any(
        len(move.target.leaf.roles[move.position]) == 1 < len(supply.stored.leaf.roles[supply.position])
        for move in agreement.moves
        for supply in move.supplies
    )


def _move(layer: str, move: Move, source: _Neutral, target: _Neutral) -> Iterator[TensorComparison]:
    target_array = target.role(move.target, move.position)
    role = shown(move.target.leaf.roles[move.position])
    if move.supplies:
        arrays = tuple(source.role(supply.stored, supply.position) for supply in move.supplies)
        (source_array,) = Sum((len(arrays),)).apply(arrays) if len(arrays) > 1 else arrays
    else:
        source_array = np.full_like(target_array, move.fill)
    if source_array.dtype != target_array.dtype:
        with np.errstate(over="ignore", invalid="ignore"):
            source_array = source_array.astype(target_array.dtype)  # what is too large becomes infinite, and differs
    yield _compared(layer, role, _names(move.supplies), _specs(move.target), source_array, target_array)
    for supply, constant in move.checked:
        array = source.role(supply.stored, supply.position)
        role = shown(supply.stored.leaf.roles[supply.position])
        yield _compared(layer, role, _names((supply,)), (), array, np.full_like(array, constant))


def _compared(
    layer: str, role: str, source: tuple[str, ...], target: tuple[str, ...], source_array: Array, target_array: Array
) -> TensorComparison:
    hashes = digest(source_array), digest(target_array)
    absolute, relative = (0.0, 0.0) if hashes[0] == hashes[1] else errors(source_array, target_array)
    return TensorComparison(layer, role, source, target, target_array.shape, hashes, absolute, relative)


def _swapped(comparison: TensorComparison) -> TensorComparison:
    """The same with source and target swapped."""
    names = {"source": comparison.target, "target": comparison.source}
    return msgspec.structs.replace(comparison, hashes=comparison.hashes[::-1], **names)


def _names(supplies: Sequence[Supply]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for supply in supplies for name in _specs(supply.stored)))


def _specs(stored: Stored) -> tuple[str, ...]:
    return tuple(spec.name for spec in stored.specs)


# -- arrays ---------------------------------------------------------------------------------------------------------
