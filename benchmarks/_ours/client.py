"""Collaborators of ours as a program of the benchmarks, each over a connection of its own.

Settings: ``port``, ``names``, ``parameters`` of the tensor, and ``tls`` (paths by name, or null).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
from lines import answer, prepare

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.config import CollaboratorConfig, Endpoint, RetryPolicy, Timeouts, TLSConfig
from openfl_aio.domain import TensorQuery
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.transport.channel import open_channel
from openfl_aio.wire import messages

UUIDS = {"aggregator_uuid": "aggregator_federation", "federation_uuid": "federation"}


class Collaborators:
    """What the benchmark may ask of them, all at once."""

    def __init__(self, settings: dict[str, Any], stack: AsyncExitStack) -> None:
        self._settings = settings
        self._stack = stack
        self._values = np.random.default_rng(0).standard_normal(settings["parameters"], np.float32)
        self._codec = TensorCodec()
        self._clients: dict[str, AggregatorClient] = {}
        self._rounds: dict[str, int] = {}
        self._tiny: asyncio.Task[None] | None = None
        self._late: list[float] = []

    async def open(self) -> None:
        """Make the clients; each connects at its first call."""
        for name in self._settings["names"]:
            config = CollaboratorConfig(
                name=name,
                endpoint=Endpoint(host="localhost", port=self._settings["port"]),
                tls=self._tls(name),
                retry=RetryPolicy(max_elapsed=0.0001),
                timeouts=Timeouts(drain=0),
                **UUIDS,
            )
            self._clients[name] = await self._stack.enter_async_context(AggregatorClient(config))
        name = self._settings["names"][0]
        channel = await self._stack.enter_async_context(
            open_channel(
                Endpoint(host="localhost", port=self._settings["port"]),
                tls=self._tls(name),
                metadata={"client_id": name},
            )
        )
        self._stub = messages.aggregator.AggregatorStub(channel)
        self._header = messages.aggregator.MessageHeader(
            sender=name, receiver=UUIDS["aggregator_uuid"], federation_uuid=UUIDS["federation_uuid"]
        )

    def _tls(self, name: str) -> TLSConfig | None:
        paths = self._settings["tls"]
        return None if paths is None else TLSConfig(**{key: Path(path) for key, path in paths[name].items()})

    async def next_task(self) -> dict[str, Any]:
        """Wait until every collaborator has a task: the round before is aggregated then."""
        start = time.perf_counter()
        for name, assignment in zip(
            self._clients, await asyncio.gather(*(one.get_tasks() for one in self._clients.values())), strict=True
        ):
            if not assignment.tasks:
                raise ValueError(f"{name} has nothing to do: {assignment}")
            self._rounds[name] = assignment.round_number
        return {"seconds": time.perf_counter() - start}

    async def upload(self) -> dict[str, Any]:
        """Upload the tensor from every collaborator at once; the last answer ends the clock."""

        async def one(name: str) -> None:
            key = TensorKey.of("w", name, self._rounds[name], tags=("trained",))
            await self._clients[name].send_local_task_results(
                round_number=self._rounds[name],
                task_name="train",
                data_size=1,
                tensors=[self._codec.encode(key, self._values)],
            )

        start = time.perf_counter()
        await asyncio.gather(*map(one, self._clients))
        return {"seconds": time.perf_counter() - start}

    async def download(self, check: bool = False) -> dict[str, Any]:
        """Get the model's tensor for every collaborator at once, as an array."""

        async def one(client: AggregatorClient) -> None:
            tensor = await client.get_aggregated_tensor(TensorQuery("w", 0, tags=("model",)))
            array = self._codec.decode(tensor)
            if array.shape != self._values.shape:
                raise ValueError(f"wrong result: {array.shape}")
            if check and not np.array_equal(array, self._values):
                raise ValueError("wrong result: not the model's values")

        start = time.perf_counter()
        await asyncio.gather(*map(one, self._clients.values()))
        return {"seconds": time.perf_counter() - start}

    async def rate(self, in_flight: int, seconds: float) -> dict[str, Any]:
        """Call GetTasks over one connection with so many calls open, and count the answers."""
        request = messages.aggregator.GetTasksRequest(header=self._header)
        start = time.perf_counter()
        end = start + seconds
        counts: list[int] = []

        async def caller() -> None:
            count = 0
            while time.perf_counter() < end:
                reply = await self._stub.get_tasks(request)
                if not reply.tasks:
                    raise ValueError("wrong result: no task")
                count += 1
            counts.append(count)

        await asyncio.gather(*(caller() for _ in range(in_flight)))
        return {"rate": sum(counts) / (time.perf_counter() - start)}

    async def tiny_start(self, rate: float) -> None:
        """Begin to call, so many times a second, whether or not the last call is answered."""
        self._late = []
        self._tiny = asyncio.create_task(self._call_all(rate))

    async def tiny_stop(self) -> dict[str, Any]:
        """End it; return the seconds that each call took from when it was due."""
        assert self._tiny is not None
        self._tiny.cancel()
        await asyncio.wait([self._tiny])
        if not self._tiny.cancelled():
            self._tiny.result()
        return {"seconds": self._late}

    async def _call_all(self, rate: float) -> None:
        request = messages.aggregator.GetExperimentDescriptionRequest(name=UUIDS["federation_uuid"])

        async def one(due: float) -> None:
            await self._stub.get_experiment_description(request)
            self._late.append(time.perf_counter() - due)

        start = time.perf_counter()
        number = 0
        async with asyncio.TaskGroup() as calls:
            try:
                while True:
                    due = start + number / rate
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    calls.create_task(one(due))
                    number += 1
            except asyncio.CancelledError:
                pass  # what is under way is waited for


async def main() -> None:
    settings = prepare()
    async with AsyncExitStack() as stack:
        collaborators = Collaborators(settings, stack)
        await collaborators.open()
        names = ("next_task", "upload", "download", "rate", "tiny_start", "tiny_stop")
        await answer({}, {name: getattr(collaborators, name) for name in names})


if __name__ == "__main__":
    asyncio.run(main())
