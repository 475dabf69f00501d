"""One upload: its bytes go to the journal as they come, and count only once the whole was found good and is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import anyio

from openfl_aio.config import Limits
from openfl_aio.domain import Verdict
from openfl_aio.errors import (
    AlreadyExistsError,
    InvalidStateError,
    MessageTooLargeError,
    OpenFLAioError,
    RemoteProtocolError,
    TensorError,
)
from openfl_aio.storage.journal import Entry, Spool, UploadRecord
from openfl_aio.wire.codec import Buffer
from openfl_aio.wire.incremental import TaskResultsDecoder, TaskResultsIndex
from openfl_aio.wire.scan import LEAST_ENTRIES

__all__ = ["Turns", "Upload", "UploadCounts", "entry_limit", "upload_limit"]

T = TypeVar("T")

MIB = 1024 * 1024


def upload_limit(limits: Limits, model_bytes: int) -> int:
    """Return how many bytes one upload may have: what is configured, or four times the model and 1 MiB.

    1.6 collaborators send their optimizer's state with the weights, which is twice the model more for Adam.
    """
    return limits.max_upload_bytes if limits.max_upload_bytes is not None else 4 * model_bytes + MIB


def entry_limit(model_bytes: int) -> int:
    """Return how many entries the tables of one upload may have, if there is one for each element of a tensor.

    Four for each of the model's elements, as there may be four times its bytes.
    """
    return model_bytes + LEAST_ENTRIES  # an element has four bytes


class _Apart(Generic[T]):
    """Something that is done in a task of its own: a caller who hangs up must not leave it half done."""

    def __init__(self, job: Callable[[], Awaitable[T]]) -> None:
        self._job: Callable[[], Awaitable[T]] | None = job
        self._results: list[T] = []
        self._error: Exception | None = None
        self._over = anyio.Event()

    async def run(self) -> None:
        """Do it, once."""
        job, self._job = self._job, None  # it may have memory that is needed elsewhere
        assert job is not None, "it is run once"
        try:
            with anyio.CancelScope(shield=True):
                try:
                    self._results.append(await job())
                except Exception as exc:
                    self._error = exc
        finally:
            self._over.set()

    async def over(self) -> bool:
        """Wait until it is done; return whether that went well."""
        await self._over.wait()
        return bool(self._results)

    async def result(self) -> T:
        """Wait until it is done, and return or raise what came of it."""
        await self._over.wait()
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback has this frame
        if not self._results:
            raise InvalidStateError("the aggregator ended before the upload was taken in")
        return self._results[0]


@dataclass(slots=True)
class UploadCounts:
    """What became of the uploads of a federation since this process has it.

    ``duplicates`` had the same bytes as what was there, ``conflicting`` others; ``late`` were of another round, of a
    straggler, or after the end. ``refused`` broke a rule.
    """

    accepted: int = 0
    duplicates: int = 0
    conflicting: int = 0
    late: int = 0
    refused: int = 0

    def count(self, verdict: Verdict) -> None:
        """Count an upload that was answered."""
        if verdict is Verdict.ACCEPTED:
            self.accepted += 1
        elif verdict is Verdict.DUPLICATE:
            self.duplicates += 1
        elif verdict is Verdict.CONFLICT:
            self.conflicting += 1
        else:
            self.late += 1


class Turns:
    """Lets one upload of a result be taken in at a time, so that the others are compared with the one that counts."""

    def __init__(self) -> None:
        self._locks: dict[object, tuple[anyio.Lock, list[None]]] = {}

    @asynccontextmanager
    async def of(self, result: object) -> AsyncIterator[None]:
        """Wait until nobody else is inside for ``result``."""
        lock, inside = self._locks.setdefault(result, (anyio.Lock(), []))
        inside.append(None)
        try:
            async with lock:
                yield
        finally:
            inside.pop()
            if not inside:
                del self._locks[result]


class Upload:
    """Takes the serialized TaskResults of one collaborator in pieces of any size.

    ``judge`` looks at what an upload is before it is kept: it raises to refuse, or says what would become of it.
    What ``check`` returns then looks at every tensor, away from the event loop, and raises to refuse. ``accept`` gets
    the kept entry; ``former`` returns the payload of one that was there before, with which others are compared.
    Uploads of one result take ``turns``; ``ignored`` is told which did not count. Any end but an accepted `finish`
    leaves nothing behind. ``start`` runs a coroutine function in a task that outlives the caller. One that is
    ``resumable`` may be fed by one caller after another, with a `pause` between; ``kept`` is called once nothing more
    need be sent. ``is_plain`` and ``max_entries`` are those of `TaskResultsDecoder`.
    """

    def __init__(
        self,
        *,
        spool: Spool,
        federation_uuid: str,
        collaborator: str,
        limits: Limits,
        max_bytes: int,
        judge: Callable[[TaskResultsIndex], Verdict],
        check: Callable[[TaskResultsIndex], Callable[[Entry], None]],
        accept: Callable[[Entry], Awaitable[Verdict]],
        former: Callable[[TaskResultsIndex], memoryview | None],
        turns: Turns,
        counts: UploadCounts,
        ignored: Callable[[TaskResultsIndex, Verdict], object],
        start: Callable[[Callable[[], Coroutine[Any, Any, None]]], object],
        is_plain: Callable[[Iterable[str]], bool] = lambda tags: False,
        max_entries: int = 0,
        resumable: bool = False,
        kept: Callable[[], object] = lambda: None,
    ) -> None:
        self._spool = spool
        self._federation_uuid = federation_uuid
        self._collaborator = collaborator
        self._max_bytes = max_bytes
        self._judge = judge
        self._check = check
        self._accept = accept
        self._former = former
        self._turns = turns
        self._counts = counts
        self._ignored = ignored
        self._start = start
        self._resumable = resumable
        self._kept = kept
        self._writing: _Apart[None] | None = None  # the last piece of a resumable one
        self._decoder = TaskResultsDecoder(limits=limits, is_plain=is_plain, max_entries=max_entries)
        self._received = 0
        self._open = True

    @property
    def nbytes(self) -> int:
        """Bytes that came so far."""
        return self._received

    @property
    def index_bytes(self) -> int:
        """Bytes of names, tags and metadata among them, which are in memory."""
        return self._decoder.index_bytes

    async def feed(self, data: Buffer) -> None:
        """Take the next piece, whose memory may be used again afterwards.

        Raises `MessageTooLargeError`, `MalformedMessageError`, `StorageFullError`.
        """
        self._check_open()
        if self._received + len(data) > self._max_bytes:
            raise MessageTooLargeError(
                f"the upload has more than {self._max_bytes} bytes, which is all that this model can need; "
                "raise limits.max_upload_bytes if it is meant"
            )
        if self._resumable:
            writing = self._writing = _Apart(partial(self._write, data))
            self._start(writing.run)
            await writing.result()
        else:
            await self._write(data)

    async def _write(self, data: Buffer) -> None:
        await self._spool.write(data, inspect=self._decoder.feed)
        self._received += len(data)

    async def pause(self) -> bool:
        """Wait until nothing of what was fed is looked at any more; return whether more may be fed by another caller."""
        if self._writing is None or not self._open:
            return False
        with anyio.CancelScope(shield=True):
            whole = await self._writing.over()
        return whole and self._open

    async def finish(self) -> Verdict:
        """Check the whole, keep it and count it. Only `Verdict.ACCEPTED` changed anything.

        What is there already is compared byte by byte while its round collects; while that is aggregated, and
        afterwards, it cannot be told from other content.

        Raises `EmptyStreamError`, `MalformedMessageError`, `TensorError`, `HeaderMismatchError`, `InvalidStateError`,
        `StorageFullError`.
        """
        self._check_open()
        try:
            index = self._decoder.finish()
            verdict = self._judge(index)
        except BaseException as exc:
            await self.abort()
            if isinstance(exc, OpenFLAioError):
                self._counts.refused += 1
            raise
        if verdict not in (Verdict.ACCEPTED, Verdict.DUPLICATE):
            await self.abort()
            self._kept()
            return self._told(index, verdict)
        self._open = False
        # a caller who hangs up now must not leave an upload that is kept and not counted
        keeping = _Apart(partial(self._keep, index))
        self._start(keeping.run)
        return await keeping.result()

    async def _keep(self, index: TaskResultsIndex) -> Verdict:
        result = (self._collaborator, index.round_number, index.task_name)
        try:
            async with self._turns.of(result):
                verdict = self._judge(index)  # again: another one may have had its turn
                if verdict is Verdict.ACCEPTED:
                    entry = await self._spool.commit(self._record(index), inspect=self._check(index))
                    verdict = await self._accept(entry)
                elif verdict is Verdict.DUPLICATE and not await self._is_former(index):
                    verdict = Verdict.CONFLICT
        except AlreadyExistsError:
            verdict = Verdict.DUPLICATE  # the journal has one that does not count
        except (RemoteProtocolError, TensorError):
            self._counts.refused += 1
            raise
        finally:
            await self._spool.abort()  # does nothing after a commit
        if verdict is not Verdict.CONFLICT:
            self._kept()
        return self._told(index, verdict)

    def _told(self, index: TaskResultsIndex, verdict: Verdict) -> Verdict:
        self._counts.count(verdict)
        if verdict is not Verdict.ACCEPTED:
            self._ignored(index, verdict)
        return verdict

    async def _is_former(self, index: TaskResultsIndex) -> bool:
        former = self._former(index)
        return former is None or await self._spool.same_as(former)

    async def abort(self) -> None:
        """Forget what came; nothing happens after an end."""
        if self._open:
            self._open = False
            with anyio.CancelScope(shield=True):
                await self._spool.abort()

    def _record(self, index: TaskResultsIndex) -> UploadRecord:
        return UploadRecord(
            federation_uuid=self._federation_uuid,
            round_number=index.round_number,
            task_name=index.task_name,
            collaborator=self._collaborator,
            data_size=index.data_size,
            tensors=index.tensors,
            total_bytes=index.total_bytes,
        )

    def _check_open(self) -> None:
        if not self._open:
            raise InvalidStateError("the upload has ended: begin another one")
