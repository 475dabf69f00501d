"""Envoys of ours that wait for an experiment, as a program of the benchmarks, each over a connection of its own.

Settings: ``port``, ``names``, and ``tls`` (paths by name, or null). The clock is the system's monotonic one, which all
processes share.
"""

from __future__ import annotations

import asyncio
import io
import time
import zipfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
from lines import answer, prepare

from openfl_aio.config import Endpoint, TLSConfig, default_tasks
from openfl_aio.director.client import DirectorClient
from openfl_aio.domain import ShardInfo
from openfl_aio.plan.experiment import experiment_plan
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.key import TensorKey

AT_ONCE = 50  # envoys of one process that connect at the same time


class Envoys:
    """What the benchmark may ask of them."""

    def __init__(self, settings: dict[str, Any], stack: AsyncExitStack) -> None:
        self._names: list[str] = settings["names"]
        self._tls = settings["tls"]
        self._endpoint = Endpoint(host="localhost", port=settings["port"])
        self._stack = stack
        self._clients: dict[str, DirectorClient] = {}
        self._waits: list[asyncio.Task[tuple[str, float]]] = []
        self._submitted = 0

    def _client(self, name: str) -> DirectorClient:
        paths = None if self._tls is None else self._tls[name]
        tls = None if paths is None else TLSConfig(**{key: Path(path) for key, path in paths.items()})
        return DirectorClient(self._endpoint, client_id=name, tls=tls)

    async def connect(self, count: int) -> None:
        """Register the next ``count`` envoys, each over a connection that stays."""
        limiter = asyncio.Semaphore(AT_ONCE)

        async def register(name: str) -> None:
            async with limiter:
                client = await self._stack.enter_async_context(self._client(name))
                self._clients[name] = client
                if not await client.update_shard_info(ShardInfo(name, sample_shape=("1",), target_shape=("1",))):
                    raise ValueError(f"{name} was not accepted")

        names = self._names[len(self._clients) :][:count]
        await asyncio.gather(*map(register, names))

    async def wait(self) -> None:
        """Let every envoy that is connected wait for an experiment."""

        async def one(name: str, client: DirectorClient) -> tuple[str, float]:
            got = await client.wait_experiment(name)
            return got, time.monotonic()

        self._waits = [asyncio.create_task(one(name, client)) for name, client in self._clients.items()]

    async def woken(self, experiment: str) -> dict[str, Any]:
        """Wait until all were told of ``experiment``; return when the last one was."""
        last = 0.0
        for got, moment in await asyncio.gather(*self._waits):
            if got != experiment:
                raise ValueError(f"somebody was told {got!r} instead of {experiment!r}")
            last = max(last, moment)
        return {"last": last}

    async def submit(self, experiment: str, envoys: list[str]) -> dict[str, Any]:
        """Submit an experiment of which only the plan matters; return when that began."""
        plan = experiment_plan(
            task_runner="unused.Runner",
            settings={},
            rounds=1,
            tasks=default_tasks(),
            agg_addr="localhost",
            agg_port=self._endpoint.port,
            tls=self._tls is not None,
        )
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as zf:
            zf.writestr("plan/plan.yaml", plan.dump())

        async def archive() -> AsyncIterator[bytes]:
            yield buffer.getvalue()

        tensor = TensorCodec().encode(TensorKey.of("w", "", 0, tags=("model",)), np.zeros(1, np.float32))
        async with self._client(self._names[0]) as owner:
            await owner.get_dataset_info()
            start = time.monotonic()
            if not await owner.set_new_experiment(experiment, collaborators=envoys, model=[tensor], archive=archive()):
                raise ValueError(f"{experiment} was not accepted")
        return {"start": start}

    async def remove(self, experiment: str) -> None:
        """Remove an experiment, so that the next one is told."""
        async with self._client(self._names[0]) as owner:
            await owner.remove_experiment_data(experiment)


async def main() -> None:
    settings = prepare()
    async with AsyncExitStack() as stack:
        envoys = Envoys(settings, stack)
        names = ("connect", "wait", "woken", "submit", "remove")
        await answer({}, {name: getattr(envoys, name) for name in names})


if __name__ == "__main__":
    asyncio.run(main())
