import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from converter.core.arithmetic import Cast, FoldSpectralNorm, FoldWeightNorm, Sum
from converter.core.ops import (
    Fill,
    Flip,
    Full,
    Op,
    Reorder,
    Repeat,
    Require,
    Reshape,
    Split,
    Stack,
    Take,
    Transpose,
    Turn,
    simplified,
)
from converter.core.tensors import TensorSpec
from converter.errors import ConversionError


@given(st.integers(0, 5).flatmap(lambda n: st.permutations(range(n))), st.randoms(use_true_random=False))
def test_transpose_and_its_inverse_are_identity_and_infer_tells_the_shape(axes: list[int], rng: object) -> None:
    op = Transpose(tuple(axes))
    array = np.arange(np.prod(range(2, 2 + len(axes)), dtype=int)).reshape(range(2, 2 + len(axes)))
    spec = TensorSpec("x", array.shape, array.dtype)
    (moved,) = op.apply([array])
    assert op.infer([spec])[0].shape == moved.shape
    assert np.array_equal(op.inverse().apply([moved])[0], array)


@pytest.mark.parametrize("narrow", [np.float16, ml_dtypes.bfloat16])
def test_cast_rounds_to_nearest_even_and_widening_back_is_exact(narrow: type) -> None:
    array = np.random.default_rng(0).normal(size=100).astype(np.float32)
    op = Cast(np.dtype(narrow), array.dtype)
    (cast,) = op.apply([array])
    assert cast.dtype == narrow and op.infer([TensorSpec("x", (100,), array.dtype)])[0].dtype == narrow
    assert np.array_equal(op.apply(op.inverse().apply([cast]))[0], cast)
    assert op.inverse().apply([cast])[0].dtype == array.dtype
    step = np.abs(np.nextafter(cast, np.array(np.inf, narrow)).astype(np.float32) - cast.astype(np.float32))
    assert (np.abs(cast.astype(np.float32) - array) <= step / 2).all()


@pytest.mark.parametrize("narrow", [np.float16, ml_dtypes.float8_e4m3fn])
def test_cast_refuses_values_that_do_not_fit(narrow: type) -> None:
    array = np.array([1.0, 1e6, -1e9, np.inf, np.nan], np.float32)
    with pytest.raises(ConversionError, match="2 of 5 values are too large for float"):
        Cast(np.dtype(narrow), array.dtype).apply([array])


@st.composite
def counted(draw: st.DrawFn) -> tuple[tuple[int, ...], list[np.ndarray]]:
    """Counts, and for each an array with so many slices along its first axis (0: an array that stays whole)."""
    counts = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    return tuple(counts), [np.random.default_rng(i).normal(size=(n or 3, 2)) for i, n in enumerate(counts)]


def same(found: tuple[np.ndarray, ...], expected: list[np.ndarray]) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


def shapes_agree(op: Op, arrays: list[np.ndarray]) -> bool:
    specs = [TensorSpec("x", array.shape, array.dtype) for array in arrays]
    return [spec.shape for spec in op.infer(specs)] == [array.shape for array in op.apply(arrays)]


@given(counted())
def test_split_and_stack_undo_each_other(case: tuple[tuple[int, ...], list[np.ndarray]]) -> None:
    counts, arrays = case
    op = Split(counts)
    assert shapes_agree(op, arrays) and same(op.inverse().apply(op.apply(arrays)), arrays)
    parts = list(op.apply(arrays))
    assert len(parts) == sum(max(count, 1) for count in counts)
    assert shapes_agree(Stack(counts), parts) and Stack(counts).inverse() == op


@given(st.integers(1, 5).flatmap(lambda n: st.permutations(range(n))))
def test_reorder_and_its_inverse_are_identity(order: list[int]) -> None:
    arrays = [np.full(3, i) for i in range(len(order))]
    op = Reorder(tuple(order))
    assert [array[0] for array in op.apply(arrays)] == order
    assert shapes_agree(op, arrays) and same(op.inverse().apply(op.apply(arrays)), arrays)


def test_reshape_and_flip_undo_themselves() -> None:
    array = np.random.default_rng(0).normal(size=(2, 3, 4))
    for op in (Reshape((6, 4), (2, 3, 4)), Flip((0, 2))):
        assert shapes_agree(op, [array]) and same(op.inverse().apply(op.apply([array])), [array])
    assert np.array_equal(Flip((0, 2)).apply([array])[0], array[::-1, :, ::-1])


