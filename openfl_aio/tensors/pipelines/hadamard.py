"""The randomised Hadamard transform of EDEN, to the bit as OpenFL 1.6 computes it with torch."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["flip_signs", "hadamard"]

_MASK: Final = 0xFFFFFFFF
_BITS: Final = 10  # stages at a time
_CACHE: Final = 1 << 16  # elements at a time


def hadamard(values: NDArray[np.float32]) -> None:
    """Transform flat ``values``, whose number is a power of two, in place.

    Each stage makes ``a + b`` and ``(a + b) - 2b`` of two values, each rounded to float32, from neighbours up to
    halves: the order in which a bit comes out the same. Ten stages go over a block while it is in the cache.
    """
    size = len(values)
    inner = 1
    while inner < size:
        span = min(size // inner, 1 << _BITS)
        blocks = values.reshape(size // (inner * span), span, inner)
        _stages(blocks)
        inner *= span
    values /= np.float32(np.sqrt(size))


def _stages(blocks: NDArray[np.float32]) -> None:
    """Combine what lies along the middle axis, in all its stages."""
    outer, span, inner = blocks.shape
    columns = max(1, min(inner, _CACHE // span))
    rows = max(1, _CACHE // (span * columns))
    for row in range(0, outer, rows):
        for column in range(0, inner, columns):
            part = blocks[row : row + rows, :, column : column + columns]
            # the axis to combine first, so that each operation runs over long rows
            work = np.ascontiguousarray(part.transpose(1, 0, 2)).reshape(span, -1)
            half = 1
            while half < span:
                pairs = work.reshape(span // (2 * half), 2, half, -1)
                first, second = pairs[:, 0], pairs[:, 1]
                first += second
                second *= np.float32(2)
                np.subtract(first, second, out=second)
                half *= 2
            part[...] = work.reshape(span, part.shape[0], part.shape[2]).transpose(1, 0, 2)


def flip_signs(values: NDArray[np.float32], seed: int) -> None:
    """Multiply flat ``values``, whose number is a multiple of 8, by 1 or -1 each, in place.

    The signs come from a counter that is mixed twice by a linear congruential generator and once as in SplitMix, in
    32 bits. Each number gives eight signs: the highest bit of each of its half bytes, the lowest first.
    """
    seed = (seed * 1664525 + 1013904223) & _MASK
    seed = (seed * 8121 + 28411) & _MASK
    part = len(values) // 8
    mask = np.uint64(_MASK)
    mixed = np.arange(seed, seed + part, dtype=np.uint64)
    mixed = (mixed * np.uint64(1103515245) + np.uint64(12345 + seed)) & mask
    mixed = (mixed * np.uint64(1140671485) + np.uint64(12820163 + seed)) & mask
    mixed += np.uint64(0x9E3779B9)  # not cut to 32 bits here: the next line shifts the 33rd down
    mixed = ((mixed ^ (mixed >> np.uint64(16))) * np.uint64(0x85EBCA6B)) & mask
    mixed = ((mixed ^ (mixed >> np.uint64(13))) * np.uint64(0xC2B2AE35)) & mask
    mixed = (mixed ^ (mixed >> np.uint64(16))) & mask
    bits = mixed.astype(np.uint32)
    for index in range(8):
        negative = (bits >> np.uint32(4 * index + 3)) & np.uint32(1) == 0
        piece = values[index * part : (index + 1) * part]
        np.negative(piece, out=piece, where=negative)
