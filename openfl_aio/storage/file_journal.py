"""The journal on disk: a folder a federation, a file an upload, and a name that says which.

A file takes its name when it is whole, so what has a name was acknowledged, and what has none is removed at the next
start. Only one process uses the folder at a time.

What is to survive the loss of power is flushed twice before it is acknowledged: its file, and then its name. Uploads
that come at once share that: their files are flushed at the same time, which a file system makes one, and their names
together.
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from openfl_aio.errors import CorruptFileError
from openfl_aio.storage.checksum import Checksum, checksum
from openfl_aio.storage.files import (
    FULL,
    Buffer,
    disk_error,
    disk_errors,
    hashed,
    make_folder,
    partial_path,
    remove_quietly,
    sweep_partials,
    unload_pages,
)
from openfl_aio.storage.folder_flushes import FolderFlushes
from openfl_aio.storage.journal import (
    ALL_ROUNDS,
    INLINE_BYTES,
    Entry,
    Inspect,
    InspectEntry,
    Spool,
    UploadRecord,
    already_there,
    as_bytes,
    check_record,
    ended,
    equal,
)
from openfl_aio.storage.spares import LEAST_BYTES, SpareFiles
from openfl_aio.storage.upload_file import read_record, trailer
from openfl_aio.storage.workers import Workers

__all__ = ["FileJournal"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

SUFFIX: Final = ".upload"
HELD_BYTES: Final = 64 * 1024  # an upload of at most so many bytes touches the disk once, when it is committed
COMPARED_BYTES: Final = 1024 * 1024  # of two uploads at a time
THREADS: Final = 4  # that write at a time: more do not make a disk faster, and others need threads too
FLUSHERS: Final = 16  # threads that wait for the disk at a time: so many uploads share its flushes


@dataclass(slots=True)
class _Folder:
    """A federation's folder, from its making to its end. ``kept``: whether its own name is on the disk."""

    kept: bool = False


