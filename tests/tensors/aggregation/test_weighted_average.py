from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from openfl_aio.errors import ShapeMismatchError, TensorError
from openfl_aio.tensors.aggregation import AggregationContext, LocalTensor, WeightedAverage
from openfl_aio.tensors.aggregation.slices import SLICE
from openfl_aio.tensors.aggregation.weighted_average import Mean

CONTEXT = AggregationContext("w", 4, ("trained",))

finite = st.floats(-1e6, 1e6, width=32)
stacks = st.integers(1, 4).flatmap(lambda n: npst.arrays(np.float32, (n, 2, 3), elements=finite))


def average(*values: float, weights: list[float] | None = None) -> float:
    pairs = zip(values, weights or [1.0] * len(values), strict=True)
    tensors = [LocalTensor(f"c{i}", weight, np.array([value])) for i, (value, weight) in enumerate(pairs)]
    return float(WeightedAverage().aggregate(tensors, CONTEXT)[0])


@given(stacks, st.data())
@settings(max_examples=50)
def test_it_is_numpys_average(stack: NDArray[np.float32], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(1, 10**6), min_size=len(stack), max_size=len(stack)))
    tensors = [LocalTensor("c", weight, values) for weight, values in zip(weights, stack, strict=True)]
    expected = np.average(stack.astype(np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(WeightedAverage().aggregate(tensors, CONTEXT), expected, rtol=1e-6, atol=1e-6)


@given(npst.arrays(np.float32, 3, elements=finite), st.integers(1, 5))
@settings(max_examples=30)
def test_equal_tensors_average_to_themselves(values: NDArray[np.float32], count: int) -> None:
    tensors = [LocalTensor(f"c{i}", i + 0.5, values) for i in range(count)]
    assert np.array_equal(WeightedAverage().aggregate(tensors, CONTEXT), values)


def test_the_scale_of_the_weights_does_not_matter() -> None:
    assert average(1, 5, weights=[0.25, 0.75]) == average(1, 5, weights=[25, 75]) == 4.0


def test_the_result_is_read_only_float32_in_the_shape_that_came() -> None:
    for shape in [(), (0, 3), (2, 3, 4)]:
        result = WeightedAverage().aggregate([LocalTensor("c", 2, np.ones(shape, np.int64))], CONTEXT)
        assert result.shape == shape
        assert result.dtype == np.float32
        assert not result.flags.writeable
        assert (result == 1).all()


def test_more_elements_than_a_block_and_any_memory_order() -> None:
    values = np.asfortranarray(np.arange(3 * 30_011, dtype=np.float32).reshape(3, 30_011))
    tensors = [LocalTensor("a", 1, values), LocalTensor("b", 3, -values)]
    assert np.array_equal(WeightedAverage().aggregate(tensors, CONTEXT), values * -0.5)


def test_one_tensor_is_alive_at_a_time() -> None:
    earlier: list[weakref.ref[NDArray[np.float32]]] = []

    def tensors() -> Iterator[LocalTensor]:
        for i in range(3):
            gc.collect()
            assert sum(ref() is not None for ref in earlier) <= 1  # the loop variable still holds the last
            values = np.full(10, i, np.float32)
            earlier.append(weakref.ref(values))
            yield LocalTensor(f"c{i}", 1, values)

    assert WeightedAverage().aggregate(tensors(), CONTEXT)[0] == 1.0


def test_a_weight_of_zero_leaves_a_tensor_out() -> None:
    assert average(np.nan, 3, weights=[0, 2]) == 3.0


def test_what_is_not_finite_passes() -> None:
    assert np.isnan(average(np.inf, -np.inf))
    assert average(1, np.inf) == np.inf


def test_shapes_must_agree() -> None:
    tensors = [LocalTensor("one", 1, np.zeros(3)), LocalTensor("two", 1, np.zeros((3, 1)))]
    with pytest.raises(ShapeMismatchError, match=r"shape \(3,\) for tensor 'w' in round 4, got \(3, 1\) from 'two'"):
        WeightedAverage().aggregate(tensors, CONTEXT)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_a_weight_must_be_a_finite_number_from_zero(weight: float) -> None:
    with pytest.raises(TensorError, match=r"expected a weight of 0 or more for tensor 'w', got .* from 'c1'"):
        average(1, 2, weights=[1, weight])


@pytest.mark.parametrize("count", [0, 2])
def test_something_must_be_there_to_average(count: int) -> None:
    with pytest.raises(TensorError, match="nothing to average for tensor 'w' in round 4"):
        average(*[1.0] * count, weights=[0.0] * count)


@given(stacks, st.lists(st.booleans(), min_size=4, max_size=4))
@settings(max_examples=50)
def test_what_is_kept_makes_no_difference_to_the_last_bit(stack: NDArray[np.float32], kept: list[bool]) -> None:
    def mean(*, as_drawn: bool) -> bytes:
        tensors = [
            LocalTensor("c", i + 0.3, values, kept=as_drawn and keep)
            for i, (values, keep) in enumerate(zip(stack, kept, strict=False))
        ]
        return WeightedAverage().aggregate(tensors, CONTEXT).tobytes()

    assert mean(as_drawn=True) == mean(as_drawn=False)


def test_kept_tensors_are_averaged_without_a_float64_array_of_their_size() -> None:
    tensors = [LocalTensor(f"c{i}", 1, np.full(1 << 22, i, np.float32), kept=True) for i in range(4)]
    tracemalloc.start()
    try:
        result = WeightedAverage().aggregate(tensors, CONTEXT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (result == 1.5).all()
    assert peak < result.nbytes + 8 * 20 * SLICE  # two float64 slices and a float32 one of eight threads


def test_a_difference_is_added_to_its_base() -> None:
    base = np.arange(100_000, dtype=np.float32)
    tensors = [LocalTensor("a", 1, np.full_like(base, 2), base), LocalTensor("b", 1, base)]
    assert np.array_equal(WeightedAverage().aggregate(tensors, CONTEXT), base + 1)
    assert np.array_equal(tensors[0].array(), base + 2)
    assert tensors[1].array() is base


def test_a_sum_with_the_base_must_stay_in_the_range_of_float32() -> None:
    huge = np.full(3, 3e38, np.float32)
    with pytest.raises(TensorError, match="expected a sum of tensors in the range of float32"):
        WeightedAverage().aggregate([LocalTensor("a", 1, huge, huge)], CONTEXT)


def test_the_base_has_the_shape_too() -> None:
    with pytest.raises(ShapeMismatchError, match=r"got \(4,\) from 'a'"):
        WeightedAverage().aggregate([LocalTensor("a", 1, np.zeros(3), np.zeros(4))], CONTEXT)


def test_values_that_are_not_aligned_give_the_same() -> None:
    values = np.arange(40_000, dtype=np.float32)
    raw = np.frombuffer(b"x" + values.tobytes(), np.uint8)[1:].view(np.float32)
    assert not raw.flags.aligned
    result = WeightedAverage().aggregate([LocalTensor("a", 1, raw, kept=True), LocalTensor("b", 1, values)], CONTEXT)
    assert np.array_equal(result, values)


def test_a_mean_says_what_it_is() -> None:
    assert repr(Mean([LocalTensor("a", 2, np.zeros((2, 3)))], CONTEXT)) == "<Mean of shape (2, 3), weights 2>"
