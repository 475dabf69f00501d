"""What a collaborator may ask of its aggregator, whether over the network or in the same process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from openfl_aio.domain import Assignment, TensorQuery
from openfl_aio.tensors.codec import EncodedTensor

__all__ = ["AggregatorAPI"]


class AggregatorAPI(Protocol):
    """The three calls of one collaborator. An implementation knows whose calls they are."""

    async def get_tasks(self) -> Assignment:
        """Return what to do next. Waits while there is nothing, for as long as the aggregator chooses."""
        ...

    async def get_aggregated_tensor(self, query: TensorQuery) -> EncodedTensor:
        """Return one tensor of the global model, or its delta, or an aggregated metric.

        Waits for a tensor of the round to come. Raises `TensorNotFoundError` for one that will not come.
        """
        ...

    async def send_local_task_results(
        self, *, round_number: int, task_name: str, data_size: int, tensors: Iterable[EncodedTensor]
    ) -> None:
        """Hand in the results of one task; once this returns they are kept.

        ``data_size`` is the number of samples. ``tensors`` is read again if the upload must be repeated, so it
        should be a collection, or an object that makes a new iterator each time.
        """
        ...
