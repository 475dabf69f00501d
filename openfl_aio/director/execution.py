"""One experiment from its archive to its end: plan read and rewritten, reviewed, served by an aggregator of its own."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import anyio
import anyio.lowlevel
import anyio.to_thread
import numpy as np

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import AggregatorConfig, AssignerConfig, DirectorConfig, Endpoint
from openfl_aio.director.experiments import Experiment, ExperimentEvent
from openfl_aio.director.foreign import PickledFunctions, Table, run_assigner
from openfl_aio.domain import ExperimentStatus, Task, TaskKind
from openfl_aio.errors import (
    ArchiveError,
    ConfigurationError,
    ExperimentFailedError,
    NotFoundError,
    OpenFLAioError,
)
from openfl_aio.plan.assigned import (
    AGGREGATION_FILE,
    ASSIGNER_FILE,
    MAX_PICKLED_BYTES,
    read_tasks,
    refusal,
)
from openfl_aio.plan.pickled_functions import Functions, read_functions
from openfl_aio.plan.plan import Plan
from openfl_aio.tensors.aggregation import AggregationFunction

if TYPE_CHECKING:
    from openfl_aio.storage.archives import Archive, Archives

__all__ = [
    "PLAN_MEMBER",
    "Assigned",
    "Execution",
    "Inspection",
    "Review",
    "assigned_tasks",
    "serve_plan",
    "served_plan",
    "stand_in",
]

PLAN_MEMBER = "plan/plan.yaml"

Review: TypeAlias = Callable[[Plan], Awaitable[bool]]
Inspection: TypeAlias = Callable[[str, Path, Plan], Awaitable[bool]]
"""Asked with an experiment's name, its archive as envoys get it, and the plan in that."""

logger = logging.getLogger(__name__)


async def serve_plan(
    archives: Archives, archive: Archive, *, endpoint: Endpoint, config: DirectorConfig
) -> tuple[Plan, Archive]:
    """Read the plan of ``archive`` and write it back so that unmodified envoys come to ``endpoint``.

    The salt is fresh, so two submissions of the same plan are two federations. Returns the plan as served and
    the archive that holds it. Raises `NotFoundError` without a plan, `ArchiveError` for a bad archive,
    `ConfigurationError` for a plan that cannot work.
    """
    data = await archives.read_member(archive, PLAN_MEMBER)
    try:
        text = bytes(data).decode()
    except UnicodeDecodeError as exc:
        raise ArchiveError(f"{PLAN_MEMBER} is not UTF-8 text ({exc}); write it again") from None
    submitted, host = await anyio.to_thread.run_sync(_read, text)
    if submitted.ignored:
        logger.warning("without effect in this plan: %s", ", ".join(submitted.ignored))
    tls = config.tls is not None
    if submitted.tls != tls:
        raise ConfigurationError(
            f"{PLAN_MEMBER}: {submitted.tls_key} is {str(submitted.tls).lower()}, but this director serves "
            f"{'mutual TLS' if tls else 'plaintext'}; set it to {str(tls).lower()}"
        )
    served = submitted.rewritten(
        agg_addr=config.public_host or host,
        agg_port=endpoint.port,
        hash_salt=secrets.token_hex(8),
    )
    dumped = served.dump()
    archive = await archives.replace_member(archive, PLAN_MEMBER, dumped.encode())
    # parsed again as the envoys will: the uuids that both sides derive come from these very bytes
    plan, _ = await anyio.to_thread.run_sync(_read, dumped)
    await anyio.lowlevel.checkpoint()  # threads are waited for: an experiment dismissed meanwhile ends here
    return plan, archive


async def served_plan(archives: Archives, archive: Archive) -> Plan:
    """Return the plan that `serve_plan` put into ``archive`` before a restart. Raises like that."""
    data = await archives.read_member(archive, PLAN_MEMBER)
    plan, _ = await anyio.to_thread.run_sync(_read, bytes(data).decode())
    return plan


