"""From moves to steps: the sources and the operations that make each target tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from converter.core.arithmetic import Cast, Sum
from converter.core.kinds import KINDS
from converter.core.layers import Stored, first_of, shown
from converter.core.ops import Each, Fill, Full, Op, Reorder, Require, Reshape, Split, Stack, simplified
from converter.core.rows import DropRows, KeepRows
from converter.core.tensors import TensorSpec
from converter.errors import ConversionError
from converter.matching.compatibility import Move, Supply


class Step(msgspec.Struct, frozen=True, gc=False):
    """One target tensor: ``ops`` turn ``sources``, and after them ``own``, into it.

    layer: the source path. own: tensors of the clone, where its own values are kept in whole or in part.
    likely: whether the reason is no proof.
    """

    layer: str
    kind: str
    sources: tuple[TensorSpec, ...]
    ops: tuple[Op, ...]
    target: TensorSpec
    reason: str
    own: tuple[TensorSpec, ...] = ()
    likely: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether it hands on what the clone has."""
        return not self.sources and bool(self.own)

    @property
    def done(self) -> str:
        """What happens to the tensor, in words."""
        renamed = [] if not self.sources or self.sources[0].name == self.target.name else ["renamed"]
        return ", ".join([*dict.fromkeys(filter(None, map(str, self.ops))), *renamed]) or "moved"


class LayerMove(msgspec.Struct, frozen=True, gc=False):
    """A move with the layer and the reason that the report names."""

    layer: str
    kind: str
    reason: str
    move: Move
    likely: bool = False


def assemble(moves: Iterable[LayerMove]) -> tuple[Step, ...]:
    """One step for each target tensor, also for one that is stacked from several layers (fused q, k, v).

    Raises ConversionError when a stacked tensor would be left with a hole.
    """
    by_target: dict[str, list[LayerMove]] = {}
    for item in moves:
        by_target.setdefault(item.move.target.spec.name, []).append(item)
    return tuple(_step(sorted(items, key=lambda item: item.move.position)) for items in by_target.values())


def _step(items: Sequence[LayerMove]) -> Step:
    first = items[0]
    target = first.move.target
    moves = [_of_shared(item.move) for item in items]
    if len(moves) != max(target.parts, 1):
        raise ConversionError(
            f"'{target.spec.name}' holds {target.parts} layers in one, and only {len(moves)} of them have a source"
        )
    undone = (target.fold.inverse(),) if isinstance(target.fold, Reshape) else ()
    (spec,) = target.specs if isinstance(target.fold, Reshape | DropRows) else (target.spec,)
    if not any(move.supplies for move in moves):
        full = Full(spec.shape, spec.dtype, first.move.fill)
        return Step(first.layer, first.kind, (), (full,), spec, first.reason, likely=first.likely)
    sources, ops = _whole(moves) or _pieces(moves, first.kind)
    back = target.to_neutral()
    if back is None:
        raise ConversionError(f"'{target.spec.name}' {target.spec.shape} cannot be laid out as {target.leaf.axes}")
    ops = simplified([*ops, *(op.inverse() for op in reversed(back)), *undone])
    own: tuple[TensorSpec, ...] = ()
    if isinstance(target.fold, DropRows):
        if any(not isinstance(op, DropRows) for op in ops):
            raise ConversionError(f"'{target.spec.name}' is no table of rows in both nets")
        ops, own = (*ops, KeepRows(target.fold.count)), target.specs
    if sources[0].dtype != spec.dtype:
        cast = Cast(spec.dtype, sources[0].dtype)
        ops = (cast, *ops) if own else (*ops, cast)
    return Step(first.layer, first.kind, sources, ops, spec, first.reason, own, first.likely)


def _of_shared(move: Move) -> Move:
    """The move with tensors that several layers share as the same for all of these, so that each is read once."""
    if not any(supply.stored.parts for supply in move.supplies):
        return move
    return replace(move, supplies=tuple(replace(supply, stored=_shared(supply.stored)) for supply in move.supplies))


