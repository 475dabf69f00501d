from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from openfl_aio.errors import ShapeMismatchError, TensorError
from openfl_aio.tensors.delta import apply_delta, delta, round_to_delta

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


# every finite float32, so that values and base are of any size to each other, and both above and below 0
floats = npst.arrays(np.float32, 64, elements=st.floats(-(2.0**126), 2.0**126, width=32))


def check_rounded(values: NDArray[np.float32], base: NDArray[np.float32]) -> None:
    rounded = values.copy()
    round_to_delta(rounded, base, step=7)
    assert np.array_equal(rounded, apply_delta(base, delta(values, base)))
    assert np.array_equal(apply_delta(base, delta(rounded, base)), rounded)


@given(floats, floats)
@settings(max_examples=200)
def test_what_was_rounded_to_a_delta_comes_back_from_it_to_the_bit(
    values: NDArray[np.float32], base: NDArray[np.float32]
) -> None:
    check_rounded(values, base)


def test_so_it_does_where_sums_round_to_even_and_cross_powers_of_two() -> None:
    # all neighbours of powers of two, against each other
    powers = np.array([sign * 2.0**power for sign in (1, -1) for power in range(-30, 31)], np.float32)
    near = np.concatenate(
        [powers, np.nextafter(powers, np.float32(0)), np.nextafter(powers, np.float32(np.inf)), 3 * powers]
    )
    values, base = np.meshgrid(near, near)
    check_rounded(values.reshape(-1), base.reshape(-1))


def test_rounding_refuses_other_shapes_and_too_large_differences() -> None:
    with pytest.raises(ShapeMismatchError):
        round_to_delta(np.zeros(2, np.float32), np.zeros((), np.float32))
    with pytest.raises(TensorError, match="range of float32"):
        round_to_delta(np.full(1, 3e38, np.float32), np.full(1, -3e38, np.float32))
