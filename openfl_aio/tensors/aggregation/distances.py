"""Squared distances between collaborators' tensors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openfl_aio.tensors.aggregation.slices import Stack

__all__ = ["squared_distances"]


def squared_distances(stack: Stack) -> NDArray[np.float64]:
    """Return the squared Euclidean distances of n tensors: (n, n), symmetric, NaN where a tensor is not finite.

    By differences, n (n - 1) / 2 times the size of the tensor: a matrix product would be faster, but what one hostile
    tensor of huge values costs in precision there would be lost to all, and the last bits depend on the processor.
    """
    count = len(stack)
    distances = np.zeros((count, count))
    difference = np.empty(0)
    with np.errstate(over="ignore", invalid="ignore"):
        for _, rows in stack.rows():
            if difference.size != rows.shape[1]:
                difference = np.empty(rows.shape[1])
            for one in range(count):
                for other in range(one + 1, count):
                    np.subtract(rows[one], rows[other], out=difference)
                    np.multiply(difference, difference, out=difference)
                    distances[one, other] += difference.sum()
    return distances + distances.T