def _shared(stored: Stored) -> Stored:
    roles = stored.leaf.roles
    if all(roles):
        return stored
    return replace(stored, leaf=replace(stored.leaf, roles=tuple(role or first_of(roles) for role in roles)))


def _whole(moves: Sequence[Move]) -> tuple[tuple[TensorSpec, ...], tuple[Op, ...]] | None:
    """When the target has just the roles of one source tensor, nothing is taken apart (whatever their order)."""
    if any(len(move.supplies) != 1 or move.checked for move in moves):
        return None
    source = moves[0].supplies[0].stored
    if any(move.supplies[0].stored != source for move in moves) or len(moves) != max(source.parts, 1):
        return None
    order = tuple(move.supplies[0].position for move in moves)
    ops = list(_to_neutral(source))
    if order != tuple(range(len(order))):
        ops += [Split((source.parts,)), Reorder(order), Stack((len(order),))]
    return source.specs, tuple(ops)


def _pieces(moves: Sequence[Move], kind: str) -> tuple[tuple[TensorSpec, ...], tuple[Op, ...]]:
    """Every role is taken from its own tensor, and they are stacked."""
    wanted = [supply for move in moves for supply in move.supplies]
    stored = list(dict.fromkeys(supply.stored for supply in wanted))
    checked = [pair for move in moves for pair in move.checked if pair[0].stored in stored]
    apart = {pair[0].stored: pair for move in moves for pair in move.checked if pair[0].stored not in stored}
    own = tuple(spec for item in stored for spec in item.specs)
    # a tensor that is left out as a whole must hold one value in any layout, so it is checked as it is stored
    ops: list[Op] = [Require((len(own),), value, _refusal(supply, kind)) for supply, value in apart.values()]
    ops += _common([_to_neutral(item) for item in stored], stored)
    starts = [sum(max(item.parts, 1) for item in stored[:i]) for i in range(len(stored))]
    if any(item.parts for item in stored):
        ops.append(Split(tuple(item.parts for item in stored)))
    positions = [starts[stored.index(s.stored)] + s.position for s in [*wanted, *(supply for supply, _ in checked)]]
    if positions != list(range(sum(max(item.parts, 1) for item in stored))):
        ops.append(Reorder(tuple(positions)))
    ops += [Require((len(wanted),), value, _refusal(supply, kind)) for supply, value in checked]
    counts = tuple(len(move.supplies) for move in moves if move.supplies)
    if any(count > 1 for count in counts):
        ops.append(Sum(counts))
    for value in sorted({move.fill for move in moves if not move.supplies}):
        ops.append(Fill(tuple(i for i, move in enumerate(moves) if not move.supplies), value))
    parts = moves[0].target.parts
    if parts:
        ops.append(Stack((parts,)))
    return (*own, *(spec for item in apart for spec in item.specs)), tuple(ops)


def _refusal(supply: Supply, kind: str) -> str:
    role = shown(supply.stored.leaf.roles[supply.position])
    note = "" if KINDS[kind].alike or not KINDS[kind].note else f"; {KINDS[kind].note}"
    return f"the clone has no place for '{role}' of '{supply.stored.spec.name}' (give it one{note})"


def _to_neutral(stored: Stored) -> tuple[Op, ...]:
    ops = stored.to_neutral()
    if ops is None:
        raise ConversionError(f"'{stored.spec.name}' {stored.spec.shape} cannot be laid out as {stored.leaf.axes}")
    return ops if stored.fold is None else (stored.fold, *ops)


def _common(each: Sequence[tuple[Op, ...]], stored: Sequence[Stored]) -> tuple[Op, ...]:
    of_several = any(item.fold is not None and not isinstance(item.fold, Each) for item in stored)
    if len(set(each)) > 1 or (len(stored) > 1 and of_several):
        names = ", ".join(item.spec.name for item in stored)
        raise ConversionError(f"{names} are stored in different ways, and cannot be put together into one tensor")
    return each[0]
