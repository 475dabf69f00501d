"""What a collaborator may ask of its aggregator, whether over the network or in the same process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

import anyio

from openfl_aio.domain import Assignment, TensorQuery
from openfl_aio.tensors.codec import EncodedTensor

__all__ = ["AggregatorAPI", "get_each"]

CALLS_AT_ONCE: Final = 16


class AggregatorAPI(Protocol):
    """The calls of one collaborator. An implementation knows whose calls they are."""

    async def get_tasks(self) -> Assignment:
        """Return what to do next. Waits while there is nothing, for as long as the aggregator chooses."""
        ...

    async def get_aggregated_tensor(self, query: TensorQuery) -> EncodedTensor:
        """Return one tensor of the global model, or its delta, or an aggregated metric.

        Waits for a tensor of the round to come. Raises `TensorNotFoundError` for one that will not come.
        """
        ...

    async def get_aggregated_tensors(self, queries: Sequence[TensorQuery]) -> list[EncodedTensor]:
        """Return several tensors, in the order of ``queries``; together they should be small.

        Raises what `get_aggregated_tensor` raises for the first that cannot be had.
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


async def get_each(
    get: Callable[[TensorQuery], Awaitable[EncodedTensor]], queries: Sequence[TensorQuery]
) -> list[EncodedTensor]:
    """Return what ``get`` returns for each of ``queries``, in their order; it is called for some of them at once.

    The first error ends the others, and is raised as it is.
    """
    found: dict[int, EncodedTensor] = {}
    errors: list[Exception] = []
    room = anyio.CapacityLimiter(CALLS_AT_ONCE)

    async def call(index: int) -> None:
        try:
            async with room:
                found[index] = await get(queries[index])
        except Exception as exc:
            errors.append(exc)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for index in range(len(queries)):
            group.start_soon(call, index)
    if errors:
        try:
            raise errors[0]
        finally:
            errors.clear()  # its traceback has this frame
    return [found[index] for index in range(len(queries))]
