"""The connection of a frontend to a director."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import anyio.to_thread

from openfl_aio.config import Endpoint, RetryPolicy, TLSConfig
from openfl_aio.director.client import DirectorClient
from openfl_aio.director.servicer import encode_model
from openfl_aio.domain import EnvoyInfo, ExperimentSummary, ShardInfo, check_name
from openfl_aio.errors import ConfigurationError, InvalidStateError
from openfl_aio.experiment.experiment import Experiment
from openfl_aio.experiment.run import Run
from openfl_aio.plan.experiment import experiment_plan
from openfl_aio.storage.archives import Archive, Archives
from openfl_aio.storage.unpack import pack

__all__ = ["Federation"]

CHUNK_BYTES = 2 * 1024 * 1024


class Federation:
    """A director and whoever is connected to it: ``async with Federation(host, port, tls=...) as federation``.

    ``client_id`` is who you say you are where there is no certificate (plaintext only). While the director cannot be
    reached, calls are retried as ``retry`` says, then `ConnectError` tells how long and what to check.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: TLSConfig | None = None,
        client_id: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.endpoint = Endpoint(host=host, port=port)
        self._tls = tls
        self._client = DirectorClient(self.endpoint, tls=tls, client_id=client_id, retry=retry)
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<Federation {self.endpoint}>"

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._client)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, value, traceback)

    async def envoys(self) -> tuple[EnvoyInfo, ...]:
        """Return every registered envoy, online or not."""
        return await self._client.get_envoys()

    async def dataset_info(self) -> ShardInfo:
        """Return the shapes of samples and targets in this federation."""
        return await self._client.get_dataset_info()

    async def experiments(self) -> tuple[ExperimentSummary, ...]:
        """Return your experiments, oldest first."""
        return await self._client.get_experiments_list()

    def run(self, name: str) -> Run:
        """Return a handle on an experiment that was submitted before. Raises `ConfigurationError` for no plain name."""
        return Run(check_name(name, what="experiment"), self._client)

    async def submit(self, experiment: Experiment) -> Run:
        """Send the experiment and return a handle on it.

        A director of OpenFL 1.6 runs it too, with envoys of ours: those of 1.6 know no archives without pickles.

        Raises:
            ConfigurationError: the plan cannot work, or no envoy is online.
            AlreadyExistsError: the director has an experiment of that name.
            InvalidStateError: the director did not accept it.
        """
        collaborators = experiment.collaborators or await self._online()
        model = await anyio.to_thread.run_sync(experiment.model)
        plan = experiment_plan(
            task_runner=experiment.task_runner,
            settings=experiment.settings,
            rounds=experiment.rounds,
            tasks=experiment.tasks,
            aggregation=experiment.aggregation,
            assigner=experiment.assigner,
            stragglers=experiment.stragglers,
            delta_updates=experiment.delta_updates,
            pipeline=experiment.pipeline,
            agg_addr=self.endpoint.host,
            tls=self._tls is not None,
        )
        folder = await anyio.to_thread.run_sync(TemporaryDirectory)
        try:
            path = Path(folder.name) / "experiment.zip"
            # a director of OpenFL 1.6 saves models below save/ in the workspace, and does not make the folder
            extra = {"plan/plan.yaml": plan.dump().encode(), "save/.keep": b""}
            await pack(experiment.workspace, path, extra=extra)
            archive = Archive("experiment", path, (await anyio.Path(path).stat()).st_size)
            accepted = await self._client.set_new_experiment(
                experiment.name,
                collaborators=collaborators,
                model=encode_model(model),
                archive=Archives(path.parent).chunks(archive, CHUNK_BYTES),
            )
        finally:
            await anyio.to_thread.run_sync(folder.cleanup)
        if not accepted:
            raise InvalidStateError(f"the director did not accept experiment {experiment.name!r}; its log says why")
        return self.run(experiment.name)

    async def _online(self) -> Sequence[str]:
        names = [envoy.shard.name for envoy in await self.envoys() if envoy.is_online]
        if not names:
            raise ConfigurationError(f"no envoy is online at {self.endpoint}; start one, or name collaborators")
        return sorted(names)
