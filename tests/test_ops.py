import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.errors import ConversionError
from converter.ops import Cast, Transpose
from converter.tensors import TensorSpec


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
    step = np.abs(np.nextafter(cast, np.array(np.inf, narrow)).astype(np.float32) - cast.astype(np.float32))
    assert (np.abs(cast.astype(np.float32) - array) <= step / 2).all()


@pytest.mark.parametrize("narrow", [np.float16, ml_dtypes.float8_e4m3fn])
def test_cast_refuses_values_that_do_not_fit(narrow: type) -> None:
    array = np.array([1.0, 1e6, -1e9, np.inf, np.nan], np.float32)
    with pytest.raises(ConversionError, match="2 of 5 values are too large for float"):
        Cast(np.dtype(narrow), array.dtype).apply([array])


def test_ops_say_what_they_did() -> None:
    assert str(Transpose((1, 0))) == "transposed"
    assert str(Cast(np.dtype("float16"), np.dtype("float32"))) == "cast float32 to float16"
