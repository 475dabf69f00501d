"""The clients of a director that is killed: a frontend that submits and follows, and envoys."""

from __future__ import annotations

import io
import sqlite3
import zipfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from typing import Final

import anyio

from openfl_aio.director.client import DirectorClient
from openfl_aio.director.servicer import encode_model
from openfl_aio.director.upload import decode_model
from openfl_aio.domain import ExperimentStatus, Metric, ModelKind, ShardInfo
from openfl_aio.plan.plan import Plan
from openfl_aio.transport.channel import call_with_retries
from tests.crash.chores import Chores, submit
from tests.crash.following import read_all
from tests.crash.history import History, digest, digest_model
from tests.crash.server import Server, ServerEnded, archive_of
from tests.crash.sites import RETRY, take_part

__all__ = ["DirectorClients"]

EXPERIMENT: Final = "killed"
OWNER: Final = "owner"


class DirectorClients:
    """Takes one experiment through the deaths of its director; writes what is wrong to ``broken``."""

    def __init__(self, server: Server, history: History, broken: list[str], *, seed: int) -> None:
        self._server = server
        self._case = server.case
        self._history = history
        self._broken = broken
        self._seed = seed
        self._chores = Chores(server, broken)

    async def run(self, *, known: anyio.Event) -> None:
        """Submit the experiment, work on it, see what came of it; then set ``known``."""
        async with AsyncExitStack() as stack:
            owner = await stack.enter_async_context(self._server.director_client(OWNER))
            model = encode_model(await self._server.initial_model())
            await submit(
                owner, EXPERIMENT, self._case.collaborators, model=model, archive=archive_of(self._server.plan)
            )
            async with anyio.create_task_group() as group:
                for site in self._case.collaborators:
                    group.start_soon(self._envoy, site)
                group.start_soon(self._follow, owner)
                if self._case.chores:
                    group.start_soon(self._chores.run)
            await self._ask_after_the_end(owner)
        known.set()

    async def look_at_files(self) -> None:
        """Start the director once more and see that it keeps what it told, and nothing that nobody needs any more."""
        async with self._server.life() as life:
            with anyio.fail_after(60):
                while life.first_answer is None:
                    await anyio.sleep(0.01)
            async with self._server.director_client(OWNER) as owner:
                await self._ask_after_the_end(owner)
            if self._case.chores:
                await self._chores.ask_again()
        workspace = self._server.folder / "workspace"
        with closing(sqlite3.connect(workspace / "openfl_aio.db")) as connection:
            kept = {row[0] for row in connection.execute("SELECT archive_id FROM experiments")}
        needless = [
            path
            for name in ("archives", "models", "federations", "journal")
            for path in (workspace / name).glob("*")
            if name not in ("archives", "models") or path.name.partition(".")[0] not in kept
        ]
        if needless:
            left = [str(path.relative_to(workspace)) for path in needless]
            self._broken.append(f"left behind: {left[:3]}")

    async def _envoy(self, site: str) -> None:
        """Do what an envoy does: register, wait, fetch the archive, take part, and be known after each death."""
        async with self._server.director_client(site) as client:
            shard = ShardInfo(site, sample_shape=("2",), target_shape=("1",))
            if not await client.update_shard_info(shard):
                raise ServerEnded(f"the director refused the shard of {site}")
            name = await client.wait_experiment(site)
            archive = await self._archive(client, name, site)
            with zipfile.ZipFile(io.BytesIO(archive)) as zf:
                plan = Plan.parse(zf.read("plan/plan.yaml"))
            await take_part(
                plan.collaborator_config(site, endpoint=self._server.endpoint, tls=self._server.tls_of(site)),
                self._case,
                self._history,
                tasks=plan.tasks,
                seed=self._seed,
            )
            again = await self._archive(client, name, site)
            if again != archive:
                self._broken.append(f"the archive changed: {site} got {digest(archive)}, then {digest(again)}")

    async def _archive(self, client: DirectorClient, name: str, site: str) -> bytes:
        async def fetch() -> bytes:
            return b"".join([bytes(chunk) async for chunk in client.get_experiment_data(name, site)])

        return await call_with_retries(RETRY, fetch, what="GetExperimentData")

    async def _follow(self, owner: DirectorClient) -> None:
        def stream() -> AsyncIterator[Metric]:
            return owner.get_metric_stream(EXPERIMENT)

        async def model(kind: ModelKind) -> str | None:
            tensors = await owner.get_trained_model(EXPERIMENT, kind)
            return digest_model(decode_model(tensors)) if tensors else None

        await read_all(self._history, stream, model)

    async def _ask_after_the_end(self, owner: DirectorClient) -> None:
        """See that all that was told stays so, and that everybody who was known is known."""
        status = await owner.get_experiment_status(EXPERIMENT)
        if status is not ExperimentStatus.FINISHED:
            self._broken.append(f"the experiment is {status}, expected it to be finished")
        known = {envoy.shard.name for envoy in await owner.get_envoys()}
        if missing := set(self._case.collaborators) - known:
            self._broken.append(f"envoys are not known any more: {sorted(missing)}")
        listed = [summary.name for summary in await owner.get_experiments_list()]
        if listed != [EXPERIMENT]:
            self._broken.append(f"experiments are {listed}, expected one of them")