class FileJournal:
    """A `Journal` in a folder, between `open` and `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._spares = SpareFiles(folder)
        self._workers = Workers(THREADS)
        self.run = self._workers.run
        self._flushers = Workers(FLUSHERS)
        self._open = False
        self.preparing = threading.BoundedSemaphore(THREADS)  # whoever looks at an upload as a whole
        self.flushes = FolderFlushes()
        self._naming = threading.Lock()  # in worker threads only
        self._folders: dict[str, _Folder] = {}
        self._lock = threading.Lock()  # held for moments, by `Entry.close` on the event loop too
        self._mapped: Counter[Path] = Counter()

    def __repr__(self) -> str:
        return f"<FileJournal {str(self.folder)!r}>"

    async def open(self) -> None:
        """Make the folder, and remove every file that was never acknowledged."""
        await anyio.to_thread.run_sync(self._sweep)
        await anyio.to_thread.run_sync(self._workers.start)
        self._open = True

    async def close(self) -> None:
        """Remove what was kept for reuse, and end the threads. Uploads stay."""
        self._open = False
        await anyio.to_thread.run_sync(self._spares.clear)
        await anyio.to_thread.run_sync(self._flushers.close)
        await anyio.to_thread.run_sync(self._workers.close)

    async def run_durable(self, function: Callable[[], T]) -> T:
        """Run ``function``, which waits for the disk, where it keeps nobody from writing to memory."""
        with self._lock:
            if self._open and not self._flushers.started:  # most journals never need them
                self._flushers.start()
        return await self._flushers.run(function)

    def spool(self, *, durable: bool = True) -> Spool:
        """See `Journal`."""
        return _FileSpool(self, durable=durable)

    async def entries(self, federation_uuid: str, round_number: int) -> list[Entry]:
        """See `Journal`."""
        return await self.run(partial(self._map_all, federation_uuid, round_number))

    async def drop(self, federation_uuid: str, before_round: int, *, after_round: int = ALL_ROUNDS) -> None:
        """See `Journal`."""
        await self.run(partial(self._drop, federation_uuid, before_round, after_round))

    def _sweep(self) -> None:
        with disk_errors(self.folder):
            make_folder(self.folder)
            sweep_partials(self.folder)
            for path in self.folder.iterdir():
                if not path.is_dir():  # of a former layout
                    remove_quietly(path)

    def _map_all(self, federation_uuid: str, round_number: int) -> list[Entry]:
        entries: list[Entry] = []
        try:
            with disk_errors(self.folder):
                found = list(self._files(federation_uuid))
            for number, path in found:
                if number != round_number:
                    continue
                try:
                    entries.append(self._read(path))
                except CorruptFileError as exc:
                    # the name must be free for the result to be sent again
                    logger.error("%s", exc)
                    remove_quietly(path)
        except BaseException:
            for entry in entries:
                entry.close()
            raise
        return sorted(entries, key=lambda entry: (entry.record.task_name, entry.record.collaborator))

    def _drop(self, federation_uuid: str, before_round: int, after_round: int) -> None:
        with disk_errors(self.folder):
            found = list(self._files(federation_uuid))
        for number, path in found:
            if before_round <= number <= after_round:
                continue
            with self._lock:
                looked_at = bool(self._mapped[path])
            if looked_at:
                remove_quietly(path)  # whoever has it mapped keeps the bytes
            else:
                self._spares.put(path)
        if before_round >= ALL_ROUNDS:
            self._spares.clear()
            with self._naming:  # not between the folder that an upload makes and its name there
                self._folders.pop(self._of_federation(federation_uuid).name, None)
                try:
                    self._of_federation(federation_uuid).rmdir()
                except OSError:
                    pass  # there was none, or an upload came meanwhile

    def _files(self, federation_uuid: str) -> Iterator[tuple[int, Path]]:
        for path in self._of_federation(federation_uuid).glob(f"*{SUFFIX}"):
            yield int(path.name.partition("_")[0]), path

    def _of_federation(self, federation_uuid: str) -> Path:
        return self.folder / hashed(federation_uuid)

    def path_of(self, record: UploadRecord) -> Path:
        """Return the name of an upload's file, which says the round and is different for each result."""
        which = hashed(f"{len(record.task_name)}:{record.task_name}{record.collaborator}")
        return self._of_federation(record.federation_uuid) / f"{record.round_number}_{which}{SUFFIX}"

    def new_file(self, nbytes: int) -> tuple[Path, int]:
        """Return the path and descriptor of a file without a name of its own; there may be old bytes in it. Blocks.

        At least ``nbytes`` are going to be written. A few are put in a new file: they would cut a large one short.
        """
        spare = self._spares.take() if nbytes >= LEAST_BYTES else None
        if spare is not None:
            return spare, os.open(spare, os.O_RDWR | os.O_CLOEXEC)
        path = partial_path(self.folder / "upload")
        return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, descriptor: int, data: Buffer) -> None:
        """Append all of ``data``; what is kept for reuse makes way when the disk is full. Blocks. Raises `OSError`."""
        view = memoryview(data)
        while len(view):
            try:
                view = view[os.write(descriptor, view) :]
            except OSError as exc:
                if exc.errno not in FULL or not self._spares.clear():
                    raise

    def name(self, unnamed: Path, path: Path, record: UploadRecord, *, durable: bool) -> None:
        """Give the whole file ``unnamed`` its name ``path``. Blocks. Raises `AlreadyExistsError`, `OSError`."""
        with self._naming:
            folder = self._made(path.parent)
            if path.exists():
                raise already_there(record)
            os.replace(unnamed, path)
        if durable:
            try:
                self.flushes.flush(path.parent, *(() if folder.kept else (self.folder,)))
            except OSError:
                remove_quietly(path)
                raise
            folder.kept = True

    def _made(self, path: Path) -> _Folder:
        """Return a federation's folder, which is made if need be."""
        if not path.exists():
            path.mkdir(exist_ok=True, mode=0o700)
            self._folders.pop(path.name, None)
        return self._folders.setdefault(path.name, _Folder())

    def map(self, path: Path, descriptor: int, record: UploadRecord) -> Entry:
        """Return the upload mapped into memory: pages are read when touched, and may be given back."""
        if not record.total_bytes:
            return Entry(record, memoryview(b""))
        mapped = mmap.mmap(descriptor, record.total_bytes, access=mmap.ACCESS_READ)
        with self._lock:
            self._mapped[path] += 1
        release = partial(self._unmap, path, mapped)
        return Entry(record, memoryview(mapped), release=release, unload=partial(unload_pages, mapped))

    def _unmap(self, path: Path, mapped: mmap.mmap) -> None:
        try:
            mapped.close()
        except BufferError:
            return  # a tensor still looks at it: it ends with the last view, and the file is never written over
        with self._lock:
            self._mapped[path] -= 1
            if not self._mapped[path]:
                del self._mapped[path]

    def _read(self, path: Path) -> Entry:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                record, expected = read_record(descriptor)
                entry = self.map(path, descriptor, record)
                if checksum(entry.payload, done=entry.unload_part) != expected:
                    entry.close()
                    raise ValueError("has a payload that does not fit its checksum")
                return entry
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise disk_error(exc, path) from exc
        except ValueError as exc:
            raise CorruptFileError(
                f"the journal's file {path.name!r} {exc}; it is removed, and the result has to be sent again"
            ) from None


