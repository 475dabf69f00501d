"""The uploads of one federation: what each must be, what becomes of it, and who is told."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

from openfl_aio.aggregator.checks import Expected, check_header, check_upload
from openfl_aio.aggregator.models import GlobalModels
from openfl_aio.aggregator.rounds import Rounds
from openfl_aio.aggregator.suspended import SuspendedUploads
from openfl_aio.aggregator.uploads import Turns, Upload, UploadCounts, entry_limit, upload_limit
from openfl_aio.config import AggregatorConfig
from openfl_aio.domain import Verdict
from openfl_aio.errors import AuthorizationError, HeaderMismatchError, InvalidStateError, RemoteProtocolError
from openfl_aio.storage.file_journal import FileJournal
from openfl_aio.storage.journal import Entry, Journal
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.wire.incremental import TaskResultsIndex
from openfl_aio.wire.tables import MOST_ENTRY_BYTES

__all__ = ["Intake"]

logger = logging.getLogger(__name__)

MOST_IGNORED: Final = 10_000  # results of which it is remembered that they were logged


class Intake:
    """Begins uploads into ``journal``, judges them by ``rounds`` and the plan, and hands what is kept to ``accept``.

    A task that trains must send the tensors ``required`` by name. ``start`` runs a coroutine function in a task that
    outlives the caller.
    """

    def __init__(
        self,
        config: AggregatorConfig,
        *,
        rounds: Rounds[Entry],
        models: GlobalModels,
        required: frozenset[str],
        codec: TensorCodec,
        journal: Journal,
        suspended: SuspendedUploads,
        counts: UploadCounts,
        start: Callable[[Callable[[], Coroutine[Any, Any, None]]], object],
        accept: Callable[[Entry], Awaitable[Verdict]],
    ) -> None:
        self._config = config
        self._rounds = rounds
        self._models = models
        self._required = required
        self._codec = codec
        self._journal = journal
        self._suspended = suspended
        self._counts = counts
        self._start = start
        self._accept = accept
        self._tasks = {task.name: task for task in config.tasks}
        self._turns = Turns()
        self._ignored: set[tuple[int, str, str, Verdict]] = set()

    def upload(self, collaborator: str, upload_id: str | None) -> Upload:
        """Begin to take in the results of one task. Raises `AuthorizationError`."""
        if collaborator not in self._config.collaborators:
            raise AuthorizationError(f"{collaborator!r} is no collaborator of this federation")
        limits = self._config.limits
        most = upload_limit(limits, self._models.nbytes)
        entries = entry_limit(self._models.nbytes) if self._codec.has_tables else 0
        return Upload(
            spool=self._journal.spool(durable=self._config.durability == "power"),
            federation_uuid=self._config.federation_uuid,
            collaborator=collaborator,
            limits=limits,
            max_bytes=most + MOST_ENTRY_BYTES * entries if limits.max_upload_bytes is None else most,
            judge=partial(self._judge, collaborator),
            check=partial(self._check, most),
            accept=self._accept,
            former=partial(self._former, collaborator),
            turns=self._turns,
            counts=self._counts,
            ignored=partial(self._log_ignored, collaborator),
            start=self._start,
            is_plain=self._codec.checks_by_size,
            max_entries=entries,
            # what waits for its rest must not do so in memory
            resumable=upload_id is not None and isinstance(self._journal, FileJournal),
            kept=lambda: None if upload_id is None else self._suspended.kept(collaborator, upload_id),
        )

    def round_closed(self) -> None:
        """Drop what is suspended, which is of this round and would be late, and say anew what is ignored."""
        self._suspended.clear()
        self._ignored.clear()

    def _judge(self, collaborator: str, index: TaskResultsIndex) -> Verdict:
        check_header(index.header, self._config)
        if index.header.sender != collaborator:
            raise HeaderMismatchError(f"expected results of {collaborator!r}, got some of {index.header.sender!r}")
        try:
            verdict = self._rounds.admit(collaborator, index.round_number, index.task_name)
        except InvalidStateError as exc:
            raise RemoteProtocolError(str(exc)) from None  # whatever state we are in, nobody may send that
        return verdict

    def _check(self, most: int, index: TaskResultsIndex) -> Callable[[Entry], None]:
        """Return what looks at the values of an upload, against the model of the round that is now."""
        expected = Expected(
            model=self._models.current,
            required=self._required,
            collaborators=self._config.collaborators,
            tasks=self._tasks,
            rules=self._config.uploads,
            magnitudes=self._models.magnitudes,
        )
        return partial(check_upload, index, expected=expected, codec=self._codec, max_bytes=most)

    def _former(self, collaborator: str, index: TaskResultsIndex) -> memoryview | None:
        """Return the bytes of the result that counts, None while they are not at hand: the round is aggregated."""
        entry = self._rounds.result(collaborator, index.task_name)
        return entry.payload if entry is not None and len(entry.payload) == entry.record.total_bytes else None

    def _log_ignored(self, collaborator: str, index: TaskResultsIndex, verdict: Verdict) -> None:
        """Say once of each result that more of it came."""
        key = (index.round_number, index.task_name, collaborator, verdict)
        if key not in self._ignored and len(self._ignored) < MOST_IGNORED:
            self._ignored.add(key)
            logger.warning("results of %s for %s ignored: %s", collaborator, index.task_name, verdict.value)
