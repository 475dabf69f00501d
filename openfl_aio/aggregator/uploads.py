"""One upload: its bytes go to the journal as they come, and count only once the whole was found good and is kept."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio

from openfl_aio.config import Limits
from openfl_aio.domain import Verdict
from openfl_aio.errors import AlreadyExistsError, InvalidStateError, MessageTooLargeError
from openfl_aio.storage.journal import Entry, Spool, UploadRecord
from openfl_aio.wire.codec import Buffer
from openfl_aio.wire.incremental import TaskResultsDecoder, TaskResultsIndex

__all__ = ["Upload", "upload_limit"]

MIB = 1024 * 1024


def upload_limit(limits: Limits, model_bytes: int) -> int:
    """Return how many bytes one upload may have: what is configured, or four times the model and 1 MiB.

    1.6 collaborators send their optimizer's state with the weights, which is twice the model more for Adam.
    """
    return limits.max_upload_bytes if limits.max_upload_bytes is not None else 4 * model_bytes + MIB


@dataclass(slots=True)
class _Outcome:
    """How the commit of an upload ended, which may be after its caller has gone."""

    done: anyio.Event = field(default_factory=anyio.Event)
    verdict: Verdict = Verdict.DUPLICATE
    error: Exception | None = None


class Upload:
    """Takes the serialized TaskResults of one collaborator in pieces of any size.

    ``judge`` looks at what an upload is before it is kept: it raises to refuse, or says what would become of it.
    What ``check`` returns then looks at every tensor, away from the event loop, and raises to refuse. ``accept`` gets
    the kept entry. Any end but an accepted `finish` leaves nothing behind. ``start`` runs a coroutine function in a task that
    outlives the caller.
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
        accept: Callable[[Entry], Verdict],
        start: Callable[[Callable[[], Coroutine[Any, Any, None]]], object],
    ) -> None:
        self._spool = spool
        self._federation_uuid = federation_uuid
        self._collaborator = collaborator
        self._max_bytes = max_bytes
        self._judge = judge
        self._check = check
        self._accept = accept
        self._start = start
        self._decoder = TaskResultsDecoder(limits=limits)
        self._received = 0
        self._open = True

    async def feed(self, data: Buffer) -> None:
        """Take the next piece, whose memory may be used again afterwards.

        Raises `MessageTooLargeError`, `MalformedMessageError`, `StorageFullError`.
        """
        self._check_open()
        self._received += len(data)
        if self._received > self._max_bytes:
            raise MessageTooLargeError(
                f"the upload has more than {self._max_bytes} bytes, which is all that this model can need; "
                "raise limits.max_upload_bytes if it is meant"
            )
        await self._spool.write(data, inspect=self._decoder.feed)

    async def finish(self) -> Verdict:
        """Check the whole, keep it and count it. Only `Verdict.ACCEPTED` changed anything.

        Raises `EmptyStreamError`, `MalformedMessageError`, `TensorError`, `HeaderMismatchError`, `InvalidStateError`,
        `StorageFullError`.
        """
        self._check_open()
        try:
            index = self._decoder.finish()
            verdict = self._judge(index)
        except BaseException:
            await self.abort()
            raise
        if verdict is not Verdict.ACCEPTED:
            await self.abort()
            return verdict
        self._open = False
        # in a task of its own: a caller who hangs up now must not leave an upload that is kept and not counted
        outcome = _Outcome()
        self._start(partial(self._keep, index, outcome))
        await outcome.done.wait()
        try:
            if outcome.error is not None:
                raise outcome.error
        finally:
            outcome.error = None  # its traceback has this frame
        return outcome.verdict

    async def _keep(self, index: TaskResultsIndex, outcome: _Outcome) -> None:
        try:
            with anyio.CancelScope(shield=True):
                try:
                    entry = await self._spool.commit(self._record(index), inspect=self._check(index))
                    outcome.verdict = self._accept(entry)
                except AlreadyExistsError:
                    pass  # another upload of the same results was faster
                except Exception as exc:
                    outcome.error = exc
                finally:
                    await self._spool.abort()  # does nothing after a commit
        finally:
            outcome.done.set()

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
