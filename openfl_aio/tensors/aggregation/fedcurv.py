"""FedCurvWeightedAverage: federated averaging beside sums of Fisher information (Shoham et al. 2019, "Overcoming
Forgetting in Federated Learning on Non-IID Data", section 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.tensors.aggregation.base import AggregationContext, LocalTensor, check_weight
from openfl_aio.tensors.aggregation.weighted_average import Mean, WeightedAverage

__all__ = ["FedCurvWeightedAverage"]

# OpenFL's FedCurv utility names the Fisher matrices and their products with the weights so
_SUMMED: Final = ("_u", "_v", "_w")


class FedCurvWeightedAverage(WeightedAverage):
    """The weighted average, but for tensors whose names end in ``_u``, ``_v`` or ``_w``: those are summed, unweighted."""

    name = "fedcurv_weighted_average"

    def aggregate(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
        """Return the average or the sum. Raises like `WeightedAverage.aggregate`."""
        if not context.tensor_name.endswith(_SUMMED):
            return super().aggregate(tensors, context)
        return Mean(_equal(tensors, context), context, total_weight=1.0).array()


def _equal(tensors: Iterable[LocalTensor], context: AggregationContext) -> Iterator[LocalTensor]:
    for tensor in tensors:
        check_weight(tensor, context)
        yield replace(tensor, weight=1.0)
