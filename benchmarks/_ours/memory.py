"""An aggregator of ours with one tensor, or all its collaborators, as a program of the benchmarks.

Settings: ``role`` ("server" or "clients"), ``names``, ``nbytes`` of the tensor, and for the server ``folder`` (of its
journal and models) and ``function`` (how it aggregates), for the clients ``port``.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
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

UUIDS = {"aggregator_uuid": "aggregator_federation", "federation_uuid": "federation"}
DOWNLOADS = 2  # at once: the clients' own memory is not what is measured


def initial(nbytes: int) -> NDArray[np.float32]:
    """Return the model of round 0, which nobody else holds."""
    values = np.ones(nbytes // 4, np.float32)
    values.flags.writeable = False
    return values


async def serve(settings: dict[str, Any]) -> None:
    config = AggregatorConfig(
        collaborators=tuple(settings["names"]),
        rounds=10_000,
        tasks=(Task("train", "train", TaskKind.TRAIN, apply_local=False),),
        aggregation=settings["function"],
        workspace=Path(settings["folder"]),
        listen=Endpoint(),
        timeouts=Timeouts(drain=0),
    )
    # with a model of nothing first: what is imported and opened is no memory of the round
    async with Aggregator(config, initial_model={"w": initial(4)}):
        idle = anonymous()
    async with Aggregator(config, initial_model={"w": initial(settings["nbytes"])}) as server:
        await answer({"port": server.endpoint.port, "idle": idle}, {})


def anonymous() -> int:
    """Return the bytes of memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


class Collaborators:
    """All collaborators, with the same values."""

    def __init__(self, clients: dict[str, AggregatorClient], nbytes: int) -> None:
        self._clients = clients
        self._values = np.empty(nbytes // 4, np.float32)
        self._codec = TensorCodec()
        self._download = asyncio.Semaphore(DOWNLOADS)
        self._round = 0

    async def next_task(self) -> dict[str, Any]:
        """Wait for the next round, which is when the last one is aggregated."""
        start = time.perf_counter()

        async def one(client: AggregatorClient) -> None:
            while not (assignment := await client.get_tasks()).tasks:
                pass
            self._round = assignment.round_number

        await asyncio.gather(*map(one, self._clients.values()))
        return {"seconds": time.perf_counter() - start}

    async def download(self) -> dict[str, Any]:
        """Get the model in round 0, its delta later, for every collaborator; every second round's is 1, then 2."""
        tags, expected = (("aggregated", "delta"), 1 - self._round % 2 * 2) if self._round else (("model",), 1)

        async def one(client: AggregatorClient) -> None:
            async with self._download:
                query = TensorQuery("w", self._round, tags=tags, require_lossless=False)
                values = self._codec.decode(await client.get_aggregated_tensor(query))
            if not (values[0] == values[-1] == -expected * (1 if self._round else -1)):
                raise ValueError(f"wrong result: round {self._round} begins with {values[:4]}")

        await asyncio.gather(*map(one, self._clients.values()))
        return {}

    async def upload(self) -> dict[str, Any]:
        """Hand in from all at once: 2 in even rounds, 1 in odd ones."""
        self._values[:] = 2 - self._round % 2
        start = time.perf_counter()

        async def one(name: str, client: AggregatorClient) -> None:
            key = TensorKey.of("w", name, self._round, tags=("trained",))
            await client.send_local_task_results(
                round_number=self._round,
                task_name="train",
                data_size=1,
                tensors=[self._codec.encode(key, self._values)],
            )

        await asyncio.gather(*(one(*item) for item in self._clients.items()))
        return {"seconds": time.perf_counter() - start}


async def take_part(settings: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        clients = {}
        for name in settings["names"]:
            config = CollaboratorConfig(name=name, endpoint=Endpoint(port=settings["port"]), **UUIDS)
            clients[name] = await stack.enter_async_context(AggregatorClient(config))
        all_of_them = Collaborators(clients, settings["nbytes"])
        await answer({}, {name: getattr(all_of_them, name) for name in ("next_task", "download", "upload")})


async def main() -> None:
    settings = prepare()
    await (serve(settings) if settings["role"] == "server" else take_part(settings))


if __name__ == "__main__":
    asyncio.run(main())
