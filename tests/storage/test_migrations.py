"""Databases of every former version are brought to the newest with all that is in them, or left as they are."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from openfl_aio.domain import ExperimentStatus, Metric, ShardInfo
from openfl_aio.errors import StorageError
from openfl_aio.storage import database as database_module
from openfl_aio.storage.database import CURRENT_VERSION, Database
from openfl_aio.storage.migrations import MIGRATIONS, Migration
from openfl_aio.storage.registry import DatabaseRegistry

pytestmark = pytest.mark.real_time

# as version 1 wrote them
SHARD = {
    "name": "site",
    "description": "ours",
    "n_samples": 7,
    "sample_shape": ["28", "28"],
    "target_shape": ["10"],
    "devices": [],
}
ROWS: tuple[tuple[str, tuple[object, ...]], ...] = (
    ("experiments", ("second", 1, "ada", '["one", "two"]', "finished", "b" * 32, "plan_2", 2.5, "")),
    ("experiments", ("first", 0, "eve", "[]", "failed", "a" * 32, "", 1.5, "it failed")),
    ("shards", ("site", json.dumps(SHARD))),
    ("metrics", ("second", 0, "one", "train", "loss", 0.25, 3)),
    ("metrics", ("second", 1, "aggregator", "train", "loss", 0.5, 3)),
    ("rounds", ("plan_2", 4, 0.75)),
)


def make(path: Path, version: int) -> None:
    """Make a database as a program of that schema version left it, with rows in every table."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE schema_version (version BIGINT NOT NULL)")
        connection.execute("INSERT INTO schema_version VALUES (?)", (version,))
        for migration in MIGRATIONS[:version]:
            for statement in migration.statements:
                connection.execute(statement)
            if migration.version == 1:  # rows are as old as they can be
                for table, values in ROWS:
                    connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)


def version_of(path: Path) -> list[tuple[int]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT version FROM schema_version").fetchall()


@pytest.mark.parametrize("version", range(1, CURRENT_VERSION + 1))
async def test_everything_that_was_kept_is_there_afterwards(tmp_path: Path, version: int) -> None:
    path = tmp_path / "openfl.db"
    make(path, version)
    for _ in range(2):  # the second time there is nothing to do
        database = Database(path)
        await database.open()
        registry = DatabaseRegistry(database)
        experiments = await registry.experiments()
        assert [experiment.name for experiment in experiments] == ["first", "second"]
        first, second = experiments
        assert (first.owner, first.status, first.error) == ("eve", ExperimentStatus.FAILED, "it failed")
        assert (second.collaborators, second.archive_id, second.created) == (("one", "two"), "b" * 32, 2.5)
        assert second.federation_uuid == "plan_2"
        shape = ShardInfo("site", description="ours", n_samples=7, sample_shape=("28", "28"), target_shape=("10",))
        assert await registry.shards() == [shape]
        assert await registry.metrics("second") == [
            Metric("one", "train", "loss", 0.25, 3),
            Metric("aggregator", "train", "loss", 0.5, 3),
        ]
        await database.close()
        assert version_of(path) == [(CURRENT_VERSION,)]


async def test_a_migration_that_fails_half_way_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "openfl.db"
    make(path, CURRENT_VERSION)
    next_one = Migration(CURRENT_VERSION + 1, ("DELETE FROM shards", "CREATE TABLE extra (a TEXT)", "no SQL at all"))
    monkeypatch.setattr(database_module, "MIGRATIONS", (*MIGRATIONS, next_one))
    monkeypatch.setattr(database_module, "CURRENT_VERSION", CURRENT_VERSION + 1)
    with pytest.raises(StorageError, match="syntax error"):
        await Database(path).open()
    monkeypatch.undo()
    assert version_of(path) == [(CURRENT_VERSION,)]
    database = Database(path)
    await database.open()
    assert [shard.name for shard in await DatabaseRegistry(database).shards()] == ["site"]
    await database.close()


async def test_a_database_of_a_newer_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "openfl.db"
    make(path, CURRENT_VERSION)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE schema_version SET version = ?", (CURRENT_VERSION + 1,))
    before = path.read_bytes()
    with pytest.raises(StorageError, match="use the newer program, or another workspace"):
        await Database(path).open()
    assert path.read_bytes()[100:] == before[100:]  # the header says how the file was opened last
    assert version_of(path) == [(CURRENT_VERSION + 1,)]
