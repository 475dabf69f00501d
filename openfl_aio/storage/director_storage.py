"""Everything that a director keeps, opened and closed together."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

import anyio.to_thread

from openfl_aio.config import Limits
from openfl_aio.storage.archives import Archives
from openfl_aio.storage.database import Database
from openfl_aio.storage.registry import DatabaseRegistry, MemoryRegistry, Registry
from openfl_aio.storage.storage import Storage

__all__ = ["DATABASE_NAME", "DirectorStorage"]

DATABASE_NAME: Final = "openfl_aio.db"
ARCHIVES: Final = "archives"


class DirectorStorage(Storage):
    """What a director keeps: beside all of its aggregators' `Storage`, archives and a registry.

    With None as ``workspace`` the registry is in memory and archives are in a temporary folder. Entering raises
    `StorageError` also for a database that cannot be used.
    """

    archives: Archives
    registry: Registry

    def __init__(self, workspace: Path | None = None, *, limits: Limits | None = None) -> None:
        super().__init__(workspace)
        self._limits = limits or Limits()
        self._temporary: Path | None = None
        self._database: Database | None = None

    async def _open(self) -> None:
        await super()._open()
        if self._workspace is None:
            self._temporary = folder = await anyio.to_thread.run_sync(_temporary_folder)
            self.registry = MemoryRegistry()
        else:
            folder = self._workspace
            self._database = Database(folder / DATABASE_NAME)
            await self._database.open()
            self.registry = DatabaseRegistry(self._database)
        self.archives = Archives(folder / ARCHIVES, limits=self._limits)
        await self.archives.open()

    async def _close(self) -> None:
        database, self._database = self._database, None
        temporary, self._temporary = self._temporary, None
        try:
            if database is not None:
                await database.close()
            if temporary is not None:
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(temporary, ignore_errors=True))
        finally:
            await super()._close()  # last, because it lets others use the folder


def _temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="openfl-aio-"))
