"""Experiments that come and go at a director that is killed: cut, refused, failed, replaced and removed ones.

Nobody of the federation takes part in them, so its model is the same with and without.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator, Sequence
from typing import Final

import anyio

from openfl_aio.director.client import DirectorClient
from openfl_aio.director.servicer import encode_model
from openfl_aio.domain import ExperimentStatus
from openfl_aio.errors import AlreadyExistsError, ExperimentNotFoundError, OpenFLAioError
from openfl_aio.plan.plan import Plan
from openfl_aio.tensors.codec import EncodedTensor
from openfl_aio.transport.channel import RETRYABLE
from tests.crash.history import History, Uploaded
from tests.crash.old_database import BEFORE, USER
from tests.crash.server import Server, archive_of
from tests.crash.sites import initial_model, take_part

__all__ = ["Chores", "submit"]

GUEST: Final = "guest_1"
NOBODY: Final = "nobody"
"""A collaborator that never comes, so no round closes."""


async def submit(
    client: DirectorClient,
    name: str,
    collaborators: Sequence[str],
    *,
    model: Sequence[EncodedTensor],
    archive: bytes,
    replaces: ExperimentStatus | None = None,
) -> None:
    """Submit an experiment, again as long as nobody said that it was taken; ``replaces``: as the old one ended."""
    while True:
        try:
            if await client.set_new_experiment(
                name, collaborators=collaborators, model=model, archive=_chunks(archive)
            ):
                return
        except AlreadyExistsError:
            return  # the answer to an earlier one was lost
        except OpenFLAioError:
            await anyio.sleep(0.05)
            if await client.get_experiment_status(name) not in (None, replaces):
                return


class Chores:
    """What one user does, and what the director said of it; writes what is wrong to ``broken``."""

    def __init__(self, server: Server, broken: list[str]) -> None:
        self._server = server
        self._broken = broken
        self._told: dict[str, ExperimentStatus | None] = {}
        self._model = encode_model(initial_model(server.case))
        self._archive = archive_of(server.plan)

    async def run(self) -> None:
        """Do everything once, and ask about it."""
        self._told[BEFORE] = ExperimentStatus.FAILED
        async with self._server.director_client(USER) as user:
            await self._cut(user)
            await self._refused(user)
            await self._failed(user)
            await self._replaced(user)
            await self._removed(user)
        await self.ask_again()

    async def ask_again(self) -> None:
        """See that everything is as it was told."""
        expected = [name for name, status in self._told.items() if status is not None]
        async with self._server.director_client(USER) as user:
            for name, told in self._told.items():
                status = await user.get_experiment_status(name)
                if status is not told:
                    self._broken.append(f"experiment {name!r} is {status}, and it was told that it is {told}")
            listed = [summary.name for summary in await user.get_experiments_list()]
        if listed != expected:
            self._broken.append(f"experiments are {listed}, expected {expected}")

    async def _cut(self, user: DirectorClient) -> None:
        """Leave in mid submission."""
        self._told["cut"] = None

        async def half() -> AsyncIterator[bytes]:
            async for chunk in _chunks(self._archive[:1500]):
                yield chunk
            await anyio.sleep_forever()

        with anyio.move_on_after(0.3):
            try:
                await user.set_new_experiment("cut", collaborators=[NOBODY], model=self._model, archive=half())
            except OpenFLAioError:
                pass  # it died meanwhile

    async def _refused(self, user: DirectorClient) -> None:
        """Submit what is no archive."""
        self._told["refused"] = None
        while True:
            try:
                await user.set_new_experiment(
                    "refused", collaborators=[NOBODY], model=self._model, archive=_chunks(b"no zip " * 300)
                )
            except RETRYABLE:
                await anyio.sleep(0.05)
            except OpenFLAioError:
                return
            else:
                self._broken.append("an archive that is none was taken")
                return

    async def _failed(self, user: DirectorClient) -> None:
        """Let a collaborator report that it failed."""
        await self._submit(user, "failed", (NOBODY,))
        async with self._server.director_client(NOBODY) as envoy:
            await envoy.set_experiment_failed("failed", NOBODY, error_description="as it was told to")
        self._told["failed"] = ExperimentStatus.FAILED

    async def _replaced(self, user: DirectorClient) -> None:
        """Submit what cannot run, and when it has failed what can, under the same name."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as zf:
            zf.writestr("code/trainer.py", "# and no plan\n" * 100)
        await submit(user, "replaced", (NOBODY,), model=self._model, archive=buffer.getvalue())
        await self._until(user, "replaced", ExperimentStatus.FAILED)
        await self._submit(user, "replaced", (NOBODY,), replaces=ExperimentStatus.FAILED)
        self._told["replaced"] = ExperimentStatus.IN_PROGRESS

    async def _removed(self, user: DirectorClient) -> None:
        """Remove an experiment that somebody has worked for."""
        await self._submit(user, "removed", (GUEST, NOBODY))
        history = History()
        async with anyio.create_task_group() as group:
            group.start_soon(self._guest, history)
            while len(history.answered(Uploaded)) < 3:
                await anyio.sleep(0.02)
            await user.remove_experiment_data("removed")
            self._told["removed"] = None
            group.cancel_scope.cancel()
        await user.remove_experiment_data("replaced")
        self._told["replaced"] = None

    async def _guest(self, history: History) -> None:
        async with self._server.director_client(GUEST) as client:
            data = b"".join([bytes(chunk) async for chunk in client.get_experiment_data("removed", GUEST)])
        with zipfile.ZipFile(io.BytesIO(data)) as zf:
            plan = Plan.parse(zf.read("plan/plan.yaml"))
        config = plan.collaborator_config(GUEST, endpoint=self._server.endpoint, tls=self._server.tls_of(GUEST))
        try:
            await take_part(config, self._server.case, history, tasks=plan.tasks)
        except ExperimentNotFoundError:
            pass  # removed while it worked

    async def _submit(
        self,
        user: DirectorClient,
        name: str,
        collaborators: Sequence[str],
        *,
        replaces: ExperimentStatus | None = None,
    ) -> None:
        await submit(user, name, collaborators, model=self._model, archive=self._archive, replaces=replaces)
        await self._until(user, name, ExperimentStatus.IN_PROGRESS)

    async def _until(self, user: DirectorClient, name: str, status: ExperimentStatus) -> None:
        while (found := await user.get_experiment_status(name)) is not status:
            if found is None or found.ended:
                self._broken.append(f"experiment {name!r} was taken and is {found}, expected {status}")
                return
            await anyio.sleep(0.02)


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1024):
        yield data[start : start + 1024]
