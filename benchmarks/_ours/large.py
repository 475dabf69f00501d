"""An aggregator of ours with one large tensor, or its only collaborator, as a program of the benchmarks.

Settings: ``role`` ("server" or "client"), ``nbytes`` of the tensor, and ``folder`` for the server, ``port`` for the client.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
from lines import answer, prepare
from numpy.typing import NDArray

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import AggregatorConfig, CollaboratorConfig, Endpoint, Timeouts
from openfl_aio.domain import Task, TaskKind, TensorQuery
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey

ROW = 2**16
FLOAT = 4
UUIDS = {"aggregator_uuid": "aggregator_federation", "federation_uuid": "federation"}


def pattern(row: int) -> NDArray[np.float32]:
    """Return the values of one row, which no other row has."""
    return np.arange(ROW, dtype=np.float32) + row


def model_on_disk(path: Path, rows: int) -> NDArray[np.float32]:
    """Return the initial model, mapped from a file: memory that the system takes back when it is short of it."""
    with path.open("wb") as file:
        for row in range(rows):
            pattern(row).tofile(file)
    return np.memmap(path, np.float32, mode="r", shape=(rows, ROW))


async def serve(settings: dict[str, Any]) -> None:
    folder = Path(settings["folder"])
    model = model_on_disk(folder / "initial", settings["nbytes"] // (ROW * FLOAT))
    config = AggregatorConfig(
        collaborators=("one",),
        rounds=10_000,
        tasks=(Task("train", "train", TaskKind.TRAIN, apply_local=False),),
        workspace=folder / "server",
        listen=Endpoint(),
        timeouts=Timeouts(drain=0),
    )
    async with Aggregator(config, initial_model={"w": model}) as server:
        await answer({"port": server.endpoint.port}, {})


class Collaborator:
    """Gets the model of each round, and hands it in as it came."""

    def __init__(self, client: AggregatorClient) -> None:
        self._client = client
        self._codec = TensorCodec()
        self._values: NDArray[np.float32] | None = None
        self._round = 0

    async def next_task(self) -> dict[str, Any]:
        """Wait for the next round, which is when the last one is aggregated."""
        start = time.perf_counter()
        assignment = await self._client.get_tasks()
        while not assignment.tasks:
            assignment = await self._client.get_tasks()
        self._round = assignment.round_number
        return {"seconds": time.perf_counter() - start}

    async def down(self) -> dict[str, Any]:
        """Get the tensor of this round, and look at every row."""
        self._values = None
        start = time.perf_counter()
        tensor = await self._client.get_aggregated_tensor(TensorQuery("w", self._round, tags=("model",)))
        self._values = self._codec.decode(tensor)
        seconds = time.perf_counter() - start
        for row, values in enumerate(self._values):
            if not np.array_equal(values, pattern(row)):
                raise ValueError(f"wrong result: row {row} of round {self._round} begins with {values[:4]}")
        return {"seconds": seconds}

    async def up(self) -> dict[str, Any]:
        """Hand the tensor in; done when the server says that it is kept."""
        assert self._values is not None
        key = TensorKey.of("w", "one", self._round, tags=("trained",))
        start = time.perf_counter()
        await self._client.send_local_task_results(
            round_number=self._round,
            task_name="train",
            data_size=1,
            tensors=[self._codec.encode(key, self._values)],
        )
        return {"seconds": time.perf_counter() - start}


async def take_part(settings: dict[str, Any]) -> None:
    config = CollaboratorConfig(name="one", endpoint=Endpoint(port=settings["port"]), **UUIDS)
    async with AggregatorClient(config) as client:
        one = Collaborator(client)
        await answer({}, {"next_task": one.next_task, "down": one.down, "up": one.up})


async def main() -> None:
    settings = prepare()
    await (serve(settings) if settings["role"] == "server" else take_part(settings))


if __name__ == "__main__":
    asyncio.run(main())
