"""AdagradAdaptiveAggregation: FedAdagrad (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from openfl_aio.tensors.aggregation.base import check_share
from openfl_aio.tensors.aggregation.server_optimizer import ServerOptimizer

__all__ = ["AdagradAdaptiveAggregation"]


class AdagradAdaptiveAggregation(ServerOptimizer):
    """Divides by the root of the sum of all squares so far, which begins with ``initial_accumulator_value``."""

    name = "adagrad"
    moments = ("squares",)

    def __init__(
        self, *, learning_rate: float = 0.01, initial_accumulator_value: float = 0.1, epsilon: float = 1e-10
    ) -> None:
        super().__init__(learning_rate=learning_rate, initial_accumulator_value=initial_accumulator_value)
        self._epsilon = check_share("epsilon", epsilon, most=np.inf, positive=True)

    def direction(
        self, gradient: NDArray[np.float64], moments: Mapping[str, NDArray[np.float64]], steps: int
    ) -> NDArray[np.float64]:
        """Return the scaled gradient."""
        squares = moments["squares"]
        squares += gradient * gradient
        return gradient / (np.sqrt(squares) + self._epsilon)
