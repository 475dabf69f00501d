"""GeometricMedian: the point with the least weighted distance to all (Pillutla et al. 2019, "Robust Aggregation for
Federated Learning", algorithm 2), as OpenFL 1.6 computes it: tensor by tensor, in a few steps of Weiszfeld.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import TensorError
from openfl_aio.tensors.aggregation.base import AggregationContext, AggregationFunction, LocalTensor, read_only
from openfl_aio.tensors.aggregation.slices import Stack

__all__ = ["GeometricMedian"]

# those of 1.6, whose plans cannot set them
_STEPS: Final = 4
_LEAST_DISTANCE: Final = 1e-5
_TOLERANCE: Final = 1e-6


class GeometricMedian(AggregationFunction):
    """Begins with the weighted mean, and at each of at most 4 steps divides the weights by the distances to it.

    A weight of 0 leaves a tensor out, and so do values that are not finite, unless all have some.
    """

    name = "geometric_median"
    holds_all = True

    def aggregate(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
        """Return the median. Raises `TensorError` as well for a weight below 0 or not finite, or when all are 0."""
        stack = Stack(tensors, context)
        all_weights = np.array([tensor.weight for tensor in stack.tensors], np.float64)
        chosen = [index for index, weight in enumerate(all_weights) if weight > 0]
        if not chosen:
            raise TensorError(
                f"nothing to take the median of for tensor {context.tensor_name!r} in round {context.round_number}: "
                "expected at least one local tensor with a weight above 0"
            )
        median = np.empty(stack.shape, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            weights = all_weights[chosen] / all_weights[chosen].sum()
            distances = _mean_and_distances(stack, chosen, weights, median)
            if not np.isfinite(distances).all():
                chosen = _finite(stack, chosen) or chosen
                weights = all_weights[chosen] / all_weights[chosen].sum()
                distances = _mean_and_distances(stack, chosen, weights, median)
            objective = float((weights * distances).sum())
            for _ in range(_STEPS):
                previous = objective
                weights = weights / np.maximum(_LEAST_DISTANCE, distances)
                weights /= weights.sum()
                distances = _mean_and_distances(stack, chosen, weights, median)
                objective = float((weights * distances).sum())
                if abs(previous - objective) < _TOLERANCE * objective:
                    break
        return read_only(median)


def _mean_and_distances(
    stack: Stack, chosen: Sequence[int], weights: NDArray[np.float64], out: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Write the mean of the ``chosen`` tensors to ``out`` and return their distances to it. ``weights`` add up to 1."""
    flat = out.reshape(-1)
    squares = np.zeros(len(chosen))
    for part, rows in stack.rows(only=chosen):
        mean = rows[0] * weights[0]
        for row, weight in zip(rows[1:], weights[1:], strict=True):
            mean += row * weight
        flat[part] = mean
        rows -= mean
        rows *= rows
        squares += rows.sum(axis=1)
    return np.sqrt(squares)


def _finite(stack: Stack, chosen: Sequence[int]) -> list[int]:
    """Return those of ``chosen`` whose values are finite."""
    finite = np.ones(len(chosen), np.bool_)
    for _, rows in stack.rows(only=chosen):
        finite &= np.isfinite(rows).all(axis=1)
    return [index for index, good in zip(chosen, finite, strict=True) if good]
