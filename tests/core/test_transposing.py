"""Tiled copies against NumPy's own."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.core.tensors import DTYPES, Array
from converter.core.transposing import BLOCK_BYTES, blocks, contiguous

NAMES = sorted(set(DTYPES) - {"int4", "uint4", "float4_e2m1fn"})


def random_array(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    """Random bits, such that every element is told apart from its neighbours."""
    size = int(np.prod(shape)) * DTYPES[dtype].itemsize
    raw = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 256, size, dtype=np.uint8)
    return raw.view(DTYPES[dtype]).reshape(shape)


def as_bytes(array: Array) -> bytes:
    """The elements in C order, by NumPy."""
    return np.ascontiguousarray(array).tobytes()


@st.composite
def views(draw: st.DrawFn) -> Array:
    """Any array, its axes in any order, some of them backwards or with a step."""
    most = draw(st.sampled_from([(600, 2), (70, 3), (30, 4), (9, 5), (1, 0)]))
    shape = tuple(draw(st.lists(st.integers(0 if most[0] < 70 else 1, most[0]), max_size=most[1])))
    array = random_array(shape, draw(st.sampled_from(NAMES)), draw(st.integers(0, 9)))
    view = array.transpose(draw(st.permutations(range(array.ndim))))
    steps = draw(st.tuples(*[st.sampled_from([1, 1, 1, -1, 2, -3])] * array.ndim))
    return view[(*(slice(None, None, step) for step in steps), ...)]


@settings(max_examples=300, deadline=None)
@given(views())
def test_a_view_is_copied_as_numpy_copies_it(view: Array) -> None:
    copied = contiguous(view)
    assert copied.flags.c_contiguous and (copied.shape, copied.dtype) == (view.shape, view.dtype)
    assert copied.tobytes() == as_bytes(view)
    assert b"".join(piece.tobytes() for piece in blocks(view)) == as_bytes(view)


@pytest.mark.parametrize(
    ("shape", "axes", "dtype"),
    [
        ((1024, 4096), (1, 0), "float32"),  # rows on the same lines of the cache
        ((1531, 1999), (1, 0), "bfloat16"),
        ((3000, 1100), (1, 0), "float8_e4m3fn"),
        ((700_001, 3), (1, 0), "float32"),
        ((3, 700_001), (1, 0), "float32"),
        ((2, 3_000_000), (1, 0), "complex64"),
        ((256, 130, 3, 3), (2, 3, 1, 0), "float32"),
        ((3, 3, 130, 256), (3, 2, 0, 1), "float16"),
        ((640, 16, 80), (1, 2, 0), "float64"),
        ((50, 60, 7, 11, 2), (4, 1, 3, 0, 2), "complex128"),
    ],
)
def test_views_larger_than_a_block(shape: tuple[int, ...], axes: tuple[int, ...], dtype: str) -> None:
    view = random_array(shape, dtype).transpose(axes)
    assert contiguous(view).tobytes() == as_bytes(view)
    assert b"".join(piece.tobytes() for piece in blocks(view)) == as_bytes(view)


def test_what_is_contiguous_is_not_copied() -> None:
    array = random_array((300, 40), "float32")
    assert contiguous(array) is array
    assert all(np.shares_memory(piece, array) and not piece.flags.writeable for piece in blocks(array))
    assert array.flags.writeable


def test_one_block_is_in_memory_at_a_time() -> None:
    view = random_array((8192, 4096), "float32").T
    tracemalloc.start()
    sizes = [piece.nbytes for piece in blocks(view)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(sizes) == view.nbytes and len(sizes) > 16
    assert peak < 2 * BLOCK_BYTES