def stand_in(experiment: Experiment) -> Aggregator:
    """Return an aggregator that knows only that the experiment's federation is over, and tells everybody to quit.

    A collaborator of OpenFL 1.6 that finds nobody asks for ever, without a pause.
    """
    uuid = experiment.federation_uuid
    config = AggregatorConfig(
        uuid=f"aggregator_{uuid}",
        federation_uuid=uuid,
        collaborators=experiment.collaborators,
        rounds=1,
        durability="memory",
    )
    return Aggregator(config, initial_model={"none": np.zeros(1, np.float32)}, initial_round=1)


@dataclass(frozen=True)
class Assigned:
    """What a frontend put into an archive beside its plan: tasks, who does them when, and how they are aggregated.

    ``functions`` aggregate in place of what ``aggregation`` names for a task, and the tensors of ``pickled`` tasks are
    aggregated by functions of the user's own. ``serializer`` is the class path of what wrote the files.
    """

    tasks: tuple[Task, ...]
    assigner: AssignerConfig
    aggregation: dict[str, str]
    functions: dict[str, AggregationFunction] = field(default_factory=dict)
    pickled: tuple[Task, ...] = ()
    serializer: str | None = None

    def dump(self) -> str:
        """Return as JSON what a user's own assigner said: it may say something else when it is asked again."""
        if self.assigner.kind != "table":
            return ""
        tasks = [[task.name, task.function_name, task.kind.value, task.apply_local] for task in self.tasks]
        return json.dumps({"tasks": tasks, "table": self.assigner.table})


async def assigned_tasks(
    archives: Archives,
    archive: Archive,
    plan: Plan,
    *,
    collaborators: Sequence[str],
    config: DirectorConfig,
    known: str = "",
) -> Assigned | None:
    """Return what OpenFL's frontend put into ``archive`` beside its plan; None if the tasks stand in the plan.

    An assigner of the user's own is run in a child process if ``config`` allows that, and so may aggregation functions be.
    ``known`` is what `Assigned.dump` returned before a restart.
    Raises `NotFoundError` if there is no assigner, `ArchiveError` for what cannot be read, or not be run.
    """
    if plan.interactive is None or plan.tasks:
        return None
    serializer = plan.interactive.serializer
    functions = await _functions(archives, archive, config, serializer)
    chosen = AssignerConfig()
    try:
        data = await _pickled(archives, archive, ASSIGNER_FILE, serializer)
        tasks = await anyio.to_thread.run_sync(partial(read_tasks, data, serializer=serializer))
    except ArchiveError:  # also what we cannot read may be run
        if not config.allow_pickled_code:
            raise
        if known:
            said = json.loads(known)
            tasks = tuple(Task(name, function, TaskKind(kind), local) for name, function, kind, local in said["tasks"])
            table: Table = said["table"]
        else:
            logger.warning("running an assigner of a user's own in a child process, as allow_pickled_code says")
            tasks, table = await run_assigner(
                archive.path,
                collaborators,
                plan.rounds,
                serializer=serializer,
                limits=config.limits,
                process_limits=config.process_limits,
            )
        if table:
            chosen = AssignerConfig(kind="table", table=table)
    await anyio.lowlevel.checkpoint()
    return Assigned(
        tasks,
        chosen,
        functions.of(tasks),
        functions=functions.adaptive_of(tasks),
        pickled=functions.foreign_tasks(tasks),
        serializer=serializer,
    )


async def _functions(archives: Archives, archive: Archive, config: DirectorConfig, serializer: str) -> Functions:
    allowed = config.allow_pickled_code
    try:
        data = await _pickled(archives, archive, AGGREGATION_FILE, serializer)
    except NotFoundError:
        return Functions()
    except ArchiveError:
        if not allowed:
            raise
        return Functions(unreadable=True)  # too large for us; the child reads it from its file
    return await anyio.to_thread.run_sync(partial(read_functions, data, serializer=serializer, allow_foreign=allowed))


async def _pickled(archives: Archives, archive: Archive, file: str, serializer: str) -> bytes:
    """Return what the archive has in ``file``. Raises `ForeignCodeError` for what is too large to be read as data."""
    try:
        return await archives.read_member(archive, file, limit=MAX_PICKLED_BYTES)
    except ArchiveError as exc:
        raise refusal(file, f"is not read ({exc})", serializer) from None


