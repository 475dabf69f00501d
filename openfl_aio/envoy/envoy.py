"""The data site: registers its shard with a director, reports health, and runs the experiments it is given, one by one.

Foreign code (the shard descriptor, an experiment's task runner) runs in child processes only.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import anyio
import anyio.to_thread

from openfl_aio.aggregator.api import AggregatorAPI
from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.collaborator.collaborator import Collaborator
from openfl_aio.config import CollaboratorConfig, EnvoyConfig
from openfl_aio.director.client import DirectorClient
from openfl_aio.domain import DeviceInfo, ShardInfo, check_name
from openfl_aio.envoy.process_runner import ProcessTaskRunner, RunnerSpec
from openfl_aio.envoy.workspace import Run, Workspaces
from openfl_aio.errors import ConfigurationError, ExperimentFailedError, OpenFLAioError, ShardNotFoundError
from openfl_aio.plan.plan import Plan

__all__ = ["DirectorAPI", "Envoy", "Review"]

Review: TypeAlias = Callable[[Plan], Awaitable[bool]]

logger = logging.getLogger(__name__)

START_BUDGET: Final = 60.0
"""Seconds for which a director is tried at start before the envoy gives up, where the policy sets no end."""

REPORTED_CHARACTERS: Final = 8000
PLAN: Final = Path("plan") / "plan.yaml"
REQUIREMENTS: Final = "requirements.txt"
ARCHIVE_RUNNER: Final = "openfl_aio.compat.imports.runner.ArchiveRunner"  # imported by the child only


class DirectorAPI(Protocol):
    """What an envoy asks of its director; see `DirectorClient`."""

    async def update_shard_info(self, shard: ShardInfo) -> bool:
        """Register the shard; False if it is refused."""
        ...

    async def update_envoy_status(
        self, name: str, *, is_experiment_running: bool, devices: Iterable[DeviceInfo] = ()
    ) -> float:
        """Report health and return when to do it again, in seconds. Raises `ShardNotFoundError`."""
        ...

    async def wait_experiment(self, envoy: str) -> str:
        """Wait for work and return the experiment's name."""
        ...

    def get_experiment_data(self, name: str, envoy: str) -> AsyncIterator[memoryview]:
        """Yield the bytes of an experiment's archive."""
        ...

    async def set_experiment_failed(
        self, name: str, envoy: str, *, error_code: int = 1, error_description: str = ""
    ) -> None:
        """Report that this envoy's part of an experiment failed."""
        ...


