"""The journal of uploads: what was acknowledged is kept, and is the data that is aggregated later.

An upload is spooled while its bytes arrive and committed as a whole. Two flavours with one contract:
`MemoryJournal` here, and `openfl_aio.storage.file_journal.FileJournal`, which survives a restart.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

import numpy as np

from openfl_aio.errors import AlreadyExistsError, CodecError, InvalidStateError, LocalProtocolError
from openfl_aio.storage.files import Buffer
from openfl_aio.tensors.encoded import EncodedTensor, TransformerMetadata
from openfl_aio.wire.incremental import TensorRecord
from openfl_aio.wire.tables import read_table

__all__ = [
    "ALL_ROUNDS",
    "INLINE_BYTES",
    "Entry",
    "Inspect",
    "Journal",
    "MemoryJournal",
    "Spool",
    "UploadRecord",
    "check_record",
]

INLINE_BYTES: Final = 16 * 1024
"""What is looked at and kept without a worker thread: the way there and back takes as long as 16 KiB of the worst input."""

ALL_ROUNDS: Final = 2**31 - 1
"""Above every round: they are int32 on the wire."""

VALUE_BYTES: Final = 4  # of an element, where a table has an entry for each

Inspect: TypeAlias = Callable[[memoryview], object]


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """What one upload holds: the result of one task of one collaborator, and where each tensor's bytes lie.

    ``data_size`` is the number of samples, ``total_bytes`` the length of the serialized TaskResults.
    """

    federation_uuid: str
    round_number: int
    task_name: str
    collaborator: str
    data_size: int
    tensors: tuple[TensorRecord, ...]
    total_bytes: int


class Entry:
    """A committed upload, with its bytes at hand until `close`."""

    def __init__(
        self,
        record: UploadRecord,
        data: memoryview,
        *,
        release: Callable[[], None] | None = None,
        unload: Callable[[int, int], None] | None = None,
    ) -> None:
        self.record = record
        self._data = data
        self._release = release
        self._unload = unload

    def __repr__(self) -> str:
        record = self.record
        return f"<Entry round {record.round_number} {record.task_name!r} of {record.collaborator!r}, {record.total_bytes} bytes>"

    @property
    def payload(self) -> memoryview:
        """The serialized TaskResults, nothing after `close`."""
        return self._data

    def tensor(self, record: TensorRecord) -> EncodedTensor:
        """Return a tensor of this upload. Its ``data`` is a read-only view of the journal, without a copy.

        The first touch of the bytes may read the disk: decode in a worker thread. Tables of values for each element are
        read from there too, each time. Raises `CodecError` for one with more entries than the tensor has elements.
        """
        return EncodedTensor(
            name=record.name,
            round_number=record.round_number,
            lossless=record.lossless,
            report=record.report,
            tags=record.tags,
            metadata=self._metadata(record),
            data=self._data[record.offset : record.offset + record.nbytes],
        )

    def _metadata(self, record: TensorRecord) -> tuple[TransformerMetadata, ...]:
        if not any(record.tables):
            return record.metadata
        stages = []
        for stage, place in zip(record.metadata, record.tables, strict=True):
            if place is not None:
                offset, nbytes = place
                most = record.nbytes // VALUE_BYTES
                table, count, _ = read_table(self._data[offset : offset + nbytes], most)
                if count > most:
                    raise CodecError(
                        f"expected at most {most} entries in the table of tensor {record.name!r}, one for each element, got more"
                    )
                stage = replace(stage, int_to_float=table)
            stages.append(stage)
        return tuple(stages)

    def unload(self, record: TensorRecord) -> None:
        """Take the bytes of a tensor out of memory until they are read again, if they lie on the disk."""
        self.unload_part(record.offset, record.nbytes)
        for place in record.tables:
            if place is not None:
                self.unload_part(*place)

    def unload_part(self, offset: int, nbytes: int) -> None:
        """Do as `unload` with any part of the payload."""
        if self._unload is not None:
            self._unload(offset, nbytes)

    def close(self) -> None:
        """Let the bytes go. Tensors taken before stay valid; calling it again does nothing."""
        release, self._release = self._release, None
        self._data = memoryview(b"")
        if release is not None:
            release()


InspectEntry: TypeAlias = Callable[[Entry], object]


class Spool(Protocol):
    """An upload under way."""

    async def write(self, data: Buffer, *, inspect: Inspect | None = None) -> None:
        """Append ``data``, which may be reused afterwards.

        ``inspect`` looks at them first, as bytes and where they are written: off the event loop, unless they are few.
        What it raises comes out here, and the upload can only be aborted then.

        Raises `StorageFullError`, `InvalidStateError` after the end.
        """
        ...

    async def same_as(self, payload: memoryview) -> bool:
        """Return whether exactly ``payload`` was written. Raises `StorageError`, `InvalidStateError` after the end."""
        ...

    async def commit(self, record: UploadRecord, *, inspect: InspectEntry | None = None) -> Entry:
        """Keep the upload, for good when this returns. ``inspect`` looks at it before, where the bytes are written.

        Raises what ``inspect`` raises, and:
            AlreadyExistsError: that task of that collaborator is in the journal for that round; this one is gone.
            LocalProtocolError: ``record`` does not describe what was written.
            StorageFullError, StorageError: the disk refuses; this one is gone.
        """
        ...

    async def abort(self) -> None:
        """Forget what was written; nothing is left. Does nothing after `commit` or a former `abort`."""
        ...


class Journal(Protocol):
    """Committed uploads, unique by federation, round, task and collaborator."""

    def spool(self, *, durable: bool = True) -> Spool:
        """Start an upload. End it with `Spool.commit` or `Spool.abort`.

        A committed one survives the process; a ``durable`` one, which takes longer, also the loss of power.
        """
        ...

    async def entries(self, federation_uuid: str, round_number: int) -> list[Entry]:
        """Return a round's uploads by task and collaborator. Close each.

        One that was altered since it was committed is left out and removed, with a line in the log. Raises
        `StorageError`.
        """
        ...

    async def drop(self, federation_uuid: str, before_round: int, *, after_round: int = ALL_ROUNDS) -> None:
        """Forget all uploads of a federation for rounds before ``before_round`` or after ``after_round``.

        After `ALL_ROUNDS` nothing is kept in the hope of more uploads either.
        """
        ...


def check_record(record: UploadRecord, written: int) -> None:
    """Raise `LocalProtocolError` unless ``record`` describes ``written`` bytes and every tensor lies inside."""
    if record.total_bytes != written:
        raise LocalProtocolError(f"the record tells of {record.total_bytes} bytes, {written} were written to the spool")
    for tensor in record.tensors:
        if tensor.offset < 0 or tensor.nbytes < 0 or tensor.offset + tensor.nbytes > written:
            raise LocalProtocolError(
                f"the record puts tensor {tensor.name!r} outside of the {written} bytes of the upload"
            )


_Key = tuple[str, int, str, str]


def _key(record: UploadRecord) -> _Key:
    return record.federation_uuid, record.round_number, record.task_name, record.collaborator


def already_there(record: UploadRecord) -> AlreadyExistsError:
    """Return the error for a second upload of the same result."""
    return AlreadyExistsError(
        f"round {record.round_number} has results of {record.collaborator!r} for task {record.task_name!r} already"
    )


class MemoryJournal:
    """A `Journal` that ends with the process. Without ``offload`` it uses no thread, so it also runs on virtual time."""

    def __init__(self, offload: Callable[[Callable[[], Any]], Awaitable[Any]] | None = None) -> None:
        self._offload = offload
        self._uploads: dict[_Key, tuple[UploadRecord, memoryview]] = {}

    def __repr__(self) -> str:
        return f"<MemoryJournal uploads={len(self._uploads)}>"

    def spool(self, *, durable: bool = True) -> Spool:
        """See `Journal`; nothing here is durable."""
        return _MemorySpool(self._keep, self._run)

    async def entries(self, federation_uuid: str, round_number: int) -> list[Entry]:
        """See `Journal`."""
        keys = sorted(key for key in self._uploads if key[:2] == (federation_uuid, round_number))
        return [Entry(*self._uploads[key]) for key in keys]

    async def drop(self, federation_uuid: str, before_round: int, *, after_round: int = ALL_ROUNDS) -> None:
        """See `Journal`."""
        for key in [key for key in self._uploads if key[0] == federation_uuid]:
            if not before_round <= key[1] <= after_round:
                del self._uploads[key]

    async def _run(self, function: Callable[[], object]) -> None:
        if self._offload is None:
            function()
        else:
            await self._offload(function)

    def _keep(self, record: UploadRecord, data: memoryview) -> Entry:
        key = _key(record)
        if key in self._uploads:
            raise already_there(record)
        self._uploads[key] = record, data
        return Entry(record, data)


class _MemorySpool:
    def __init__(
        self,
        keep: Callable[[UploadRecord, memoryview], Entry],
        run: Callable[[Callable[[], object]], Awaitable[None]],
    ) -> None:
        self._keep = keep
        self._run = run
        self._data: bytearray | None = bytearray()

    async def write(self, data: Buffer, *, inspect: Inspect | None = None) -> None:
        kept = self._open()
        append = partial(_append, kept, as_bytes(data), inspect)
        if len(data) <= INLINE_BYTES:
            append()
        else:
            await self._run(append)

    async def same_as(self, payload: memoryview) -> bool:
        data = self._open()
        if len(data) <= INLINE_BYTES:
            return equal(data, payload)
        found: list[bool] = []
        await self._run(lambda: found.append(equal(data, payload)))
        return found[0]

    async def commit(self, record: UploadRecord, *, inspect: InspectEntry | None = None) -> Entry:
        data = self._open()
        self._data = None
        check_record(record, len(data))
        view = memoryview(data).toreadonly()
        if inspect is not None and len(data) <= INLINE_BYTES:
            inspect(Entry(record, view))
        elif inspect is not None:
            await self._run(partial(inspect, Entry(record, view)))
        return self._keep(record, view)

    async def abort(self) -> None:
        self._data = None

    def _open(self) -> bytearray:
        if self._data is None:
            raise ended()
        return self._data


def _append(kept: bytearray, data: memoryview, inspect: Inspect | None) -> None:
    if inspect is not None:
        inspect(data)
    kept += data


def as_bytes(data: Buffer) -> memoryview:
    """Return a view of ``data`` whose elements are single bytes."""
    return memoryview(data).cast("B") if len(data) else memoryview(b"")


def equal(data: Buffer, other: Buffer) -> bool:
    """Return whether both hold the same bytes."""
    # memoryviews are compared element by element, arrays as fast as memory is
    return len(data) == len(other) and np.array_equal(np.frombuffer(data, np.uint8), np.frombuffer(other, np.uint8))


def ended() -> InvalidStateError:
    """Return the error for a spool that is used after its end."""
    return InvalidStateError("the upload has ended; start a new spool")
