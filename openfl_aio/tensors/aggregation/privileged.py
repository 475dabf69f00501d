"""Functions that see all that the aggregator has of a round, like OpenFL's PrivilegedAggregationFunction."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import TensorError
from openfl_aio.tensors.aggregation.base import AggregationContext, AggregationFunction, LocalTensor
from openfl_aio.tensors.key import TensorKey

__all__ = ["History", "HistoryRow", "PrivilegedFunction"]


@dataclass(frozen=True, slots=True, eq=False)
class HistoryRow:
    """One tensor that the aggregator has. ``read`` decodes it, anew at every call."""

    key: TensorKey
    read: Callable[[], NDArray[Any]] = field(repr=False)


class History(Sequence[HistoryRow]):
    """The tensors that the aggregator has while a round is aggregated, for reading alone.

    The global models of the rounds that are kept, tagged ``model``, of the aggregator's origin, oldest first; then what
    the collaborators sent for the tasks of this round, metrics too, by task and collaborator, of the collaborator's
    origin. A delta has the tag ``delta`` and is read as the absolute value.
    """

    def __init__(self, rows: Iterable[HistoryRow]) -> None:
        self._rows = tuple(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    def __repr__(self) -> str:
        return f"<History of {len(self)} tensors>"

    def find(
        self,
        name: str | None = None,
        *,
        origin: str | None = None,
        round_number: int | None = None,
        tags: Iterable[str] = (),
    ) -> Iterator[HistoryRow]:
        """Yield the rows that have all that is given; those of ``tags`` may be some of a row's."""
        wanted = frozenset(tags)
        for row in self._rows:
            key = row.key
            if (
                name in (None, key.tensor_name)
                and origin in (None, key.origin)
                and round_number in (None, key.round_number)
                and wanted <= {*key.tags}
            ):
                yield row


class PrivilegedFunction(AggregationFunction):
    """A function that is shown the whole `History` with each tensor. Subclass it and say `aggregate_with`.

    OpenFL 1.6 hands over its tensor table, a pandas DataFrame that can be written to. Here it is read-only, without
    pandas: a row is a key and a way to read its values. What a function wants to know of earlier rounds it gets as
    their global models; the collaborators' tensors are those of this round alone, and nothing can be left in the table
    for the next one. The rows of other tensors of this round are the local ones, not yet aggregated.
    """

    holds_all = True

    def aggregate(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
        """Raise `TensorError`: there is nothing to see without a history."""
        raise TensorError(f"aggregation function {self.name!r} needs the history of its round; call aggregate_with")

    @abstractmethod
    def aggregate_with(
        self, tensors: Iterable[LocalTensor], context: AggregationContext, history: History
    ) -> NDArray[np.float32]:
        """Return the aggregate like `AggregationFunction.aggregate`."""
