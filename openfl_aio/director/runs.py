"""The experiments of a director as they run: each from its row to its end, and on after a restart."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import numpy as np

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import DirectorConfig, Endpoint
from openfl_aio.director.execution import Execution, Inspection, assigned_tasks, serve_plan, served_plan, stand_in
from openfl_aio.director.experiments import Experiment, ExperimentEvent, Experiments
from openfl_aio.director.foreign import PickledFunctions
from openfl_aio.director.records import Records
from openfl_aio.domain import ExperimentStatus, ModelKind
from openfl_aio.errors import ExperimentNotFoundError, NotFoundError, NotReadyError, StorageError
from openfl_aio.storage.director_storage import DirectorStorage
from openfl_aio.storage.journal import ALL_ROUNDS
from openfl_aio.waiting import Waiters, to_the_end

if TYPE_CHECKING:
    from openfl_aio.storage.archives import Archive

__all__ = ["Runs"]

logger = logging.getLogger(__name__)


class Runs:
    """What runs of a director's ``experiments``. ``waiters`` are told of every change, by experiment and by envoy.

    First every experiment that was kept is reopened, then `begin` lets them go on.
    """

    def __init__(
        self,
        config: DirectorConfig,
        *,
        storage: DirectorStorage,
        records: Records,
        experiments: Experiments,
        waiters: Waiters[tuple[str, str]],
        inspection: Inspection | None,
    ) -> None:
        self._config = config
        self._storage = storage
        self._records = records
        self._experiments = experiments
        self._waiters = waiters
        self._inspection = inspection
        self._tasks: anyio.abc.TaskGroup
        self._endpoint: Endpoint
        self._executions: dict[str, Execution] = {}  # by experiment name
        self._mounted: dict[str, Execution] = {}  # by federation uuid; outlives the experiment's entry a little
        self._changing = anyio.Lock()  # an experiment's row and its state change together
        self._goodbyes: dict[str, Aggregator] = {}  # of experiments that ended under an earlier director
        self.archives: dict[str, Archive] = {}
        """By experiment name, as they are served."""

    def __repr__(self) -> str:
        return f"<Runs {len(self._executions)} experiments, {len(self._mounted)} federations>"

    def begin(self, tasks: anyio.abc.TaskGroup, endpoint: Endpoint) -> None:
        """Go on with what was reopened, and from now on start what is new, in ``tasks``. Plans will name ``endpoint``."""
        self._tasks, self._endpoint = tasks, endpoint
        for execution in list(self._executions.values()):
            tasks.start_soon(self._run, execution, [])
        for experiment in self._experiments.all():
            if experiment.status.ended and experiment.federation_uuid and not experiment.told:
                tasks.start_soon(self._say_goodbye, experiment)

    def start(self, experiment: Experiment, model: Mapping[str, np.ndarray]) -> None:
        """Run a new experiment, whose archive is in `archives`, from ``model`` on."""
        execution = self._executions[experiment.name] = self._execution(experiment)
        self._tasks.start_soon(self._run, execution, [model])

    def dismiss(self, name: str, reason: str) -> None:
        """Stop an experiment that nobody needs any more, if it runs; its collaborators are told to quit."""
        execution = self._executions.pop(name, None)
        self.archives.pop(name, None)
        self._waiters.notify(("experiment", name))
        if execution is not None:
            execution.dismiss(reason)

    def aggregator(self, name: str) -> Aggregator | None:
        """Return the aggregator of an experiment; None if it has none now. Raises `NotReadyError` while it is loaded."""
        execution = self._executions.get(name)
        if execution is None:
            return None
        if execution.aggregator is None and execution.experiment.status is ExperimentStatus.IN_PROGRESS:
            raise NotReadyError(f"experiment {name!r} is being loaded; come again")
        return execution.aggregator

    def over(self) -> frozenset[str]:
        """Return the names of experiments whose rounds have ended; that they did may not be kept yet."""
        return frozenset(
            name
            for name, execution in self._executions.items()
            if execution.aggregator is not None and execution.aggregator.phase.ended
        )

    def is_served(self, name: str) -> bool:
        """Return whether an experiment has an aggregator now."""
        execution = self._executions.get(name)
        return execution is not None and execution.aggregator is not None

    def find(self, federation_uuid: str) -> Aggregator:
        """Return the aggregator that serves a federation, or an experiment of that name.

        Raises `ExperimentNotFoundError` if none does, `NotReadyError` if it is being loaded.
        """
        execution = self._mounted.get(federation_uuid) or self._executions.get(federation_uuid)
        if execution is None:
            if federation_uuid in self._goodbyes:
                return self._goodbyes[federation_uuid]
            raise ExperimentNotFoundError(f"no experiment serves the federation {federation_uuid!r}")
        if execution.aggregator is None:
            raise NotReadyError(f"the federation {federation_uuid!r} is being loaded; come again")
        return execution.aggregator

    async def reopen(self, experiment: Experiment) -> None:
        """Make ready to go on with an experiment of an earlier director."""
        try:
            self.archives[experiment.name] = await self._storage.archives.get(experiment.archive_id)
        except NotFoundError:
            await self.apply(experiment, ExperimentEvent.FAIL, "its archive is gone; submit it again")
            return
        if not experiment.status.ended:
            logger.warning("experiment %r goes on: it was %s", experiment.name, experiment.status.value)
            execution = self._executions[experiment.name] = self._execution(experiment)
            if experiment.federation_uuid:
                self._mounted[experiment.federation_uuid] = execution

    def _execution(self, experiment: Experiment) -> Execution:
        return Execution(
            experiment,
            apply=partial(self.apply, experiment),
            ended=partial(self._keep_metrics, experiment),
            told=partial(self._all_told, experiment),
            resumed=partial(self._waiters.notify, ("experiment", experiment.name)),
            linger=self._config.timeouts.long_poll,
        )

    async def _say_goodbye(self, experiment: Experiment) -> None:
        """Tell those to quit who had not heard of the end when an earlier director ended."""
        async with stand_in(experiment) as aggregator:
            self._goodbyes[experiment.federation_uuid] = aggregator
            await aggregator.wait_quits_sent()
            await self._all_told(experiment)
            await anyio.sleep_forever()  # an answer may have been lost

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
        archive = self.archives[experiment.name]
        if experiment.federation_uuid:  # an earlier director got so far: envoys may have the plan already
            plan = await served_plan(self._storage.archives, archive)
        else:
            plan, archive = await serve_plan(
                self._storage.archives, archive, endpoint=self._endpoint, config=self._config
            )
            self.archives[experiment.name] = archive
            if self._inspection is not None:
                logger.info("experiment %r of %r waits for its review", experiment.name, experiment.owner)
                if not await self._inspection(experiment.name, archive.path, plan):
                    return None
        assigned = await assigned_tasks(
            self._storage.archives,
            archive,
            plan,
            collaborators=experiment.collaborators,
            config=self._config,
            known=experiment.assigned,
        )
        config = plan.aggregator_config(
            collaborators=experiment.collaborators,
            tasks=None if assigned is None else assigned.tasks,
            assigner=None if assigned is None else assigned.assigner,
            task_aggregation=None if assigned is None else assigned.aggregation,
            limits=self._config.limits,
            timeouts=self._config.timeouts,
            uploads=self._config.uploads,
            durability=self._config.durability,
        )
        config = config.model_copy(
            update={
                "best_model_path": self._records.model_path(experiment, ModelKind.BEST),
                "last_model_path": self._records.model_path(experiment, ModelKind.LAST),
            }
        )
        functions = {} if assigned is None else dict(assigned.functions)
        if assigned is not None and assigned.pickled:
            pickled = PickledFunctions(
                archive.path,
                assigned.pickled,
                serializer=assigned.serializer,
                limits=self._config.limits,
                process_limits=self._config.process_limits,
            )
            await execution.open(pickled)
            functions |= pickled.functions
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

    async def apply(self, experiment: Experiment, event: ExperimentEvent, reason: str) -> bool:
        """Keep ``event``, let it happen, tell everybody who waits, and stop what has to stop.

        What is told is kept before: a restart must not take it back.
        """
        # one row; half-way it would be ahead of what is told
        if not await to_the_end(self._change(experiment, event, reason)):
            return False
        name = experiment.name
        if reason:
            logger.warning("experiment %r is %s: %r", name, experiment.status.value, reason)
        else:
            logger.info("experiment %r is %s", name, experiment.status.value)
        self._waiters.notify(("experiment", name), *(("envoy", envoy) for envoy in experiment.collaborators))
        execution = self._executions.get(name)
        if execution is not None and event in (ExperimentEvent.FAIL, ExperimentEvent.CANCEL):
            execution.stop(reason)
        return True

    async def _change(self, experiment: Experiment, event: ExperimentEvent, reason: str) -> bool:
        name = experiment.name
        async with self._changing:
            if not self._experiments.holds(experiment):
                return False  # removed: nobody is left to be told
            target = self._experiments.after(name, event)
            if target is None:
                return False
            await self._keep_change(replace(experiment, status=target, error=reason), event)
            if not self._experiments.holds(experiment):
                return False
            self._experiments.handle(name, event, error=reason)
            return True

    async def _keep_change(self, changed: Experiment, event: ExperimentEvent) -> None:
        try:
            await self._records.save(changed)
        except StorageError as exc:
            if event is ExperimentEvent.START:
                raise  # nothing was promised yet
            # an end cannot be put off; the next row that is kept says it, or the experiment goes on after a restart
            logger.error("the end of experiment %r is not kept: %s", changed.name, exc)
