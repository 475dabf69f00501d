"""Experiment archives on disk: received as a stream, named by us, served in chunks."""

from __future__ import annotations

import os
import re
import secrets
import threading
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio.to_thread

from openfl_aio.config import Limits
from openfl_aio.errors import EmptyStreamError, MessageTooLargeError, NotFoundError
from openfl_aio.storage.files import (
    Buffer,
    disk_errors,
    fsync_folder,
    make_folder,
    partial_path,
    remove_quietly,
    sweep_partials,
    writing_atomic,
)
from openfl_aio.storage.unpack import check, checked_members, member_info, opened, read_bounded

__all__ = ["Archive", "ArchiveSink", "Archives"]

SUFFIX: Final = ".zip"
ID: Final = re.compile(r"[0-9a-f]{32}")
BLOCK: Final = 256 * 1024
THREADS: Final = 4  # for reading and writing: a disk is no faster with more, and each has memory of its own


@dataclass(frozen=True, slots=True)
class Archive:
    """A kept archive. ``id`` is ours and says nothing of the experiment; ``nbytes`` is the size on disk."""

    id: str
    path: Path
    nbytes: int


class ArchiveSink:
    """Takes the bytes of one archive. Made by `Archives.receive`."""

    def __init__(self, folder: Path, limit: int, threads: anyio.CapacityLimiter) -> None:
        self._id = secrets.token_hex(16)
        self._path = folder / f"{self._id}{SUFFIX}"
        self._partial = partial_path(self._path)
        self._limit = limit
        self._threads = threads
        self._nbytes = 0
        self._descriptor: int | None = None
        self._closed = False
        # a cancelled caller does not stop the worker thread: closing waits for a write under way
        self._lock = threading.Lock()

    async def write(self, data: Buffer) -> None:
        """Append ``data``. Raises `MessageTooLargeError` beyond the limit, `StorageFullError` without room."""
        if self._nbytes + len(data) > self._limit:
            raise MessageTooLargeError(f"the archive has more than {self._limit} bytes; send a smaller workspace")
        self._nbytes += len(data)
        await anyio.to_thread.run_sync(self._write, data, limiter=self._threads)

    async def keep(self) -> Archive:
        """Make the archive durable and return it. Raises `EmptyStreamError` if nothing was written."""
        if not self._nbytes:
            raise EmptyStreamError("the archive is empty; send at least one byte")
        return await anyio.to_thread.run_sync(self._keep, limiter=self._threads)

    def open(self) -> None:
        """Make the temporary file. Blocks."""
        with self._lock, disk_errors(self._path):
            if self._closed:
                return
            self._descriptor = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        """Remove what was not kept. Blocks."""
        with self._lock:
            self._closed = True
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
        remove_quietly(self._partial)

    def _write(self, data: Buffer) -> None:
        view = memoryview(data)
        with self._lock, disk_errors(self._path):
            while len(view) and self._descriptor is not None:
                view = view[os.write(self._descriptor, view) :]

    def _keep(self) -> Archive:
        with self._lock, disk_errors(self._path):
            assert self._descriptor is not None, "keep is called once, inside the block"
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
            os.replace(self._partial, self._path)
            fsync_folder(self._path.parent)
        return Archive(self._id, self._path, self._nbytes)


