"""The aggregator of one federation: waits, keeps and wakes around the deciding classes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc
from numpy.typing import NDArray

from openfl_aio.aggregator.assigner import make_assigner
from openfl_aio.aggregator.checks import check_header
from openfl_aio.aggregator.closer import RoundCloser
from openfl_aio.aggregator.encoded import EncodedModels, ModelEncoder
from openfl_aio.aggregator.intake import Intake
from openfl_aio.aggregator.ledger import Ledger
from openfl_aio.aggregator.metrics import MetricLog
from openfl_aio.aggregator.models import Difference, GlobalModels, Uncoded
from openfl_aio.aggregator.offload import Offload, in_thread
from openfl_aio.aggregator.progress import describe
from openfl_aio.aggregator.rounds import FederationAborted, FederationComplete, Phase, RoundClosed, Rounds
from openfl_aio.aggregator.saving import Saver
from openfl_aio.aggregator.servicer import AggregatorServicer
from openfl_aio.aggregator.shelf import Shelf
from openfl_aio.aggregator.stragglers import make_straggler_policy
from openfl_aio.aggregator.suspended import SuspendedUploads
from openfl_aio.aggregator.uploads import Upload, UploadCounts
from openfl_aio.config import AggregatorConfig, Endpoint
from openfl_aio.domain import (
    Assignment,
    ExperimentDescription,
    Header,
    Metric,
    ModelKind,
    TensorQuery,
    Verdict,
)
from openfl_aio.errors import (
    AuthorizationError,
    ExperimentFailedError,
    HeaderMismatchError,
    InvalidStateError,
    OpenFLAioError,
    TensorNotFoundError,
)
from openfl_aio.storage.federations import FederationStore, MemoryFederation
from openfl_aio.storage.file_journal import FileJournal
from openfl_aio.storage.journal import Entry, Journal, MemoryJournal
from openfl_aio.storage.models import ModelFiles
from openfl_aio.storage.storage import Storage
from openfl_aio.tensors.aggregation import AggregationFunction, check_enough, get_aggregation
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.transport.roles import Roles
from openfl_aio.transport.server import Server, ServerStatistics
from openfl_aio.waiting import Timers, Waiters
from openfl_aio.wire.codec import EncodedMessage

__all__ = ["Aggregator", "Offload"]

logger = logging.getLogger(__name__)


class Aggregator:
    """Runs one federation; an async context manager that owns all it starts.

    ``storage`` is somebody else's if given, else the aggregator opens its own in ``config.workspace``. With
    ``config.listen`` it serves on its own port, else somebody mounts it. ``on_change`` is called, without waiting,
    after every change of phase or round. Without TLS only this machine is served, unless
    ``allow_plaintext_anywhere``. ``functions`` aggregate instead of those that the configuration names for tasks.

    Entering goes on where an earlier aggregator of the same ``federation_uuid`` was when it died or was left, if its
    storage is given: the same tasks are out, the same results count. Leaving keeps that, unless the federation
    completed and every collaborator knows, or `stop` was called: then only the saved models stay.
    """

    def __init__(
        self,
        config: AggregatorConfig,
        *,
        initial_model: Mapping[str, NDArray[Any]],
        initial_round: int = 0,
        storage: Storage | None = None,
        on_change: Callable[[], None] | None = None,
        offload: Offload = in_thread,
        allow_plaintext_anywhere: bool = False,
        functions: Mapping[str, AggregationFunction] | None = None,
    ) -> None:
        self._config = config
        self._functions = {
            task.name: get_aggregation(config.task_aggregation.get(task.name, config.aggregation))
            for task in config.tasks
        } | dict(functions or {})
        check_enough(self._functions, config.collaborators)
        self._required = frozenset(initial_model)
        self._counts = UploadCounts()
        self._codec = TensorCodec(config.pipeline)
        self._models = GlobalModels(
            initial_model,
            initial_round=initial_round,
            origin=config.uuid,
            codec=self._codec,
            store_rounds=config.store_rounds,
        )
        self._rounds: Rounds[Entry] = Rounds(
            config.collaborators,
            config.rounds,
            make_assigner(config),
            make_straggler_policy(config.stragglers),
            initial_round=initial_round,
        )
        self._told: set[str] = set()
        self._given_storage = storage
        self._on_change = on_change
        self._offload = offload
        self._allow_plaintext_anywhere = allow_plaintext_anywhere
        self._metrics = MetricLog()
        self._waiters: Waiters[str] = Waiters()
        self._journal: Journal = MemoryJournal(offload)
        self._store: FederationStore = MemoryFederation()
        self._durable = config.durability == "power"
        self._stopped = False
        self._recovered = False
        self._timers = Timers(self._rounds, self._react)
        self._ledger: Ledger  # from entering on
        self._server: Server | None = None
        self._stack: AsyncExitStack | None = None
        self._encoded = EncodedModels(self._models, offload)

    def __repr__(self) -> str:
        return f"<Aggregator {self.federation_uuid}: {self._rounds!r}>"

    async def __aenter__(self) -> Self:
        stack = AsyncExitStack()
        try:
            await self._open(stack)
        except BaseException:
            await stack.aclose()  # without the error, which would come out in a group
            raise
        self._stack = stack
        return self

    async def _open(self, stack: AsyncExitStack) -> None:
        storage = self._given_storage
        if storage is None and self._config.workspace is not None and self._config.durability != "memory":
            storage = await stack.enter_async_context(Storage(self._config.workspace))
        # in memory nothing is opened at all: no file, no database
        if storage is not None and self._config.durability != "memory":
            self._journal, self._store = storage.journal, storage.federation(self.federation_uuid)
        self._folder = self._journal.folder if isinstance(self._journal, FileJournal) else None
        self._shelf = Shelf(self._models, self._codec, self._offload, self._folder, self._store)
        stack.push_async_callback(self._leave)
        self._tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(self._tasks.cancel_scope.cancel)
        self.suspended = SuspendedUploads(
            self._config.limits, per_collaborator=len(self._config.tasks), start=self._tasks.start_soon
        )
        stack.callback(self.suspended.close)
        self._saver = Saver(
            ModelFiles() if storage is None else storage.models,
            durable=self._durable,
            start=self._tasks.start_soon,
            failed=self._not_saved,
        )
        stack.callback(self._saver.close)
        self._ledger = Ledger(
            self._config,
            store=self._store,
            journal=self._journal,
            models=self._models,
            metrics=self._metrics,
            codec=self._codec,
            saver=self._saver,
        )
        self._closer = RoundCloser(
            self._config,
            rounds=self._rounds,
            models=self._models,
            codec=self._codec,
            functions=self._functions,
            ledger=self._ledger,
            saver=self._saver,
            offload=self._offload,
            folder=self._folder,
            make_room=self._shelf.put_away_current,
            changed=self._changed,
            failed=self._abort,
        )
        self._intake = Intake(
            self._config,
            rounds=self._rounds,
            models=self._models,
            required=self._required,
            codec=self._codec,
            journal=self._journal,
            suspended=self.suspended,
            counts=self._counts,
            start=self._tasks.start_soon,
            accept=self._accept,
        )
        # before anybody is served: a round that is told must not turn out to be over
        await self._closer.recover()
        self._tasks.start_soon(self._timers.run)
        # after the server is gone: nobody is told to quit a federation that will go on
        stack.callback(self._abort, "the aggregator was closed before its last round")
        if self._config.listen is not None:
            self._server = Server(
                [AggregatorServicer(self.find)],
                listen=self._config.listen,
                tls=self._config.tls,
                limits=self._config.limits,
                timeouts=self._config.timeouts,
                allow_plaintext_anywhere=self._allow_plaintext_anywhere,
                roles=Roles(collaborators=(*self.collaborators, self._config.single_col_cert_common_name)),
            )
            await stack.enter_async_context(self._server)
        self._react()
        self._recovered = True

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        stack, self._stack = self._stack, None
        assert stack is not None, "only what was entered is left"
        if isinstance(exc, Exception):
            await stack.aclose()  # so that the caller's exception does not come out in a group
            return None
        return await stack.__aexit__(exc_type, exc, traceback)

    @property
    def entered(self) -> bool:
        """Whether the aggregator is at work: entered and not left."""
        return self._stack is not None

    @property
    def endpoint(self) -> Endpoint:
        """Where the aggregator listens. Raises `InvalidStateError` if it has no port of its own."""
        if self._server is None:
            raise InvalidStateError("the aggregator does not listen: configure `listen`, or mount it in a server")
        return self._server.endpoint

    def reload_certificates(self) -> None:
        """Read certificates, key and lists at once; changes are noticed by themselves within two seconds."""
        if self._server is not None:
            self._server.reload_certificates()

    def statistics(self) -> ServerStatistics:
        """Return what its server does and has done. Raises `InvalidStateError` if it has none."""
        if self._server is None:
            raise InvalidStateError(
                "the aggregator does not listen: configure `listen`, or ask the server that mounts it"
            )
        return self._server.statistics()

    def upload_counts(self) -> UploadCounts:
        """Return what became of uploads so far, since this process has the federation."""
        return replace(self._counts)

    @property
    def uuid(self) -> str:
        """The name by which collaborators address the aggregator."""
        return self._config.uuid

    @property
    def federation_uuid(self) -> str:
        """The name of the federation."""
        return self._config.federation_uuid

    @property
    def collaborators(self) -> tuple[str, ...]:
        """Who takes part."""
        return self._config.collaborators

    @property
    def config(self) -> AggregatorConfig:
        """The configuration as given."""
        return self._config

    @property
    def round_number(self) -> int:
        """The current round; equal to `rounds` at the end."""
        return self._rounds.round_number

    @property
    def rounds(self) -> int:
        """How many rounds there are."""
        return self._rounds.rounds

    @property
    def phase(self) -> Phase:
        """Where the federation stands."""
        return self._rounds.phase

    def find(self, federation_uuid: str) -> Aggregator:
        """Return this aggregator if the federation is its own. Raises `HeaderMismatchError`."""
        if federation_uuid not in (self.federation_uuid, *self._config.aliases):
            raise HeaderMismatchError(
                f"expected the federation {self.federation_uuid!r}, got {federation_uuid!r}; "
                "do both sides have the same plan?"
            )
        return self

    def check_header(self, header: Header) -> None:
        """Raise `AuthorizationError` for a foreign sender, `HeaderMismatchError` for anything else that is not ours."""
        check_header(header, self._config)

    async def get_tasks(self, collaborator: str) -> Assignment:
        """Return what ``collaborator`` shall do; waits while there is nothing, `Timeouts.long_poll` at most."""
        answer = await self._waiters.wait_for(
            "tasks",
            lambda: self._rounds.tasks(collaborator, anyio.current_time()),
            timeout=self._config.timeouts.long_poll,
        )
        self._timers.moved()
        if answer is None:
            return Assignment(self.round_number, sleep_seconds=1)
        if answer.quit:
            if self.entered:
                await self._ledger.note_quit(collaborator)
            self._told.add(collaborator)  # not before: nobody may leave while the answer waits for the log
            self._waiters.notify("quits")
        return answer

    async def get_aggregated_tensor(self, collaborator: str, query: TensorQuery) -> EncodedTensor:
        """Return a tensor of the global model, a delta or a metric; waits for the round to come.

        Raises `TensorNotFoundError` at once for what will not come, and after `Timeouts.long_poll` for what did not.
        """
        if collaborator not in self.collaborators:
            raise AuthorizationError(f"{collaborator!r} is no collaborator of this federation")

        def ready() -> EncodedTensor | Difference | Uncoded | bool | None:
            return self._models.find(query) or (True if self.phase.ended else None)

        found = await self._waiters.wait_for("model", ready, timeout=self._config.timeouts.long_poll)
        if isinstance(found, EncodedTensor):
            return found
        if isinstance(found, Difference):
            return await self._shelf.delta(found)
        if isinstance(found, Uncoded):
            return await self._shelf.coded(found)
        raise TensorNotFoundError(
            f"no aggregated tensor {query.tensor_name!r} of round {query.round_number}: "
            f"the current round is {self.round_number} of {self.rounds}"
        )

    def upload(self, collaborator: str, upload_id: str | None = None) -> Upload:
        """Begin to take in the results of one task; with a name it may be `suspended`. Raises `AuthorizationError`."""
        return self._intake.upload(collaborator, upload_id)

    def metrics(self, after: int = 0) -> AsyncIterator[Metric]:
        """Follow the metrics from offset ``after`` on; the iterator ends with the federation."""
        return self._metrics.read(after)

    def model(self, kind: ModelKind) -> dict[str, NDArray[Any]] | None:
        """Return the last model, or the best validated one (None if there is none yet); read-only arrays by name."""
        found = self._models.model(kind)
        return None if found is None else dict(found)

    async def encoded_model(self, kind: ModelKind, encode: ModelEncoder) -> EncodedMessage | None:
        """Return what ``encode`` makes of a model and its round, None if there is no such model yet.

        It is called away from the event loop, and once for each model, however often that is asked for.
        """
        return await self._encoded.get(kind, encode)

    async def wait_complete(self) -> dict[str, NDArray[Any]]:
        """Return the final model once there is one, and it is saved if it is to be.

        Raises `ExperimentFailedError` if the federation was stopped, or its last model could not be saved.
        """
        await self._waiters.wait_for("end", lambda: True if self.phase.ended else None, timeout=None)
        await self._saver.settled()
        if self.phase is Phase.COMPLETE and self._saver.error is not None:
            raise ExperimentFailedError(f"all rounds are done, but the model was not saved: {self._saver.error}")
        if self.phase is Phase.ABORTED:
            raise ExperimentFailedError(f"the federation ended in round {self.round_number}: {self._rounds.reason}")
        return dict(self._models.current)

    async def wait_quits_sent(self) -> None:
        """Return once every collaborator was told that the federation is over.

        Whoever was told before a restart may not have heard it: for those one more `Timeouts.long_poll` is waited.
        """
        everybody = set(self.collaborators)
        await self._waiters.wait_for("quits", lambda: True if self._all_told() else None, timeout=None)
        await self._waiters.wait_for(
            "quits",
            lambda: True if self._told >= everybody else None,
            timeout=self._config.timeouts.long_poll,
        )

    def stop(self, reason: str) -> None:
        """End the federation now and for good; nothing happens if it has ended."""
        self._stopped = self._stopped or not self.phase.ended
        self._abort(reason)

    def _abort(self, reason: str) -> None:
        self._rounds.stop(reason)
        self._react()

    def describe(self) -> ExperimentDescription:
        """Return the progress, under the federation's uuid as the experiment's name."""
        return describe(
            self.federation_uuid,
            self._rounds,
            task_names=[task.name for task in self._config.tasks],
            has_best=self._models.best is not None,
        )

    def _all_told(self) -> bool:
        return self._told | self._rounds.quits_before >= set(self.collaborators)

    async def _leave(self) -> None:
        over = self.phase is Phase.COMPLETE and self._all_told()
        if self._recovered and (over or self._stopped or self._ledger.empty):
            await self._ledger.forget()

    async def _accept(self, entry: Entry) -> Verdict:
        record = entry.record
        verdict = self._rounds.report(
            record.collaborator, record.round_number, record.task_name, entry, anyio.current_time()
        )
        if verdict is not Verdict.ACCEPTED:
            entry.close()
            return verdict
        shown = self._ledger.note_accepted(entry)
        self._react()
        await self._ledger.show_accepted(shown)
        return verdict

    def _react(self) -> None:
        """Do what the machine's events ask for, and wake who waits."""
        events = self._rounds.events()
        for event in events:
            if isinstance(event, RoundClosed):
                logger.info("round %d closed, stragglers: %s", event.round_number, list(event.stragglers))
                self._intake.round_closed()
                self._tasks.start_soon(self._closer.close, event)
            elif isinstance(event, FederationComplete | FederationAborted):
                logger.info("federation ended after %d rounds", event.round_number)
                self._metrics.close()
        self._timers.moved()
        if events:
            self._waiters.notify_all()
            if self._on_change is not None:
                self._on_change()

    def _changed(self) -> None:
        """Serve what a closed round gave, and let go of what is older."""
        self._encoded.clear()
        self._react()
        self._tasks.start_soon(self._shelf.put_away)

    def _not_saved(self, exc: Exception) -> None:
        if not isinstance(exc, OpenFLAioError):
            logger.error("the model could not be saved", exc_info=exc)
        self._abort(f"the model could not be saved: {exc if isinstance(exc, OpenFLAioError) else 'see the log'}")
