"""One database, opened through SQLAlchemy Core, at the newest schema version."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
from sqlalchemy import URL, Connection, event, inspect, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from openfl_aio.errors import StorageError, StorageFullError
from openfl_aio.storage.migrations import MIGRATIONS
from openfl_aio.storage.schema import SCHEMA_VERSION

__all__ = ["CURRENT_VERSION", "Database"]

CURRENT_VERSION: Final = MIGRATIONS[-1].version

# WAL with FULL: a commit is on the disk when it returns, and readers do not stop the writer
PRAGMAS: Final = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000")


class Database:
    """A SQLite file, opened by `open` and closed by `close`. One transaction at a time, in the order asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine: AsyncEngine | None = None

    def __repr__(self) -> str:
        return f"<Database {str(self._path)!r} {'open' if self._engine else 'closed'}>"

    async def open(self) -> None:
        """Open the file, making it if need be, and bring it to the current schema version.

        Raises `StorageError` if the file is no database or was written by a newer version of this program, and
        `StorageFullError`.
        """
        await anyio.to_thread.run_sync(self._check_file)
        engine = await anyio.to_thread.run_sync(self._make_engine)  # looks the path up
        self._engine = engine
        try:
            with anyio.CancelScope(shield=True):  # one short transaction; see _check_file
                async with self.begin() as connection:
                    await connection.run_sync(self._migrate)
        except BaseException:
            await self.close()
            raise

    def _check_file(self) -> None:
        # aiosqlite leaves its thread to itself when a connection fails; so what can fail does so here, without it
        try:
            with closing(sqlite3.connect(self._path)) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.Error as exc:
            raise StorageError(f"cannot use database {str(self._path)!r}: {exc}") from exc

    def _make_engine(self) -> AsyncEngine:
        # one connection: transactions queue here instead of failing with "database is locked"
        url = URL.create("sqlite+aiosqlite", database=str(self._path))
        engine = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=300)
        event.listen(engine.sync_engine, "connect", _set_pragmas)
        event.listen(engine.sync_engine, "begin", _begin)
        return engine

    async def close(self) -> None:
        """Close the file; every transaction must have ended."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """Give a connection in a transaction: committed when the block ends, rolled back after any error.

        The block must be short: whoever is cancelled meanwhile is so after it.
        Raises `sqlalchemy.exc.IntegrityError` as it is, for the caller to explain; other failures as `StorageError`.
        """
        if self._engine is None:
            raise StorageError(f"database {str(self._path)!r} is closed; open it first")
        try:
            # cancelled in its midst, SQLAlchemy's way to give the connection back is cancelled too, and it never comes
            with anyio.CancelScope(shield=True):
                async with self._engine.begin() as connection:
                    yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as exc:
            raise self._translated(exc) from exc

    def _translated(self, exc: SQLAlchemyError) -> StorageError:
        reason = str(exc.orig) if isinstance(exc, DBAPIError) else str(exc)
        if "database or disk is full" in reason:
            return StorageFullError(
                f"no space to write {str(self._path)!r}; nothing was changed; free space and try again"
            )
        return StorageError(f"cannot use database {str(self._path)!r}: {reason}")

    def _migrate(self, connection: Connection) -> None:
        found = _version(connection)
        if found > CURRENT_VERSION:
            raise StorageError(
                f"database {str(self._path)!r} has schema version {found}, this program knows up to {CURRENT_VERSION}; "
                "use the newer program, or another workspace"
            )
        for migration in MIGRATIONS:
            if migration.version > found:
                for statement in migration.statements:
                    connection.execute(text(statement))
        if found == 0:
            connection.execute(SCHEMA_VERSION.insert().values(version=CURRENT_VERSION))
        else:
            connection.execute(SCHEMA_VERSION.update().values(version=CURRENT_VERSION))


def _version(connection: Connection) -> int:
    if not inspect(connection).has_table(SCHEMA_VERSION.name):
        connection.execute(text("CREATE TABLE schema_version (version BIGINT NOT NULL)"))
    version = connection.execute(select(SCHEMA_VERSION.c.version)).scalar()
    return 0 if version is None else version


def _set_pragmas(connection: Any, record: Any) -> None:
    # the driver's own transaction handling would commit before each DDL statement and split a migration
    connection.isolation_level = None
    try:
        cursor = connection.cursor()
        for pragma in PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
    except BaseException:
        # nobody else closes a connection that the pool has not taken yet, and its thread would stay
        connection.close()
        raise


def _begin(connection: Connection) -> None:
    # IMMEDIATE: take the write lock at once instead of failing in the middle when another process holds it
    connection.exec_driver_sql("BEGIN IMMEDIATE")