class Archives:
    """The archives in one folder, which exists. Names are random: nothing a peer says is ever a path."""

    def __init__(self, folder: Path, *, limits: Limits | None = None) -> None:
        self._folder = folder
        self._limits = limits or Limits()
        self._threads = anyio.CapacityLimiter(THREADS)

    def __repr__(self) -> str:
        return f"<Archives {str(self._folder)!r}>"

    async def open(self) -> None:
        """Make the folder, and remove what a killed process left half-received."""
        await anyio.to_thread.run_sync(self._open)

    def _open(self) -> None:
        with disk_errors(self._folder):
            make_folder(self._folder)
            sweep_partials(self._folder)

    @asynccontextmanager
    async def receive(self, limit: int | None = None) -> AsyncIterator[ArchiveSink]:
        """Give a sink for one archive of at most ``limit`` bytes; leaving without `ArchiveSink.keep` removes it."""
        sink = ArchiveSink(self._folder, self._limits.max_archive_bytes if limit is None else limit, self._threads)
        try:
            await anyio.to_thread.run_sync(sink.open, limiter=self._threads)
            yield sink
        finally:
            with anyio.CancelScope(shield=True):  # closing and unlinking one file is short
                await anyio.to_thread.run_sync(sink.close, limiter=self._threads)

    async def get(self, id: str) -> Archive:
        """Return the archive of that id. Raises `NotFoundError`."""
        return await anyio.to_thread.run_sync(self._get, id)

    async def ids(self) -> list[str]:
        """Return the ids of all kept archives, sorted."""
        return await anyio.to_thread.run_sync(self._ids)

    async def nbytes(self, ids: Iterable[str]) -> int:
        """Return how many bytes the archives of these ids have together; one that is not there has none."""
        paths = [self._path(id) for id in ids if ID.fullmatch(id)]
        return await anyio.to_thread.run_sync(lambda: sum(path.stat().st_size for path in paths if path.is_file()))

    async def chunks(self, archive: Archive, chunk_bytes: int) -> AsyncGenerator[bytes]:
        """Yield the archive's bytes in pieces of ``chunk_bytes``, the last one shorter.

        The archive may be removed or replaced meanwhile: the bytes are those of the moment of opening.
        """
        descriptor = await anyio.to_thread.run_sync(self._open_to_read, archive, limiter=self._threads)
        # positioned reads and a lock: a cancelled caller may leave a read under way in its thread
        lock = threading.Lock()
        closed = False

        def read(offset: int) -> bytes:
            with lock, disk_errors(archive.path):
                return b"" if closed else os.pread(descriptor, chunk_bytes, offset)

        def close() -> None:
            nonlocal closed
            with lock:
                closed = True
                os.close(descriptor)

        try:
            offset = 0
            while chunk := await anyio.to_thread.run_sync(read, offset, limiter=self._threads):
                yield chunk
                offset += len(chunk)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(close, limiter=self._threads)

    async def remove(self, id: str) -> None:
        """Remove an archive; one that is not there is no error."""
        if ID.fullmatch(id):
            await anyio.to_thread.run_sync(remove_quietly, self._path(id))

    async def check(self, archive: Archive) -> None:
        """Raise `ArchiveError` unless all of the archive can be unpacked within the limits. Reads it once."""
        await check(archive.path, limits=self._limits)

    async def members(self, archive: Archive) -> list[str]:
        """Return the paths of the files in the archive, sorted. Raises `ArchiveError` if it must not be unpacked."""
        return await anyio.to_thread.run_sync(self._members, archive)

    async def read_member(self, archive: Archive, name: str, *, limit: int = 1024 * 1024) -> bytes:
        """Return one file of the archive, of ``limit`` bytes at most. Raises `NotFoundError`, `ArchiveError`."""
        return await anyio.to_thread.run_sync(self._read_member, archive, name, limit)

    async def replace_member(self, archive: Archive, name: str, data: bytes) -> Archive:
        """Put ``data`` in place of the file ``name``, or add it; the id stays. Raises `ArchiveError`."""
        return await anyio.to_thread.run_sync(self._replace_member, archive, name, data)

    def _path(self, id: str) -> Path:
        return self._folder / f"{id}{SUFFIX}"

    def _get(self, id: str) -> Archive:
        path = self._path(id)
        if not ID.fullmatch(id) or not path.is_file():
            raise NotFoundError(f"no archive {id!r} is kept here")
        return Archive(id, path, path.stat().st_size)

    def _ids(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob(f"*{SUFFIX}") if ID.fullmatch(path.stem))

    def _open_to_read(self, archive: Archive) -> int:
        with disk_errors(archive.path):
            return os.open(archive.path, os.O_RDONLY | os.O_CLOEXEC)

    def _members(self, archive: Archive) -> list[str]:
        with opened(archive.path, limits=self._limits) as zf:
            return sorted(checked_members(zf, limits=self._limits))

    def _read_member(self, archive: Archive, name: str, limit: int) -> bytes:
        with opened(archive.path, limits=self._limits) as zf:
            members = checked_members(zf, limits=self._limits)
            if name not in members:
                raise NotFoundError(f"the archive holds no file {name!r}")
            return read_bounded(zf, members[name], limit=limit)

    def _replace_member(self, archive: Archive, name: str, data: bytes) -> Archive:
        # zipfile cannot replace in place, and the old bytes may be on their way to somebody
        with opened(archive.path, limits=self._limits) as zf:
            members = checked_members(zf, limits=self._limits)
            with writing_atomic(archive.path, mode=0o600) as file, zipfile.ZipFile(file, "w") as out:
                for path, info in sorted(members.items()):
                    if path == name:
                        continue
                    with zf.open(info) as source, out.open(member_info(path), "w") as sink:
                        while block := source.read(BLOCK):
                            sink.write(block)
                out.writestr(member_info(name), data)
        return Archive(archive.id, archive.path, archive.path.stat().st_size)