class _FileSpool:
    def __init__(self, journal: FileJournal, *, durable: bool) -> None:
        self._journal = journal
        self._durable = durable
        self._held = bytearray()
        self._checksum = Checksum()
        self._written = 0
        self._ended = False
        self._partial: Path | None = None
        self._descriptor: int | None = None
        # A cancelled caller does not stop its worker thread: whoever closes waits for a write under way.
        self._lock = threading.Lock()

    async def write(self, data: Buffer, *, inspect: Inspect | None = None) -> None:
        self._check_open()
        view = as_bytes(data)
        if len(view) <= INLINE_BYTES and self._partial is None and len(self._held) + len(view) <= HELD_BYTES:
            if inspect is not None:
                inspect(view)
            self._held += view
        else:
            await self._journal.run(partial(self._write, view, inspect))

    async def same_as(self, payload: memoryview) -> bool:
        self._check_open()
        return await self._journal.run(partial(self._same_as, payload))

    async def commit(self, record: UploadRecord, *, inspect: InspectEntry | None = None) -> Entry:
        self._check_open()
        self._ended = True
        with anyio.CancelScope(shield=True):  # a few milliseconds; half-way it would be unclear what was kept
            run = self._journal.run_durable if self._durable else self._journal.run
            entry = await run(partial(self._commit, record, inspect))
        return entry  # noqa: RET504  the type checker thinks that a scope may swallow the return

    async def abort(self) -> None:
        if not self._ended:
            self._ended = True
            self._held.clear()
            if self._partial is not None or self._lock.locked():
                with anyio.CancelScope(shield=True):  # closing and unlinking one file is short
                    await self._journal.run(self._remove)

    def _check_open(self) -> None:
        if self._ended:
            raise ended()

    def _write(self, view: memoryview, inspect: Inspect | None) -> None:
        with self._lock, disk_errors(self._journal.folder):
            if self._ended:
                return
            if inspect is not None:
                inspect(view)
            descriptor = self._opened(len(view))
            self._append(descriptor, view)

    def _opened(self, nbytes: int = 0) -> int:
        """Return the file, with all in it that was held so far; at least ``nbytes`` come next."""
        if self._descriptor is None:
            self._partial, self._descriptor = self._journal.new_file(nbytes)
            held, self._held = self._held, bytearray()
            self._append(self._descriptor, memoryview(held))
        return self._descriptor

    def _append(self, descriptor: int, view: memoryview) -> None:
        self._checksum.add(view)  # now, while the bytes are in the processor's cache
        self._journal.write(descriptor, view)
        self._written += len(view)

    def _same_as(self, payload: memoryview) -> bool:
        with self._lock, disk_errors(self._journal.folder):
            if self._written + len(self._held) != len(payload):
                return False
            if self._descriptor is None:
                return equal(self._held, payload)
            starts = range(0, len(payload), COMPARED_BYTES)
            return all(
                equal(os.pread(self._descriptor, COMPARED_BYTES, start), payload[start : start + COMPARED_BYTES])
                for start in starts
            )

    def _commit(self, record: UploadRecord, inspect: InspectEntry | None) -> Entry:
        try:
            with self._lock:
                entry = self._keep(record, inspect)
        except BaseException:
            self._remove()
            raise
        return entry

    def _keep(self, record: UploadRecord, inspect: InspectEntry | None) -> Entry:
        check_record(record, self._written + len(self._held))
        path = self._journal.path_of(record)
        entry: Entry | None = None
        try:
            with self._journal.preparing:
                held = bytes(self._held)
                small = len(held) == record.total_bytes
                entry = Entry(record, memoryview(held)) if small else self._journal.map(path, self._opened(), record)
                if inspect is not None:
                    inspect(entry)
                # what can fail comes before the name: a name is an acknowledgement
                self._finish(self._opened(), record)
            assert self._partial is not None, "it was opened above"
            if self._durable:
                os.fsync(self._opened())
            self._journal.name(self._partial, path, record, durable=self._durable)
            self._close()
        except BaseException as exc:
            if entry is not None:
                entry.close()
            if isinstance(exc, OSError):
                raise disk_error(exc, path) from exc
            raise
        return entry

    def _finish(self, descriptor: int, record: UploadRecord) -> None:
        end = trailer(record, self._checksum.value)
        self._journal.write(descriptor, end)
        os.ftruncate(descriptor, record.total_bytes + len(end))  # a file that is used again may be longer

    def _remove(self) -> None:
        with self._lock:
            self._close()
            if self._partial is not None:
                remove_quietly(self._partial)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
