from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from openfl_aio.tensors.pipelines.sparsity import keep_largest


def sorted_out(values: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Do it as OpenFL is seen to: sort by magnitude, take the last, raise them if the smallest is not above 1e-7."""
    keep = int(np.ceil(len(values) * share))
    last = np.argsort(np.abs(values))[len(values) - keep :]
    out = np.zeros_like(values)
    out[last] = values[last] + np.float32(1e-7) if values[last].min() < np.float32(1e-7) else values[last]
    return out


@given(
    npst.arrays(np.float32, st.integers(1, 200), elements=st.floats(-5, 5, width=16)),
    st.sampled_from([0.01, 0.1, 0.5, 1.0]),
)
@settings(max_examples=200, deadline=None)
def test_the_same_elements_stay_as_in_openfl(values: NDArray[np.float32], share: float) -> None:
    assert keep_largest(values, share).tobytes() == sorted_out(values, share).tobytes()


@pytest.mark.parametrize(("share", "kept"), [(0.2, 1), (0.21, 2), (1.0, 5)])
def test_a_share_is_rounded_up(share: float, kept: int) -> None:
    assert np.count_nonzero(keep_largest(np.arange(1, 6, dtype=np.float32), share)) == kept


def test_positive_values_stay_as_they_are() -> None:
    assert keep_largest(np.array([1, 3, 2], np.float32), 0.4).tolist() == [0, 3, 2]


def test_nothing_of_nothing() -> None:
    assert keep_largest(np.empty(0, np.float32), 0.1).shape == (0,)
