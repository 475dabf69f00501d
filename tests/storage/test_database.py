from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from pathlib import Path

import anyio.lowlevel
import pytest
from sqlalchemy import create_engine, inspect, select, text

from openfl_aio.errors import StorageError, StorageFullError
from openfl_aio.storage.database import CURRENT_VERSION, Database
from openfl_aio.storage.migrations import MIGRATIONS
from openfl_aio.storage.schema import METADATA, SHARDS

pytestmark = pytest.mark.real_time


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "openfl.db"


async def test_a_new_file_has_the_current_version_and_opens_again(path: Path) -> None:
    for _ in range(2):
        database = Database(path)
        await database.open()
        async with database.begin() as connection:
            assert (await connection.execute(text("SELECT version FROM schema_version"))).all() == [(CURRENT_VERSION,)]
        await database.close()


def test_versions_are_counted_without_gaps() -> None:
    assert [migration.version for migration in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


async def test_migrations_make_the_tables_that_the_code_sees(path: Path) -> None:
    database = Database(path)
    await database.open()
    await database.close()
    engine = create_engine(f"sqlite:///{path}")
    made = inspect(engine)
    assert set(made.get_table_names()) == set(METADATA.tables)
    for name, table in METADATA.tables.items():
        columns = {column["name"]: column["nullable"] for column in made.get_columns(name)}
        assert columns == {column.name: column.nullable for column in table.columns}, name
        assert made.get_pk_constraint(name)["constrained_columns"] == [column.name for column in table.primary_key]
    engine.dispose()


async def test_a_newer_database_is_refused_and_left_alone(path: Path) -> None:
    database = Database(path)
    await database.open()
    async with database.begin() as connection:
        await connection.execute(text("UPDATE schema_version SET version = 99"))
    await database.close()
    with pytest.raises(StorageError, match=rf"schema version 99, this program knows up to {CURRENT_VERSION}"):
        await database.open()
    assert "closed" in repr(database)


async def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"these bytes are no database " * 100)

    async def refused() -> None:
        with pytest.raises(StorageError, match="not a database"):
            await Database(path).open()

    threads = threading.active_count()
    await refused()
    gc.collect()  # a connection left open would warn now
    assert threading.active_count() <= threads + 1  # a worker thread of anyio, none of the database


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="unable to open"):
        await Database(tmp_path / "absent" / "openfl.db").open()


async def test_closed_database_says_so(path: Path) -> None:
    database = Database(path)
    with pytest.raises(StorageError, match="is closed"):
        async with database.begin():
            pass
    await database.close()


async def test_an_error_rolls_back(path: Path) -> None:
    database = Database(path)
    await database.open()

    async def half_way() -> None:
        async with database.begin() as connection:
            await connection.execute(SHARDS.insert().values(name="f", body="1"))
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        await half_way()
    async with database.begin() as connection:
        assert (await connection.execute(SHARDS.select())).all() == []
    await database.close()


async def test_a_full_database(path: Path) -> None:
    database = Database(path)
    await database.open()
    async with database.begin() as connection:
        pages = await connection.scalar(text("PRAGMA page_count"))
        await connection.execute(text(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(StorageFullError, match="no space"):
        async with database.begin() as connection:
            await connection.execute(SHARDS.insert().values(name="a", body="x" * 1_000_000))
    async with database.begin() as connection:
        assert (await connection.execute(SHARDS.select())).all() == []
    await database.close()


async def test_commits_are_durable_and_readable_beside(path: Path) -> None:
    database = Database(path)
    await database.open()
    async with database.begin() as connection:
        assert await connection.scalar(text("PRAGMA synchronous")) == 2
        await connection.execute(SHARDS.insert().values(name="f", body="3"))
    beside = sqlite3.connect(path)
    assert beside.execute("SELECT body FROM shards").fetchall() == [("3",)]
    beside.close()
    await database.close()


async def test_cancelled_callers_leave_a_database_that_works(path: Path) -> None:
    database = Database(path)
    await database.open()
    started: list[int] = []

    async def write(number: int) -> None:
        async with database.begin() as connection:
            started.append(number)
            await connection.execute(SHARDS.insert().values(name=f"{number}", body="a"))
            await connection.execute(SHARDS.insert().values(name=f"{number} too", body="b"))

    # cancelled as a server cancels a handler: by the task, at whatever await it is in
    tasks = [asyncio.ensure_future(write(number)) for number in range(12)]
    while len(started) < len(tasks):
        await anyio.lowlevel.checkpoint()
        if started and not tasks[started[-1]].done() and started[-1] % 2:
            tasks[started[-1]].cancel()
        if all(task.done() for task in tasks):
            break
    await asyncio.wait(tasks)
    async with database.begin() as connection:
        names = set(await connection.scalars(select(SHARDS.c.name)))
    assert len(names) == 2 * len({name.split()[0] for name in names})  # whole transactions only
    assert {f"{number}" for number in range(0, 12, 2)} <= names
    await database.close()
