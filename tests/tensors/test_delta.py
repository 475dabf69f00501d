from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from openfl_aio.errors import ShapeMismatchError, TensorError
from openfl_aio.tensors.delta import apply_delta, delta

integers = npst.arrays(np.float32, (3, 2), elements=st.integers(-(2**20), 2**20).map(float))


@given(integers, integers)
@settings(max_examples=50)
def test_a_delta_applied_to_its_base_gives_the_new_value(new: NDArray[np.float32], base: NDArray[np.float32]) -> None:
    # Integers below 2**22: their float32 differences are exact.
    assert np.array_equal(apply_delta(base, delta(new, base)), new)


def test_results_are_new_read_only_float32_arrays() -> None:
    base = np.zeros((), np.float32)
    for result in (delta(np.array(2), base), apply_delta(base, np.array(2.0))):
        assert result.dtype == np.float32
        assert result == 2.0
        assert not result.flags.writeable


def test_shapes_are_never_broadcast() -> None:
    with pytest.raises(ShapeMismatchError, match=r"of one shape, got \(2, 3\) and \(3,\)"):
        apply_delta(np.zeros((2, 3)), np.zeros(3))
    with pytest.raises(ShapeMismatchError):
        delta(np.zeros(1), np.zeros(()))


def test_a_result_beyond_float32_is_refused() -> None:
    big = np.array([3e38], np.float32)
    with pytest.raises(TensorError, match="expected a difference of tensors in the range of float32"):
        delta(big, -big)
    with pytest.raises(TensorError, match="expected a sum of tensors in the range of float32"):
        apply_delta(big, big)


def test_infinity_passes_as_it_is() -> None:
    infinite = np.array([np.inf], np.float32)
    assert np.isnan(delta(infinite, infinite)).all()
    assert np.isinf(apply_delta(infinite, np.zeros(1))).all()
