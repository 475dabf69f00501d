from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from openfl_aio.tensors.aggregation import AggregationContext, LocalTensor, Median, TrimmedMean
from openfl_aio.tensors.aggregation.network import comparators, sort_rows

CONTEXT = AggregationContext("w", 0)
finite = st.floats(-1e6, 1e6, width=32)
stacks = st.integers(1, 9).flatmap(lambda n: npst.arrays(np.float32, (n, 2, 3), elements=finite))


def local_tensors(stack: NDArray[Any]) -> list[LocalTensor]:
    return [LocalTensor(f"c{i}", i + 1, values) for i, values in enumerate(stack)]


@pytest.mark.parametrize("count", [*range(1, 12), 16, 17, 64])
def test_the_network_sorts_every_order_of_noughts_and_ones_or_many(count: int) -> None:
    # a network that sorts all sequences of noughts and ones sorts everything
    if count <= 11:
        rows = np.array([[(number >> bit) & 1 for number in range(1 << count)] for bit in range(count)], np.float32)
    else:
        rows = np.random.default_rng(0).integers(0, 2, (count, 20_000)).astype(np.float32)
    expected = np.sort(rows, axis=0)
    assert np.array_equal(np.array(sort_rows(rows)), expected)
    assert all(low < high < count for low, high in comparators(count))


@given(stacks)
@settings(max_examples=50)
def test_the_median_is_numpys(stack: NDArray[np.float32]) -> None:
    expected = np.median(stack.astype(np.float64), axis=0).astype(np.float32)
    assert np.array_equal(Median().aggregate(local_tensors(stack), CONTEXT), expected)


@given(stacks, st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_order_does_not_matter_to_the_median(stack: NDArray[np.float32], random: Random) -> None:
    tensors = local_tensors(stack)
    shuffled = random.sample(tensors, len(tensors))
    first, second = (Median().aggregate(given, CONTEXT) for given in (tensors, shuffled))
    assert first.tobytes() == second.tobytes()


@given(stacks, st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.49]))
@settings(max_examples=50)
def test_the_trimmed_mean_is_that_of_the_middle(stack: NDArray[np.float32], share: float) -> None:
    cut = int(share * len(stack) + 1e-9)
    middle = np.sort(stack.astype(np.float64), axis=0)[cut : len(stack) - cut]
    result = TrimmedMean(share=share).aggregate(local_tensors(stack), CONTEXT)
    np.testing.assert_allclose(result, middle.mean(axis=0), rtol=1e-6, atol=1e-6)


def test_a_share_that_binary_cannot_hold_is_what_was_meant() -> None:
    stack = np.array([[-1000.0]] * 3 + [[1.0]] * 4 + [[5000.0]] * 3)
    assert TrimmedMean(share=0.3).aggregate(local_tensors(stack), CONTEXT) == 1.0


@pytest.mark.parametrize("function", [Median(), TrimmedMean(share=0.4)])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
def test_a_few_cannot_poison_it(function: Median | TrimmedMean, poison: float) -> None:
    stack = np.array([[poison], [poison], [1.0], [2.0], [3.0]], np.float32)
    result = function.aggregate(local_tensors(stack), CONTEXT)[0]
    assert 1.0 <= result <= 3.0


def test_weights_do_not_count_and_neither_does_the_sign_of_nought() -> None:
    tensors = [LocalTensor("a", 1000.0, np.array([5.0])), LocalTensor("b", 0.0, np.array([-0.0]))]
    assert Median().aggregate(tensors, CONTEXT)[0] == 2.5
    zeros = local_tensors(np.array([[-0.0], [0.0], [-0.0]], np.float32))
    for function in (Median(), TrimmedMean(share=0.34)):
        assert not np.signbit(function.aggregate(zeros, CONTEXT)[0])


def test_whole_numbers_that_float32_cannot_hold_are_compared_as_they_are() -> None:
    stack = np.array([[2**25 + 1], [2**25 + 3], [2**25 + 5]], np.int64)
    assert Median().aggregate(local_tensors(stack), CONTEXT)[0] == np.float32(2**25 + 3)
