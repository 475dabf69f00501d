"""YogiAdaptiveAggregation: FedYogi (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2; Zaheer et al.
2018, "Adaptive Methods for Nonconvex Optimization", algorithm 2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import ConfigurationError
from openfl_aio.tensors.aggregation.adam import AdamAdaptiveAggregation

__all__ = ["YogiAdaptiveAggregation"]


class YogiAdaptiveAggregation(AdamAdaptiveAggregation):
    """Adam whose second moment moves towards the squares by an amount that does not depend on itself.

    OpenFL 1.6 has one of this name which cannot be constructed, and its optimizer ``NumPyYogi``, which can, shrinks the
    second moment besides; this is the papers', and OpenFL's with ``shrinking`` 1.
    """

    name = "yogi"

    def __init__(
        self,
        *,
        learning_rate: float = 0.01,
        betas: Sequence[float] = (0.9, 0.999),
        initial_accumulator_value: float = 0.0,
        epsilon: float = 1e-8,
        shrinking: int = 0,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            betas=betas,
            initial_accumulator_value=initial_accumulator_value,
            epsilon=epsilon,
        )
        if shrinking not in (0, 1):
            raise ConfigurationError(f"shrinking: expected 0 or 1, got {shrinking!r:.60}")
        self._shrinking = bool(shrinking)

    def update_second(self, second: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        """Update the second moment in place with the ``squares`` of a slice's gradient."""
        move = (1 - self._beta2) * np.sign(squares - second) * squares
        if self._shrinking:
            second *= self._beta2
        second += move
