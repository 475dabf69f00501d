"""Everything that an aggregator keeps, opened and closed together. No database: what a director keeps besides is in
`openfl_aio.storage.director_storage`, and an aggregator by itself spares the memory that a database takes.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import anyio.to_thread

from openfl_aio.errors import StorageError
from openfl_aio.storage.federations import FederationStore, FileFederation, MemoryFederation
from openfl_aio.storage.file_journal import FileJournal
from openfl_aio.storage.files import disk_errors, hashed, make_folder, remove_quietly
from openfl_aio.storage.journal import Journal, MemoryJournal
from openfl_aio.storage.models import ModelFiles

__all__ = ["Storage"]

LOCK_NAME: Final = "lock"
FEDERATIONS: Final = "federations"
JOURNAL: Final = "journal"


class Storage:
    """What an aggregator keeps: a journal, federations' logs and model files, under the folder ``workspace`` or in memory.

    An async context manager. ``workspace`` is made if need be; one process uses it at a time, and others are refused.
    With None, nothing outlives the block.

    Entering raises `StorageError` for a folder that cannot be used.
    """

    journal: Journal
    models: ModelFiles

    def __init__(self, workspace: Path | None = None) -> None:
        self._workspace = workspace
        self._lock: int | None = None
        self._journal: FileJournal | None = None
        self._federations: dict[str, MemoryFederation] = {}
        self.models = ModelFiles()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'in memory' if self._workspace is None else str(self._workspace)}>"

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):  # closing a file and removing a folder is short
            await self._close()

    def federation(self, uuid: str) -> FederationStore:
        """Return the log and the checkpoints of the federation ``uuid``; the same object each time in memory."""
        if self._workspace is None or self._journal is None:
            return self._federations.setdefault(uuid, MemoryFederation())
        return FileFederation(self._workspace / FEDERATIONS / hashed(uuid), self._journal.run)

    async def keep_federations(self, uuids: Iterable[str]) -> None:
        """Remove uploads, logs and checkpoints of all federations but these; nobody may be at work on the others."""
        if self._workspace is not None:
            await anyio.to_thread.run_sync(_remove_others, self._workspace, {hashed(uuid) for uuid in uuids})

    async def _open(self) -> None:
        if self._workspace is None:
            self.journal = MemoryJournal(anyio.to_thread.run_sync)
            return
        self._lock = await anyio.to_thread.run_sync(_take_folder, self._workspace)
        self.journal = self._journal = FileJournal(self._workspace / JOURNAL)
        await self._journal.open()

    async def _close(self) -> None:
        journal, self._journal = self._journal, None
        lock, self._lock = self._lock, None
        if journal is not None:
            await journal.close()
        if lock is not None:
            os.close(lock)


def _remove_others(workspace: Path, names: set[str]) -> None:
    for folder in (workspace / FEDERATIONS, workspace / JOURNAL):
        for path in folder.glob("*"):
            if path.is_dir() and path.name not in names:
                remove_quietly(path)


def _take_folder(path: Path) -> int:
    """Make the folder if need be, and return a descriptor that keeps others out until it is closed or we are killed."""
    with disk_errors(path):
        make_folder(path)
        descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise StorageError(
            f"{str(path)!r} is in use by another process; end that one first, or choose another folder"
        ) from None
    return descriptor
