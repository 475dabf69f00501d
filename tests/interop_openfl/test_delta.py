"""Our differences against OpenFL 1.6's ``TensorCodec``, on the same tensors.

Runs where ``openfl==1.6`` is installed too: ``nox -s interop_openfl``.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from openfl.pipelines import NoCompressionPipeline, TensorCodec
from openfl.utilities.types import TensorKey

from openfl_aio.errors import ShapeMismatchError, TensorError
from openfl_aio.tensors.delta import apply_delta, delta

pytestmark = pytest.mark.cell(
    server="in one process", client="deltas", must="the same differences to the bit", link="none"
)

AGGREGATOR = "aggregator_plan.yaml_1234abcd"
KEY = TensorKey("w", AGGREGATOR, 3, False, ("aggregated",))
DELTA_KEY = TensorKey("w", AGGREGATOR, 3, False, ("aggregated", "delta"))
# a quarter of the range of float32: neither sums nor differences leave it
finite = st.floats(-(2.0**126), 2.0**126, width=32)
pairs = arrays.array_shapes(min_dims=0, max_dims=4, max_side=5).flatmap(
    lambda shape: st.tuples(*[arrays.arrays(np.float32, shape, elements=finite)] * 2)
)


def theirs() -> TensorCodec:
    return TensorCodec(NoCompressionPipeline())


@given(pairs)
def test_difference_and_sum_are_openfls_to_the_bit(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    new, base = drawn
    key, expected = theirs().generate_delta(KEY, new, base)
    got = delta(new, base)
    assert set(key.tags) == {"aggregated", "delta"}
    assert got.tobytes() == np.asarray(expected, np.float32).tobytes()
    assert got.shape == np.shape(expected)
    _, again = theirs().apply_delta(DELTA_KEY, expected, base, creates_model=True)
    assert apply_delta(base, got).tobytes() == np.asarray(again, np.float32).tobytes()


@pytest.mark.parametrize(("new", "base"), [((3,), (2, 3)), ((2, 3), (3, 2)), ((1,), ()), ((), (1,))], ids=str)
def test_other_shapes_are_refused_by_both(new: tuple[int, ...], base: tuple[int, ...]) -> None:
    one, other = np.zeros(new, np.float32), np.zeros(base, np.float32)
    with pytest.raises(AssertionError):
        theirs().generate_delta(KEY, one, other)
    with pytest.raises(ShapeMismatchError):
        delta(one, other)
    with pytest.raises(AssertionError):
        theirs().apply_delta(DELTA_KEY, one, other)
    with pytest.raises(ShapeMismatchError):
        apply_delta(other, one)


def test_what_leaves_the_range_is_infinity_there_and_an_error_here() -> None:
    large = np.full(2, 3e38, np.float32)
    assert np.isinf(theirs().generate_delta(KEY, large, -large)[1]).all()
    with pytest.raises(TensorError, match="range of float32"):
        delta(large, -large)
