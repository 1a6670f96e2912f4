"""Strided views into C order, fast: what `Transpose` leaves to whoever writes the result.

NumPy copies along the axes of the target, so a transposed matrix is read with one cache line for each element,
and where its rows are a multiple of 4 KiB apart these lines even push each other out of the cache. Here a block
at a time goes through a small padded buffer: runs of the source into the buffer, runs of the target out of it.
On square float32 matrices of 8192 rows that is 7 times as fast as ``np.ascontiguousarray``, and 2 times as fast
as 64 x 64 tiles without the buffer (docs/benchmarks.md).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from converter.core.tensors import Array, DType

__all__ = ["Joined", "blocks", "contiguous", "digest"]

#: Bytes that are handed on at once: few enough to stay in the cache between checksum and write.
BLOCK_BYTES = 4 << 20
#: What a block of a transposed matrix shall use of each row of the source, and how far it may grow for that.
RUN_BYTES, MOST_BYTES = 256, 32 << 20
#: Elements of a tile, and of its runs along the source, where the target allows so many.
TILE, SOURCE_RUN = 1 << 16, 256
#: So little is copied at once.
SMALL_BYTES = 1 << 16
#: Bytes at the end of each run in the buffer, so that runs do not fall on the same lines of the cache.
PADDING_BYTES = 64


def contiguous(array: Array) -> Array:
    """The array in C order: itself when it is so already, else a copy of the same dtype and shape."""
    if array.flags.c_contiguous:
        return array
    result = np.empty(array.shape, array.dtype)
    _copy(_bits(result), _bits(array))
    return result


class Joined(msgspec.Struct, frozen=True):
    """An array in parts, one after the other along its first axis, where each has length 1 there; ``parts`` make them
    when they are asked for, so that the whole is never in memory.
    """

    shape: tuple[int, ...]
    dtype: DType
    parts: Sequence[Callable[[], Array]]

    def __getitem__(self, region: tuple[slice, ...]) -> Array:
        return np.concatenate([part()[(slice(None), *region[1:])] for part in self.parts[region[0]]])


def blocks(array: Array | Joined) -> Iterator[Array]:
    """The elements in C order as flat read-only bytes (uint8), each piece valid until the next is asked for.

    A contiguous array is not copied, of any other one piece is in memory at a time.
    """
    if isinstance(array, Joined):
        for made in array.parts:
            yield from blocks(made())
        return
    if array.flags.c_contiguous:
        flat = array.reshape(-1).view(np.uint8)
        if flat.size <= BLOCK_BYTES:
            yield _frozen(flat)
            return
        for start in range(0, flat.size, BLOCK_BYTES):
            yield _frozen(flat[start : start + BLOCK_BYTES])
        return
    buffer = np.empty(0, np.uint8)
    for part in _parts(_bits(array)):
        if part.nbytes > buffer.size:
            buffer = np.empty(part.nbytes, np.uint8)
        piece = buffer[: part.nbytes]
        _copy(piece.view(part.dtype).reshape(part.shape), part)
        yield _frozen(piece)


def _frozen(view: Array) -> Array:
    view.flags.writeable = False
    return view


def _bits(array: Array) -> Array:
    """The same elements as unsigned integers: NumPy copies types of its own faster than those of others."""
    width = array.dtype.itemsize
    return array.view(f"u{width}") if width in (1, 2, 4, 8) else array


def _parts(array: Array) -> Iterator[Array]:
    """The array cut along its first axes into parts of about BLOCK_BYTES."""
    if array.nbytes <= BLOCK_BYTES or array.ndim == 0:
        yield array
        return
    row = array.nbytes // len(array)
    count = max(BLOCK_BYTES // row, min(RUN_BYTES // array.itemsize, MOST_BYTES // row))
    if not count:
        for inner in array:
            yield from _parts(inner)
        return
    for start in range(0, len(array), count):
        yield array[start : start + count]


def _copy(target: Array, source: Array) -> None:
    """``target[...] = source`` for a target in C order, tile by tile."""
    if source.nbytes <= SMALL_BYTES:
        target[...] = source
        return
    target, source = _merged(target, source)
    by_step = sorted(range(source.ndim), key=lambda axis: abs(source.strides[axis]) or math.inf)
    if source.ndim < 2 or by_step[0] == source.ndim - 1:  # the runs of both are along one axis
        target[...] = source
        return
    inner, outer = _tile(source.shape, by_step)
    # In the buffer the axes stand as in the source, those that only the target runs along first.
    order = [axis for side in (outer, inner) for axis in reversed(by_step) if axis in side]
    run = math.prod(inner.values())
    buffer = np.empty((math.prod(outer.values()), run + PADDING_BYTES // source.itemsize), source.dtype)
    sides = [(inner | outer).get(axis, 1) for axis in range(source.ndim)]
    back = [order.index(axis) for axis in sorted(order)]
    for starts in itertools.product(*map(range, [0] * source.ndim, source.shape, sides)):
        place = tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
        tile = source[place]
        whole = tuple(tile.shape[axis] for axis in order)
        rows, columns = math.prod(whole[: len(outer)]), math.prod(whole[len(outer) :])
        between = buffer[:rows, :columns].reshape(whole)
        between[...] = _only(tile, order)
        _only(target[place], sorted(order))[...] = between.transpose(back)


def _only(tile: Array, order: Sequence[int]) -> Array:
    """The tile with these axes in this order; every other has one element."""
    others = [axis for axis in range(tile.ndim) if axis not in order]
    kept: Array = tile.transpose(*others, *order)[(0,) * len(others)]
    return kept


def _tile(shape: Sequence[int], by_step: Sequence[int]) -> tuple[dict[int, int], dict[int, int]]:
    """Axis -> side of a tile: along the runs of the source, and along those of the target that remain."""
    last = len(shape) - 1
    inwards = [axis for axis in by_step if axis != last]
    inner = _sides(shape, inwards, max(SOURCE_RUN, TILE // shape[last]))
    outwards = [axis for axis in range(last, -1, -1) if axis not in inner]
    return inner, _sides(shape, outwards, TILE // math.prod(inner.values()))


def _sides(shape: Sequence[int], axes: Sequence[int], run: int) -> dict[int, int]:
    """How far a tile reaches along these axes, the first ones as far as need be for that many elements."""
    sides: dict[int, int] = {}
    for axis in axes:
        if run <= 1 and sides:
            break
        sides[axis] = min(shape[axis], run)
        run = -(-run // shape[axis])
    return sides


def _merged(target: Array, source: Array) -> tuple[Array, Array]:
    """Both with fewer axes: those of one element left out, those that lie as one in the source joined."""
    shape: list[int] = []
    steps: list[int] = []
    for side, step in zip(source.shape, source.strides, strict=True):
        if side == 1:
            continue
        if steps and steps[-1] == side * step:
            shape[-1] *= side
            steps[-1] = step
        else:
            shape.append(side)
            steps.append(step)
    return target.reshape(shape), np.lib.stride_tricks.as_strided(source, shape, steps)


def digest(array: Array) -> str:
    """xxh3-128 of the elements in C order, whatever the order in memory; a few MB of them are copied at a time."""
    import xxhash

    state = xxhash.xxh3_128()
    for block in blocks(array) if array.size else ():
        state.update(block.data)
    return state.hexdigest()
