"""Bulyan: selection by Krum, then a mean near the median (El Mhamdi et al. 2018, "The Hidden Vulnerability of Distributed
Learning in Byzantium", section 4, algorithm 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openfl_aio.tensors.aggregation.base import (
    AggregationContext,
    LocalTensor,
    SelectingFunction,
    check_least,
    read_only,
)
from openfl_aio.tensors.aggregation.krum import check_count, choose_and_combine, krum_scores
from openfl_aio.tensors.aggregation.network import sort_rows
from openfl_aio.tensors.aggregation.slices import Stack

__all__ = ["Bulyan"]


class Bulyan(SelectingFunction):
    """Takes Krum's choice out again and again until n - 2 f models are chosen, then each element's n - 4 f values
    that are nearest to its median, and their unweighted mean.

    ``byzantine`` is f, how many of the n collaborators may be malicious; there must be 4 f + 3. A tensor that is not
    finite is infinitely far from all. Of values equally near, the smaller ones count.
    """

    name = "bulyan"

    def __init__(self, *, byzantine: int = 1) -> None:
        self._byzantine = check_count("byzantine", byzantine, minimum=0)

    @property
    def least(self) -> int:
        """Four times ``byzantine`` and 3."""
        return 4 * self._byzantine + 3

    def select(self, distances: NDArray[np.float64]) -> tuple[int, ...]:
        """Return the positions of the chosen models."""
        count = len(distances)
        check_least(self, count)
        left = list(range(count))
        chosen = []
        for _ in range(count - 2 * self._byzantine):
            # what Krum needs of the models that are left: it is called again with fewer of them
            neighbours = max(len(left) - self._byzantine - 2, 1)
            scores = krum_scores(distances[np.ix_(left, left)], neighbours)
            chosen.append(left.pop(int(np.argmin(scores))))
        return tuple(sorted(chosen))

    def combine(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
        """Return the mean of the values nearest to the median of the chosen tensors."""
        stack = Stack(tensors, context)
        used = max(len(stack) - 2 * self._byzantine, 1)
        mean = np.empty(stack.shape, np.float32)
        flat = mean.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            for part, rows in stack.rows():
                flat[part] = _mean_near_median(sort_rows(rows), used)
        mean += np.float32(0.0)  # which of 0.0 and -0.0 comes first is left to the processor
        return read_only(mean)

    def aggregate(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
        """Return the aggregate of one tensor, chosen by its own distances."""
        return choose_and_combine(self, tensors, context)


def _mean_near_median(ordered: Sequence[NDArray[Any]], used: int) -> NDArray[np.float64]:
    """Return the mean of the ``used`` values of each column that are nearest to its median.

    In sorted rows those are neighbours, so there are only so many places where they can begin.
    """
    count = len(ordered)
    median = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    best, farthest = np.zeros_like(median), np.full_like(median, np.inf)
    for first in range(count - used + 1):
        last = first + used - 1
        distance = np.maximum(median - ordered[first], ordered[last] - median)
        nearer = (distance < farthest) if first else np.ones(median.shape, np.bool_)
        np.copyto(farthest, distance, where=nearer)
        np.copyto(best, np.add.reduce(ordered[first : last + 1], axis=0), where=nearer)
    mean: NDArray[np.float64] = best / used
    return mean
