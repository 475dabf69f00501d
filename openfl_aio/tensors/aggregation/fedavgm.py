"""FedAvgM: federated averaging with momentum on the server (Hsu et al. 2019, "Measuring the Effects of Non-Identical
Data Distribution for Federated Visual Classification", section 3.3).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from openfl_aio.tensors.aggregation.base import check_share
from openfl_aio.tensors.aggregation.server_optimizer import ServerOptimizer

__all__ = ["FedAvgM"]


class FedAvgM(ServerOptimizer):
    """Goes the sum of all changes so far, each shrunk by ``momentum`` a round."""

    name = "fedavgm"
    moments = ("velocity",)

    def __init__(self, *, learning_rate: float = 1.0, momentum: float = 0.9) -> None:
        super().__init__(learning_rate=learning_rate)
        self._momentum = check_share("momentum", momentum, most=1, below=True)

    def direction(
        self, gradient: NDArray[np.float64], moments: Mapping[str, NDArray[np.float64]], steps: int
    ) -> NDArray[np.float64]:
        """Return the velocity."""
        velocity = moments["velocity"]
        velocity *= self._momentum
        velocity += gradient
        return velocity
