"""YogiAdaptiveAggregation: FedYogi (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2; Zaheer et al.
2018, "Adaptive Methods for Nonconvex Optimization", algorithm 2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openfl_aio.tensors.aggregation.adam import AdamAdaptiveAggregation

__all__ = ["YogiAdaptiveAggregation"]


class YogiAdaptiveAggregation(AdamAdaptiveAggregation):
    """Adam whose second moment moves towards the squares by an amount that does not depend on itself.

    OpenFL 1.6 has one of this name which cannot be constructed, and shrinks the second moment besides; this is the
    papers'.
    """

    name = "yogi"

    def update_second(self, second: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        """Update the second moment in place with the ``squares`` of a slice's gradient."""
        second += (1 - self._beta2) * np.sign(squares - second) * squares
