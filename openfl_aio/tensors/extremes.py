"""How small and how large the values of a tensor are, found while its bytes pass by: reading them again takes longer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

__all__ = ["Extremes", "ExtremesFinder"]

SLICE_BYTES: Final = 1024 * 1024  # both ends are found while it is in the processor's cache
_ITEM: Final = 4


@dataclass(frozen=True, slots=True)
class Extremes:
    """The lowest and the highest value. Both are NaN if any value is not finite."""

    lowest: float
    highest: float

    @property
    def finite(self) -> bool:
        """Whether all values are finite."""
        return math.isfinite(self.lowest)

    @property
    def largest(self) -> float:
        """The value that is furthest from zero."""
        return max(self.lowest, self.highest, key=abs)


class ExtremesFinder:
    """Looks at little-endian float32 values that come in pieces of any size."""

    __slots__ = ("_finite", "_highest", "_lowest", "_rest")

    def __init__(self) -> None:
        self._rest = b""  # of a value that is not whole
        self._lowest, self._highest = math.inf, -math.inf
        self._finite = True

    def __repr__(self) -> str:
        return f"<ExtremesFinder {self._lowest:g} to {self._highest:g}, finite: {self._finite}>"

    def add(self, data: memoryview) -> None:
        """Look at the next bytes."""
        if self._rest:
            missing = _ITEM - len(self._rest)
            self._rest += bytes(data[:missing])
            data = data[missing:]
            if len(self._rest) < _ITEM:
                return
            self._look(memoryview(self._rest))
        whole = len(data) // _ITEM * _ITEM
        for start in range(0, whole, SLICE_BYTES):
            self._look(data[start : min(start + SLICE_BYTES, whole)])
        self._rest = bytes(data[whole:])

    def found(self) -> Extremes | None:
        """Return what was found, None if there was no value, or the last one is not whole."""
        if self._rest:
            return None
        if not self._finite:
            return Extremes(math.nan, math.nan)
        return None if self._lowest > self._highest else Extremes(self._lowest, self._highest)

    def _look(self, data: memoryview) -> None:
        values = np.frombuffer(data, "<f4")
        lowest, highest = float(values.min()), float(values.max())
        if math.isfinite(lowest) and math.isfinite(highest):  # a NaN is both
            self._lowest, self._highest = min(self._lowest, lowest), max(self._highest, highest)
        else:
            self._finite = False
