"""The director: envoys register and wait, frontends submit and follow, each experiment gets an aggregator.

What may happen is decided by `openfl_aio.director.experiments` and `openfl_aio.director.shards`; this module waits,
stores and tells. All experiments are served on the director's own port.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.to_thread
import numpy as np

from openfl_aio.aggregator.encoded import ModelEncoder
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.aggregator.servicer import AggregatorServicer
from openfl_aio.config import DirectorConfig, Endpoint
from openfl_aio.director.execution import Inspection, Review
from openfl_aio.director.experiments import Experiment, ExperimentEvent, Experiments
from openfl_aio.director.quotas import QuotaKeeper
from openfl_aio.director.records import Records
from openfl_aio.director.runs import Runs
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
from openfl_aio.errors import ConfigurationError, ExperimentNotFoundError, InvalidStateError, StorageError
from openfl_aio.plan.plan import Plan
from openfl_aio.storage.director_storage import DirectorStorage
from openfl_aio.transport.budgets import PeerLogLimiter
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

    ``review`` is asked for every plan, which names its ``experiment``, before it runs; False turns that down. No signal
    handler is set and no folder entered; several directors may share a loop. Leaving the context stops every experiment;
    with a workspace the next director goes on with them where they were, as it does when this one was killed. What
    ``front`` makes of the director's own service, if it is set before entering, is served instead of that;
    ``inspection``, set before entering, is asked instead of ``review``, and may look at the archive.
    """

    front: Callable[[DirectorServicer], Any] | None = None
    inspection: Inspection | None = None

    def __init__(self, config: DirectorConfig, *, review: Review | None = None) -> None:
        self.config = config
        if review is not None:

            async def inspection(name: str, _archive: Path, plan: Plan) -> bool:
                return await review(plan.of(name))

            self.inspection = inspection
        self._experiments = Experiments(operators=config.operators)
        self._quotas = QuotaKeeper(config.quotas)
        self._shards = Shards(
            sample_shape=config.sample_shape,
            target_shape=config.target_shape,
            health_check_period=config.envoy_health_check_period,
            most=config.limits.max_envoys,
        )
        self._entering = anyio.Lock()  # one envoy at a time becomes known
        self._waiters: Waiters[tuple[str, str]] = Waiters()
        self._lines = PeerLogLimiter()
        self._removing = anyio.Lock()
        self._removals: set[asyncio.Task[None]] = set()
        self._stack: AsyncExitStack | None = None

    def __repr__(self) -> str:
        return f"Director({len(self._experiments)} experiments, {len(self._shards)} envoys)"

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise InvalidStateError(f"{self!r} is entered already; make another one to serve on another port")
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
        if config.review_experiment and self.inspection is None:
            raise ConfigurationError(
                "review_experiment: expected a review function, got none; give one to the director"
            )
        if config.install_requirements:
            logger.warning("install_requirements has no effect: a director runs no code of an experiment")
        self._storage = await stack.enter_async_context(DirectorStorage(config.workspace, limits=config.limits))
        self._records = Records(self._storage, config.workspace)
        self._runs = Runs(
            config,
            storage=self._storage,
            records=self._records,
            experiments=self._experiments,
            waiters=self._waiters,
            inspection=self.inspection,
        )
        for experiment in await self._records.experiments():
            self._experiments.restore(experiment)
            await self._runs.reopen(experiment)
        for shard in await self._storage.registry.shards():
            self._shards.restore(shard, anyio.current_time())
        self._tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(self._tasks.cancel_scope.cancel)
        stack.push_async_callback(self._finish_removals)
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
        self._runs.begin(self._tasks, self._server.endpoint)

    @property
    def server(self) -> Server:
        """What this director serves with. Raises `InvalidStateError` unless it is entered."""
        if self._stack is None:
            raise InvalidStateError("the director does not serve; enter it first")
        return self._server

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
        return self._runs.find(federation_uuid)

    # --- envoys ---------------------------------------------------------------------------------------------------

    async def update_shard_info(self, caller: Caller, shard: ShardInfo) -> bool:
        """Register or refresh an envoy; False if its shapes are not this director's."""
        check_speaks_for(caller, shard.name)
        if not self._shards.accepts(shard):
            self._log(
                logging.WARNING,
                shard.name,
                "envoy %r refused: shapes %r -> %r, expected %r -> %r",
                shard.name,
                shard.sample_shape,
                shard.target_shape,
                self._shards.sample_shape,
                self._shards.target_shape,
            )
            return False
        async with self._room_for(shard.name):
            # kept first: who was told that it is registered is known after a restart, and who was not is not known before
            await self._storage.registry.save_shard(shard)
            return self._shards.register(shard, anyio.current_time())

    @asynccontextmanager
    async def _room_for(self, envoy: str) -> AsyncIterator[None]:
        """Give a place for an envoy. Raises `MessageTooLargeError` if there are as many as may be, all of them online."""
        async with self._entering:
            gone = self._shards.make_room(envoy, anyio.current_time())
            if gone is not None:
                await self._storage.registry.remove_shard(gone)
            yield

    async def update_envoy_status(
        self, caller: Caller, name: str, *, is_experiment_running: bool, devices: Iterable[DeviceInfo] = ()
    ) -> float:
        """Note a sign of life and return the health check period in seconds; `ShardNotFoundError` if not registered."""
        check_speaks_for(caller, name)
        return self._shards.update(name, running=is_experiment_running, devices=devices, now=anyio.current_time())

    async def get_envoys(self, caller: Caller) -> tuple[EnvoyInfo, ...]:
        """Describe all registered envoys; one that is at work with the name of its experiment."""
        return tuple(
            replace(envoy, experiment_name=self._next_for(envoy.shard.name) or "")
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
            self._log(
                logging.INFO,
                envoy,
                "envoy %r waits and has not registered here: taken for one that another director accepted",
                envoy,
            )
            async with self._room_for(envoy):
                self._shards.park(envoy, anyio.current_time())
        else:
            self._shards.park(envoy, anyio.current_time())
        name = None
        try:
            name = await self._waiters.wait_for(("envoy", envoy), lambda: self._next_for(envoy), timeout=None)
        finally:
            self._shards.unpark(envoy, anyio.current_time(), has_work=name is not None)
        assert name is not None, "a wait without a timeout ends with a name"
        return name

    async def get_experiment_data(self, caller: Caller, name: str, envoy: str) -> AsyncIterator[bytes]:
        """Yield the archive of an experiment in which ``envoy`` takes part; `ExperimentNotFoundError` otherwise."""
        check_speaks_for(caller, envoy)
        experiment = self._experiments.takes_part(name, envoy)
        archive = self._runs.archives.get(name)
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
            self._log(
                logging.WARNING,
                envoy,
                "failure report ignored: envoy %r has no part in experiment %r",
                envoy,
                name,
            )
            return
        self._experiments.envoy_done(name, envoy)
        description = error_description.strip()[-MAX_DESCRIPTION:] or "no description"
        reason = f"envoy {envoy} failed with code {error_code}: {description}"
        await self._runs.apply(experiment, ExperimentEvent.FAIL, reason)

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
        self._runs.archives[name] = archive
        try:
            await self._records.save_initial(experiment, model)
            await self._records.save(experiment)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.remove_experiment_data(caller, name)
            raise
        if self._experiments.holds(experiment):  # kept: now it may begin
            self._runs.start(experiment, model)
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
        aggregator = self._runs.aggregator(name)
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
        aggregator = self._runs.aggregator(name)
        if aggregator is not None:
            return await aggregator.encoded_model(kind, encode) or EncodedMessage(())
        model = await self._records.model(experiment, kind)
        return await anyio.to_thread.run_sync(encode, model, 0)

    async def get_metric_stream(self, caller: Caller, name: str) -> AsyncIterator[Metric]:
        """Yield every metric of an experiment of the caller from the first on, live, until it ends."""
        experiment = self._experiments.visible(name, caller.name)
        await self._waiters.wait_for(
            ("experiment", name),
            lambda: (
                True
                if self._runs.is_served(name) or experiment.status.ended or not self._experiments.holds(experiment)
                else None
            ),
            timeout=None,
        )
        aggregator = self._runs.aggregator(name)
        if aggregator is not None:
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
        # to its end also if the caller is cancelled: half-way the experiment would be back after a restart
        removal = asyncio.create_task(self._remove(caller, name))
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)
        await asyncio.shield(removal)
        return True

    async def _remove(self, caller: Caller, name: str) -> None:
        async with self._removing:  # who asks again, because the connection broke, is answered when it is kept
            experiment = self._experiments.remove(name, caller.name)
            if experiment is not None:
                self._runs.dismiss(name, "the experiment was removed")
                try:
                    await self._records.forget(experiment)
                except StorageError as exc:
                    logger.error("experiment %r cannot be removed from the disk: %s", name, exc)
                    raise

    async def _finish_removals(self) -> None:
        if self._removals:
            with anyio.CancelScope(shield=True):  # a row and some files
                await asyncio.wait(self._removals)

    async def cancel(self, caller: Caller, name: str) -> bool:
        """Cancel an experiment of the caller and return whether that changed anything; its collaborators quit."""
        experiment = self._experiments.visible(name, caller.name)
        return await self._runs.apply(experiment, ExperimentEvent.CANCEL, "cancelled by its owner")

    def error_of(self, caller: Caller, name: str) -> str:
        """Return why an experiment of the caller failed, was turned down or cancelled; empty if it was not."""
        return self._experiments.visible(name, caller.name).error

    def _next_for(self, envoy: str) -> str | None:
        # one who was told to quit and is here again would take part a second time in what is only being kept
        return self._experiments.next_for(envoy, over=self._runs.over())

    def _log(self, level: int, envoy: str, message: str, *values: object) -> None:
        """Write a line about something that ``envoy`` can cause as often as it likes, unless it has caused too many."""
        left_out = self._lines.allow(envoy, anyio.current_time())
        if left_out is not None:
            more = f" (and {left_out:,} more lines of it)" if left_out else ""
            logger.log(level, "%s%s", message % values, more)

    def _describe(self, experiment: Experiment) -> ExperimentDescription:
        aggregator = self._runs.aggregator(experiment.name)
        if aggregator is not None:
            return replace(aggregator.describe(), name=experiment.name, status=experiment.status)
        return ExperimentDescription(
            name=experiment.name,
            status=experiment.status,
            progress=1.0 if experiment.status is ExperimentStatus.FINISHED else 0.0,
            models=dict.fromkeys(("best", "last", "init"), "pending"),
            collaborators=tuple(CollaboratorProgress(name) for name in experiment.collaborators),
        )
