"""Median: the middle value of each element (Yin et al. 2018, "Byzantine-Robust Distributed Learning", definition 1)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from openfl_aio.tensors.aggregation.base import AggregationContext, AggregationFunction, LocalTensor, read_only
from openfl_aio.tensors.aggregation.network import sort_rows
from openfl_aio.tensors.aggregation.slices import Stack

__all__ = ["Median"]


class Median(AggregationFunction):
    """The median of each element; the mean of the middle two for an even number. Weights do not count.

    NaN counts as larger than every number: less than half of the collaborators cannot make the result NaN.
    """

    name = "median"
    holds_all = True

    def aggregate(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
        """Return the median. Raises `TensorError` as well for a weight below 0 or not finite."""
        stack = Stack(tensors, context)
        median = np.empty(stack.shape, np.float32)
        flat = median.reshape(-1)
        low, high = (len(stack) - 1) // 2, len(stack) // 2
        with np.errstate(over="ignore", invalid="ignore"):
            for part, rows in stack.rows(dtype=stack.dtype):
                ordered = sort_rows(rows)
                middle = ordered[low].astype(np.float64)
                if high != low:
                    middle += ordered[high]
                    middle /= 2
                middle += 0.0  # which of 0.0 and -0.0 comes first is left to the processor
                flat[part] = middle
        return read_only(median)
