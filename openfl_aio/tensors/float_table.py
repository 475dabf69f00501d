"""A large ``int_to_float`` in arrays: RandomShift has an entry for each element of a tensor.

A dictionary takes some hundred bytes an entry, this four where the keys count from 0, else eight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FloatTable"]


class FloatTable(Mapping[int, float]):
    """A mapping of int32 keys to float32 values, ascending by key. It never changes.

    ``written`` is for whoever writes it: what it is as bytes, once it was asked for.
    """

    __slots__ = ("keys_", "values_", "written")

    def __init__(self, values: NDArray[Any], keys: NDArray[Any] | None = None) -> None:
        """Take ``values``, in the order of their ``keys``; without keys they are 0, 1, 2 ... Of a key twice the last counts."""
        values = np.asarray(values, np.float32)
        if keys is not None:
            keys, values = _ascending(np.asarray(keys, np.int32), values)
        self.keys_ = keys
        self.values_ = values
        self.written: bytes | None = None

    def __repr__(self) -> str:
        return f"<FloatTable of {len(self)}>"

    def __len__(self) -> int:
        return len(self.values_)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)) if self.keys_ is None else self.keys_.tolist())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, int) and self._place(key) is not None

    def __getitem__(self, key: int) -> float:
        place = self._place(key)
        if place is None:
            raise KeyError(key)
        return float(self.values_[place])

    def _place(self, key: int) -> int | None:
        if self.keys_ is None:
            return key if 0 <= key < len(self) else None
        place = int(np.searchsorted(self.keys_, key))
        return place if place < len(self) and self.keys_[place] == key else None

    def of_each(self, count: int) -> NDArray[np.float32] | None:
        """Return the values of the keys 0 to ``count`` - 1, None if the keys are others."""
        return self.values_ if self.keys_ is None and len(self) == count else None


def _ascending(
    keys: NDArray[np.int32], values: NDArray[np.float32]
) -> tuple[NDArray[np.int32] | None, NDArray[np.float32]]:
    """Return keys and values by key; None for keys that count from 0, as they do in any order that a peer may have."""
    count = len(keys)
    if not count or (keys.min() == 0 and keys.max() == count - 1):
        placed = np.empty(count, np.float32)
        placed[keys] = values
        there = np.zeros(count, bool)
        there[keys] = True
        if there.all():
            return None, placed
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    last = np.append(keys[1:] != keys[:-1], True)
    keys, values = keys[last], values[last]
    if keys[0] == 0 and keys[-1] == len(keys) - 1:  # with a key that came twice
        return None, values
    return keys, values
