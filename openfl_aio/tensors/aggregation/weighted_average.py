"""WeightedAverage: the mean weighted by the number of samples (federated averaging, McMahan et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import TensorError
from openfl_aio.tensors.aggregation.base import AggregationContext, AggregationFunction, LocalTensor, check_shape

__all__ = ["WeightedAverage"]

# Elements a step: the product stays in the processor's cache, and no second array of the tensor's size is needed.
_BLOCK: Final = 1 << 15


class WeightedAverage(AggregationFunction):
    """``sum(weight * values) / sum(weight)``, summed in float64, given as float32.

    One local tensor is alive at a time, beside one float64 array of its shape. A weight of 0 leaves a tensor out. NaN
    and infinity pass into the result: refuse them before, where the sender is known.
    """

    name = "weighted_average"

    def aggregate(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
        """Return the average. Raises `TensorError` as well for a weight below 0 or not finite, or when all are 0."""
        total: NDArray[np.float64] | None = None
        total_weight = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for tensor in tensors:
                if not (math.isfinite(tensor.weight) and tensor.weight >= 0):
                    raise TensorError(
                        f"expected a weight of 0 or more for tensor {context.tensor_name!r}, "
                        f"got {tensor.weight} from {tensor.collaborator!r}"
                    )
                if total is None:
                    total = np.zeros(tensor.values.shape, np.float64)
                check_shape(tensor, total.shape, context)
                if tensor.weight > 0:
                    _add_product(total, tensor.values, tensor.weight)
                    total_weight += tensor.weight
            if total is None or total_weight == 0:
                raise TensorError(
                    f"nothing to average for tensor {context.tensor_name!r} in round {context.round_number}: "
                    "expected at least one local tensor with a weight above 0"
                )
            average = np.empty(total.shape, np.float32)
            np.divide(total, total_weight, out=average, casting="same_kind")
        average.flags.writeable = False
        return average


def _add_product(total: NDArray[np.float64], values: NDArray[Any], weight: float) -> None:
    """Add ``weight * values`` to ``total`` in place, block by block."""
    flat_total = total.reshape(-1)
    flat_values = values.reshape(-1)
    product = np.empty(min(_BLOCK, flat_total.size), np.float64)
    for start in range(0, flat_total.size, _BLOCK):
        block = flat_values[start : start + _BLOCK]
        out = product[: block.size]
        np.multiply(block, weight, out=out, dtype=np.float64)
        flat_total[start : start + _BLOCK] += out
