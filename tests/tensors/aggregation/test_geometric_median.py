from __future__ import annotations

import numpy as np
import pytest

from openfl_aio.errors import TensorError
from openfl_aio.tensors.aggregation import AggregationContext, FedCurvWeightedAverage, GeometricMedian, LocalTensor
from openfl_aio.tensors.aggregation.slices import Stack

CONTEXT = AggregationContext("w", 0)


def median(*values: list[float], weights: list[float] | None = None) -> np.ndarray:
    pairs = zip(values, weights or [1.0] * len(values), strict=True)
    tensors = [LocalTensor(f"c{i}", weight, np.array(value, np.float32)) for i, (value, weight) in enumerate(pairs)]
    return GeometricMedian().aggregate(tensors, CONTEXT)


def test_the_middle_of_a_symmetric_figure_is_its_centre() -> None:
    assert np.allclose(median([0, 0], [2, 0], [0, 2], [2, 2]), [1, 1])


def test_one_far_away_counts_for_little() -> None:
    near = [[1.0, 1.0], [1.1, 1.0], [1.0, 1.1], [0.9, 1.0]]
    mean = np.mean([*near, [1000.0, 1000.0]], axis=0)
    result = median(*near, [1000.0, 1000.0])
    assert np.linalg.norm(result - [1, 1]) < 0.1 < np.linalg.norm(mean - [1, 1])


def test_the_heavier_one_wins() -> None:
    assert median([0.0], [1.0], weights=[9, 1])[0] < 0.1 < 0.9 < median([0.0], [1.0], weights=[1, 9])[0]


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_not_finite_is_left_out(poison: float) -> None:
    assert np.array_equal(median([1.0, poison], [1.0, 2.0], [1.0, 2.0]), [1, 2])


def test_nothing_finite_at_all_passes() -> None:
    assert np.isnan(median([np.nan], [np.nan])).all()


def test_a_weight_of_nought_leaves_a_tensor_out() -> None:
    assert median([np.nan], [3.0], weights=[0, 2])[0] == 3.0
    with pytest.raises(TensorError, match="nothing to take the median of for tensor 'w' in round 0"):
        median([1.0], weights=[0])


def test_more_elements_than_a_slice_are_one_point() -> None:
    # the outlier is far away in the last slice only, and loses its weight in all of them
    far = np.ones(50_000, np.float32)
    far[-1] = 1e6
    tensors = [LocalTensor(f"c{i}", 1, np.zeros(50_000, np.float32)) for i in range(4)]
    result = GeometricMedian().aggregate([*tensors, LocalTensor("far", 1, far)], CONTEXT)
    assert result[0] == result[1] < 1e-3


def test_a_stack_says_what_it_is() -> None:
    assert repr(Stack([LocalTensor("a", 1, np.zeros((2, 3)))], CONTEXT)) == "<Stack 1 tensors of shape (2, 3)>"


@pytest.mark.parametrize(
    ("name", "expected"), [("layer_u", 5), ("layer_v", 5), ("w_w", 5), ("layer", 3.5), ("_up", 3.5)]
)
def test_fedcurv_adds_up_fisher_matrices_and_averages_the_rest(name: str, expected: float) -> None:
    tensors = [LocalTensor("a", 1, np.array([1.0, 1])), LocalTensor("b", 3, np.array([4.0, 4]))]
    if expected == 3.5:
        tensors[1] = LocalTensor("b", 5, np.array([4.0, 4]))
    result = FedCurvWeightedAverage().aggregate(tensors, AggregationContext(name, 0))
    assert np.array_equal(result, [expected, expected])
