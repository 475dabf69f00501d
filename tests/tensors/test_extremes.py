from __future__ import annotations

import itertools
import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from openfl_aio.tensors.extremes import SLICE_BYTES, Extremes, ExtremesFinder


def found(values: np.ndarray, cuts: list[int]) -> Extremes | None:
    data = memoryview(values.tobytes())
    finder = ExtremesFinder()
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(borders):
        finder.add(data[start:end])
    return finder.found()


@given(arrays(np.float32, st.integers(1, 40)), st.lists(st.integers(0, 160)))
def test_they_are_those_of_the_whole_however_it_is_cut(values: np.ndarray, cuts: list[int]) -> None:
    extremes = found(values, cuts)
    assert extremes is not None
    assert extremes.finite == bool(np.isfinite(values).all())
    if extremes.finite:
        assert (extremes.lowest, extremes.highest) == (values.min(), values.max())
        assert abs(extremes.largest) == np.abs(values).max()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, SLICE_BYTES // 4, SLICE_BYTES // 4 * 3 - 1])
def test_one_value_that_is_not_finite_is_seen_wherever_it_is(bad: float, at: int) -> None:
    values = np.ones(SLICE_BYTES // 4 * 3, np.float32)
    values[at] = bad
    extremes = found(values, [1, SLICE_BYTES + 3])
    assert extremes is not None
    assert not extremes.finite


def test_of_nothing_and_of_half_a_value_nothing_is_found() -> None:
    finder = ExtremesFinder()
    assert finder.found() is None
    finder.add(memoryview(bytes(6)))
    assert finder.found() is None
    finder.add(memoryview(bytes(2)))
    assert finder.found() == Extremes(0.0, 0.0)
    assert repr(finder) == "<ExtremesFinder 0 to 0, finite: True>"