def test_what_is_repeated_is_taken_back_once_unless_it_differs() -> None:
    array = np.random.default_rng(0).normal(size=(3,))
    op = Repeat(2)
    assert np.array_equal(op.apply([array])[0].ravel(), np.repeat(array, 2))
    assert shapes_agree(op, [array]) and same(op.inverse().apply(op.apply([array])), [array])
    assert op.inverse().inverse() == op
    with pytest.raises(ConversionError, match="one value for each 2 channels, and 1 of 2 such groups"):
        Repeat(2).inverse().apply([np.array([[1.0, 1.0], [2.0, 3.0]])])


def test_a_sum_gives_back_the_sum_and_zeros() -> None:
    a, b, c = (np.random.default_rng(i).normal(size=4) for i in range(3))
    op = Sum((2, 1))
    assert shapes_agree(op, [a, b, c]) and same(op.apply([a, b, c]), [a + b, c])
    back = op.inverse()
    assert back == Fill((1,), 0) and same(back.apply([a + b, c]), [a + b, np.zeros(4), c])
    assert shapes_agree(back, [a + b, c])


def test_what_is_filled_in_is_required_on_the_way_back() -> None:
    mean = np.random.default_rng(0).normal(size=4)
    op = Fill((0,), 1)
    assert same(op.apply([mean]), [np.ones(4), mean])
    back = Require((0,), 1, "the clone has no scale")
    assert back.inverse() == op and same(back.apply([np.ones(4), mean]), [mean])
    assert same(op.inverse().apply(op.apply([mean])), [mean])
    assert shapes_agree(back, [np.ones(4), mean])
    with pytest.raises(ConversionError, match="the clone has no scale, and 4 of its values are not 1"):
        back.apply([mean, mean])


def test_what_no_source_stores_is_made_of_nothing_and_required_on_the_way_back() -> None:
    op = Full((2, 3), np.dtype(np.float16), 1)
    (made,) = op.apply([])
    (spec,) = op.infer([])
    assert made.shape == spec.shape == (2, 3) and made.dtype == spec.dtype == np.float16 and (made == 1).all()
    assert op.inverse().apply([made]) == ()
    with pytest.raises(ConversionError, match="6 of its values are not 1"):
        op.inverse().apply([made * 2])


def test_folded_norms_are_those_of_torch() -> None:
    norms = torch.nn.utils.parametrizations
    layer = norms.weight_norm(torch.nn.Linear(5, 4))
    g, v = (layer.parametrizations.weight.original0, layer.parametrizations.weight.original1)
    torch.nn.init.normal_(g)
    found = FoldWeightNorm().apply([g.detach().numpy(), v.detach().numpy()])[0]
    np.testing.assert_allclose(found, layer.weight.detach().numpy(), rtol=1e-6)
    for make, axis in ((torch.nn.Conv2d, 0), (torch.nn.ConvTranspose2d, 1)):
        wrapped = norms.spectral_norm(make(3, 4, 2)).eval()
        norm = wrapped.parametrizations.weight[0]
        pieces = [wrapped.parametrizations.weight.original, norm._u, norm._v]
        found = FoldSpectralNorm(axis).apply([piece.detach().numpy() for piece in pieces])[0]
        np.testing.assert_allclose(found, wrapped.weight.detach().numpy(), rtol=1e-5)


def test_what_undoes_itself_is_no_work() -> None:
    there = (Reshape((2, 3, 4), (6, 4)), Transpose((2, 0, 1)), Flip((0,)))
    back = tuple(op.inverse() for op in reversed(there))
    assert simplified([*there, *back]) == ()
    assert simplified([Transpose((0, 1)), Reshape((4,), (4,))]) == ()
    assert simplified([Transpose((1, 2, 0)), Transpose((1, 0, 2))]) == (Transpose((2, 1, 0)),)


def test_ops_say_what_they_did() -> None:
    assert str(Transpose((1, 0))) == "transposed"
    assert str(Cast(np.dtype("float16"), np.dtype("float32"))) == "cast float32 to float16"


def test_what_was_at_these_places_is_put_back() -> None:
    array = np.random.default_rng(3).normal(size=(2, 4))
    op = Take(1, (2, 0, 3, 1))
    assert np.array_equal(op.apply([array])[0], array[:, [2, 0, 3, 1]])
    assert shapes_agree(op, [array]) and same(op.inverse().apply(op.apply([array])), [array])


def test_parts_are_turned_one_by_one_and_back() -> None:
    """Two channels in three places, and one feature beside them."""
    array = np.random.default_rng(4).normal(size=(7, 2))
    op = Turn(0, ((2, 3), (1, 1)))
    assert np.array_equal(op.apply([array])[0], array[[0, 3, 1, 4, 2, 5, 6]])
    assert shapes_agree(op, [array]) and same(op.inverse().apply(op.apply([array])), [array])
