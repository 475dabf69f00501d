"""TrimmedMean: the mean without the extremes (Yin et al. 2018, "Byzantine-Robust Distributed Learning", definition 2)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from openfl_aio.tensors.aggregation.base import (
    AggregationContext,
    AggregationFunction,
    LocalTensor,
    check_share,
    read_only,
)
from openfl_aio.tensors.aggregation.network import sort_rows
from openfl_aio.tensors.aggregation.slices import Stack

__all__ = ["TrimmedMean"]


class TrimmedMean(AggregationFunction):
    """The mean of each element without the largest and the smallest ``share`` of its values. Weights do not count.

    Of n values ``floor(share * n)`` go at either end. NaN counts as larger than every number.
    """

    name = "trimmed_mean"
    holds_all = True

    def __init__(self, *, share: float = 0.1) -> None:
        self._share = check_share("share", share, most=0.5, below=True)

    def aggregate(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
        """Return the trimmed mean. Raises `TensorError` as well for a weight below 0 or not finite."""
        stack = Stack(tensors, context)
        cut = math.floor(self._share * len(stack) + 1e-9)  # 0.3 * 10 is a little less than 3 in binary
        mean = np.empty(stack.shape, np.float32)
        flat = mean.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            for part, rows in stack.rows(dtype=stack.dtype):
                ordered = sort_rows(rows) if cut else list(rows)
                total = ordered[cut].astype(np.float64)
                for row in ordered[cut + 1 : len(stack) - cut]:
                    total += row
                flat[part] = total / (len(stack) - 2 * cut)
        mean += np.float32(0.0)  # which of 0.0 and -0.0 comes first is left to the processor
        return read_only(mean)
