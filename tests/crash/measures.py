"""What a restart takes with a large model, and what a long federation leaves on the disk."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import numpy as np

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.domain import Task, TaskKind
from openfl_aio.errors import AlreadyExistsError
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.tensors.key import TensorKey
from tests.crash.catalogue import Case
from tests.crash.server import WITNESS, Server
from tests.crash.sites import RETRY

__all__ = ["LARGE", "LONG", "Disk", "Restart", "disk_of_rounds", "restart"]

MIB: Final = 2**20
LARGE: Final = Case("128 MiB, 16 sites", elements=32 * MIB, sites=17, rounds=2)
LONG: Final = Case("1,000 rounds", elements=1000, sites=2, rounds=1000)
RESTARTS: Final = 3


@dataclass(frozen=True, slots=True)
class Restart:
    """Seconds from each start of a killed server to its first answer, with so many MiB in its folder.

    ``empty``: the same with nothing to load but the initial model: what interpreter, imports and that take.
    """

    seconds: tuple[float, ...]
    empty: tuple[float, ...]
    folder_mib: float


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes and files in the state folder of an aggregator, by round."""

    by_round: dict[int, tuple[int, int]]


@asynccontextmanager
async def _client(server: Server, site: str) -> AsyncIterator[AggregatorClient]:
    config = server.plan.collaborator_config(site, endpoint=server.endpoint, retry=RETRY)
    async with AggregatorClient(config) as client:
        yield client


async def restart(folder: Path, case: Case = LARGE) -> Restart:
    """Kill an aggregator that has the uploads of all sites but one, and start it again."""
    server = Server(folder, case)
    model = {"w": np.ones(case.elements, np.float32)}
    await server.prepare(model)
    codec = TensorCodec()
    empty = [await _first_answer(server) for _ in range(RESTARTS)]
    async with server.life():
        for number, site in enumerate(case.collaborators[1:]):
            trained = codec.encode(TensorKey.of("w", site, 0, tags=("trained",)), model["w"] * np.float32(number))
            async with _client(server, site) as client:
                await client.get_tasks()
                await client.send_local_task_results(round_number=0, task_name="train", data_size=1, tensors=(trained,))
            del trained
    seconds = [await _first_answer(server) for _ in range(RESTARTS)]
    async with server.life():
        for site in case.collaborators[1:]:
            other = codec.encode(TensorKey.of("w", site, 0, tags=("trained",)), -model["w"])
            async with _client(server, site) as client:
                try:
                    await client.send_local_task_results(
                        round_number=0, task_name="train", data_size=1, tensors=(other,)
                    )
                except AlreadyExistsError:
                    continue
            raise AssertionError(f"an upload was lost: other results of {site!r} were taken")
    nbytes, _ = await anyio.to_thread.run_sync(_size, folder)
    return Restart(tuple(seconds), tuple(empty), nbytes / MIB)


async def _first_answer(server: Server) -> float:
    async with server.life() as life:
        while life.first_answer is None:
            await anyio.sleep(0.01)
    return life.first_answer


async def disk_of_rounds(folder: Path, case: Case = LONG, *, every: int = 100) -> Disk:
    """Run many rounds of a tiny federation, and look at the server's folder at every ``every``-th."""
    server, codec = Server(folder, case), TensorCodec()
    await server.prepare({"w": np.ones(case.elements, np.float32)})
    tasks = {task.name: task for task in server.plan.tasks}
    found: dict[int, tuple[int, int]] = {}
    async with server.life():

        async def work(site: str) -> None:
            async with _client(server, site) as client:
                while not (answer := await client.get_tasks()).quit:
                    number = answer.round_number
                    if site == case.collaborators[0] and number and number % every == 0 and number not in found:
                        found[number] = await anyio.to_thread.run_sync(_size, folder / "state")
                    for task in answer.tasks:
                        results = _results(tasks[task.name], site, number, codec)
                        await client.send_local_task_results(
                            round_number=number, task_name=task.name, data_size=1, tensors=results
                        )

        async with anyio.create_task_group() as group:
            for site in case.collaborators:
                group.start_soon(work, site)
        found[case.rounds] = await anyio.to_thread.run_sync(_size, folder / "state")
        async with _client(server, WITNESS) as client:
            assert (await client.get_tasks()).quit
        await server.ended()
    return Disk(found)


def _results(task: Task, site: str, number: int, codec: TensorCodec) -> tuple[EncodedTensor, ...]:
    if task.kind is not TaskKind.VALIDATE:
        trained = np.full(LONG.elements, number, np.float32)
        return (codec.encode(TensorKey.of("w", site, number, tags=("trained",)), trained),)
    tag = "validate_local" if task.apply_local else "validate_agg"
    key = TensorKey.of("accuracy", site, number, report=True, tags=("metric", tag))
    return (codec.encode(key, np.array(number, np.float32)),)


def _size(folder: Path) -> tuple[int, int]:
    """Return how many bytes are allocated for the files below ``folder``, and how many files there are."""
    nbytes = files = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                nbytes += (Path(parent) / name).stat().st_blocks * 512
                files += 1
            except OSError:
                pass  # it was removed meanwhile
    return nbytes, files