def _read(text: str) -> tuple[Plan, str]:
    """Return the plan and the host it names, which may need the resolver. Blocks."""
    plan = Plan.parse(text, source=PLAN_MEMBER)
    return plan, plan.endpoint.host


class Execution:
    """Runs one experiment. The aggregator stays mounted after the end, so that late collaborators are told to quit.

    ``apply`` hands an event and its reason to the owner, which decides whether it changes the experiment; ``ended`` is
    called before the last of them, ``told`` once every collaborator knows, and ``resumed`` when one that ran before serves
    again.
    ``linger`` is for how many seconds after `dismiss` collaborators may still come for their quit.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        apply: Callable[[ExperimentEvent, str], Awaitable[object]],
        ended: Callable[[Aggregator], Awaitable[object]],
        told: Callable[[], Awaitable[object]],
        resumed: Callable[[], object],
        linger: float,
    ) -> None:
        self.experiment = experiment
        self.aggregator: Aggregator | None = None
        self._apply = apply
        self._ended = ended
        self._told = told
        self._resumed = resumed
        self._linger = linger
        self._scope = anyio.CancelScope()
        self._dismissed = anyio.Event()
        self._stack = AsyncExitStack()
        self._code: PickledFunctions | None = None

    async def open(self, code: PickledFunctions) -> None:
        """Start aggregation functions of a user's own; they end with the rounds."""
        logger.warning("running aggregation functions of a user's own in a child process, as allow_pickled_code says")
        self._code = await self._stack.enter_async_context(code)

    def stop(self, reason: str) -> None:
        """End the rounds, if there are any; collaborators are told to quit."""
        if self.aggregator is not None:
            self.aggregator.stop(reason)

    def dismiss(self, reason: str) -> None:
        """Nobody needs this experiment any more: stop it, tell the collaborators to quit, take it down."""
        if self.aggregator is None:
            self._scope.cancel()
        else:
            self.aggregator.stop(reason)
            self._dismissed.set()

    async def run(self, prepare: Callable[[], Awaitable[Aggregator | None]]) -> None:
        """Prepare and serve until dismissed. ``prepare`` returns None for an experiment that was turned away.

        Never raises: what goes wrong is the experiment's end, not the director's.
        """
        with self._scope:
            try:
                aggregator = await prepare()
                if aggregator is None:
                    await self._apply(ExperimentEvent.REJECT, "the director's review turned the plan down")
                    return
                async with self._stack, aggregator:
                    await self._serve(aggregator)
            except OpenFLAioError as exc:
                await self._apply(ExperimentEvent.FAIL, str(exc))
            except Exception as exc:
                logger.exception("experiment failed by an internal error: %r", self.experiment.name)
                await self._apply(ExperimentEvent.FAIL, f"internal error of the director: {type(exc).__name__}")

    async def _serve(self, aggregator: Aggregator) -> None:
        self.aggregator = aggregator
        if self.experiment.status is ExperimentStatus.PENDING:
            await self._apply(ExperimentEvent.START, "")
        else:
            self._resumed()  # it goes on after a restart
        if self.experiment.status.ended:  # cancelled while it was being prepared
            aggregator.stop(f"the experiment is {self.experiment.status.value}")
        try:
            await aggregator.wait_complete()
        except ExperimentFailedError as exc:
            await self._ended(aggregator)
            await self._apply(ExperimentEvent.FAIL, str(exc))
        else:
            await self._ended(aggregator)
            await self._apply(ExperimentEvent.FINISH, "")
        finally:
            if self._code is not None:
                self._code.kill()  # nobody waits for what it may still compute
        async with anyio.create_task_group() as group:
            group.start_soon(self._tell, aggregator)
            await self._dismissed.wait()
            group.cancel_scope.cancel()
        # a collaborator of OpenFL 1.6 that finds nobody asks for ever, without a pause
        with anyio.move_on_after(self._linger):
            await aggregator.wait_quits_sent()

    async def _tell(self, aggregator: Aggregator) -> None:
        await aggregator.wait_quits_sent()
        await self._told()
