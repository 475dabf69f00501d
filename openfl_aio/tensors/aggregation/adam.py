"""AdamAdaptiveAggregation: FedAdam (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2), with the
correction of the first steps (Kingma and Ba 2015, "Adam", algorithm 1) that OpenFL 1.6 makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import ConfigurationError
from openfl_aio.tensors.aggregation.base import check_share
from openfl_aio.tensors.aggregation.server_optimizer import ServerOptimizer

__all__ = ["AdamAdaptiveAggregation"]


class AdamAdaptiveAggregation(ServerOptimizer):
    """Goes the running mean of the gradients, divided by the root of the running mean of their squares.

    ``betas`` are how much of either mean is kept in a step; both begin with ``initial_accumulator_value``.
    """

    name = "adam"
    moments = ("first", "second")

    def __init__(
        self,
        *,
        learning_rate: float = 0.01,
        betas: Sequence[float] = (0.9, 0.999),
        initial_accumulator_value: float = 0.0,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(learning_rate=learning_rate, initial_accumulator_value=initial_accumulator_value)
        if not isinstance(betas, list | tuple) or len(betas) != 2:
            raise ConfigurationError(f"betas: expected two numbers, got {betas!r:.60}")
        self._beta1, self._beta2 = (check_share("betas", beta, most=1, below=True) for beta in betas)
        self._epsilon = check_share("epsilon", epsilon, most=np.inf, positive=True)

    def direction(
        self, gradient: NDArray[np.float64], moments: Mapping[str, NDArray[np.float64]], steps: int
    ) -> NDArray[np.float64]:
        """Return the scaled mean of the gradients, corrected for how few there were."""
        first, second = moments["first"], moments["second"]
        first *= self._beta1
        first += (1 - self._beta1) * gradient
        self.update_second(second, gradient * gradient)
        mean = first / (1 - self._beta1**steps)
        root = np.sqrt(second / (1 - self._beta2**steps))
        return mean / (root + self._epsilon)

    def update_second(self, second: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        """Update the second moment in place with the ``squares`` of a slice's gradient."""
        second *= self._beta2
        second += (1 - self._beta2) * squares
