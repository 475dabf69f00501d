"""A federation in memory: the aggregator's calls without a network, with losses and delays from a seed."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import anyio

from openfl_aio.aggregator.api import get_each
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.domain import Assignment, Header, TensorQuery
from openfl_aio.tensors.codec import EncodedTensor
from openfl_aio.wire.incremental import encode_task_results

__all__ = ["Faults", "InProcessAggregator", "inline"]

T = TypeVar("T")


async def inline(function: Callable[[], T], /) -> T:
    """Run ``function`` here and now: an `Offload` for virtual time, which must not see threads."""
    return function()


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong between a collaborator and its aggregator, drawn from ``seed`` and the collaborator's name.

    ``lose_request`` and ``lose_reply`` are probabilities: a call is made again, after ``pause`` seconds, until it and
    its reply arrive. Every attempt takes up to ``max_delay`` seconds.
    """

    seed: int = 0
    lose_request: float = 0.0
    lose_reply: float = 0.0
    pause: float = 1.0
    max_delay: float = 0.0


class InProcessAggregator:
    """The `AggregatorAPI` of the collaborator ``name``, straight over an `Aggregator` in the same loop.

    Uploads pass through the bytes of the wire all the same.
    """

    def __init__(self, aggregator: Aggregator, name: str, *, faults: Faults | None = None) -> None:
        self._aggregator = aggregator
        self._name = name
        self._faults = faults or Faults()
        self._random = random.Random(f"{self._faults.seed}:{name}")

    def __repr__(self) -> str:
        return f"InProcessAggregator({self._aggregator!r}, {self._name!r})"

    async def get_tasks(self) -> Assignment:
        """Return what to do next."""
        return await self._call(lambda: self._aggregator.get_tasks(self._name))

    async def get_aggregated_tensor(self, query: TensorQuery) -> EncodedTensor:
        """Return one tensor of the global model, its delta, or a metric."""
        return await self._call(lambda: self._aggregator.get_aggregated_tensor(self._name, query))

    async def get_aggregated_tensors(self, queries: Sequence[TensorQuery]) -> list[EncodedTensor]:
        """Return several tensors."""
        return await get_each(self.get_aggregated_tensor, queries)

    async def send_local_task_results(
        self, *, round_number: int, task_name: str, data_size: int, tensors: Iterable[EncodedTensor]
    ) -> None:
        """Hand in the results of one task."""
        tensors = list(tensors)
        aggregator = self._aggregator

        async def send() -> None:
            upload = aggregator.upload(self._name)
            try:
                for part in encode_task_results(
                    header=Header(
                        self._name,
                        aggregator.uuid,
                        aggregator.federation_uuid,
                        aggregator.config.single_col_cert_common_name,
                    ),
                    round_number=round_number,
                    task_name=task_name,
                    data_size=data_size,
                    tensors=tensors,
                ):
                    await upload.feed(part)
                await upload.finish()
            finally:
                await upload.abort()

        await self._call(send)

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        faults = self._faults
        while True:
            if faults.max_delay:
                await anyio.sleep(self._random.uniform(0, faults.max_delay))
            if self._random.random() >= faults.lose_request:
                reply = await call()
                if self._random.random() >= faults.lose_reply:
                    return reply
            await anyio.sleep(faults.pause)
