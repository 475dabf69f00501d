"""The director: envoys register and wait, frontends submit and follow, each experiment gets an aggregator.

What may happen is decided by `openfl_aio.director.experiments` and `openfl_aio.director.shards`; this module waits,
stores and tells. All experiments are served on the director's own port.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.to_thread
import numpy as np

from openfl_aio.aggregator.encoded import ModelEncoder
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.aggregator.servicer import AggregatorServicer
from openfl_aio.config import DirectorConfig, Endpoint
from openfl_aio.director.execution import Execution, Review, assigned_tasks, serve_plan, served_plan, stand_in
from openfl_aio.director.experiments import Experiment, ExperimentEvent, Experiments
from openfl_aio.director.foreign import PickledFunctions
from openfl_aio.director.quotas import QuotaKeeper
from openfl_aio.director.records import Records
from openfl_aio.director.servicer import DirectorServicer
from openfl_aio.director.shards import Shards
from openfl_aio.domain import (
    CollaboratorProgress,
    DeviceInfo,
    EnvoyInfo,
    ExperimentDescription,
    ExperimentStatus,
    ExperimentSummary,
    Metric,
    ModelKind,
    ShardInfo,
)
from openfl_aio.errors import ConfigurationError, ExperimentNotFoundError, NotFoundError, NotReadyError
from openfl_aio.storage.journal import ALL_ROUNDS
from openfl_aio.storage.storage import Storage
from openfl_aio.transport.identity import Caller, check_speaks_for
from openfl_aio.transport.roles import Roles
from openfl_aio.transport.server import Server, ServerStatistics
from openfl_aio.waiting import Waiters
from openfl_aio.wire.codec import EncodedMessage

if TYPE_CHECKING:
    from openfl_aio.storage.archives import Archive, ArchiveSink

__all__ = ["Director"]

logger = logging.getLogger(__name__)

MAX_DESCRIPTION = 4000  # characters kept of a failure report: the end, where a traceback says what happened


class Director:
    """A director in this event loop: ``async with Director(config) as director``.

    ``review`` is asked for every plan before it runs; False turns the experiment down. No signal handler is set and
    no folder entered; several directors may share a loop. Leaving the context stops every experiment; with a workspace
    the next director goes on with them where they were, as it does when this one was killed. What ``front``
    makes of the director's own service, if it is set before entering, is served instead of that.
    """

    front: Callable[[DirectorServicer], Any] | None = None

    def __init__(self, config: DirectorConfig, *, review: Review | None = None) -> None:
        self.config = config
        self._review = review
        self._experiments = Experiments(operators=config.operators)
        self._quotas = QuotaKeeper(config.quotas)
        self._shards = Shards(
            sample_shape=config.sample_shape,
            target_shape=config.target_shape,
            health_check_period=config.envoy_health_check_period,
        )
        self._waiters: Waiters[tuple[str, str]] = Waiters()
        self._executions: dict[str, Execution] = {}  # by experiment name
        self._mounted: dict[str, Execution] = {}  # by federation uuid; outlives the experiment's entry a little
        self._goodbyes: dict[str, Aggregator] = {}  # of experiments that ended under an earlier director
        self._archives: dict[str, Archive] = {}
        self._stack: AsyncExitStack | None = None

    def __repr__(self) -> str:
        return f"Director({len(self._experiments)} experiments, {len(self._shards)} envoys)"

    async def __aenter__(self) -> Self:
        stack = AsyncExitStack()
        try:
            await self._open(stack)
        except BaseException:
            await stack.aclose()
            raise
        self._stack = stack
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # the exception is not handed to the task group, which would wrap what is not its own
        if self._stack is not None:
            stack, self._stack = self._stack, None
            await stack.aclose()

    async def _open(self, stack: AsyncExitStack) -> None:
        config = self.config
        if config.tls is None and (config.envoys is not None or config.users is not None or config.operators):
            raise ConfigurationError(
                "envoys, users, operators: expected TLS, got plaintext, where anybody can claim any name; "
                "give certificates, or leave the lists out"
            )
        if config.install_requirements:
            logger.warning("install_requirements has no effect: a director runs no code of an experiment")
        self._storage = await stack.enter_async_context(Storage(config.workspace, limits=config.limits))
        self._records = Records(self._storage, config.workspace)
        for experiment in await self._records.experiments():
            self._experiments.restore(experiment)
            await self._reopen(experiment)
        for shard in await self._storage.registry.shards():
            self._shards.restore(shard, anyio.current_time())
        self._tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(self._tasks.cancel_scope.cancel)
        own = DirectorServicer(self, limits=config.limits)
        # left first: calls that wait are told to come again before the aggregators end
        self._server = await stack.enter_async_context(
            Server(
                [own if self.front is None else self.front(own), AggregatorServicer(self.find_aggregator)],
                listen=config.listen,
                tls=config.tls,
                limits=config.limits,
                timeouts=config.timeouts,
                allow_plaintext_anywhere=config.allow_plaintext_anywhere,
                roles=Roles(envoys=config.envoys, users=config.users, operators=config.operators),
            )
        )
        for execution in list(self._executions.values()):
            self._tasks.start_soon(self._run, execution, [])
        for experiment in self._experiments.all():
            if experiment.status.ended and experiment.federation_uuid and not experiment.told:
                self._tasks.start_soon(self._say_goodbye, experiment)

    async def _reopen(self, experiment: Experiment) -> None:
        """Make ready to go on with an experiment of an earlier director."""
        try:
            self._archives[experiment.name] = await self._storage.archives.get(experiment.archive_id)
        except NotFoundError:
            await self._apply(experiment, ExperimentEvent.FAIL, "its archive is gone; submit it again")
            return
        if not experiment.status.ended:
            logger.warning("experiment %r goes on: it was %s", experiment.name, experiment.status.value)
            execution = self._executions[experiment.name] = self._execution(experiment)
            if experiment.federation_uuid:
                self._mounted[experiment.federation_uuid] = execution

    def _execution(self, experiment: Experiment) -> Execution:
        return Execution(
            experiment,
            apply=partial(self._apply, experiment),
            ended=partial(self._keep_metrics, experiment),
            told=partial(self._all_told, experiment),
            linger=self.config.timeouts.long_poll,
        )

    async def _say_goodbye(self, experiment: Experiment) -> None:
        """Tell those to quit who had not heard of the end when an earlier director ended."""
        async with stand_in(experiment) as aggregator:
            self._goodbyes[experiment.federation_uuid] = aggregator
            await aggregator.wait_quits_sent()
            await self._all_told(experiment)
            await anyio.sleep_forever()  # an answer may have been lost

    @property
    def endpoint(self) -> Endpoint:
        """Where this director listens; the port is the bound one."""
        return self._server.endpoint

    def statistics(self) -> ServerStatistics:
        """Return what its server does and has done: connections, refusals, stalls of the event loop."""
        return self._server.statistics()

    def reload_certificates(self) -> None:
        """Read certificates, key and lists at once; changes are noticed by themselves within two seconds."""
        self._server.reload_certificates()

    @property
    def parked(self) -> int:
        """How many registered envoys wait for an experiment right now."""
        return self._shards.parked

    async def archive_ids(self) -> list[str]:
        """Return the ids of the archives that are kept."""
        return await self._storage.archives.ids()

    def find_aggregator(self, federation_uuid: str) -> Aggregator:
        """Return the aggregator that serves this federation; `ExperimentNotFoundError` if none does.

        The calls of the aggregator's service that carry no header give the experiment's name instead.
        """
        execution = self._mounted.get(federation_uuid) or self._executions.get(federation_uuid)
        if execution is None:
            if federation_uuid in self._goodbyes:
                return self._goodbyes[federation_uuid]
            raise ExperimentNotFoundError(f"no experiment serves the federation {federation_uuid!r}")
        if execution.aggregator is None:
            raise NotReadyError(f"the federation {federation_uuid!r} is being loaded; come again")
        return execution.aggregator

    # --- envoys ---------------------------------------------------------------------------------------------------

    async def update_shard_info(self, caller: Caller, shard: ShardInfo) -> bool:
        """Register or refresh an envoy; False if its shapes are not this director's."""
        check_speaks_for(caller, shard.name)
        accepted = self._shards.register(shard, anyio.current_time())
        if not accepted:
            logger.warning(
                "envoy %s refused: shapes %r -> %r, expected %r -> %r",
                shard.name,
                shard.sample_shape,
                shard.target_shape,
                self._shards.sample_shape,
                self._shards.target_shape,
            )
            return False
        await self._storage.registry.save_shard(shard)
        return True

    async def update_envoy_status(
        self, caller: Caller, name: str, *, is_experiment_running: bool, devices: Iterable[DeviceInfo] = ()
    ) -> float:
        """Note a sign of life and return the health check period in seconds; `ShardNotFoundError` if not registered."""
        check_speaks_for(caller, name)
        return self._shards.update(name, running=is_experiment_running, devices=devices, now=anyio.current_time())

    async def get_envoys(self, caller: Caller) -> tuple[EnvoyInfo, ...]:
        """Describe all registered envoys; one that is at work with the name of its experiment."""
        return tuple(
            replace(envoy, experiment_name=self._experiments.next_for(envoy.shard.name) or "")
            if envoy.is_experiment_running
            else envoy
            for envoy in self._shards.envoys(anyio.current_time(), wall=time.time())
        )

    async def wait_experiment(self, caller: Caller, envoy: str) -> str:
        """Return the name of the experiment that ``envoy`` shall work on; waits until there is one.

        Without limit, because an envoy of OpenFL 1.6 has no notion of an empty answer. Giving up loses nothing.
        """
        check_speaks_for(caller, envoy)
        if envoy not in self._shards:
            logger.info(
                "envoy %r waits and has not registered here: taken for one that another director accepted", envoy
            )
        self._shards.park(envoy, anyio.current_time())
        name = None
        try:
            name = await self._waiters.wait_for(
                ("envoy", envoy), lambda: self._experiments.next_for(envoy), timeout=None
            )
        finally:
            self._shards.unpark(envoy, anyio.current_time(), has_work=name is not None)
        assert name is not None, "a wait without a timeout ends with a name"
        return name

    async def get_experiment_data(self, caller: Caller, name: str, envoy: str) -> AsyncIterator[bytes]:
        """Yield the archive of an experiment in which ``envoy`` takes part; `ExperimentNotFoundError` otherwise."""
        check_speaks_for(caller, envoy)
        experiment = self._experiments.takes_part(name, envoy)
        archive = self._archives.get(name)
        if archive is None or experiment.status is ExperimentStatus.PENDING:
            raise ExperimentNotFoundError(
                f"experiment {name!r} is {experiment.status.value}: its archive is not served"
            )
        async for chunk in self._storage.archives.chunks(archive, self.config.limits.chunk_bytes):
            yield chunk

    async def set_experiment_failed(
        self, caller: Caller, name: str, envoy: str, *, error_code: int = 1, error_description: str = ""
    ) -> None:
        """Take the word of a collaborator that its part failed; the experiment fails with it.

        Answered quietly in every state: an envoy must survive its report.
        """
        check_speaks_for(caller, envoy)
        try:
            experiment = self._experiments.takes_part(name, envoy)
        except ExperimentNotFoundError:
            logger.warning("failure report ignored: envoy %r has no part in experiment %r", envoy, name)
            return
        self._experiments.envoy_done(name, envoy)
        description = error_description.strip()[-MAX_DESCRIPTION:] or "no description"
        reason = f"envoy {envoy} failed with code {error_code}: {description}"
        await self._apply(experiment, ExperimentEvent.FAIL, reason)

    # --- frontends ------------------------------------------------------------------------------------------------

    async def get_dataset_info(self, caller: Caller) -> ShardInfo:
        """Return the shapes that every shard of this director has."""
        return ShardInfo("", sample_shape=self._shards.sample_shape, target_shape=self._shards.target_shape)

    def check_submission(self, caller: Caller, name: str, collaborators: Sequence[str]) -> None:
        """Raise what `set_new_experiment` would raise for these names, before an archive is received for nothing."""
        self._experiments.check_submission(name, caller.name, collaborators)
        self._quotas.check_experiments(caller.name, name, self._experiments.owned_by(caller.name))

    @asynccontextmanager
    async def submission(self, caller: Caller) -> AsyncIterator[ArchiveSink]:
        """Give a sink for the archive of one submission, unless ``caller`` has all that a user may have.

        What is not kept is removed. Raises `MessageTooLargeError`.
        """
        with self._quotas.submission(caller.name):
            own = [one for one in self._experiments.owned_by(caller.name) if one.owner == caller.name]
            self._quotas.check_bytes(caller.name, await self._records.nbytes(own))
            async with self._storage.archives.receive(self.config.limits.max_archive_bytes) as sink:
                yield sink

    async def set_new_experiment(
        self,
        caller: Caller,
        name: str,
        *,
        collaborators: Sequence[str],
        model: Mapping[str, np.ndarray],
        archive: Archive,
    ) -> bool:
        """Take an experiment; the submitter owns it. It starts when its plan has been read and reviewed.

        An ended experiment of the submitter with the same name is removed with its models.
        ``archive`` must have been kept, and belongs to the director from here on. Raises `ConfigurationError` for
        names or an empty model, `AlreadyExistsError` for a taken name, `ArchiveError` for an archive that must not be
        unpacked; it is removed then.
        """
        try:
            if not model:
                raise ConfigurationError(f"experiment {name!r} has an initial model without tensors; send at least one")
            await self._storage.archives.check(archive)
            self.check_submission(caller, name, collaborators)
            await self.remove_experiment_data(caller, name)
            experiment = self._experiments.submit(
                name, owner=caller.name, collaborators=collaborators, archive_id=archive.id, created=time.time()
            )
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._storage.archives.remove(archive.id)
            raise
        self._archives[name] = archive
        try:
            await self._records.save_initial(experiment, model)
            await self._records.save(experiment)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.remove_experiment_data(caller, name)
            raise
        if self._experiments.holds(experiment):  # kept: now it may begin
            execution = self._executions[name] = self._execution(experiment)
            self._tasks.start_soon(self._run, execution, [model])
        return True

    async def get_experiment_status(self, caller: Caller, name: str) -> ExperimentStatus | None:
        """Return the status, None for an experiment that is absent or not the caller's."""
        try:
            return self._experiments.visible(name, caller.name).status
        except ExperimentNotFoundError:
            return None

    async def get_experiments_list(self, caller: Caller) -> tuple[ExperimentSummary, ...]:
        """Return the caller's experiments, oldest first."""
        summaries = []
        for experiment in self._experiments.owned_by(caller.name):
            description = self._describe(experiment)
            summaries.append(
                ExperimentSummary(
                    name=experiment.name,
                    status=experiment.status,
                    collaborators=len(experiment.collaborators),
                    tasks=len(description.tasks),
                    progress=description.progress,
                )
            )
        return tuple(summaries)

    async def get_experiment_description(self, caller: Caller, name: str) -> ExperimentDescription:
        """Return all that is told of an experiment of the caller; else `ExperimentNotFoundError`."""
        return self._describe(self._experiments.visible(name, caller.name))

    async def get_trained_model(self, caller: Caller, name: str, kind: ModelKind) -> Mapping[str, np.ndarray] | None:
        """Return a model of an experiment of the caller: empty if there is none yet, None if there is no experiment."""
        try:
            experiment = self._experiments.visible(name, caller.name)
        except ExperimentNotFoundError:
            return None
        aggregator = self._aggregator(name)
        if aggregator is not None:
            return aggregator.model(kind) or {}
        return await self._records.model(experiment, kind)

    async def get_encoded_model(
        self, caller: Caller, name: str, kind: ModelKind, encode: ModelEncoder
    ) -> EncodedMessage | None:
        """Return what ``encode`` makes of the model that `get_trained_model` returns, away from the event loop.

        While the experiment's aggregator is here, that is done once for each model.
        """
        try:
            experiment = self._experiments.visible(name, caller.name)
        except ExperimentNotFoundError:
            return None
        aggregator = self._aggregator(name)
        if aggregator is not None:
            return await aggregator.encoded_model(kind, encode) or EncodedMessage(())
        model = await self._records.model(experiment, kind)
        return await anyio.to_thread.run_sync(encode, model, 0)

    async def get_metric_stream(self, caller: Caller, name: str) -> AsyncIterator[Metric]:
        """Yield every metric of an experiment of the caller from the first on, live, until it ends."""
        experiment = self._experiments.visible(name, caller.name)
        ready = await self._waiters.wait_for(
            ("experiment", name),
            lambda: (
                True
                if experiment.status is not ExperimentStatus.PENDING or not self._experiments.holds(experiment)
                else None
            ),
            timeout=None,
        )
        aggregator = self._aggregator(name)
        if ready and aggregator is not None:
            async for metric in aggregator.metrics():
                yield metric
            # the rounds are over, the status follows: who reads to the end finds it settled
            await self._waiters.wait_for(
                ("experiment", name),
                lambda: True if experiment.status.ended or not self._experiments.holds(experiment) else None,
                timeout=None,
            )
        elif experiment.status.ended:
            for metric in await self._records.metrics(experiment):
                yield metric

    async def remove_experiment_data(self, caller: Caller, name: str) -> bool:
        """Stop and forget an experiment if it is the caller's. Always True, so that nothing is told of others'."""
        experiment = self._experiments.remove(name, caller.name)
        if experiment is None:
            return True
        execution = self._executions.pop(name, None)
        self._archives.pop(name, None)
        self._waiters.notify(("experiment", name))
        if execution is not None:
            execution.dismiss("the experiment was removed")
        await self._records.forget(experiment)
        return True

    async def cancel(self, caller: Caller, name: str) -> bool:
        """Cancel an experiment of the caller and return whether that changed anything; its collaborators quit."""
        experiment = self._experiments.visible(name, caller.name)
        return await self._apply(experiment, ExperimentEvent.CANCEL, "cancelled by its owner")

    def error_of(self, caller: Caller, name: str) -> str:
        """Return why an experiment of the caller failed, was turned down or cancelled; empty if it was not."""
        return self._experiments.visible(name, caller.name).error

    # --- inside ---------------------------------------------------------------------------------------------------

    def _aggregator(self, name: str) -> Aggregator | None:
        execution = self._executions.get(name)
        return None if execution is None else execution.aggregator

    async def _run(self, execution: Execution, model: list[Mapping[str, np.ndarray]]) -> None:
        try:
            await execution.run(partial(self._prepare, execution, model))
        finally:
            experiment = execution.experiment
            self._mounted.pop(experiment.federation_uuid, None)
            with anyio.CancelScope(shield=True):
                if experiment.status.ended or not self._experiments.holds(experiment):
                    # uploads of a round that never closed; no other federation has this uuid
                    await self._storage.journal.drop(experiment.federation_uuid, ALL_ROUNDS)
                    await self._storage.federation(experiment.federation_uuid).forget()
                if not self._experiments.holds(experiment):
                    # what was being written while the experiment was removed is there again
                    await self._records.remove_files(experiment)

    async def _prepare(self, execution: Execution, initial: list[Mapping[str, np.ndarray]]) -> Aggregator | None:
        """Make the aggregator. ``initial`` is emptied: nobody else may hold the initial model all through the rounds."""
        experiment = execution.experiment
        archive = self._archives[experiment.name]
        if experiment.federation_uuid:  # an earlier director got so far: envoys may have the plan already
            plan = await served_plan(self._storage.archives, archive)
        else:
            plan, archive = await serve_plan(
                self._storage.archives, archive, endpoint=self.endpoint, config=self.config
            )
            self._archives[experiment.name] = archive
            if self._review is not None and not await self._review(plan):
                return None
        assigned = await assigned_tasks(
            self._storage.archives,
            archive,
            plan,
            collaborators=experiment.collaborators,
            config=self.config,
            known=experiment.assigned,
        )
        config = plan.aggregator_config(
            collaborators=experiment.collaborators,
            tasks=None if assigned is None else assigned.tasks,
            assigner=None if assigned is None else assigned.assigner,
            task_aggregation=None if assigned is None else assigned.aggregation,
            limits=self.config.limits,
            timeouts=self.config.timeouts,
            uploads=self.config.uploads,
            durability=self.config.durability,
        )
        config = config.model_copy(
            update={
                "best_model_path": self._records.model_path(experiment, ModelKind.BEST),
                "last_model_path": self._records.model_path(experiment, ModelKind.LAST),
            }
        )
        pickled = None
        if assigned is not None and assigned.pickled:
            limits, process_limits = self.config.limits, self.config.process_limits
            pickled = PickledFunctions(archive.path, assigned.pickled, limits=limits, process_limits=process_limits)
            await execution.open(pickled)
        functions = None if pickled is None else pickled.functions
        if not experiment.federation_uuid:
            # kept before any envoy has the plan: after a restart it finds the same federation
            experiment.federation_uuid = config.federation_uuid
            experiment.assigned = "" if assigned is None else assigned.dump()
            await self._records.save(experiment)
        self._mounted[config.federation_uuid] = execution
        if not initial:
            initial.append(await self._records.initial(experiment))
        return Aggregator(config, initial_model=initial.pop(), storage=self._storage, functions=functions)

    async def _keep_metrics(self, experiment: Experiment, aggregator: Aggregator) -> None:
        if self._experiments.holds(experiment):
            await self._records.save_metrics(experiment, [metric async for metric in aggregator.metrics()])

    async def _all_told(self, experiment: Experiment) -> None:
        experiment.told = True
        if self._experiments.holds(experiment):
            await self._records.save(experiment)

    async def _apply(self, experiment: Experiment, event: ExperimentEvent, reason: str) -> bool:
        """Let ``event`` happen, tell everybody who waits, stop what has to stop, and keep it."""
        name = experiment.name
        if not self._experiments.holds(experiment):
            return False  # removed: nobody is left to be told
        if not self._experiments.handle(name, event, error=reason):
            return False
        if reason:
            logger.warning("experiment %r is %s: %r", name, experiment.status.value, reason)
        else:
            logger.info("experiment %r is %s", name, experiment.status.value)
        self._waiters.notify(("experiment", name), *(("envoy", envoy) for envoy in experiment.collaborators))
        execution = self._executions.get(name)
        if execution is not None and event in (ExperimentEvent.FAIL, ExperimentEvent.CANCEL):
            execution.stop(reason)
        await self._records.save(experiment)
        return True

    def _describe(self, experiment: Experiment) -> ExperimentDescription:
        aggregator = self._aggregator(experiment.name)
        if aggregator is not None:
            return replace(aggregator.describe(), name=experiment.name, status=experiment.status)
        return ExperimentDescription(
            name=experiment.name,
            status=experiment.status,
            progress=1.0 if experiment.status is ExperimentStatus.FINISHED else 0.0,
            models=dict.fromkeys(("best", "last", "init"), "pending"),
            collaborators=tuple(CollaboratorProgress(name) for name in experiment.collaborators),
        )
