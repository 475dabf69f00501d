"""The first stage of SKC and STC: only the largest elements stay, the others become zero."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["keep_largest"]

_LEAST: Final = 1e-7


def keep_largest(values: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Return flat, finite ``values`` with all but the ``ceil(share * n)`` largest by magnitude set to zero.

    As in OpenFL 1.6, all that are kept are raised by 1e-7 if the smallest of them, not by magnitude, is less than
    that. Of equal magnitudes those are kept that its sort puts last.
    """
    sparse = np.zeros_like(values)
    if not len(values):
        return sparse
    keep = math.ceil(len(values) * share)
    magnitudes = np.abs(values)
    threshold = np.partition(magnitudes, len(values) - keep)[len(values) - keep]
    kept = np.flatnonzero(magnitudes >= threshold)
    if len(kept) != keep:  # ties: which of them stay is decided by this sort
        kept = np.argsort(magnitudes)[len(values) - keep :]
    largest = values[kept]
    if largest.min() < np.float32(_LEAST):
        largest += np.float32(_LEAST)
    sparse[kept] = largest
    return sparse
