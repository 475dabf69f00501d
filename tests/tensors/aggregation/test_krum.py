from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from openfl_aio.errors import TensorError
from openfl_aio.tensors.aggregation import AggregationContext, Bulyan, Krum, LocalTensor, MultiKrum, SelectingFunction
from openfl_aio.tensors.aggregation.distances import squared_distances
from openfl_aio.tensors.aggregation.krum import krum_scores
from openfl_aio.tensors.aggregation.slices import Stack

CONTEXT = AggregationContext("w", 3)


def local_tensors(*rows: object) -> list[LocalTensor]:
    return [LocalTensor(f"c{i}", i + 1, np.asarray(row, np.float32)) for i, row in enumerate(rows)]


def distances(*points: float) -> NDArray[np.float64]:
    column = np.array(points)[:, None]
    result: NDArray[np.float64] = (column - column.T) ** 2
    return result


def test_distances_are_squared_and_across_slices() -> None:
    ones = np.ones(40_000, np.float32)
    stack = Stack(local_tensors(0 * ones, ones, 3 * ones), CONTEXT)
    expected = 40_000 * np.array([[0, 1, 9], [1, 0, 4], [9, 4, 0]])
    assert np.array_equal(squared_distances(stack), expected)


def test_a_huge_tensor_does_not_blur_the_distances_of_the_others() -> None:
    stack = Stack(local_tensors([1e30, 0], [1, 0], [1 + 2**-20, 0]), CONTEXT)
    assert squared_distances(stack)[1, 2] == 2.0**-40


def test_scores_add_up_the_nearest() -> None:
    assert np.array_equal(krum_scores(distances(0, 1, 3, 10), 2), [1 + 9, 1 + 4, 4 + 9, 49 + 81])


def test_krum_takes_the_one_in_the_thick_of_it() -> None:
    assert Krum(byzantine=1).select(distances(9, 0, 1, 2, 30)) == (2,)
    result = Krum(byzantine=1).aggregate(local_tensors([9.0], [0.0], [1.0], [2.0], [30.0]), CONTEXT)
    assert np.array_equal(result, [1])


def test_multi_krum_averages_the_best_whatever_their_weights() -> None:
    assert MultiKrum(byzantine=1).select(distances(9, 0, 1, 2, 30)) == (0, 1, 2, 3)
    function = MultiKrum(byzantine=1, chosen=3)
    assert np.array_equal(function.aggregate(local_tensors([9.0], [0.0], [1.0], [5.0], [30.0]), CONTEXT), [2])


def test_equal_scores_go_to_the_first() -> None:
    assert Krum().select(np.zeros((5, 5))) == (0,)
    assert MultiKrum(chosen=2).select(np.zeros((5, 5))) == (0, 1)


@pytest.mark.parametrize("function", [Krum(byzantine=1), MultiKrum(byzantine=1), Bulyan(byzantine=1)])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -3e38, 1e4])
def test_a_malicious_one_has_no_say(function: SelectingFunction, poison: float) -> None:
    honest = [[1.0, 2.0], [1.1, 2.1], [0.9, 1.9], [1.0, 2.1], [1.0, 1.9], [1.1, 2.0]]
    result = function.aggregate(local_tensors([poison, 2.0], *honest), CONTEXT)
    assert np.allclose(result, [1, 2], atol=0.11)


@pytest.mark.parametrize("function", [Krum(byzantine=2), MultiKrum(byzantine=0, chosen=7), Bulyan(byzantine=1)])
def test_there_must_be_enough(function: SelectingFunction) -> None:
    assert function.least == 7
    function.select(np.zeros((7, 7)))
    with pytest.raises(
        TensorError, match=rf"{function.name} needs 7 collaborators or more, got 6; lower what it shall"
    ):
        function.select(np.zeros((6, 6)))


def test_bulyan_chooses_again_and_again() -> None:
    # f = 1 of 7: five are chosen, one after the other among those that are left
    assert Bulyan(byzantine=1).select(distances(0, 1, 2, 3, 4, 100, 200)) == (0, 1, 2, 3, 4)


def test_bulyan_takes_the_values_nearest_to_the_median() -> None:
    # five chosen, of which three count: those nearest to 4 are 3, 4 and 5
    assert Bulyan(byzantine=1).combine(local_tensors([0.0], [3.0], [4.0], [5.0], [9.0]), CONTEXT)[0] == 4.0
    # at the end: 5, 6 and 5.5
    assert Bulyan(byzantine=1).combine(local_tensors([6.0], [0.0], [5.0], [1.0], [5.5]), CONTEXT)[0] == 5.5


def test_bulyan_is_coordinate_by_coordinate() -> None:
    random = np.random.default_rng(3)
    rows = random.standard_normal((5, 40_000)).astype(np.float32)
    median = np.median(rows.astype(np.float64), axis=0)
    nearest = np.argsort(np.abs(rows - median), axis=0, kind="stable")[:3]
    expected = np.take_along_axis(rows.astype(np.float64), nearest, axis=0).mean(axis=0)
    result = Bulyan(byzantine=1).combine(local_tensors(*rows), CONTEXT)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_without_malicious_ones_bulyan_is_the_mean() -> None:
    result = Bulyan(byzantine=0).aggregate(local_tensors([1.0], [2.0], [6.0]), CONTEXT)
    assert np.array_equal(result, [3])
