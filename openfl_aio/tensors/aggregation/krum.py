"""Krum and MultiKrum: the model nearest to its neighbours, or the mean of several such (Blanchard et al. 2017, "Machine
Learning with Adversaries: Byzantine Tolerant Gradient Descent", section 4 and 5).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import ConfigurationError
from openfl_aio.tensors.aggregation.base import (
    AggregationContext,
    LocalTensor,
    SelectingFunction,
    check_least,
)
from openfl_aio.tensors.aggregation.distances import squared_distances
from openfl_aio.tensors.aggregation.slices import Stack
from openfl_aio.tensors.aggregation.weighted_average import Mean

__all__ = ["Krum", "MultiKrum", "krum_scores"]


def check_count(name: str, value: object, *, minimum: int) -> int:
    """Return the setting ``value`` if it is a whole number from ``minimum``. Raises `ConfigurationError`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ConfigurationError(f"{name}: expected a whole number of {minimum} or more, got {value!r:.60}")
    return value


def krum_scores(distances: NDArray[np.float64], neighbours: int) -> NDArray[np.float64]:
    """Return for each of n collaborators the sum of its squared ``distances`` (n, n) to its nearest ``neighbours``."""
    others = np.where(np.isnan(distances), np.inf, distances)
    np.fill_diagonal(others, np.inf)  # nobody is his own neighbour
    nearest = np.sort(others, axis=1)[:, :neighbours]
    scores: NDArray[np.float64] = nearest.sum(axis=1)
    return scores


class MultiKrum(SelectingFunction):
    """The unweighted mean of the ``chosen`` models that are nearest to their neighbours.

    ``byzantine`` is f, how many of the n collaborators may be malicious: a model's neighbours are the n - f - 2 nearest
    others, and there must be 2 f + 3 collaborators. ``chosen`` is n - f unless given. Equal scores: the first comes
    first. A tensor that is not finite is infinitely far from all.
    """

    name = "multi_krum"

    def __init__(self, *, byzantine: int = 1, chosen: int | None = None) -> None:
        self._byzantine = check_count("byzantine", byzantine, minimum=0)
        self._chosen = None if chosen is None else check_count("chosen", chosen, minimum=1)

    @property
    def least(self) -> int:
        """Twice ``byzantine`` and 3, or ``chosen``."""
        return max(2 * self._byzantine + 3, self._chosen or 0)

    def select(self, distances: NDArray[np.float64]) -> tuple[int, ...]:
        """Return the positions of the models with the lowest scores."""
        count = len(distances)
        check_least(self, count)
        scores = krum_scores(distances, count - self._byzantine - 2)
        best = np.argsort(scores, kind="stable")[: self._chosen or count - self._byzantine]
        return tuple(sorted(map(int, best)))

    def combine(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
        """Return the mean of the chosen tensors."""
        return unweighted_mean(tensors, context)

    def aggregate(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
        """Return the aggregate of one tensor, chosen by its own distances."""
        return choose_and_combine(self, tensors, context)


class Krum(MultiKrum):
    """The one model that is nearest to its neighbours."""

    name = "krum"

    def __init__(self, *, byzantine: int = 1) -> None:
        super().__init__(byzantine=byzantine, chosen=1)


def unweighted_mean(tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
    """Return the mean in which every tensor counts the same, whatever its weight."""
    return Mean(_unweighted(tensors), context).array()


def choose_and_combine(
    function: SelectingFunction, tensors: Iterable[LocalTensor], context: AggregationContext
) -> NDArray[np.float32]:
    """Select by the distances of one tensor alone, and combine it."""
    stack = Stack(tensors, context)
    chosen: Sequence[int] = function.select(squared_distances(stack))
    return function.combine([stack.tensors[index] for index in chosen], context)


def _unweighted(tensors: Iterable[LocalTensor]) -> Iterable[LocalTensor]:
    for tensor in tensors:
        yield LocalTensor(tensor.collaborator, 1.0, tensor.values, tensor.base, tensor.kept)