class Envoy:
    """One data site. ``await Envoy(config).run()`` works until it is cancelled.

    ``director`` and ``aggregator`` open the connections; ``registered`` is called once the director has accepted the
    shard. ``review`` is asked for the plan of every experiment, which names its ``experiment``, before any of its code
    runs here; False is reported as this envoy's failure.
    """

    def __init__(
        self,
        config: EnvoyConfig,
        *,
        director: Callable[[EnvoyConfig], AbstractAsyncContextManager[DirectorAPI]] | None = None,
        aggregator: Callable[[CollaboratorConfig], AbstractAsyncContextManager[AggregatorAPI]] = AggregatorClient,
        registered: Callable[[ShardInfo], None] | None = None,
        review: Review | None = None,
    ) -> None:
        if config.review_experiment and review is None:
            raise ConfigurationError("review_experiment: expected a review function, got none; give one to the envoy")
        self._config = config
        self._connect = director or _connect
        self._aggregator = aggregator
        self._registered = registered
        self._review = review
        self._running = ""
        self._failures: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"Envoy({self._config.name!r}, running={self._running!r})"

    @property
    def running(self) -> str:
        """Name of the experiment that is being run, or ``""``."""
        return self._running

    async def run(self) -> None:
        """Register, then run experiments until cancelled.

        Raises `ConfigurationError` if the shard cannot be loaded or is refused, and `TransportError` if the director
        cannot be reached at the start. Later, a director that is away is waited for, and an experiment that fails is
        reported.
        """
        config = self._config
        async with Workspaces(config.workspace, limits=config.limits) as workspaces:
            shard = await self._describe_shard(workspaces)
            elapsed = START_BUDGET if config.retry.max_elapsed is None else config.retry.max_elapsed
            bounded = config.model_copy(update={"retry": config.retry.model_copy(update={"max_elapsed": elapsed})})
            async with self._connect(bounded) as director:
                await self._register(director, shard)
            if self._registered is not None:
                self._registered(shard)
            async with self._connect(config) as director, anyio.create_task_group() as group:
                group.start_soon(self._report_health, director, shard)
                await self._work(director, workspaces)

    async def _describe_shard(self, workspaces: Workspaces) -> ShardInfo:
        log = workspaces.folder / "shard.log"
        async with ProcessTaskRunner(self._spec(None, None, {}), log=log, limits=self._config.process_limits) as child:
            return await child.describe_shard(self._config.name)

    def _spec(self, template: str | None, path: Path | None, settings: dict[str, object]) -> RunnerSpec:
        config = self._config
        return RunnerSpec(
            template,
            path,
            settings,
            shard_template=config.shard_template,
            shard_path=config.shard_path,
            shard_params=config.shard_params,
            cuda_devices=config.cuda_devices,
            real_openfl=config.real_openfl,
        )

    async def _register(self, director: DirectorAPI, shard: ShardInfo) -> None:
        if not await director.update_shard_info(shard):
            raise ConfigurationError(
                f"the director at {self._config.director} refused the shard of envoy {shard.name!r}: its sample shape "
                f"{list(shard.sample_shape)} and target shape {list(shard.target_shape)} must be the director's"
            )
        logger.info("envoy %s: registered at %s", shard.name, self._config.director)

    async def _report_health(self, director: DirectorAPI, shard: ShardInfo) -> None:
        while True:
            period = self._config.health_check_period
            try:
                period = await director.update_envoy_status(shard.name, is_experiment_running=bool(self._running))
            except ShardNotFoundError:
                # the director was restarted and has forgotten us
                await self._register_again(director, shard)
            except OpenFLAioError as exc:
                logger.warning("envoy %s: the health report failed: %s", shard.name, exc)
            await anyio.sleep(max(period, 1.0))

    async def _register_again(self, director: DirectorAPI, shard: ShardInfo) -> None:
        try:
            await self._register(director, shard)
        except OpenFLAioError as exc:
            logger.error("envoy %s: cannot register again: %s", shard.name, exc)

    async def _work(self, director: DirectorAPI, workspaces: Workspaces) -> None:
        attempt = 0
        while True:
            asked = anyio.current_time()
            try:
                name = await director.wait_experiment(self._config.name)
            except OpenFLAioError as exc:
                logger.warning("envoy %s: waiting for an experiment failed: %s", self._config.name, exc)
                await anyio.sleep(self._pause(attempt))
                attempt += 1
                continue
            attempt = 0
            if name:
                await self._run_experiment(name, director, workspaces)
            elif anyio.current_time() - asked < 1.0:
                await anyio.sleep(1.0)  # a director that answers "nothing" at once must not be hammered

    def _pause(self, attempt: int) -> float:
        retry = self._config.retry
        return float(min(retry.max_delay, retry.first_delay * retry.multiplier ** min(attempt, 64)))

    async def _run_experiment(self, name: str, director: DirectorAPI, workspaces: Workspaces) -> None:
        self._running = name
        logger.info("envoy %s: experiment %s begins", self._config.name, name)
        try:
            check_name(name, what="experiment")
            async with workspaces.run(director.get_experiment_data(name, self._config.name)) as run:
                await self._collaborate(name, run)
        except Exception as exc:
            self._running = ""
            await self._report_failure(name, exc, director)
        else:
            self._running = ""
            self._failures.pop(name, None)
            logger.info("envoy %s: experiment %s is over", self._config.name, name)

    async def _report_failure(self, name: str, exc: Exception, director: DirectorAPI) -> None:
        description = str(exc) if isinstance(exc, OpenFLAioError) else "".join(traceback.format_exception(exc))
        logger.error("envoy %s: experiment %s failed: %s", self._config.name, name, description)
        try:
            await director.set_experiment_failed(
                name, self._config.name, error_code=1, error_description=description[-REPORTED_CHARACTERS:]
            )
        except OpenFLAioError as refused:
            logger.warning("envoy %s: the failure could not be reported: %s", self._config.name, refused)
        # a 1.6 director may hand out the failed experiment again at once, and again
        failures = self._failures.get(name, 0)
        self._failures = {name: failures + 1}
        await anyio.sleep(self._pause(failures))

    async def _collaborate(self, name: str, run: Run) -> None:
        plan = await anyio.to_thread.run_sync(Plan.load, run.source / PLAN)
        if self._review is not None and not await self._review(plan.of(name)):
            raise ExperimentFailedError(f"the review of envoy {self._config.name!r} turned the experiment down")
        config = await anyio.to_thread.run_sync(self._collaborator_config, plan)
        spec = self._task_spec(plan, run.source)
        if await anyio.Path(run.source / REQUIREMENTS).exists():
            logger.info("envoy %s: its %s is not installed: that is the operator's choice", config.name, REQUIREMENTS)
        async with (
            ProcessTaskRunner(spec, log=run.log, limits=self._config.process_limits) as runner,
            self._aggregator(config) as aggregator,
        ):
            await Collaborator(
                name=config.name,
                aggregator=aggregator,
                aggregator_uuid=config.aggregator_uuid,
                runner=runner,
                tasks=plan.tasks,
                delta_updates=config.delta_updates,
                pipeline=config.pipeline,
                store_rounds=config.store_rounds,
            ).run()

    def _task_spec(self, plan: Plan, path: Path) -> RunnerSpec:
        """Return what the child loads for the experiment of ``plan``."""
        return replace(self._spec(*self._runner(plan, path)), opt_treatment=plan.opt_treatment)

    def _runner(self, plan: Plan, path: Path) -> tuple[str, Path, dict[str, object]]:
        """Return the class that runs the experiment's tasks, its folder and its settings."""
        objects = plan.interactive
        if objects is None:
            return plan.task_runner.template, path, dict(plan.task_runner.settings)
        # an archive of OpenFL's own frontend. The child sees only this envoy's devices, so that the first is number 0
        device = "cuda:0" if objects.prefer_cuda and self._config.cuda_devices else "cpu"
        settings: dict[str, object] = {
            "model_file": objects.model_file,
            "tasks_file": objects.tasks_file,
            "loader_file": objects.loader_file,
            "serializer": objects.serializer,
            "adapter": objects.adapter,
            "opt_treatment": objects.opt_treatment,
            "device": device,
        }
        return ARCHIVE_RUNNER, path, settings

    def _collaborator_config(self, plan: Plan) -> CollaboratorConfig:
        config = self._config
        endpoint = plan.endpoint
        if endpoint.port == config.director.port:
            # the aggregator is mounted on the director's port: reach it as the director was reached, whatever name
            # for this host the frontend knew
            endpoint = config.director
        return plan.collaborator_config(
            config.name,
            endpoint=endpoint,
            tls=config.tls,
            limits=config.limits,
            timeouts=config.timeouts,
        )


def _connect(config: EnvoyConfig) -> AbstractAsyncContextManager[DirectorAPI]:
    return DirectorClient(
        config.director, tls=config.tls, retry=config.retry, timeouts=config.timeouts, limits=config.limits
    )
