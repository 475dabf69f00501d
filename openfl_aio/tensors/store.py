"""TensorStore: tensors in memory, by key."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from openfl_aio.errors import TensorError, TensorNotFoundError
from openfl_aio.tensors.key import TensorKey, normalise_tags

__all__ = ["TensorStore"]


class TensorStore:
    """Tensors by `TensorKey`, indexed by round. A stored tensor never changes, and nothing replaces it.

    Arrays are kept in their dtype and are read-only. One that is read-only when it is put is kept as it is, else a copy
    is. The order of a key's tags does not matter. Not for use from several threads at once.
    """

    def __init__(self) -> None:
        self._rounds: dict[int, dict[TensorKey, NDArray[Any]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._rounds.values()))

    def __contains__(self, key: TensorKey) -> bool:
        return self.find(key) is not None

    def __repr__(self) -> str:
        return f"<TensorStore {len(self)} tensors of {len(self._rounds)} rounds, {self.nbytes} bytes>"

    @property
    def nbytes(self) -> int:
        """The size of all values in bytes."""
        return sum(array.nbytes for tensors in self._rounds.values() for array in tensors.values())

    def put(self, key: TensorKey, array: NDArray[Any]) -> None:
        """Store ``array``. The same values again change nothing.

        Raises `TensorError` when the key is taken with other values, or the array does not hold numbers.
        """
        if array.dtype.kind not in "fiubc":
            raise TensorError(f"expected an array of numbers for {key}, got dtype {array.dtype}")
        key = _normalised(key)
        present = self.find(key)
        if present is not None:
            if not _same(present, array):
                raise TensorError(f"expected a key that is free, got {key}, which is taken with other values")
            return
        if array.flags.writeable:
            array = array.copy()
            array.flags.writeable = False
        self._rounds.setdefault(key.round_number, {})[key] = array

    def find(self, key: TensorKey) -> NDArray[Any] | None:
        """Return the tensor, or None."""
        return self._rounds.get(key.round_number, {}).get(_normalised(key))

    def get(self, key: TensorKey) -> NDArray[Any]:
        """Return the tensor. Raises `TensorNotFoundError`."""
        array = self.find(key)
        if array is None:
            raise TensorNotFoundError(f"no tensor is stored under {key}")
        return array

    def keys_of_round(self, round_number: int) -> tuple[TensorKey, ...]:
        """Return the keys of a round in the order they were put."""
        return tuple(self._rounds.get(round_number, ()))

    def model(self, round_number: int, origin: str) -> dict[str, NDArray[Any]]:
        """Return the tensors tagged ``model`` alone, by name, of one origin in one round; empty when there are none."""
        return {
            key.tensor_name: array
            for key, array in self._rounds.get(round_number, {}).items()
            if key.origin == origin and key.tags == ("model",) and not key.report
        }

    def drop_rounds(self, before: int, *, keep_reports: bool = True) -> int:
        """Forget the tensors of rounds below ``before``, reports (metrics) only if told. Returns how many went."""
        dropped = 0
        for round_number in [number for number in self._rounds if number < before]:
            tensors = self._rounds.pop(round_number)
            kept = {key: array for key, array in tensors.items() if keep_reports and key.report}
            dropped += len(tensors) - len(kept)
            if kept:
                self._rounds[round_number] = kept
        return dropped


def _normalised(key: TensorKey) -> TensorKey:
    return key._replace(tags=normalise_tags(key.tags))


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays hold the same bytes: NaN equals itself here, 0.0 is not -0.0."""
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
