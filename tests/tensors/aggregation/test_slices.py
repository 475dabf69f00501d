from __future__ import annotations

import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from openfl_aio.errors import TensorError
from openfl_aio.tensors.aggregation import AggregationContext, AggregationFunction, LocalTensor, get_aggregation, slices
from openfl_aio.tensors.aggregation.slices import SLICE, at_once, slices_of

LARGE = 3 * (1 << 20) + 7


def of_processors(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(slices, "_processors", lambda: count)


@pytest.mark.parametrize("processors", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("size", [0, 1, SLICE, (1 << 20) - 1, 1 << 20, LARGE])
def test_each_element_is_worked_on_once(monkeypatch: pytest.MonkeyPatch, processors: int, size: int) -> None:
    of_processors(monkeypatch, processors)
    seen = np.zeros(size, np.int8)
    threads = set()

    def work(span: slice) -> None:
        threads.add(threading.get_ident())
        for part in slices_of(span):
            assert 0 < part.stop - part.start <= SLICE
            seen[part] += 1

    at_once(work, size)
    assert (seen == 1).all()
    assert len(threads) <= processors


@pytest.mark.parametrize("failing", [0, LARGE - 1])
def test_what_one_raises_is_raised_when_all_have_ended(monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    of_processors(monkeypatch, 3)
    ended = []

    def work(span: slice) -> None:
        if span.start <= failing < span.stop:
            raise TensorError("too large")
        ended.append(span)

    with pytest.raises(TensorError, match="too large"):
        at_once(work, LARGE)
    assert len(ended) == 2


@pytest.mark.parametrize("name", ["weighted_average", "fedcurv_weighted_average", "adam", "yogi", "adagrad", "fedavgm"])
@pytest.mark.parametrize("kept", [True, False])
def test_the_same_to_the_bit_with_any_number_of_processors(
    monkeypatch: pytest.MonkeyPatch, name: str, kept: bool
) -> None:
    draw = np.random.default_rng(0)
    arrays = [draw.standard_normal(LARGE, np.float32) for _ in range(3)]
    base = draw.standard_normal(LARGE, np.float32)

    def moved(processors: int) -> list[NDArray[np.float32]]:
        of_processors(monkeypatch, processors)
        function: AggregationFunction = get_aggregation(name)
        tensors = [LocalTensor(f"c{i}", i + 0.3, array, kept=kept) for i, array in enumerate(arrays)]
        step = function.step(tensors, AggregationContext("w", 0, (), base))
        return [step.values, *(step.state[key] for key in sorted(step.state))]

    for alone, together in zip(moved(1), moved(3), strict=True):
        np.testing.assert_array_equal(alone, together)
